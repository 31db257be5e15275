/// Teachers from files that hold programs.
module Ctkd.Fs.Tests.TeacherFileTests

open System
open System.IO
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Child
open Ctkd.Fs.Tests.Folders

/// A resnet20 with calibrated weights for the digits' images, as safetensors, TorchScript and ONNX.
let private written (folder: string) : string list =
    Tensor.scoped (fun () ->
        let model = Zoo.find "resnet20" 10 |> Error.orRaise
        let weights = Calibrated.weights DType.Float32 8 model

        let stored = {
            Metadata = [ Identify.modelKey, "resnet20"; Identify.classesKey, "10" ]
            Tensors = Tree.toList weights |> List.map (fun (name, x) -> Weights.store name x)
        }

        let path name = Path.Combine(folder, name)
        Safetensors.write (path "teacher.safetensors") stored |> Error.orRaise
        let script = TorchScripts.write folder "teacher.pt" (TorchScripts.ofModel model weights)
        Onnx.write (path "teacher.onnx") (OnnxOptions.forSize 8) model weights |> Error.orRaise
        [ path "teacher.safetensors"; script; path "teacher.onnx" ]
    )

let private student (folder: string) (name: string) : float[] =
    (Checkpoint.read (Path.Combine(folder, name, "last.safetensors"))
     |> Error.orRaise
     |> Checkpoint.student (Zoo.find "resnet8" 10 |> Error.orRaise) DType.Float32 Device.Cpu
     |> Error.orRaise)
    |> Tree.leaves
    |> Array.collect Tensor.toFloats

let private few = "--student resnet8 --subset 50 --batch 16"
let private small = $"{few} --epochs 2 --policy ctkd-instance --method kd dkd"

let private distance (a: float[]) (b: float[]) : float =
    let square = Array.map2 (fun x y -> (x - y) * (x - y)) a b |> Array.sum
    sqrt (square / (Array.sumBy (fun x -> x * x) a))

let private refused (folder: string) (teacher: string) : string =
    (expect 1 folder $"distill --teacher {teacher} {small} --out refused").Err

let private loaded (path: string) : LoadedModel =
    let kind = NetworkFile.kindOf path |> Error.orRaise |> Option.get
    Teacher.ofFile ignore Device.Cpu 8 8 kind path |> Error.orRaise

let private logits (teacher: LoadedModel) (images: Tensor) : Tensor =
    Autograd.noGrad (fun () -> (Model.forward teacher.Model false teacher.Weights images).Logits)

let private images (count: int) : Tensor =
    Tensor.ofFloats DType.Float32 [ count; 3; 8; 8 ] (Rng.normals (count * 192) (Rng.ofSeed 2))

/// An ONNX file of ten outputs with its first tensor in a file beside it.
let private withExternal (folder: string) (location: string) : string =
    let model = Zoo.find "resnet8" 10 |> Error.orRaise
    let path = Path.Combine(folder, "split.onnx")

    Tensor.scoped (fun () ->
        Onnx.write path (OnnxOptions.forSize 8) model (Calibrated.weights DType.Float32 8 model) |> Error.orRaise
    )

    let proto = Ctkd.Onnx.ModelProto.Parser.ParseFrom(File.ReadAllBytes path)
    let tensor = proto.Graph.Initializer |> Seq.maxBy (fun tensor -> tensor.RawData.Length)
    File.WriteAllBytes(Path.Combine(folder, "split.weights"), tensor.RawData.ToByteArray())
    tensor.RawData <- Google.Protobuf.ByteString.Empty
    // The fields external_data and data_location of the format, which the writer's messages lack.
    let entry = Ctkd.Onnx.StringStringEntryProto(Key = "location", Value = location)
    let bytes = Google.Protobuf.MessageExtensions.ToByteArray entry
    let fields = Array.concat [ [| 0x6auy; byte bytes.Length |]; bytes; [| 0x70uy; 1uy |] ]
    Google.Protobuf.MessageExtensions.MergeFrom(tensor, fields)
    File.WriteAllBytes(path, Google.Protobuf.MessageExtensions.ToByteArray proto)
    path

