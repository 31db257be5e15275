namespace Ctkd.Fs

/// Batches of feature vectors as the rows of a matrix, and of maps.
[<RequireQualifiedAccess>]
module internal Rows =

    /// L2 norms of the last dimension, at least 1e-12; the gradient of a zero vector is 0, not NaN.
    let norms (x: Tensor) : Tensor =
        Tensor.sumOver -1 (x * x) |> Tensor.clamp 1e-24 infinity |> Tensor.sqrt |> Tensor.unsqueeze -1

    /// Vectors of the last dimension divided by their L2 norms; a zero vector stays.
    let normalise (x: Tensor) : Tensor = x / norms x

    /// Products of all pairs of rows: F F^T.
    let gram (x: Tensor) : Tensor = Tensor.matmul x (Tensor.transpose 0 1 x)

    /// Mean squared difference over all elements.
    let meanSquare (a: Tensor) (b: Tensor) : Tensor =
        let difference = a - b
        Tensor.mean (difference * difference)

    /// A map in the type of the losses: under automatic casts it may be bfloat16.
    let exact (outputs: Outputs) (map: Tensor) : Tensor = Tensor.toType (Tensor.dtype outputs.Pooled) map

    /// The map at an index of both, teacher's first; -1 is the last.
    let mapAt (index: int) (input: DistillerInput) : Tensor * Tensor =
        let at (outputs: Outputs) =
            let index = if index < 0 then outputs.Features.Length + index else index
            exact outputs outputs.Features[index]

        at input.Teacher, at input.Student

    /// All maps behind the stem in pairs, teacher's first, the larger average-pooled to the smaller.
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
