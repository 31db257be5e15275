module Ctkd.Fs.Tests.WeightsTests

open System
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Folders

let private dtypes = [
    "F32", DType.Float32
    "F64", DType.Float64
    "F16", DType.Float16
    "BF16", DType.BFloat16
    "I64", DType.Int64
    "I32", DType.Int32
    "I16", DType.Int16
    "I8", DType.Int8
    "U8", DType.Byte
    "BOOL", DType.Bool
]

// ---- against a model ----

let private model = Plans.tiny 4 3

let private stored (model: Model) : StoredTensor list =
    Tensor.scoped (fun () ->
        Plans.teacherWeights DType.Float32 model |> Tree.toList |> List.map (fun (name, x) -> Weights.store name x)
    )

let private fit (tensors: StoredTensor list) : Result<Tree, Error> =
    Model.declarations model
    |> Weights.expected DType.Float32
    |> fun expected -> Weights.fit $"model {model.Name}" "w.safetensors" Device.Cpu expected tensors

/// The differences between stored tensors and the model, as listed in the message.
let private differences (tensors: StoredTensor list) : string list =
    let error = errorOf (fit tensors)
    Must.equal (Mismatch, "w.safetensors") (error.Kind, error.Where)
    Must.contain $"do not fit model {model.Name}" error.What
    error.What.Split "\n  - " |> List.ofArray |> List.tail

let private renamed (oldName: string) (newName: string) : StoredTensor list =
    stored model |> List.map (fun t -> if t.Name = oldName then { t with Name = newName } else t)

let tests =
    testList "Weights" [
        test "a tensor of every type is stored and loaded with the same bytes" {
            Tensor.scoped (fun () ->
                for name, dtype in dtypes do
                    let x = Tensor.ofFloats DType.Float64 [ 2; 3 ] [| 0.0; 1.0; 2.0; 0.5; 100.0; 3.0 |]
                    let stored = Tensor.toType dtype x |> Weights.store "x"
                    Must.equal ("x", name) (stored.Name, stored.DType)
                    Must.equal [ 2L; 3L ] stored.Shape
                    let loaded = Weights.load stored
                    Must.equal dtype (Tensor.dtype loaded)
                    Must.equal (stored.Bytes.ToArray()) (Tensor.toBytes loaded)
            )
        }

        test "scalars, empty tensors and images with their channels innermost keep shape and order" {
            Tensor.scoped (fun () ->
                let image = Tensor.ofFloats DType.Float32 [ 1; 2; 2; 2 ] (Array.init 8 float)

                for x in
                    [ Tensor.scalar DType.Float32 Device.Cpu 3.5; Tensor.zeros DType.Float32 Device.Cpu [| 0L; 4L |] ] do
                    let loaded = Weights.store "x" x |> Weights.load
                    Must.equal (Tensor.shape x) (Tensor.shape loaded)
                    Must.equal (Tensor.toFloats x) (Tensor.toFloats loaded)

                let innermost = Tensor.channelsLast image
                Must.hold (Tensor.isChannelsLast innermost)
                Must.equal (Tensor.toBytes image) ((Weights.store "x" innermost).Bytes.ToArray())
            )
        }

        test "weights that fit are loaded in the model's order, in whatever order they are stored" {
            Tensor.scoped (fun () ->
                let tree = stored model |> List.rev |> fit |> Error.orRaise
                let names = Model.declarations model |> List.map _.Name
                Must.equal names (Tree.names tree)

                Must.equal (Weights.expected DType.Float32 (Model.declarations model)) (Weights.expectedOf tree)

                for tensor in stored model do
                    Must.equal (tensor.Bytes.ToArray()) (Tree.find tensor.Name tree |> Tensor.toBytes)
            )
        }

        test "a missing tensor is named, with the nearest of those that are too many" {
            let all = stored model
            let without = all |> List.filter (fun t -> t.Name <> "fc.bias")
            Must.equal [ "'fc.bias' is missing" ] (differences without)

            let misspelt = differences (renamed "fc.bias" "fc.bais")

            Must.equal
                [ "'fc.bias' is missing (nearest: fc.bais)"; "'fc.bais' is not expected (nearest: fc.bias)" ]
                misspelt
        }

        test "another shape and another type are named with what was expected" {
            let more = stored (Plans.tiny 4 5)

            Must.equal
                [ "'fc.weight' is F32 [5, 4], expected F32 [3, 4]"; "'fc.bias' is F32 [5], expected F32 [3]" ]
                (differences more)

            let retyped =
                stored model
                |> List.map (fun t ->
                    if t.Name = "fc.bias" then
                        { t with DType = "F64"; Bytes = ReadOnlyMemory(Array.zeroCreate<byte> 24) }
                    else
                        t
                )

            Must.equal [ "'fc.bias' is F64 [3], expected F32 [3]" ] (differences retyped)
        }

        test "of each kind of difference the first eight are listed and the rest counted" {
            let resnet = Zoo.find "resnet8" 3 |> Error.orRaise |> stored
            let listed = differences resnet
            let kinds = [ "missing"; "of another shape or type"; "not expected" ]

            let rest =
                kinds
                |> List.map (fun kind ->
                    let more = listed |> List.tryFind (fun line -> line.StartsWith "and " && line.EndsWith kind)

                    more |> Option.map (fun line -> int (line.Split(' ')[1])) |> Option.defaultValue 0
                )

            let total = (errorOf (fit resnet)).What.Split(';')[1]
            let shown = listed |> List.filter (fun line -> not (line.StartsWith "and ")) |> List.length
            Must.contain $"{shown + List.sum rest} difference(s)" total
            Must.equal 8 (listed |> List.filter (fun line -> line.Contains "is not expected") |> List.length)
            Must.equal (resnet.Length - 8 - 2) rest[2]
            Must.single (listed |> List.filter (fun line -> line.Contains "fc.")) |> ignore
        }

        test "a refused set of weights leaves no tensor behind" {
            let before = Tensor.live ()
            differences (renamed "fc.bias" "x") |> ignore
            Must.equal before (Tensor.live ())
        }
    ]
