namespace Ctkd.Fs

/// Correlations of the classes' logits: which classes a network finds similar.
[<RequireQualifiedAccess>]
module Correlation =

    /// Computes Pearson's correlation of all pairs of classes' logits over the images: [classes][classes], -1 .. 1. A
    /// class with constant logit has correlation 0 with all others and 1 with itself.
    let matrix (logits: float[][]) : float[][] =
        if logits.Length < 2 then
            invalidArg (nameof logits) $"a correlation needs at least 2 images, got {logits.Length}."

        let unit (column: float[]) =
            let mean = Array.average column
            let centred = column |> Array.map (fun z -> z - mean)
            let norm = sqrt (Array.sumBy (fun z -> z * z) centred)
            // A remainder of rounding is not variation.
            if norm > 1e-12 * (abs mean + 1e-300) * sqrt (float column.Length) then
                centred |> Array.map (fun z -> z / norm)
            else
                Array.zeroCreate column.Length

        let columns = Array.transpose logits |> Array.map unit

        Array.init
            columns.Length
            (fun c ->
                Array.init
                    columns.Length
                    (fun d ->
                        if c = d then 1.0 else Array.fold2 (fun sum a b -> sum + a * b) 0.0 columns[c] columns[d]
                    )
            )

    /// Computes the student's class-correlation matrix minus the teacher's, -2 .. 2 (Tian et al. 2020,
    /// arXiv:1910.10699): the paler its picture, the better the student has learned the teacher's view of the classes.
    let difference (teacher: float[][]) (student: float[][]) : float[][] =
        Array.map2 (Array.map2 (fun t s -> s - t)) (matrix teacher) (matrix student)

    /// Computes the mean absolute difference over all pairs of different classes.
    let distance (difference: float[][]) : float =
        let classes = difference.Length

        if classes < 2 then
            0.0
        else
            let total = difference |> Array.sumBy (Array.sumBy abs)
            total / float (classes * (classes - 1))
