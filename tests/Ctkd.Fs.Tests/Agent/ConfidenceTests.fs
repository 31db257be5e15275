/// The state of an instance (F7 to F9).
module Ctkd.Fs.Tests.ConfidenceTests

open Ctkd.Fs
open Ctkd.Fs.Tests.Generators
open Ctkd.Fs.Tests.Reference
open Xunit

[<Fact>]
let ``uncertainty is 1 for equal logits, 0 for certain ones, and entropy is the uniform one's at most`` () =
    Tensor.scoped (fun () ->
        let seen (logits: float[]) =
            let logits = Expect.tensor [ 1; logits.Length ] logits
            Confidence.seen RlkdState.Uncertainty logits logits

        let equal, certain = seen [| 2.0; 2.0; 2.0 |], seen [| 900.0; 0.0; -900.0 |]
        Expect.near 1e-12 0.0 1.0 (Tensor.toFloat equal.Uncertainty)
        Expect.near 1e-12 0.0 (log 3.0) (Tensor.toFloat equal.Entropy)
        Expect.near 0.0 1e-12 0.0 (Tensor.toFloat certain.Uncertainty)
        Expect.near 0.0 1e-12 0.0 (Tensor.toFloat certain.Entropy)
    )

[<Fact>]
let ``states are in [0, 1] whatever the logits`` () =
    check
        logits
        (fun x ->
            let tensor values = Expect.tensor [ x.Rows; x.Classes ] values

            for form in [ RlkdState.Uncertainty; RlkdState.Confidences; RlkdState.SecondSmallest ] do
                let states =
                    Expect.numbers (fun () ->
                        (Confidence.seen form (tensor x.Teacher) (tensor x.Student)).State
                    )

                Assert.Equal(x.Rows * Confidence.width form, states.Length)
                Assert.All(states, fun s -> Assert.InRange(s, -1e-12, 1.0 + 1e-12))
        )

[<Fact>]
let ``states, uncertainty and entropy`` () =
    reading (fun expected ->
        let seen form = Confidence.seen form (teacher ()) (student ())
        exactly (expected "recommended.state") (seen RlkdState.Uncertainty).State
        exactly (expected "recommended.uncertainty") (seen RlkdState.Uncertainty).Uncertainty
        exactly (expected "observations_official") (seen RlkdState.SecondSmallest).State
        exactly (expected "student_entropy") (seen RlkdState.Uncertainty).Entropy
        // (student, teacher, margin), which is what the released code meant.
        let rows = Tensor.toFloats (seen RlkdState.Uncertainty).State |> Array.chunkBySize 3
        let margins = rows |> Array.collect (fun row -> [| row[1]; row[0]; 1.0 - row[2] |])
        Expect.close 1e-8 1e-9 (expected "observations_true_margin") margins
        let two = (seen RlkdState.Confidences).State
        exactly (Tensor.toFloats (Tensor.slice 1 0 2 (seen RlkdState.Uncertainty).State)) two
    )
