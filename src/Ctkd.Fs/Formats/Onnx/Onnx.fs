namespace Ctkd.Fs

open System
open System.Globalization
open Ctkd.Onnx
open FsToolkit.ErrorHandling
open Google.Protobuf

/// Exports networks as ONNX files. The input is "images" [batch, 3, height, width] and the output "logits"
/// [batch, classes], both float32 with a free batch dimension. Nodes are named after their modules, and constants as in
/// the state_dict.
[<RequireQualifiedAccess>]
module Onnx =
    let private input, output, probabilities = "images", "logits", "probabilities"

    /// The version of the file format that belongs to an opset.
    let private irVersion (opset: int) : int64 =
        if opset < 19 then 8L
        elif opset < 21 then 9L
        else 10L

    let private refuseCustoms (model: Model) : Result<unit, Error> =
        let custom =
            function
            | Custom custom -> Some custom.Name
            | Whole whole -> Some whole.Name
            | _ -> None

        match Layer.leaves model.Body |> List.tryPick custom with
        | None -> Ok()
        | Some name ->
            Error.fail
                Usage
                $"{model.Name} cannot be exported: its layer '{name}' is of your own making"
                "only the library's layers have ONNX operators"
                "make it of the library's layers"

    let private mismatch (what: string) : Error = Error.create Mismatch what "" "give the weights of this model"

    let private damaged (name: string) (what: string) : Error =
        Error.create Damaged $"the tensor '{name}' {what}" "" "did the training diverge? take earlier weights"

    /// Checks that the tensor exists, has its shape, and is finite as float32.
    let private checkTensor (weights: Tree) (d: Declaration) : Result<unit, Error> =
        Tensor.scoped (fun () ->
            match Tree.tryFind d.Name weights with
            | None -> Result.Error(mismatch $"the weights lack the tensor '{d.Name}'")
            | Some x when Tensor.shape x <> Array.ofList (List.map int64 d.Shape) ->
                let shape = Tensor.shape x |> Array.map int |> List.ofArray
                Result.Error(mismatch $"the tensor '{d.Name}' has the shape %A{shape}, not %A{d.Shape}")
            | Some x ->
                let finite = x |> Tensor.toType DType.Float32 |> Tensor.isFinite |> Tensor.all

                if Tensor.toFloat finite = 1.0 then
                    Ok()
                else
                    Result.Error(damaged d.Name "holds numbers that are not finite as float32")
        )

    let private checkVariance (weights: Tree) (name: string) : Result<unit, Error> =
        let least = Tensor.scoped (fun () -> Tree.find name weights |> Tensor.min |> Tensor.toFloat)

        if least >= 0.0 then
            Ok()
        else
            Result.Error(damaged name $"holds a negative variance, {least}")

    /// Checks all tensors that the graph uses: all but the batch counters.
    let private checkWeights (model: Model) (weights: Tree) : Result<unit, Error> =
        let variance =
            function
            | BatchNorm n -> Some n.Variance
            | _ -> None

        result {
            do!
                Model.declarations model
                |> List.filter (fun d -> not d.Shape.IsEmpty)
                |> List.traverseResultM (checkTensor weights)
                |> Result.ignore

            do!
                Layer.leaves model.Body
                |> List.choose variance
                |> List.traverseResultM (checkVariance weights)
                |> Result.ignore
        }

    /// (pixel - mean) / std as nodes.
    let private normalise (graph: OnnxGraph) (mean: float list) (std: float list) (x: OnnxValue) : OnnxValue =
        let constant name values =
            values |> List.map float32 |> Array.ofList |> graph.Floats $"{x.Name}.{name}" [ 3; 1; 1 ]

        let node operator name inputs = graph.Node operator $"{x.Name}/{name}" None inputs []
        let centred = node "Sub" "centred" [ x.Name; constant "mean" mean ]
        { x with Name = node "Div" "normalised" [ centred; constant "std" std ] }

    /// The size of images [batch, 3, height, width] whose shorter side becomes `ShortSide`, as nodes: the longer one is cut to
    /// whole pixels.
    let private shortened (graph: OnnxGraph) (options: OnnxOptions) (planes: string) : string =
        let node operator name inputs attributes = graph.Node operator $"{input}/{name}" None inputs attributes
        let whole name values = graph.Integers $"{input}.{name}" values
        let shape = node "Shape" "shape" [ planes ] []
        let sides = node "Slice" "sides" [ shape; whole "two" [ 2 ]; whole "four" [ 4 ] ] []
        let shorter = node "ReduceMin" "shorter" [ sides ] [ OnnxGraph.Int "keepdims" 1 ]
        let scaled = node "Mul" "scaled" [ sides; whole "shortSide" [ options.ShortSide ] ] []
        node "Div" "sizes" [ scaled; shorter ] []

    /// The middle of resized images as nodes; halves of pixels are rounded to even, as by torchvision.
    let private middle (graph: OnnxGraph) (size: string) (resized: string) : string =
        let node operator name inputs = graph.Node operator $"{input}/{name}" None inputs []
        let two = graph.Integers $"{input}.half" [ 2 ]
        let shape = node "Shape" "resizedShape" [ resized ]
        let first, last = graph.Integers $"{input}.first" [ 2 ], graph.Integers $"{input}.last" [ 4 ]
        let sides = node "Slice" "resizedSides" [ shape; first; last ]
        let rest = node "Sub" "rest" [ sides; size ]
        let half = node "Div" "half" [ rest; two ]
        let odd = node "Mod" "odd" [ rest; two ]
        let up = node "Mul" "up" [ odd; node "Mod" "halfOdd" [ half; two ] ]
        let start = node "Add" "start" [ half; up ]
        let stop = node "Add" "stop" [ start; size ]
        node "Slice" "middle" [ resized; start; stop; graph.Integers $"{input}.axes" [ 2; 3 ] ]

    /// From bytes [batch, height, width, 3] to normalised images of the network's size as nodes.
    let private ofBytes (graph: OnnxGraph) (options: OnnxOptions) (mean: float list) (std: float list) : OnnxValue =
        let node operator name inputs attributes = graph.Node operator $"{input}/{name}" None inputs attributes
        let resizes = options.Opset >= 18
        graph.BytesInput(input, (if resizes then None else Some(options.Height, options.Width)))
        let float = int Ctkd.Onnx.TensorProto.Types.DataType.Float
        let numbers = node "Cast" "numbers" [ input ] [ OnnxGraph.Int "to" float ]
        let planes = node "Transpose" "planes" [ numbers ] [ OnnxGraph.Ints "perm" [ 0; 3; 1; 2 ] ]

        let size = graph.Integers $"{input}.size" [ options.Height; options.Width ]

        let resized (size: string) =
            node "Resize" "resized" [ planes; ""; ""; size ] [
                OnnxGraph.Int "antialias" 1
                OnnxGraph.Ints "axes" [ 2; 3 ]
                OnnxGraph.Text "coordinate_transformation_mode" "half_pixel"
                // At the borders the weights of what is there are scaled to a sum of 1, as by PIL.
                OnnxGraph.Int "exclude_outside" 1
                OnnxGraph.Text "mode" "linear"
            ]

        let sized =
            if not resizes then
                planes
            elif options.ShortSide > 0 then
                resized (shortened graph options planes) |> middle graph size
            else
                resized size

        let pixels = node "Div" "pixels" [ sized; graph.Floats $"{input}.white" [] [| 255.0f |] ] []
        normalise graph mean std { Name = pixels; Shape = [ 3; options.Height; options.Width ] }

    let private graphOf (options: OnnxOptions) (model: Model) (weights: Tree) : GraphProto =
        let graph = OnnxGraph(model.Name, [ input; output; probabilities ])
        let images: OnnxValue = { Name = input; Shape = [ 3; options.Height; options.Width ] }
        let taps = ResizeArray<OnnxValue>()

        let seen =
            match options.Images with
            | OnnxImages.Bytes(mean, std) -> ofBytes graph options mean std
            | OnnxImages.Pixels(mean, std) ->
                graph.Input images
                normalise graph mean std images
            | OnnxImages.AsTrained
            | OnnxImages.Normalised _ ->
                graph.Input images
                images

        let add result layer x = OnnxLayers.add graph weights taps.Add result layer x
        let logits = seen |> add None model.Body |> add (Some output) (Linear model.Classifier)

        if options.Images.IsBytes then
            let name =
                graph.Node "Softmax" "softmax" (Some probabilities) [ logits.Name ] [ OnnxGraph.Int "axis" -1 ]

            graph.Output { logits with Name = name }

        graph.Output logits

        if options.Features then
            for i, tapped in Seq.indexed taps do
                let name = graph.Node "Identity" $"feature.{i}" None [ tapped.Name ] []
                graph.Output { tapped with Name = name }

        graph.Proto

    let private facts (options: OnnxOptions) (model: Model) : (string * string) list =
        let numbers (values: float list) =
            values |> List.map (fun v -> v.ToString("R", CultureInfo.InvariantCulture)) |> String.concat ","

        let scale given (mean, std) = [ "images", given; "mean", numbers mean; "std", numbers std ]

        [
            "model", model.Name
            "classes", string model.Classes
            yield!
                match options.Images with
                | OnnxImages.AsTrained -> []
                | OnnxImages.Normalised(mean, std) -> scale "(pixels from 0 to 1 - mean) / std" (mean, std)
                | OnnxImages.Pixels(mean, std) -> scale "pixels from 0 to 1" (mean, std)
                | OnnxImages.Bytes(mean, std) -> scale "bytes from 0 to 255, RGB, channels last" (mean, std)
            "height", string options.Height
            "width", string options.Width
            if options.ShortSide > 0 then "shortSide", string options.ShortSide
            // Names may hold any character.
            if not options.ClassNames.IsEmpty then
                "classNames", Json.write options.ClassNames
        ]

    let private version: string =
        typeof<OnnxOptions>.Assembly.GetName().Version
        |> Option.ofObj
        |> Option.map (fun v -> v.ToString 3)
        |> Option.defaultValue ""

    /// <summary>Encodes a network and its weights as an ONNX file. Equal input gives equal bytes.</summary>
    /// <param name="options">Opset, image size, and other choices.</param>
    /// <param name="model">The network; one with a user-defined layer is refused by that layer's name.</param>
    /// <param name="weights">Its state_dict in any floating-point type; the file has float32.</param>
    /// <returns>
    /// The bytes, or an error: <c>Usage</c> for the options, <c>Mismatch</c> if weights and model do not fit,
    /// <c>Damaged</c> for a non-finite number or a negative variance.
    /// </returns>
    let encode (options: OnnxOptions) (model: Model) (weights: Tree) : Result<byte[], Error> =
        Tensor.scoped (fun () ->
            result {
                let! options = OnnxOptions.validate model options
                do! refuseCustoms model
                do! checkWeights model weights

                let model, weights =
                    if options.FoldBatchNorm then FoldBatchNorm.model model weights else model, weights

                // A merged weight may exceed the range of float32.
                if options.FoldBatchNorm then do! checkWeights model weights

                let file =
                    ModelProto(
                        IrVersion = irVersion options.Opset,
                        ProducerName = "ctkd",
                        ProducerVersion = version,
                        DocString = $"{model.Name}: logits of {model.Classes} classes for RGB images",
                        Graph = graphOf options model weights
                    )

                file.OpsetImport.Add(OperatorSetIdProto(Version = int64 options.Opset))

                for key, value in facts options model do
                    file.MetadataProps.Add(StringStringEntryProto(Key = key, Value = value))

                return file.ToByteArray()
            }
        )

    /// Writes the result of `encode` to a file atomically.
    let write (path: string) (options: OnnxOptions) (model: Model) (weights: Tree) : Result<unit, Error> =
        encode options model weights |> Result.bind (fun bytes -> Files.replace path _.Write(ReadOnlySpan bytes))
