namespace Ctkd.Fs

/// How the logits of the classes go together: a class-correlation matrix tells what a network thinks alike.
[<RequireQualifiedAccess>]
module Correlation =

    /// Pearson's correlation of every two classes' logits over the images: element (c, d) of a matrix of
    /// classes by classes, -1 .. 1. A class whose logit never changes correlates with no other: 0, and 1 with
    /// itself.
    let matrix (logits: float[][]) : float[][] =
        if logits.Length < 2 then
            invalidArg (nameof logits) $"a correlation needs at least 2 images, got {logits.Length}."

        let unit (column: float[]) =
            let mean = Array.average column
            let centred = column |> Array.map (fun z -> z - mean)
            let norm = sqrt (Array.sumBy (fun z -> z * z) centred)
            // What rounding leaves of a constant is no variation.
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
                        if c = d then
                            1.0
                        else
                            Array.fold2 (fun sum a b -> sum + a * b) 0.0 columns[c] columns[d]
                    )
            )

    /// The student's class-correlation matrix less the teacher's, -2 .. 2 each (Tian et al. 2020,
    /// arXiv:1910.10699): the paler it is, the better the student has caught the teacher's view of the
    /// classes.
    let difference (teacher: float[][]) (student: float[][]) : float[][] =
        Array.map2 (Array.map2 (fun t s -> s - t)) (matrix teacher) (matrix student)

    /// Mean absolute difference over the pairs of different classes: one number for the picture.
    let distance (difference: float[][]) : float =
        let classes = difference.Length

        if classes < 2 then
            0.0
        else
            let total = difference |> Array.sumBy (Array.sumBy abs)
            total / float (classes * (classes - 1))
