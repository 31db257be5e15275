module Ctkd.Fs.Tests.ZooTests

open System
open System.IO
open System.Text.Json
open Expecto
open Ctkd.Fs

/// Numbers of the published implementations: tests/zoo.json.
let private published: JsonElement =
    use document = JsonDocument.Parse(File.ReadAllText(Path.Combine(AppContext.BaseDirectory, "zoo.json")))

    document.RootElement.Clone()

let private entry (name: string) : JsonElement = published.GetProperty name

let private shape (element: JsonElement) : int list = [ for size in element.EnumerateArray() -> size.GetInt32() ]

let private whole (name: string) (element: JsonElement) : int64 =
    match element.TryGetProperty name with
    | true, value -> value.GetInt64()
    | _ -> failwith $"zoo.json has no {name}"

let private names: string list = [ for model in Zoo.models -> model.Name ]

let private model (name: string) : Published * Model =
    let found = Zoo.published name |> Error.orRaise
    found, found.Create found.Classes

let private constantTensor (dtype: DType) (shape: int list) (value: float) : Tensor =
    shape |> List.map int64 |> Array.ofList |> Tensor.full dtype Device.Cpu value

/// Fills all tensors of a network with one number: shapes do not depend on values.
let private constant (model: Model) : Tree =
    Model.declarations model
    |> List.map (fun d -> d.Name, constantTensor (Initialise.dtypeOf DType.Float32 d.Name) d.Shape 0.01)
    |> Tree.ofSeq

// ---- initial values by family: methods.md, "Initialisation"
// ----------------------------------------------------------

/// The initial values of a model's convolutions, their biases, the classifier's weight and its bias.
let private starts (name: string) =
    let _, model = model name
    let declared = Model.declarations model |> List.filter _.Trained
    let classifier = model.Classifier

    let kind (d: Declaration) =
        match d.Initial with
        | UniformFanIn fanIn ->
            // The shape of a bias does not determine the fan-in.
            let expected = if d.Shape.Length > 1 then List.fold (*) 1 d.Shape.Tail else fanIn
            Must.equal expected fanIn
            "PyTorch's default"
        | other -> string other

    let kinds (chosen: Declaration list) = chosen |> List.map kind |> List.distinct |> String.concat ", "
    let convolutions = declared |> List.filter (fun d -> d.Shape.Length = 4)
    let ownBias (d: Declaration) = d.Name.Replace(".weight", ".bias")
    let normalised = declared |> List.filter (fun d -> d.Shape.Length = 1 && d.Name.EndsWith ".weight")
    let biases = List.map ownBias convolutions

    Must.equal "Fill 1.0" (kinds normalised)

    [
        kinds convolutions
        kinds (declared |> List.filter (fun d -> List.contains d.Name biases))
        kinds (declared |> List.filter (fun d -> d.Name = classifier.Weight))
        kinds (declared |> List.filter (fun d -> d.Name = classifier.Bias))
    ]

let tests =
    testList "Zoo" [
        test "the zoo is the published one" {
            let expected = [ for entry in published.EnumerateObject() -> entry.Name ]
            Must.equal (List.sort expected) (List.sort Zoo.names)
        }

        testList "a model has the published tensors: names, order and shapes" [
            for name in names ->
                test name {
                    let expected = [
                        for pair in (entry name).GetProperty("state_dict").EnumerateArray() ->
                            string (pair[0].GetString()), shape pair[1]
                    ]

                    let declared = model name |> snd |> Model.declarations
                    Must.equal expected (declared |> List.map (fun d -> d.Name, d.Shape))
                }
        ]

        testList "a model has the published numbers of parameters and multiply-accumulates" [
            for name in names ->
                test name {
                    let found, model = model name
                    let entry = entry name
                    let macs = Macs.ofLayer [ 3; found.Size; found.Size ] (Model.layers model)

                    let buffers =
                        Model.declarations model
                        |> List.filter (_.Trained >> not)
                        |> List.sumBy (fun d -> List.fold (*) 1 d.Shape |> int64)

                    let ours = [
                        "num_classes", int64 found.Classes
                        "input_size", int64 found.Size
                        "params", Model.parameterCount model
                        "buffer_elements", buffers
                        "macs_conv", macs.Convolution
                        "macs_linear", macs.Linear
                        "macs_total", macs.Total
                        "bn_input_elements", macs.Normalised
                        "macs_plus_4bn", macs.WithBatchNorm
                    ]

                    Must.equal (ours |> List.map (fun (key, _) -> key, whole key entry)) ours
                }
        ]

        testList "a model has the published features and classifier" [
            for name in names ->
                test name {
                    let found, model = model name
                    let entry = entry name
                    let traced = Model.trace found.Size found.Size model
                    let features = Shapes.tapped traced @ [ [ model.Classifier.In ] ]

                    let expected = [
                        for feature in entry.GetProperty("features").EnumerateArray() -> (shape feature).Tail
                    ]

                    Must.equal expected features

                    match entry.TryGetProperty "classifier_key" with
                    | true, key -> Must.equal (key.GetString()) model.Classifier.Weight
                    | _ -> ()
                }
        ]

        testList "a forward pass gives the shapes that the trace announces, at other sizes too" [
            for name in names ->
                test name {
                    let found, model = model name

                    for size in [ found.Size / 2; Model.smallestInput model + 5 ] do
                        Tensor.scoped (fun () ->
                            let images = constantTensor DType.Float32 [ 2; 3; size; size ] 0.5

                            let outputs = Autograd.noGrad (fun () -> Model.forward model false (constant model) images)

                            let actual = [
                                for x in outputs.Features @ [ outputs.Pooled ] -> List.ofArray (Tensor.shape x)
                            ]

                            let traced = Shapes.tapped (Model.trace size size model) @ [ [ model.Classifier.In ] ]

                            Must.equal [ for feature in traced -> 2L :: List.map int64 feature ] actual
                            Must.equal [| 2L; int64 model.Classes |] (Tensor.shape outputs.Logits)
                        )
                }
        ]

        test "parameters start as their family's do" {
            let standard = "PyTorch's default"
            let he, zero, narrow = string KaimingNormalFanOut, string (Fill 0.0), string (Normal 0.01)

            let expected = [
                "resnet20", [ he; ""; standard; standard ]
                "wrn_16_2", [ he; ""; standard; zero ]
                "vgg8", [ he; zero; narrow; zero ]
                "MobileNetV2", [ he; ""; narrow; zero ]
                "ShuffleV1", [ standard; ""; standard; standard ]
                "ShuffleV2", [ standard; ""; standard; standard ]
                "ResNet18", [ standard; ""; standard; standard ]
                "ResNet50", [ standard; ""; standard; standard ]
                "imagenet/ResNet18", [ he; ""; standard; standard ]
                "imagenet-ctkd/MobileNetV2_Imagenet", [ he; ""; narrow; zero ]
            ]

            Must.equal expected [ for name, _ in expected -> name, starts name ]
        }

        test "the instance-wise temperature of CTKD adds a tenth of a million multiply-accumulates" {
            let network = Macs.ofLayer [ 3; 32; 32 ] (Model.layers (snd (model "resnet20")))
            let policy = { Settings.defaults with Policy = PolicyName.CtkdInstance } |> Settings.policy
            let millions (macs: Macs) = Math.Round(float macs.WithBatchNorm / 1e6, 1)
            Must.equal 41.6 (millions network)
            Must.equal 41.7 (millions (network + Policy.macs 100 policy))
            Must.equal 102_912L ((Policy.macs 100 policy).Total)
        }
    ]