/// The ONNX file of the images' means over all axes but the channels': one row for a whole batch.
let private oneRow (folder: string) : string =
    let shaped (name: string) (dims: obj list) =
        let shape = Ctkd.Onnx.TensorShapeProto()

        for dim in dims do
            shape.Dim.Add(
                match dim with
                | :? int as value -> Ctkd.Onnx.TensorShapeProto.Types.Dimension(DimValue = int64 value)
                | name -> Ctkd.Onnx.TensorShapeProto.Types.Dimension(DimParam = string name)
            )

        let tensor = Ctkd.Onnx.TypeProto.Types.Tensor(ElemType = 1, Shape = shape)
        Ctkd.Onnx.ValueInfoProto(Name = name, Type = Ctkd.Onnx.TypeProto(TensorType = tensor))

    let axes =
        Ctkd.Onnx.AttributeProto(Name = "axes", Type = Ctkd.Onnx.AttributeProto.Types.AttributeType.Ints)

    axes.Ints.AddRange [ 0L; 2L; 3L ]
    let node = Ctkd.Onnx.NodeProto(OpType = "ReduceMean")
    node.Input.Add "images"
    node.Output.Add "logits"
    node.Attribute.Add axes
    let graph = Ctkd.Onnx.GraphProto(Name = "mean")
    graph.Node.Add node
    graph.Input.Add(shaped "images" [ "N"; 3; 8; 8 ])
    graph.Output.Add(shaped "logits" [ 1; 3; 1; 1 ])
    let model = Ctkd.Onnx.ModelProto(IrVersion = 8L, Graph = graph)
    model.OpsetImport.Add(Ctkd.Onnx.OperatorSetIdProto(Version = 13L))
    let path = Path.Combine(folder, "one-row.onnx")
    File.WriteAllBytes(path, Google.Protobuf.MessageExtensions.ToByteArray model)
    path

