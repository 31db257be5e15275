namespace Ctkd.Fs

/// The sums of the current epoch, on the device: reading them waits for it, adding does not.
///
/// `Sums` (float64): the number of images and of correct ones, then the sums over the images of T, of dL/dT and of each
/// loss term. `Range`: the smallest and largest T. `Broken`: the first step and term that was not finite, or -1.
/// `Temperatures` (float32): the last T of each training image by position in the set, NaN before its first; empty
/// without T. `Reported` (float64): the sums over the images of the numbers that the policy reports besides T; None where it
/// reports none.
[<ReferenceEquality>]
type EpochSums = {
    Sums: Tensor
    Range: Tensor
    Broken: Tensor
    Temperatures: Tensor
    Reported: Tensor option
}

/// The temperatures of a batch.
[<ReferenceEquality>]
type BatchTemperature = {
    /// Shape [] or [batch].
    T: Tensor
    /// d loss / d T in T's shape; `None` if T is a constant.
    Gradient: Tensor option
    /// Positions of the batch's images in the training set: int64 [batch].
    Index: Tensor
}

/// Means over the images of the epoch so far.
type EpochMeans = {
    Images: int
    /// Share of correctly classified training images, 0 .. 1.
    Accuracy: float
    /// Mean, smallest and largest T; NaN without a teacher.
    T: float
    SmallestT: float
    LargestT: float
    /// Mean over the images of the derivative of the batch's loss with respect to a common shift of T. With one T per
    /// instance this is the mean derivative of an instance's loss with respect to its own T. NaN if T is a constant.
    GradientT: float
    /// Each unweighted loss term in the order of the plan; the weighted total comes last.
    Terms: float list
}

