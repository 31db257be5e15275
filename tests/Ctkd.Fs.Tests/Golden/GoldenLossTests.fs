module Ctkd.Fs.Tests.GoldenLossTests

open System.Text.Json
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Golden
open Ctkd.Fs.Tests.GoldenRoutes
open Ctkd.Fs.Tests.GoldenFeatures

/// Compares values, and the gradients that the case lists, by every route.
let private compare (dtype: DType) (file: JsonElement) (case: JsonElement) : Comparison list * Comparison list =
    let tag, batch, classes = text "tag" file, integer "B" file, integer "C" file

    let logits name = probe dtype $"{tag}/{name}" [ batch; classes ] (number "logit_scale" file) 0.0 |> Autograd.leaf

    let inputs = {
        DType = dtype
        Tag = tag
        Batch = batch
        Teacher = logits "teacher_logits"
        Student = logits "student_logits"
        Labels = labels $"{tag}/labels" batch classes
        ModelPair = pair file
    }

    let gradients (route: GoldenRoute) =
        let leaves =
            Map(("teacher_logits", inputs.Teacher) :: ("student_logits", inputs.Student) :: route.Leaves)

        let listed = field "grads" case |> entries
        let ours = Autograd.gradients route.Loss [| for name, _ in listed -> Map.find name leaves |]

        [
            for (name, expected), gradient in Seq.zip listed ours do
                yield! statistics $"gradient of {name}" expected gradient
        ]

    let routes = implemented[text "name" case] inputs (field "params" case) case

    // A case with several calls lists all their values; its loss is that of the first.
    let value = if has "value" case then number "value" case else Array.head (floats "values" case)

    let values = [
        vector "labels" (floats "labels" file) (Tensor.toFloats inputs.Labels)
        for route in routes do
            scalar "value" value (Tensor.toFloat route.Loss)
            yield! route.Values
    ]

    values, List.collect gradients routes

/// The implemented cases.
let cases: Item list = found.Value.Cases |> List.filter (_.Name >> implemented.ContainsKey)

let tests =
    testList "GoldenLoss" [
        each
            "a loss and its gradients agree in float64"
            cases
            (fun item root -> compare DType.Float64 root item.Value ||> List.append |> verify double)

        each
            "a loss agrees in float32"
            cases
            (fun item root -> compare DType.Float32 root item.Value |> fst |> verify single)
    ]