let tests =
    testList "TeacherFile" [
        test "a resnet20 teaches the same within rounding as weights, as TorchScript and as ONNX" {
            inFolder (fun folder ->
                let paths = written folder
                let name (path: string) = string (Path.GetFileName path)

                let ends =
                    paths
                    |> List.map (fun path ->
                        let ended = expect 0 folder $"distill --teacher {path} {small} --out {name path}.run"

                        Must.contain "top-1 on 50 test images" ended.Out
                        student folder $"{name path}.run"
                    )

                // Another teacher is far further away.
                expect 0 folder $"distill --teacher {Runs.teacher.Value} {small} --out other" |> ignore
                let far = distance ends[0] (student folder "other")
                let near = ends.Tail |> List.map (distance ends[0]) |> List.max
                Must.lie 1e-3 1.0 far
                Must.lie 0.0 (1e-2 * far) near
            )
        }

        test "a TorchScript file is announced as a program, and files of weights are not" {
            inFolder (fun folder ->
                let paths = written folder

                let ended path =
                    expect
                        0
                        folder
                        $"distill --teacher {path} {few} --epochs 1 --out run-{Path.GetFileName(path: string)}"

                Must.lack "program" (ended paths[0]).Out
                let script = (ended paths[1]).Out
                Must.contain "teacher.pt is a TorchScript program" script
                Must.contain "only files from people that you trust" script
            )
        }

        test "a teacher from a file fills the cache, and a second run finds all of it and trains the same to the bit" {
            inFolder (fun folder ->
                for path in (written folder).Tail do
                    let name = string (Path.GetFileName path)
                    let run options out = expect 0 folder $"distill --teacher {path} {small} {options} --out {out}"
                    run "" $"{name}.plain" |> ignore
                    run "--teacher-cache cache" $"{name}.cold" |> ignore
                    Must.contain "100.0 % of" (run "--teacher-cache cache" $"{name}.warm").Out
                    Must.equal (student folder $"{name}.cold") (student folder $"{name}.warm")
            )
        }

        test "a run of a teacher from a file resumes, and not with another file in its place" {
            inFolder (fun folder ->
                let paths = written folder

                for path in paths.Tail do
                    let name = string (Path.GetFileName path)

                    let settings = {
                        Runs.small with
                            Teacher = NetworkFile.name (NetworkFile.kindOf path |> Error.orRaise).Value
                            TeacherWeights = path
                    }

                    let whole, cut = Path.Combine(folder, $"{name}.whole"), Path.Combine(folder, $"{name}.cut")
                    Run.start Hooks.none whole settings |> Error.orRaise |> ignore
                    Run.start (Runs.stopAfter 3) cut settings |> Error.orRaise |> ignore
                    let model = Zoo.find "resnet20" 10 |> Error.orRaise
                    let kept = File.ReadAllBytes path
                    let others = Calibrated.weights DType.Float32 16 model

                    if name.EndsWith ".pt" then
                        File.WriteAllBytes(path, TorchScripts.ofModel model others)
                    else
                        Onnx.write path (OnnxOptions.forSize 8) model others |> Error.orRaise

                    Must.contain "not those that the run began with" (errorOf (Run.resume Hooks.none cut)).What
                    File.WriteAllBytes(path, kept)
                    Must.equal Finished (Run.resume Hooks.none cut |> Error.orRaise).Ending
                    Must.equal (Runs.outcome whole) (Runs.outcome cut)
            )
        }

        test "methods that compare features say that the teacher shows logits only" {
            inFolder (fun folder ->
                let path = (written folder)[2]

                for method in [ "crd"; "at"; "srrl"; "rkd"; "sp" ] do
                    let error =
                        (expect 1 folder $"distill --teacher {path} --student resnet8 --method {method} --out x").Err

                    Must.contain "logits only, no features" error
                    Must.contain "kd and dkd" error
            )
        }

        test "what a TorchScript file returns beside its logits are features" {
            inFolder (fun folder ->
                let lines = [ "x1 = torch.mean(x0, [2, 3])"; "x2 = torch.linear(x1, self.w)"; "return (x2, x0, x1)" ]

                let bytes = TorchScripts.ofLinesOf "Tuple[Tensor, Tensor, Tensor]" lines
                let teacher = TorchScripts.write folder "shows.pt" bytes |> loaded
                Must.equal 3 (Model.pooled teacher.Model)
                Must.equal [ [ 3; 8; 8 ] ] (Model.trace 8 8 teacher.Model |> Shapes.tapped)
                let path = Path.Combine(folder, "shows.pt")

                expect
                    0
                    folder
                    $"distill --teacher {path} {few} --epochs 1 --method rkd kd --method-weights 1 1 --out x"
                |> ignore

                Must.contain
                    "classifier cannot run by itself"
                    (expect 1 folder $"distill --teacher {path} --student resnet8 --method srrl --out y").Err
            )
        }

        test "an ONNX teacher of another image size is resized for, and one of a single image is asked one by one" {
            inFolder (fun folder ->
                let model = Zoo.find "resnet20" 10 |> Error.orRaise
                let weights = Calibrated.weights DType.Float32 16 model
                let path = Path.Combine(folder, "large.onnx")
                Onnx.write path (OnnxOptions.forSize 16) model weights |> Error.orRaise
                let error = refused folder path
                Must.contain "16 x 16, and gets 8 x 8" error
                Must.contain "--teacher-size 16" error
                expect 0 folder $"distill --teacher {path} --teacher-size 16 {small} --out resized" |> ignore

                let single = Path.Combine(folder, "single.onnx")
                let proto = Ctkd.Onnx.ModelProto.Parser.ParseFrom(File.ReadAllBytes path)
                let batch = proto.Graph.Input[0].Type.TensorType.Shape.Dim[0]
                batch.ClearDimParam()
                batch.DimValue <- 1L
                File.WriteAllBytes(single, Google.Protobuf.MessageExtensions.ToByteArray proto)

                Tensor.scoped (fun () ->
                    let images = Tensor.ofFloats DType.Float32 [ 3; 3; 16; 16 ] (Rng.normals 2304 (Rng.ofSeed 4))
                    let load path = Teacher.ofFile ignore Device.Cpu 16 16 NetworkFile.Onnx path |> Error.orRaise
                    let expected = logits (load path) images |> Tensor.toFloats
                    Must.beClose 1e-4 1e-4 expected (logits (load single) images |> Tensor.toFloats)
                )
            )
        }

        test "the hash of an ONNX file covers the files beside it, which must lie in its folder" {
            inFolder (fun folder ->
                let path = withExternal folder "split.weights"
                let hash () = (loaded path).Hash
                let first = hash ()
                Must.equal first (hash ())
                let weights = Path.Combine(folder, "split.weights")
                let bytes = File.ReadAllBytes weights
                bytes[0] <- bytes[0] ^^^ 1uy
                File.WriteAllBytes(weights, bytes)
                Must.differ first (hash ())
                File.Delete weights
                Must.contain "split.weights" (refused folder path)

                for outside in [ "../split.weights"; "/etc/hostname"; "a/../../b"; "" ] do
                    let error =
                        Teacher.ofFile ignore Device.Cpu 8 8 NetworkFile.Onnx (withExternal folder outside) |> errorOf

                    Must.equal Mismatch error.Kind

                    Must.contain
                        (if outside = "" then "its place is not named" else "outside the file's folder")
                        error.What
            )
        }

        test "an ONNX file without a row for each image is refused with the shape that it gives" {
            inFolder (fun folder ->
                let error = refused folder (oneRow folder)
                Must.contain "for 2 images it gives 'logits' [1; 3; 1; 1]" error
                Must.contain "one row of logits for each image" error
            )
        }

        test "a TorchScript file's error begins with its cause, and the advice fits it" {
            inFolder (fun folder ->
                let refusedLines lines = refused folder (TorchScripts.write folder "t.pt" (TorchScripts.ofLines lines))
                let shapes = refusedLines [ "return torch.linear(x0, self.w)" ]
                Must.contain "cannot teach: RuntimeError: mat1 and mat2 shapes" shapes
                Must.contain "--teacher-size" shapes
                Must.lack "2.10" shapes
                let raising = refusedLines [ "ops.prim.RaiseException(\"no luck\")"; "return x0" ]
                Must.contain "no luck" raising
                Must.lack "--teacher-size" raising
                Must.lack "2.10" raising
                let unknown = refusedLines [ "return torch.maen(x0, [2, 3])" ]
                Must.contain "2.10" unknown
                Must.lack "--teacher-size" unknown
            )
        }

        test "outputs that are no probabilities are refused where the flag says that they are" {
            inFolder (fun folder ->
                let write name line = TorchScripts.write folder name (TorchScripts.ofLines line)
                let scores = "x1 = torch.linear(torch.mean(x0, [2, 3]), self.w)"
                let logits = write "logits.pt" [ scores; "return x1" ]
                let probabilities = write "probabilities.pt" [ scores; "return torch.softmax(x1, 1)" ]
                let flag = "--epochs 1 --teacher-output probabilities"
                let error = (expect 1 folder $"distill --teacher {logits} {few} {flag} --out x").Err
                Must.contain "logits.pt gives no probabilities" error
                Must.contain "leave out --teacher-output probabilities" error
                let both = (expect 1 folder $"distill --teacher {probabilities} {logits} {few} {flag} --out x").Err
                Must.contain "logits.pt gives no probabilities" both
                expect 0 folder $"distill --teacher {probabilities} {few} {flag} --out x" |> ignore
            )
        }

        test "a file that is no network is an error with its name, and a name that is no file suggests models" {
            inFolder (fun folder ->
                let write name bytes = TorchScripts.write folder name bytes
                let script = TorchScripts.ofLines [ "return torch.linear(torch.mean(x0, [2, 3]), self.w)" ]

                let code (old: string) (now: string) =
                    Text.Encoding.Latin1.GetString(script).Replace(old, now) |> Text.Encoding.Latin1.GetBytes

                let cases = [
                    write "cut.pt" script[.. script.Length / 2], []
                    write "zeros.onnx" (Array.zeroCreate 100), []
                    write "empty.pt" [||], []
                    write "words.onnx" "not a network at all"B, []
                    write "begin.onnx" [| 0x08uy; 0x08uy; 0x3auy; 0xffuy; 0xffuy; 0x03uy; 1uy |],
                    [ "cut off or damaged" ]
                    write "graphless.onnx" [| 0x08uy; 0x08uy; 0x42uy; 0x02uy; 0x10uy; 0x11uy |], [ "has no graph" ]
                    write "three.pt" (TorchScripts.ofLines [ "return x0" ]),
                    [ "logits are [2, classes]"; "[2; 3; 8; 8]" ]
                    write "wrong.pt" (code "torch.mean(x0, [2, 3])" "torch.maen(x0, [2, 3])"), []
                    write "failing.pt" (TorchScripts.ofLines [ "return torch.linear(x0, self.w)" ]),
                    [ "--teacher-size" ]
                ]

                for path, parts in cases do
                    let error = refused folder path
                    Must.contain (string (Path.GetFileName path)) error

                    for part in parts do
                        Must.contain part error

                Must.contain "resnet20" (expect 2 folder $"distill --teacher resnet21 {small}").Err
                Must.contain "there is none 'resnet21'" (expect 2 folder $"distill --teacher resnet21 {small}").Err
                Must.contain "no such file" (expect 1 folder $"distill --teacher away.pt {small}").Err
            )
        }

        test "damaged files of networks end in an error or in a network, never in a crash" {
            inFolder (fun folder ->
                let paths = (written folder).Tail
                let small = TorchScripts.ofLines [ "return torch.linear(torch.mean(x0, [2, 3]), self.w)" ]
                let files = File.ReadAllBytes paths[1] :: [ small ]

                for file in files do
                    for round in 1..60 do
                        let rng = Rng.ofSeed round
                        let bytes = Array.copy file

                        for i in 0..3 do
                            bytes[Rng.below bytes.Length i rng] <- byte (Rng.below 256 (i + 10) rng)

                        let bytes = if round % 5 = 0 then bytes[.. Rng.below bytes.Length 20 rng] else bytes
                        let path = TorchScripts.write folder "damaged" bytes

                        match NetworkFile.kindOf path with
                        | Result.Error _
                        | Ok None -> ()
                        | Ok(Some kind) ->
                            match Teacher.ofFile ignore Device.Cpu 8 8 kind path with
                            | Ok teacher -> Tensor.scoped (fun () -> logits teacher (images 2) |> ignore)
                            | Result.Error error -> Must.beNonEmpty error.What
            )
        }
    ]
