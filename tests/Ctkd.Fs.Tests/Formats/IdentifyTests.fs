module Ctkd.Fs.Tests.IdentifyTests

open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Folders

/// A file of the model's tensors, all zero.
let private file (metadata: (string * string) list) (model: Model) : WeightsFile =
    Tensor.scoped (fun () ->
        let tensors =
            Model.declarations model
            |> List.map (fun d ->
                let shape = d.Shape |> List.map int64 |> Array.ofList

                Tensor.full (Initialise.dtypeOf DType.Float32 d.Name) Device.Cpu 0.0 shape |> Weights.store d.Name
            )

        Safetensors.encode { Metadata = metadata; Tensors = tensors }
        |> WeightsFile.parse "w.safetensors"
        |> Error.orRaise
    )

let private zoo (name: string) (classes: int) : Model = Zoo.find name classes |> Error.orRaise

let private names: string list = [
    for model in Zoo.models do
        // Of the largest models one represents the others.
        if Model.parameterCount (model.Create 10) < 12_000_000L then model.Name
]

let tests =
    testList "Identify" [
        testList "tensors tell the model and its classes" [
            for name in names ->
                test name {
                    let model = zoo name 17 |> file [] |> Identify.model None |> Error.orRaise
                    Must.equal (name, 17) (model.Name, model.Classes)
                }
        ]

        test "the user's word and the file's come before what fits" {
            let resnet8 = zoo "resnet8" 10
            let named = file [ "model", "resnet20" ] resnet8
            let byFile = Identify.model None named |> Error.orRaise
            Must.equal ("resnet20", 10) (byFile.Name, byFile.Classes)
            let byUser = Identify.model (Some "resnet14") named |> Error.orRaise
            Must.equal ("resnet14", 10) (byUser.Name, byUser.Classes)
            Must.equal Usage ((errorOf (Identify.model (Some "resnet21") named)).Kind)
        }

        test "what a file says is not believed when it is no model of the zoo, or the classifier says otherwise" {
            let claimed = file [ "model", "mine"; "classes", "7" ] (zoo "resnet8" 10)
            let model = Identify.model None claimed |> Error.orRaise
            Must.equal ("resnet8", 10) (model.Name, model.Classes)
            let torch = { claimed with IsSafetensors = false; Metadata = [ "model", "resnet20" ] }
            Must.equal "resnet8" ((Identify.model None torch |> Error.orRaise).Name)
        }

        test "among very many tensors no model is looked for" {
            let empty (i: int) : StoredTensor = {
                Name = $"t{i}"
                DType = "U8"
                Shape = [ 0L ]
                Bytes = System.ReadOnlyMemory [||]
            }

            let file =
                Safetensors.encode { Metadata = []; Tensors = List.init 6_000 empty }
                |> WeightsFile.parse "w.safetensors"
                |> Error.orRaise

            let watch = System.Diagnostics.Stopwatch.StartNew()
            Must.beEmpty (Identify.fitting file)
            Must.equal Mismatch ((errorOf (Identify.model None file)).Kind)
            Must.lie 0.0 2.0 watch.Elapsed.TotalSeconds
        }

        test "among very many tensors of other groups no model is looked for" {
            let group (count: int) =
                TorchEntry.ofTensors [ for i in 1..count -> SafetensorsTests.tensor $"t{i}" "U8" [ 0L ] [||] ]

            let own = file [] (zoo "resnet8" 10)

            let beside (count: int) = { own with Root = TorchEntry.Group [ "model", own.Root; "other", group count ] }

            Must.equal [ "resnet8" ] (Identify.fitting (beside 19_000) |> List.map _.Name)
            Must.beEmpty (Identify.fitting (beside 20_000))
        }

        test "weights that fit no model are an error that names the nearest" {
            let other = { zoo "resnet8" 10 with Classifier = Layer.dense "fc2" 64 10 }
            let error = errorOf (Identify.model None (file [] other))
            Must.equal (Mismatch, "w.safetensors") (error.Kind, error.Where)
            Must.contain "fit no model" error.What
            Must.contain "resnet8 (4 tensors differ)" error.Next
            Must.contain "--model" error.Next
        }
    ]
