module Ctkd.Fs.Tests.IdentifyTests

open Ctkd.Fs
open Ctkd.Fs.Tests.Folders
open Xunit

/// A file of the model's tensors, all zero.
let private file (metadata: (string * string) list) (model: Model) : WeightsFile =
    Tensor.scoped (fun () ->
        let tensors =
            Model.declarations model
            |> List.map (fun d ->
                let shape = d.Shape |> List.map int64 |> Array.ofList

                Tensor.full (Initialise.dtypeOf DType.Float32 d.Name) Device.Cpu 0.0 shape
                |> Weights.store d.Name
            )

        Safetensors.encode { Metadata = metadata; Tensors = tensors }
        |> WeightsFile.parse "w.safetensors"
        |> Error.orRaise
    )

let private zoo (name: string) (classes: int) : Model = Zoo.find name classes |> Error.orRaise

let names: objnull[] seq = [
    for model in Zoo.models do
        // Of the largest ones a single one stands for the others.
        if Model.parameterCount (model.Create 10) < 12_000_000L then
            [| box model.Name |]
]

[<Theory; MemberData(nameof names)>]
let ``tensors tell the model and its classes`` (name: string) =
    let model = zoo name 17 |> file [] |> Identify.model None |> Error.orRaise
    Assert.Equal((name, 17), (model.Name, model.Classes))

[<Fact>]
let ``the user's word and the file's come before what fits`` () =
    let resnet8 = zoo "resnet8" 10
    let named = file [ "model", "resnet20" ] resnet8
    let byFile = Identify.model None named |> Error.orRaise
    Assert.Equal(("resnet20", 10), (byFile.Name, byFile.Classes))
    let byUser = Identify.model (Some "resnet14") named |> Error.orRaise
    Assert.Equal(("resnet14", 10), (byUser.Name, byUser.Classes))
    Assert.Equal(Usage, (errorOf (Identify.model (Some "resnet21") named)).Kind)

[<Fact>]
let ``what a file says is not believed when it is no model of the zoo, or the classifier says otherwise`` () =
    let claimed = file [ "model", "mine"; "classes", "7" ] (zoo "resnet8" 10)
    let model = Identify.model None claimed |> Error.orRaise
    Assert.Equal(("resnet8", 10), (model.Name, model.Classes))
    let torch = { claimed with IsSafetensors = false; Metadata = [ "model", "resnet20" ] }
    Assert.Equal("resnet8", (Identify.model None torch |> Error.orRaise).Name)

[<Fact>]
let ``among very many tensors no model is looked for`` () =
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
    Assert.Empty(Identify.fitting file)
    Assert.Equal(Mismatch, (errorOf (Identify.model None file)).Kind)
    Assert.InRange(watch.Elapsed.TotalSeconds, 0.0, 2.0)

[<Fact>]
let ``weights that fit no model are an error that names the nearest`` () =
    let other = { zoo "resnet8" 10 with Classifier = Layer.dense "fc2" 64 10 }
    let error = errorOf (Identify.model None (file [] other))
    Assert.Equal((Mismatch, "w.safetensors"), (error.Kind, error.Where))
    Assert.Contains("fit no model", error.What)
    Assert.Contains("resnet8 (4 tensors differ)", error.Next)
    Assert.Contains("--model", error.Next)
