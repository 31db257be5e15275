/// The state of an instance (F7 to F9).
module Ctkd.Fs.Tests.ConfidenceTests

open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Generators
open Ctkd.Fs.Tests.Reference

let tests =
    testList "Confidence" [
        test "uncertainty is 1 for equal logits, 0 for certain ones, and entropy is the uniform one's at most" {
            Tensor.scoped (fun () ->
                let seen (logits: float[]) =
                    let logits = Plain.tensor [ 1; logits.Length ] logits
                    Confidence.seen RlkdState.Uncertainty logits logits

                let equal, certain = seen [| 2.0; 2.0; 2.0 |], seen [| 900.0; 0.0; -900.0 |]
                Must.beNear 1e-12 0.0 1.0 (Tensor.toFloat equal.Uncertainty)
                Must.beNear 1e-12 0.0 (log 3.0) (Tensor.toFloat equal.Entropy)
                Must.beNear 0.0 1e-12 0.0 (Tensor.toFloat certain.Uncertainty)
                Must.beNear 0.0 1e-12 0.0 (Tensor.toFloat certain.Entropy)
            )
        }

        testProperty "states are in [0, 1] whatever the logits"
        <| forAll
            logits
            (fun x ->
                let tensor values = Plain.tensor [ x.Rows; x.Classes ] values

                for form in [ RlkdState.Uncertainty; RlkdState.Confidences; RlkdState.SecondSmallest ] do
                    let states =
                        Plain.numbers (fun () -> (Confidence.seen form (tensor x.Teacher) (tensor x.Student)).State)

                    Must.equal (x.Rows * Confidence.width form) states.Length

                    for s in states do
                        Must.lie (-1e-12) (1.0 + 1e-12) s
            )

        test "states, uncertainty and entropy" {
            reading (fun expected ->
                let seen form = Confidence.seen form (teacher ()) (student ())
                exactly (expected "recommended.state") (seen RlkdState.Uncertainty).State
                exactly (expected "recommended.uncertainty") (seen RlkdState.Uncertainty).Uncertainty
                exactly (expected "observations_official") (seen RlkdState.SecondSmallest).State
                exactly (expected "student_entropy") (seen RlkdState.Uncertainty).Entropy
                // (student, teacher, margin), which is what the released code meant.
                let rows = Tensor.toFloats (seen RlkdState.Uncertainty).State |> Array.chunkBySize 3
                let margins = rows |> Array.collect (fun row -> [| row[1]; row[0]; 1.0 - row[2] |])
                Must.beClose 1e-8 1e-9 (expected "observations_true_margin") margins
                let two = (seen RlkdState.Confidences).State
                exactly (Tensor.toFloats (Tensor.slice 1 0 2 (seen RlkdState.Uncertainty).State)) two
            )
        }
    ]
