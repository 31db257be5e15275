namespace Ctkd.Fs

/// How well a model classifies a set.
type Accuracy = {
    Images: int
    /// Images whose label has the largest logit.
    Correct: int
    /// Images whose label is among the five largest logits (all classes where there are fewer).
    CorrectTop5: int
    /// Mean cross entropy in nats.
    Loss: float
} with

    /// In percent.
    member this.Top1: float = 100.0 * float this.Correct / float this.Images

    /// In percent.
    member this.Top5: float = 100.0 * float this.CorrectTop5 / float this.Images

/// Evaluation in the model's evaluation mode.
[<RequireQualifiedAccess>]
module Evaluate =

    /// Accuracy of `forward` (images to logits) over the set, in batches of the given size. Waits for the device once.
    let accuracy (batch: int) (forward: Tensor -> Tensor) (set: DeviceSet) : Accuracy =
        if batch < 1 then
            invalidArg (nameof batch) $"a batch must hold at least 1 image, got {batch}."

        Autograd.noGrad (fun () ->
            Tensor.scoped (fun () ->
                let count = Augment.count set
                let sums = Tensor.zeros DType.Float64 (Tensor.device set.Images) [| 3L |]

                for start in 0..batch .. count - 1 do
                    Tensor.scoped (fun () ->
                        let batch = Augment.plain start (min count (start + batch)) set
                        let logits = forward batch.Images
                        let labels = Tensor.unsqueeze 1 batch.Labels
                        let struct (_, best) = Tensor.topK (min 5 (Tensor.size 1 logits)) 1 logits
                        let wide = Tensor.toType DType.Float64
                        let hits = Tensor.eq best labels |> wide
                        let first = hits |> Tensor.select 1 0 |> Tensor.sum
                        let loss = Tensor.crossEntropyEach batch.Labels logits |> wide |> Tensor.sum
                        Tensor.addInto sums (Tensor.stack 0 [ first; Tensor.sum hits; loss ])
                    )

                let sums = Tensor.toFloats sums

                {
                    Images = count
                    Correct = int sums[0]
                    CorrectTop5 = int sums[1]
                    Loss = sums[2] / float count
                }
            )
        )
