namespace Ctkd.Fs

/// Helpers for batches of feature vectors, as rows of a matrix, and for maps.
[<RequireQualifiedAccess>]
module internal Rows =

    /// Computes L2 norms over the last dimension, at least 1e-12; the gradient of a zero vector is 0, not NaN.
    let norms (x: Tensor) : Tensor =
        Tensor.sumOver -1 (x * x) |> Tensor.clamp 1e-24 infinity |> Tensor.sqrt |> Tensor.unsqueeze -1

    /// Divides vectors of the last dimension by their L2 norms; a zero vector stays zero.
    let normalise (x: Tensor) : Tensor = x / norms x

    /// Computes the products of all pairs of rows: F F^T.
    let gram (x: Tensor) : Tensor = Tensor.matmul x (Tensor.transpose 0 1 x)

    /// Computes the mean squared difference over all elements.
    let meanSquare (a: Tensor) (b: Tensor) : Tensor =
        let difference = a - b
        Tensor.mean (difference * difference)

    /// Converts a map to the type of the losses: under automatic casts it may be bfloat16.
    let exact (outputs: Outputs) (map: Tensor) : Tensor = Tensor.toType (Tensor.dtype outputs.Pooled) map

    /// Returns both maps at an index, teacher's first; -1 is the last.
    let mapAt (index: int) (input: DistillerInput) : Tensor * Tensor =
        let at (outputs: Outputs) =
            let index = if index < 0 then outputs.Features.Length + index else index
            exact outputs outputs.Features[index]

        at input.Teacher, at input.Student

    /// Returns all maps after the stem in pairs, teacher's first, the larger average-pooled to the smaller.
    let maps (input: DistillerInput) : (Tensor * Tensor) list =
        let fit (map: Tensor) (other: Tensor) =
            let ratio = Tensor.size 2 map / Tensor.size 2 other
            if ratio > 1 then Tensor.avgPool2d ratio ratio 0 map else map

        List.map2
            (fun teacher student ->
                let teacher, student = exact input.Teacher teacher, exact input.Student student
                fit teacher student, fit student teacher
            )
            input.Teacher.Features.Tail
            input.Student.Features.Tail
