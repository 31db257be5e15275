/// Contents of exported files.
module Ctkd.Fs.Tests.OnnxFileTests

open System
open System.IO
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Folders
open Ctkd.Onnx

let private zoo (name: string) : Model = Zoo.find name 10 |> Error.orRaise
let private plain = OnnxOptions.forSize 32
let private weights (model: Model) : Tree = Golden.weights DType.Float32 "" model

let private encodeZoo (options: OnnxOptions) (name: string) : byte[] =
    Tensor.scoped (fun () ->
        let model = zoo name
        Onnx.encode options model (weights model) |> Error.orRaise
    )

let private exported (options: OnnxOptions) (name: string) : ModelProto =
    encodeZoo options name |> ModelProto.Parser.ParseFrom

let private operators (file: ModelProto) (operator: string) : string list = [
    for node in file.Graph.Node do
        if node.OpType = operator then node.Name
]

let private metadata (file: ModelProto) : (string * string) list = [
    for entry in file.MetadataProps -> entry.Key, entry.Value
]

/// One network of each family.
let private kinds = [ "resnet8"; "wrn_16_1"; "vgg8"; "MobileNetV2"; "ShuffleV1"; "ShuffleV2" ]

/// A value's name and dimensions, the free ones by name.
let private described (value: ValueInfoProto) : string =
    let lengths =
        value.Type.TensorType.Shape.Dim
        |> Seq.map (fun d ->
            match d.ValueCase with
            | TensorShapeProto.Types.Dimension.ValueOneofCase.DimParam -> d.DimParam
            | _ -> string d.DimValue
        )

    $"""{value.Name} [{String.Join(", ", lengths)}]"""

// ---- what cannot be exported ----

let private small = ResNet.small "small" 8 [ 2; 2; 4; 4 ] 3

let private refused (options: OnnxOptions) (model: Model) (change: string -> Tensor -> Tensor) : Error =
    Tensor.scoped (fun () -> weights model |> Tree.map change |> Onnx.encode options model |> errorOf)

