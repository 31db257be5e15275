namespace Ctkd.Fs.Tests

open Ctkd.Fs
open Xunit
open Xunit.Abstractions
open Ctkd.Fs.Tests.Golden

module GoldenModels =
    /// The model that a file is about.
    let ofFile (item: Item) : Model =
        let classes = (floats "eval_logits" item.Value).Length / 4
        Zoo.find item.Name classes |> Error.orRaise

    /// Forward values, evaluation first, then training mode; and the cross entropy's gradient norms.
    let compare (dtype: DType) (model: Model) (expected: System.Text.Json.JsonElement) =
        let images = probe dtype "input" [ 4; 3; 32; 32 ] 2.0 0.0
        let trained = Model.trainedNames model
        let leaf name w = if trained.Contains name then Autograd.leaf w else w
        let weights = weights dtype "" model |> Tree.map leaf
        let eval = Autograd.noGrad (fun () -> Model.forward model false weights images)
        let train = Model.forward model true weights images
        let loss = Loss.crossEntropy (labels "labels" 4 model.Classes) train.Logits

        let ours = eval.Features @ [ eval.Pooled ]
        let theirs = field "features" expected |> items

        let forward = [
            vector "evaluation logits" (floats "eval_logits" expected) (Tensor.toFloats eval.Logits)
            scalar "number of features" (float theirs.Length) (float ours.Length)
            for i, (theirs, ours) in Seq.indexed (Seq.zip theirs ours) do
                yield! statistics $"feature {i}" theirs ours
            vector "train-mode logits" (floats "train_logits" expected) (Tensor.toFloats train.Logits)
            scalar "cross entropy" (number "train_loss" expected) (Tensor.toFloat loss)
            for name, statistic in field "running_after" expected |> entries do
                yield! statistics name statistic (Tree.find name weights)
        ]

        let norms = field "grad_norms" expected |> entries
        let leaves = [| for name, _ in norms -> Tree.find name weights |]

        let gradients = [
            for (name, norm), gradient in Seq.zip norms (Autograd.gradients loss leaves) do
                scalar $"gradient of {name}" (norm.GetDouble()) (Tensor.norm gradient |> Tensor.toFloat)
        ]

        forward, gradients

type GoldenModelTests(output: ITestOutputHelper) =
    static member Models = (find ()).Models |> rows

    member private _.Check (file: string) (index: int) (name: string) body : unit =
        run
            file
            index
            (fun root ->
                let item = { File = file; Index = index; Name = name; Value = root }
                body (GoldenModels.ofFile item) root
            )

    [<Theory; MemberData("Models")>]
    member this.``a model has its number of parameters``(file: string, index: int, name: string) =
        this.Check
            file
            index
            name
            (fun model root -> Assert.Equal((field "params" root).GetInt64(), Model.parameterCount model))

    [<Theory; MemberData("Models")>]
    member this.``a model agrees in float64``(file: string, index: int, name: string) =
        this.Check
            file
            index
            name
            (fun model root ->
                GoldenModels.compare DType.Float64 model root ||> List.append |> verify output double
            )

    [<Theory; MemberData("Models")>]
    member this.``a model's forward values agree in float32``(file: string, index: int, name: string) =
        this.Check
            file
            index
            name
            (fun model root -> GoldenModels.compare DType.Float32 model root |> fst |> verify output single)
