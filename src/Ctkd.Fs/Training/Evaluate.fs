namespace Ctkd.Fs

/// Classification results of a model on a set.
type Accuracy = {
    Images: int
    /// Images whose label has the largest logit.
    Correct: int
    /// Images whose label is among the five largest logits (all, with fewer classes).
    CorrectTop5: int
    /// Mean cross entropy in nats: the negative log-likelihood of the labels.
    Loss: float
} with

    /// Top-1 accuracy in percent.
    member this.Top1: float = 100.0 * float this.Correct / float this.Images

    /// Top-5 accuracy in percent.
    member this.Top5: float = 100.0 * float this.CorrectTop5 / float this.Images

/// How closely a student follows its teacher on a set.
type Likeness = {
    /// Images to which both assign the same class.
    Agreed: int
    /// Mean over the images of KL(softmax(teacher) || softmax(student)), at T = 1, in nats.
    Divergence: float
}

/// All evaluation results of a model on a set.
type Evaluation = {
    Accuracy: Accuracy
    /// Expected calibration error in 15 bins, 0 .. 1.
    CalibrationError: float
    /// `None` without a teacher.
    Likeness: Likeness option
} with

    /// Share of the images on which teacher and student agree, in percent.
    member this.Agreement: float option =
        this.Likeness |> Option.map (fun likeness -> 100.0 * float likeness.Agreed / float this.Accuracy.Images)

/// Evaluates models in evaluation mode.
[<RequireQualifiedAccess>]
module Evaluate =
    let private wide: Tensor -> Tensor = Tensor.toType DType.Float64

    /// Runs the body on each batch of the images; it must accumulate its results on the device. Returns the number of
    /// images seen.
    let private batches (batch: int) (feed: ImageFeed) (body: Batch -> unit) : int =
        let mutable seen = 0

        ImageFeed.each
            batch
            System.Int32.MaxValue
            feed
            (fun images ->
                body images
                seen <- seen + Tensor.size 0 images.Labels
            )

        seen

    let private sums (feed: ImageFeed) (count: int) : Tensor =
        Tensor.zeros DType.Float64 (ImageFeed.device feed) [| int64 count |]

    /// Adds a batch to the sums of `accuracy`; returns which images are correct, as 1 and 0.
    let private count (sums: Tensor) (labels: Tensor) (logits: Tensor) : Tensor =
        let struct (_, best) = Tensor.topK (min 5 (Tensor.size 1 logits)) 1 logits
        let hits = Tensor.eq best (Tensor.unsqueeze 1 labels) |> wide
        let first = Tensor.select 1 0 hits
        let loss = Tensor.crossEntropyEach labels logits |> wide |> Tensor.sum
        Tensor.addInto sums (Tensor.stack 0 [ Tensor.sum first; Tensor.sum hits; loss ])
        first

    let private ofSums (images: int) (sums: Tensor) : Accuracy =
        let sums = Tensor.toFloats sums

        {
            Images = images
            Correct = int sums[0]
            CorrectTop5 = int sums[1]
            Loss = sums[2] / float images
        }

    /// Computes the accuracy of `forward` (images to logits) over the images, in batches of `batch`. Waits for the device
    /// once.
    let accuracy (batch: int) (forward: Tensor -> Tensor) (feed: ImageFeed) : Accuracy =
        Autograd.noGrad (fun () ->
            Tensor.scoped (fun () ->
                let sums = sums feed 3

                let images = batches batch feed (fun seen -> forward seen.Images |> count sums seen.Labels |> ignore)

                ofSums images sums
            )
        )

    /// <summary>
    /// Computes accuracy, calibration and, given a teacher, likeness of a model over a set. Waits for the device only
    /// after the last batch.
    /// </summary>
    /// <param name="batch">Images per forward pass.</param>
    /// <param name="teacher">Maps images to the teacher's logits, if there is a teacher.</param>
    /// <param name="forward">Maps images to the model's logits, [batch, classes].</param>
    /// <param name="feed">The images and their labels.</param>
    /// <returns>The means over the images of the set.</returns>
    let fully
        (batch: int)
        (teacher: (Tensor -> Tensor) option)
        (forward: Tensor -> Tensor)
        (feed: ImageFeed)
        : Evaluation =
        Autograd.noGrad (fun () ->
            Tensor.scoped (fun () ->
                let sums, likeness = sums feed 3, sums feed 2
                let calibration = Calibration.start (ImageFeed.device feed)

                let images =
                    batches
                        batch
                        feed
                        (fun seen ->
                            let logits = forward seen.Images
                            let correct = count sums seen.Labels logits
                            let confidence = wide logits |> Tensor.softmax 1 |> Tensor.maxOver 1
                            Calibration.add confidence correct calibration

                            teacher
                            |> Option.iter (fun teacher ->
                                let other = teacher seen.Images

                                let agreed = Tensor.eq (Tensor.argMax 1 other) (Tensor.argMax 1 logits) |> wide

                                let divergence = Loss.kl (wide other) (wide logits)

                                Tensor.stack 0 [ Tensor.sum agreed; Tensor.sum divergence ]
                                |> Tensor.addInto likeness
                            )
                        )

                let likeness () =
                    let sums = Tensor.toFloats likeness

                    { Agreed = int sums[0]; Divergence = sums[1] / float images }

                {
                    Accuracy = ofSums images sums
                    CalibrationError = Calibration.error calibration
                    Likeness = teacher |> Option.map (fun _ -> likeness ())
                }
            )
        )

    /// What `outputs` returns.
    [<ReferenceEquality>]
    type Shown = {
        /// [images, classes], float64.
        Logits: Tensor
        /// [images, D], float64.
        Pooled: Tensor
        Labels: int[]
    }

    /// Returns a model's outputs for the first images and their labels. Waits for the device.
    let outputs (batch: int) (forward: Tensor -> Outputs) (images: int) (feed: ImageFeed) : Shown =
        let logits, pooled, labels = ResizeArray<Tensor>(), ResizeArray<Tensor>(), ResizeArray<int[]>()

        let keep (x: Tensor) = Tensor.unscoped Seq.singleton (fun () -> Tensor.clone (wide x))

        try
            Autograd.noGrad (fun () ->
                ImageFeed.each
                    batch
                    images
                    feed
                    (fun seen ->
                        let outputs = forward seen.Images
                        logits.Add(keep outputs.Logits)
                        pooled.Add(keep outputs.Pooled)
                        labels.Add(Tensor.toInt64s seen.Labels |> Array.map int)
                    )

                {
                    Logits = Tensor.cat 0 (List.ofSeq logits)
                    Pooled = Tensor.cat 0 (List.ofSeq pooled)
                    Labels = Array.concat labels
                }
            )
        finally
            Seq.append logits pooled |> Seq.iter Tensor.free