let tests =
    testList "OnnxFile" [
        test "images and logits have a free batch, and the file says which network it is" {
            let file = exported { plain with Height = 24; Width = 40 } "wrn_16_1"
            Must.equal "images [batch, 3, 24, 40]" (described (Must.single file.Graph.Input))
            Must.equal "logits [batch, 10]" (described (Must.single file.Graph.Output))
            Must.equal ("ctkd", "wrn_16_1") (file.ProducerName, file.Graph.Name)
            Must.matchRegex @"^\d+\.\d+\.\d+$" file.ProducerVersion
            Must.equal [ "model", "wrn_16_1"; "classes", "10"; "height", "24"; "width", "40" ] (metadata file)
        }

        test "the opset is the one that was asked for, in the file format that came with it" {
            let versions = [
                for opset in 17..21 do
                    let file = exported { plain with Opset = opset } "resnet8"
                    let import = Must.single file.OpsetImport
                    Must.equal "" import.Domain
                    import.Version, file.IrVersion
            ]

            Must.equal [ 17L, 8L; 18L, 8L; 19L, 9L; 20L, 9L; 21L, 10L ] versions
        }

        test "names are unique, every input is made before, every constant is used" {
            for name in kinds do
                let graph = (exported { plain with Features = true } name).Graph
                let constants = [ for tensor in graph.Initializer -> tensor.Name ]
                let known = Collections.Generic.HashSet<string>("images" :: constants)
                Must.equal (constants.Length + 1) known.Count

                for node in graph.Node do
                    for name in node.Input do
                        Must.have name known

                    for name in node.Output do
                        Expect.isTrue (known.Add name) $"{name} is made twice"

                let used =
                    set [
                        for node in graph.Node do
                            yield! node.Input
                    ]

                for name in constants do
                    Must.have name used

                for value in graph.Output do
                    Must.have value.Name known
        }

        test "constants are the state_dict by its names, but for the counters, and nodes bear the modules' names" {
            Tensor.scoped (fun () ->
                let model = zoo "resnet20"
                let weights = weights model
                let graph = (exported plain "resnet20").Graph

                let expected =
                    Tree.names weights |> List.filter (fun name -> not (name.EndsWith "num_batches_tracked"))

                Must.equal expected [ for tensor in graph.Initializer -> tensor.Name ]

                for tensor in graph.Initializer do
                    let ours = Tree.find tensor.Name weights
                    Must.equal (Tensor.shape ours) (Array.ofSeq tensor.Dims)
                    Must.equal (Tensor.toBytes ours) (tensor.RawData.ToByteArray())

                let names = set [ for node in graph.Node -> node.Name ]

                for name in [ "conv1"; "bn1"; "bn1/relu"; "layer2.0.downsample.0"; "layer3.2.bn2/sum/relu"; "fc" ] do
                    Must.have name names
            )
        }

        test "a folded file normalises only where a wide ResNet does before a convolution" {
            for name in kinds do
                let whole = operators (exported plain name) "BatchNormalization"
                let folded = exported { plain with FoldBatchNorm = true } name
                let left = operators folded "BatchNormalization"

                if name.StartsWith "wrn" then
                    Must.equal (whole |> List.filter (fun name -> name.EndsWith "bn1")) left
                else
                    Must.beEmpty left
        }

        test "float64 weights are written as float32, and equal input gives equal bytes" {
            Tensor.scoped (fun () ->
                let model = zoo "ShuffleV1"
                let exact = weights model |> Tree.map (fun _ x -> Tensor.toType DType.Float64 x)
                let bytes = encodeZoo plain "ShuffleV1"
                Must.equal bytes (encodeZoo plain "ShuffleV1")
                Must.equal bytes (Onnx.encode plain model exact |> Error.orRaise)
            )
        }

        test "mean and std are in the file, and in the graph when it is given pixels" {
            let scale = [ 0.5; 0.25; 0.125 ], [ 1.0; 2.0; 0.1 ]
            let caller = exported { plain with Images = OnnxImages.Normalised scale } "resnet8"
            let pixels = exported { plain with Images = OnnxImages.Pixels scale } "resnet8"

            for file, given in [ caller, "(pixels from 0 to 1 - mean) / std"; pixels, "pixels from 0 to 1" ] do
                Must.equal
                    [ "images", given; "mean", "0.5,0.25,0.125"; "std", "1,2,0.1" ]
                    (List.skip 2 (metadata file) |> List.truncate 3)

            Must.beEmpty (operators caller "Sub")
            let added = operators pixels "Sub" @ operators pixels "Div"
            Must.equal [ "images/centred"; "images/normalised" ] added
        }

        test "options that cannot be are errors of usage" {
            let scaled mean std = { plain with Images = OnnxImages.Pixels(mean, std) }
            let three = [ 0.5; 0.5; 0.5 ]

            for options, what in
                [
                    { plain with Opset = 16 }, "opset must be from 17 to 21, got 16"
                    { plain with Opset = 22 }, "opset must be from 17 to 21, got 22"
                    { plain with Height = 3 }, "small cannot see images of 3 x 32"
                    scaled [ 0.5 ] three, "mean and std must be 3 finite numbers"
                    scaled three [ 0.5; 0.0; 0.5 ], "std > 0"
                    scaled [ nan; 0.5; 0.5 ] three, "NaN"
                ] do
                let error = refused options small (fun _ x -> x)
                Must.equal Usage error.Kind
                Must.contain what error.What
        }

        test "a layer of one's own is refused by its name" {
            let own =
                Custom {
                    Name = "squeeze and excite"
                    Declares = []
                    Forward = fun _ _ x -> x
                    OutputShape = id
                }

            let model = {
                small with
                    Body = Sequence [ Block(Residual(own, Layer.identity)); small.Body ]
            }

            Must.contain "'squeeze and excite'" ((refused plain model (fun _ x -> x)).What)
        }

        test "numbers that no network has are refused with the tensor's name" {
            let put value wanted name x =
                if name = wanted then Tensor.full DType.Float64 Device.Cpu value (Tensor.shape x) else x

            for options in [ plain; { plain with FoldBatchNorm = true } ] do
                for name, value, what in
                    [
                        "conv1.weight", nan, "not finite"
                        "fc.bias", infinity, "not finite"
                        "fc.weight", 1e300, "not finite as float32"
                        "layer1.0.bn1.running_var", -0.5, "negative variance, -0.5"
                        "layer1.0.bn1.running_mean", nan, "not finite"
                    ] do
                    let error = refused options small (put value name)
                    Must.equal Damaged error.Kind
                    Must.contain $"'{name}'" error.What
                    Must.contain what error.What
        }

        test "weights of another network are refused with the tensor's name" {
            Tensor.scoped (fun () ->
                let narrow = weights small
                let wide = weights (ResNet.small "wide" 8 [ 2; 2; 4; 8 ] 3)

                for weights, what in
                    [
                        Tree.filter (fun name -> name <> "fc.bias") narrow, "lack the tensor 'fc.bias'"
                        wide, "the tensor 'layer3.0.conv1.weight' has the shape [8; 4; 3; 3], not [4; 4; 3; 3]"
                    ] do
                    let error = Onnx.encode plain small weights |> errorOf
                    Must.equal Mismatch error.Kind
                    Must.contain what error.What
            )
        }

        test "a file is replaced whole, and an error leaves the old one and no tensors" {
            inFolder (fun folder ->
                let path = Path.Combine(folder, "a.onnx")
                let weights = weights small
                File.WriteAllText(path, "old")

                Must.leaveNothing (fun () ->
                    Must.hold ((Onnx.write path { plain with Opset = 1 } small weights).IsError)
                    Must.equal "old" (File.ReadAllText path)
                    Onnx.write path plain small weights |> Error.orRaise
                )

                let bytes = Onnx.encode plain small weights |> Error.orRaise
                Must.equal bytes (File.ReadAllBytes path)
                Must.equal [| path |] (Directory.GetFileSystemEntries folder)

                let nowhere = Onnx.write (Path.Combine(folder, "none", "a.onnx")) plain small weights |> errorOf

                Must.equal Unwritable nowhere.Kind
                Tree.free weights
            )
        }
    ]
