module Ctkd.Fs.Tests.GoldenModelTests

open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Golden

/// The model of a file.
let private ofFile (item: Item) : Model =
    let classes = (floats "eval_logits" item.Value).Length / 4
    Zoo.find item.Name classes |> Error.orRaise

/// Compares forward values in evaluation mode, then training mode, and the gradient norms of the cross entropy.
let private compare (dtype: DType) (model: Model) (expected: System.Text.Json.JsonElement) =
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

/// The models to test.
let models: Item list = found.Value.Models

let tests =
    testList "GoldenModel" [
        each
            "a model has its number of parameters"
            models
            (fun item root -> Must.equal ((field "params" root).GetInt64()) (Model.parameterCount (ofFile item)))

        each
            "a model agrees in float64"
            models
            (fun item root -> compare DType.Float64 (ofFile item) root ||> List.append |> verify double)

        each
            "a model's forward values agree in float32"
            models
            (fun item root -> compare DType.Float32 (ofFile item) root |> fst |> verify single)
    ]
