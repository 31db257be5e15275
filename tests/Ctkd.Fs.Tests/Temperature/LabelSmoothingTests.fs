module Ctkd.Fs.Tests.LabelSmoothingTests

open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Generators
open Ctkd.Fs.Tests.Oracle
open FsCheck.FSharp
open TorchSharp

let private shares = Gen.oneof [ Gen.elements [ 0.0; 0.1; 0.999 ]; uniform 0.0 0.99 ]

/// Logits with a label for each row, another label, and a share of the first.
let private cases =
    gen {
        let! x = logits
        let! labels = many x.Rows (Gen.choose (0, x.Classes - 1))
        let! others = many x.Rows (Gen.choose (0, x.Classes - 1))
        let! weights = many x.Rows (uniform 0.0 1.0)
        return x, labels, others, weights
    }

let private smoothed (share: float) (labels: int[]) (logits: Tensor) : Tensor =
    Loss.smoothed share (Loss.crossEntropy (Inputs.ofLabels labels) logits) logits

let private rounding (x: Logits) : float = 1e-14 * (1.0 + Array.max (Array.map abs x.Student))

/// CE of the rows with a target distribution for each.
let private textbook (x: Logits) (target: int -> int -> float) : float =
    Array.chunkBySize x.Classes x.Student
    |> Array.mapi (fun i row -> logSoftmax row |> Array.mapi (fun c logQ -> -(target i c) * logQ) |> Array.sum)
    |> Array.average

let private oneHot (label: int) (c: int) : float = if label = c then 1.0 else 0.0

let tests =
    testList "LabelSmoothing" [
        testProperty "it is the cross entropy with labels of which a share is spread over all classes"
        <| forAll
            (Gen.zip cases shares)
            (fun ((x, labels, _, _), share) ->
                let expected = textbook x (fun i c -> (1.0 - share) * oneHot labels[i] c + share / float x.Classes)

                Plain.value (fun () -> smoothed share labels (Plain.tensor [ x.Rows; x.Classes ] x.Student))
                |> Must.beNear 1e-12 (rounding x) expected
            )

        testProperty "its value and its gradient are those of PyTorch's label_smoothing"
        <| forAll
            (Gen.zip cases shares)
            (fun ((x, labels, _, _), share) ->
                let both (loss: Tensor -> Tensor) =
                    Tensor.scoped (fun () ->
                        let logits = Plain.tensor [ x.Rows; x.Classes ] x.Student |> Autograd.leaf
                        let value = loss logits

                        Array.append
                            (Tensor.toFloats value)
                            (Autograd.gradients value [| logits |] |> Array.collect Tensor.toFloats)
                    )

                let theirs (logits: Tensor) =
                    torch.nn.functional.cross_entropy (logits, Inputs.ofLabels labels, label_smoothing = share)

                Must.beClose 1e-12 (rounding x) (both theirs) (both (smoothed share labels))
            )

        testProperty "blends are smoothed as the mixture of both labels"
        <| forAll
            (Gen.zip cases shares)
            (fun ((x, labels, others, weights), share) ->
                let target i c =
                    (1.0 - share) * (weights[i] * oneHot labels[i] c + (1.0 - weights[i]) * oneHot others[i] c)
                    + share / float x.Classes

                Plain.value (fun () ->
                    let logits = Plain.tensor [ x.Rows; x.Classes ] x.Student

                    let mixed =
                        Loss.mixedCrossEntropy
                            (Plain.tensor [ x.Rows ] weights)
                            (Inputs.ofLabels others)
                            (Inputs.ofLabels labels)
                            logits

                    Loss.smoothed share mixed logits
                )
                |> Must.beNear 1e-12 (rounding x) (textbook x target)
            )

        testProperty "its gradient matches central differences"
        <| forAll
            (Gen.zip moderateLogits shares)
            (fun (x, share) ->
                let labels = Array.init x.Rows (fun i -> i % x.Classes)

                Must.matchDerivatives (fun xs -> smoothed share labels xs.Head) [
                    { Shape = [ x.Rows; x.Classes ]; Values = x.Student }
                ]
            )

        test "a plan smooths its labels and those of blends, and a share of 0 leaves every bit" {
            Tensor.scoped (fun () ->
                let logits = Rng.normals 12 (Rng.ofSeed 3) |> Plain.tensor [ 3; 4 ]

                let batch: Batch = {
                    Images = logits
                    Labels = Inputs.ofLabels [| 0; 3; 1 |]
                    Index = Tensor.arange Device.Cpu 3
                    Mix = None
                }

                let mix = {
                    Other = Inputs.ofLabels [| 2; 2; 1 |]
                    Weight = Plain.tensor [ 3 ] [| 0.8; 0.5; 1.0 |]
                    Clean = Plain.tensor [ 3 ] [| 0.0; 0.0; 1.0 |] |> Tensor.eqNumber 1.0
                }

                for batch in [ batch; { batch with Mix = Some mix } ] do
                    let of' share = TrainingPlan.crossEntropy { Plans.alone with LabelSmoothing = share } batch logits

                    let exact =
                        match batch.Mix with
                        | None -> Loss.crossEntropy batch.Labels logits
                        | Some mix -> Loss.mixedCrossEntropy mix.Weight mix.Other batch.Labels logits

                    Must.beSame (Tensor.toFloats exact) (Tensor.toFloats (of' 0.0))
                    let expected = Tensor.toFloats (Loss.smoothed 0.3 exact logits)
                    Must.beSame expected (Tensor.toFloats (of' 0.3))
                    Must.differ (Tensor.toFloats exact) expected
            )
        }
    ]