/// Accumulates metrics on the device.
[<RequireQualifiedAccess>]
module EpochSums =
    let private fixedSums = 4

    /// Creates empty sums for `images` training images with a T (0: no T) and `terms` loss terms.
    let start (device: Device) (images: int) (terms: int) : EpochSums = {
        Sums = Tensor.zeros DType.Float64 device [| int64 (fixedSums + terms) |]
        Range =
            Tensor.scope (fun () ->
                Tensor.ofFloats DType.Float64 [ 2 ] [| infinity; -infinity |] |> Tensor.toDevice device
            )
        Broken = Tensor.full DType.Float64 device -1.0 [||]
        Temperatures = Tensor.full DType.Float32 device nan [| int64 images |]
        Reported = None
    }

    /// Adds empty sums for `count` numbers that the policy reports; none for 0.
    let reporting (count: int) (sums: EpochSums) : EpochSums =
        if count = 0 then
            sums
        else
            let device = Tensor.device sums.Sums

            {
                sums with
                    Reported = Some(Tensor.zeros DType.Float64 device [| int64 count |])
            }

    /// Resets the sums in place.
    let clear (sums: EpochSums) : unit =
        Tensor.scoped (fun () ->
            let fresh = start (Tensor.device sums.Sums) 0 (Tensor.size 0 sums.Sums - fixedSums)
            Tensor.copyInto sums.Sums fresh.Sums
            Tensor.copyInto sums.Range fresh.Range
            Tensor.copyInto sums.Broken fresh.Broken
            Tensor.fillInto sums.Temperatures nan
            sums.Reported |> Option.iter (fun reported -> Tensor.fillInto reported 0.0)
        )

    /// The name in checkpoints of the sums that the policy reports; those of earlier versions lack it.
    let reportedName: string = "reported"

    /// Returns the tensors, for checkpoints.
    let toTree (sums: EpochSums) : Tree =
        Tree.ofSeq [
            "sums", sums.Sums
            "range", sums.Range
            "broken", sums.Broken
            "temperatures", sums.Temperatures
            for reported in Option.toList sums.Reported do
                reportedName, reported
        ]

    /// The inverse of `toTree`.
    let ofTree (tree: Tree) : EpochSums = {
        Sums = Tree.find "sums" tree
        Range = Tree.find "range" tree
        Broken = Tree.find "broken" tree
        Temperatures = Tree.find "temperatures" tree
        Reported = Tree.tryFind reportedName tree
    }

    /// Adds a batch: its number in the epoch (int64 [], from 0), student logits, labels, T if there is a teacher, and
    /// the loss terms (shape [] each).
    let add
        (step: Tensor)
        (logits: Tensor)
        (labels: Tensor)
        (temperature: BatchTemperature option)
        (terms: Tensor list)
        (sums: EpochSums)
        : unit =
        Autograd.noGrad (fun () ->
            Tensor.scoped (fun () ->
                let wide = Tensor.toType DType.Float64
                let count = Tensor.size 0 labels
                let device = Tensor.device logits
                let correct = Tensor.eq (Tensor.argMax -1 logits) labels |> wide |> Tensor.sum

                let orNaN (x: Tensor option) =
                    x |> Option.map wide |> Option.defaultWith (fun () -> Tensor.scalar DType.Float64 device nan)

                let t = temperature |> Option.map _.T |> orNaN
                let gradient = temperature |> Option.bind _.Gradient |> orNaN
                let means = Tensor.mean t :: Tensor.sum gradient :: List.map wide terms
                let seen = Tensor.scalar DType.Float64 device (float count)

                let perImage = Tensor.stack 0 means |> Tensor.scale (float count)
                Tensor.addInto sums.Sums (Tensor.cat 0 [ Tensor.stack 0 [ seen; correct ]; perImage ])

                let smallest = Tensor.minimum (Tensor.select 0 0 sums.Range) (Tensor.min t)
                let largest = Tensor.maximum (Tensor.select 0 1 sums.Range) (Tensor.max t)
                Tensor.copyInto sums.Range (Tensor.stack 0 [ smallest; largest ])

                temperature
                |> Option.iter (fun seen ->
                    Tensor.toType DType.Float32 seen.T
                    |> Tensor.expand [| int64 count |]
                    |> Tensor.rowsInto sums.Temperatures seen.Index
                )

                // The first non-finite term, as one number: step * terms + term.
                let bad = Tensor.stack 0 (List.map wide terms) |> Tensor.isFinite |> Tensor.logicalNot
                let first = Tensor.argMax 0 (Tensor.toType DType.Int64 bad)
                let code = wide (first + Tensor.mulInt terms.Length step)
                let fresh = Tensor.lessThanNumber 0.0 sums.Broken |> Tensor.logicalAnd (Tensor.any bad)
                Tensor.copyInto sums.Broken (Tensor.where fresh code sums.Broken)
            )
        )

    /// Adds the numbers that the policy reports of a batch of `count` images: shape [] or [batch] each, in the order of their
    /// names.
    let addReported (count: int) (numbers: Tensor list) (sums: EpochSums) : unit =
        match sums.Reported with
        | None when numbers.IsEmpty -> ()
        | Some reported when Tensor.size 0 reported = numbers.Length ->
            Autograd.noGrad (fun () ->
                Tensor.scoped (fun () ->
                    numbers
                    |> List.map (Tensor.toType DType.Float64 >> Tensor.mean)
                    |> Tensor.stack 0
                    |> Tensor.scale (float count)
                    |> Tensor.addInto reported
                )
            )
        | reported ->
            let expected = reported |> Option.map (Tensor.size 0) |> Option.defaultValue 0

            invalidArg
                (nameof numbers)
                $"the policy reports {numbers.Length} numbers of an image and has names for {expected}."

    /// Returns the first step of the epoch (from 0) and index of a term that was not finite. Waits for the device.
    let broken (sums: EpochSums) : (int * int) option =
        let terms = Tensor.size 0 sums.Sums - fixedSums

        match int (Tensor.toFloat sums.Broken) with
        | -1 -> None
        | code -> Some(code / terms, code % terms)

    /// Computes the means so far. Waits for the device.
    let means (sums: EpochSums) : EpochMeans =
        let totals = Tensor.toFloats sums.Sums
        let range = Tensor.toFloats sums.Range
        let mean i = totals[i] / totals[0]

        {
            Images = int totals[0]
            Accuracy = mean 1
            T = mean 2
            SmallestT = range[0]
            LargestT = range[1]
            GradientT = mean 3
            Terms = List.init (totals.Length - fixedSums) (fun i -> mean (fixedSums + i))
        }

    /// Means over the images so far of the numbers that the policy reports; NaN where they are not known. Waits for the device.
    let reported (sums: EpochSums) : float list =
        match sums.Reported with
        | None -> []
        | Some reported ->
            let images = Tensor.toFloat (Tensor.select 0 0 sums.Sums)
            [ for sum in Tensor.toFloats reported -> sum / images ]

    /// Returns the T of all images seen so far, in the order of the training set. Waits for the device.
    let temperatures (sums: EpochSums) : float[] =
        Tensor.toFloats sums.Temperatures |> Array.filter (System.Double.IsNaN >> not)
