namespace Ctkd.Fs

/// What an epoch has seen so far, on the device: reading it waits, adding to it does not.
///
/// `Sums` (float64) holds the images, the correct ones, the sum of T over them, and the sum of each loss term over them;
/// `Range` the smallest and largest T; `Broken` the first step and term that was not finite, or -1.
[<ReferenceEquality>]
type Tally = { Sums: Tensor; Range: Tensor; Broken: Tensor }

/// Means over the images of an epoch so far.
type EpochMeans = {
    Images: int
    /// Share of correctly classified training images, 0 .. 1.
    Accuracy: float
    /// Mean, smallest and largest T; NaN where no teacher takes part.
    T: float
    SmallestT: float
    LargestT: float
    /// Each loss term, unweighted, in the order of the course; the weighted total comes last.
    Terms: float list
}

/// Accumulating metrics on the device.
[<RequireQualifiedAccess>]
module Tally =
    let private fixedSums = 3

    /// Nothing seen, for so many loss terms.
    let start (device: Device) (terms: int) : Tally = {
        Sums = Tensor.zeros DType.Float64 device [| int64 (fixedSums + terms) |]
        Range =
            Tensor.scope (fun () ->
                Tensor.ofFloats DType.Float64 [ 2 ] [| infinity; -infinity |] |> Tensor.toDevice device
            )
        Broken = Tensor.full DType.Float64 device -1.0 [||]
    }

    /// Back to nothing seen, in place.
    let clear (tally: Tally) : unit =
        Tensor.scoped (fun () ->
            let fresh = start (Tensor.device tally.Sums) (Tensor.size 0 tally.Sums - fixedSums)
            Tensor.copyInto tally.Sums fresh.Sums
            Tensor.copyInto tally.Range fresh.Range
            Tensor.copyInto tally.Broken fresh.Broken
        )

    /// The tensors, for checkpoints.
    let toTree (tally: Tally) : Tree =
        Tree.ofSeq [ "sums", tally.Sums; "range", tally.Range; "broken", tally.Broken ]

    /// The reverse of `toTree`.
    let ofTree (tree: Tree) : Tally = {
        Sums = Tree.find "sums" tree
        Range = Tree.find "range" tree
        Broken = Tree.find "broken" tree
    }

    /// Adds a batch: student logits, labels, T (shape [], [batch] or none) and the loss terms (shape [] each).
    let add
        (step: int)
        (logits: Tensor)
        (labels: Tensor)
        (t: Tensor option)
        (terms: Tensor list)
        (tally: Tally)
        : unit =
        Autograd.noGrad (fun () ->
            Tensor.scoped (fun () ->
                let wide = Tensor.toType DType.Float64
                let count = Tensor.size 0 labels
                let device = Tensor.device logits
                let correct = Tensor.eq (Tensor.argMax -1 logits) labels |> wide |> Tensor.sum

                let t =
                    t
                    |> Option.map wide
                    |> Option.defaultWith (fun () -> Tensor.scalar DType.Float64 device nan)

                let means = Tensor.mean t :: List.map wide terms
                let seen = Tensor.scalar DType.Float64 device (float count)

                let perImage = Tensor.stack 0 means |> Tensor.scale (float count)
                Tensor.addInto tally.Sums (Tensor.cat 0 [ Tensor.stack 0 [ seen; correct ]; perImage ])

                let smallest = Tensor.minimum (Tensor.select 0 0 tally.Range) (Tensor.min t)
                let largest = Tensor.maximum (Tensor.select 0 1 tally.Range) (Tensor.max t)
                Tensor.copyInto tally.Range (Tensor.stack 0 [ smallest; largest ])

                // The first term that is not finite, as one number: step * terms + term.
                let bad = Tensor.stack 0 (List.map wide terms) |> Tensor.isFinite |> Tensor.logicalNot
                let first = Tensor.argMax 0 (Tensor.toType DType.Int64 bad)
                let code = wide first |> Tensor.addNumber (float (step * terms.Length))
                let fresh = Tensor.lessThanNumber 0.0 tally.Broken |> Tensor.logicalAnd (Tensor.any bad)
                Tensor.copyInto tally.Broken (Tensor.where fresh code tally.Broken)
            )
        )

    /// The first step of the epoch (0-based) and the index of the term that was not finite. Waits for the device.
    let broken (tally: Tally) : (int * int) option =
        let terms = Tensor.size 0 tally.Sums - fixedSums

        match int (Tensor.toFloat tally.Broken) with
        | -1 -> None
        | code -> Some(code / terms, code % terms)

    /// The means so far. Waits for the device.
    let means (tally: Tally) : EpochMeans =
        let sums = Tensor.toFloats tally.Sums
        let range = Tensor.toFloats tally.Range
        let mean i = sums[i] / sums[0]

        {
            Images = int sums[0]
            Accuracy = mean 1
            T = mean 2
            SmallestT = range[0]
            LargestT = range[1]
            Terms = List.init (sums.Length - fixedSums) (fun i -> mean (fixedSums + i))
        }
