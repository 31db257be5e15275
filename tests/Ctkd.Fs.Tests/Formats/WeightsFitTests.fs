module Ctkd.Fs.Tests.WeightsFitTests

open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Folders
open Ctkd.Fs.Tests.SafetensorsTests

let private model = Zoo.find "resnet8" 10 |> Error.orRaise

let private stored: Lazy<StoredTensor list> =
    lazy
        (Tensor.scoped (fun () ->
            Model.declarations model
            |> Initialise.tree DType.Float32 Device.Cpu (Rng.ofSeed 3)
            |> Tree.toList
            |> List.map (fun (name, x) -> Weights.store name x)
        ))

let private fileOf (tensors: StoredTensor list) : WeightsFile =
    Safetensors.encode { Metadata = []; Tensors = tensors } |> WeightsFile.parse "w.safetensors" |> Error.orRaise

let private extra = tensor "head2.weight" "F32" [ 1L; 2L ] (Array.zeroCreate 8)
let private ignoring = { WeightsFit.strict with IgnoreExtra = true }

let private names (found: StateDict) : string list = found.Tensors |> List.map _.Name

let tests =
    testList "WeightsFit" [
        test "an extra head is refused with the flag that leaves it aside, which names it" {
            let file = fileOf (stored.Value @ [ extra ])
            let error = WeightsFit.tensors WeightsFit.strict model file |> errorOf
            Must.contain "'head2.weight' is not expected" error.What
            Must.contain "--ignore-extra" error.Next
            let found, notes = WeightsFit.tensors ignoring model file |> Error.orRaise
            Must.equal (stored.Value |> List.map _.Name) (names found)
            Must.contain "1 tensors that resnet8 lacks: head2.weight" (Must.single notes)
        }

        test "without a model's name, an extra head names the flag, and with it the largest model that fits is found" {
            let file = fileOf (stored.Value @ [ extra ])
            Must.contain "--ignore-extra" (errorOf (Identify.model None file)).Next
            Must.equal "resnet8" (Identify.modelOf true None file |> Error.orRaise).Name

            let larger =
                Tensor.scoped (fun () ->
                    Model.declarations (Zoo.find "resnet20" 10 |> Error.orRaise)
                    |> Initialise.tree DType.Float32 Device.Cpu (Rng.ofSeed 3)
                    |> Tree.toList
                    |> List.map (fun (name, x) -> Weights.store name x)
                )

            // Every tensor of resnet8 is one of resnet20's.
            Must.equal "resnet20" (Identify.modelOf true None (fileOf larger) |> Error.orRaise).Name
        }

        test "a classifier that is missing or of another shape is new from the seed, and only on demand" {
            let without = stored.Value |> List.filter (fun t -> not (t.Name.StartsWith "fc."))
            let other = Zoo.find "resnet8" 7 |> Error.orRaise

            for model, tensors in [ model, without; other, stored.Value ] do
                let file = fileOf tensors
                let error = WeightsFit.tensors WeightsFit.strict model file |> errorOf
                Must.contain "--fresh-classifier" error.Next

                let fresh seed =
                    WeightsFit.tensors { WeightsFit.strict with FreshClassifier = Some seed } model file
                    |> Error.orRaise

                let found, notes = fresh 1
                Must.equal (Model.declarations model |> List.map _.Name |> Set.ofList) (Set.ofList (names found))
                Must.contain "fc.weight" (Must.single notes)

                let bytes (found: StateDict, _) =
                    found.Tensors |> List.map (fun t -> t.Name, t.Bytes.ToArray()) |> Map.ofList

                Must.equal (bytes (fresh 1)) (bytes (fresh 1))
                let one, two = bytes (fresh 1), bytes (fresh 2)
                Must.differ one["fc.weight"] two["fc.weight"]
                Must.equal (stored.Value.Head.Bytes.ToArray()) one[stored.Value.Head.Name]
        }

        test "another difference than the classifier's names no flag" {
            let without = stored.Value |> List.filter (fun t -> t.Name <> "conv1.weight")

            let error =
                WeightsFit.tensors { ignoring with FreshClassifier = Some 1 } model (fileOf without) |> errorOf

            Must.contain "'conv1.weight' is missing" error.What
            Must.lack "--" error.Next
        }

        test "types that no model has are left aside by name, and refused where the model needs the tensor" {
            let strange = [
                for dtype, size in
                    [ "U16", 2; "U32", 4; "U64", 8; "C64", 8; "C128", 16; "F8_E4M3", 1; "F8_E5M2", 1; "F8_E8M0", 1 ] do
                    tensor $"beside.{dtype}" dtype [ 1L ] (Array.zeroCreate size)
                tensor "beside.F4" "F4" [ 2L ] [| 0uy |]
                tensor "beside.F6" "F6_E2M3" [ 4L ] [| 0uy; 0uy; 0uy |]
            ]

            let found, _ =
                WeightsFit.tensors WeightsFit.strict model (fileOf (stored.Value @ strange)) |> Error.orRaise

            Must.equal (stored.Value |> List.map _.Name) (names found)
            Must.equal (strange |> List.map _.Name) (found.Skipped |> List.map _.Name)

            let needed =
                stored.Value
                |> List.map (fun t ->
                    if t.Name = "fc.bias" then tensor t.Name "F8_E4M3" t.Shape (Array.zeroCreate 10) else t
                )

            let error = WeightsFit.tensors WeightsFit.strict model (fileOf needed) |> errorOf
            Must.contain "the model needs 'fc.bias', which is a tensor of the type F8_E4M3" error.What
            Must.contain "d['fc.bias'] = d['fc.bias'].float()" error.Next
            let unnamed = errorOf (Identify.model None (fileOf needed))
            Must.contain "'fc.bias' is a tensor of the type F8_E4M3, which is not read" unnamed.What
            Must.contain "d['fc.bias'] = d['fc.bias'].float()" unnamed.Next
        }

        test "counters of averaging and of profilers are no weights" {
            let counter name = tensor name "I64" [] (Array.zeroCreate 8)
            let wrapped = stored.Value |> List.map (fun t -> { t with Name = "module." + t.Name })
            let file = fileOf (counter "n_averaged" :: counter "module.conv1.total_ops" :: wrapped)
            let found, _ = WeightsFit.tensors WeightsFit.strict model file |> Error.orRaise
            Must.equal (stored.Value |> List.map _.Name) (names found)
        }
    ]
