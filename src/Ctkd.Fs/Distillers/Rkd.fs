namespace Ctkd.Fs

/// Relational knowledge distillation (Park et al. 2019, arXiv:1904.05068, section 3.2) of pooled features:
/// smooth L1 between distances of all pairs, each side divided by its mean, and between cosines of all
/// triplets.
[<RequireQualifiedAccess>]
module Rkd =

    /// Mean of 0.5 x^2 within 1 and |x| - 0.5 beyond.
    let private smoothL1 (a: Tensor) (b: Tensor) : Tensor =
        let size = Tensor.abs (a - b)
        let inner = Tensor.clamp 0.0 1.0 size
        Tensor.mean (inner * (size - Tensor.scale 0.5 inner))

    /// Differences of all pairs of rows: [batch, batch, D].
    let private differences (x: Tensor) : Tensor = Tensor.unsqueeze 0 x - Tensor.unsqueeze 1 x

    /// Distances of all pairs, at least 1e-6 and 0 from an instance to itself, divided by the mean of the
    /// positive ones.
    let private distances (differences: Tensor) : Tensor =
        let batch = Tensor.size 0 differences
        let index = Tensor.arange (Tensor.device differences) batch

        let apart =
            Tensor.eq (Tensor.unsqueeze 0 index) (Tensor.unsqueeze 1 index)
            |> Tensor.logicalNot
            |> Tensor.toType (Tensor.dtype differences)

        let squared = Tensor.sumOver 2 (differences * differences)
        let lengths = apart * Tensor.sqrt (Tensor.clamp 1e-12 infinity squared)
        lengths / Tensor.scale (1.0 / float (batch * (batch - 1))) (Tensor.sum lengths)

    /// Cosines at the first instance between the directions to the second and the third; 0 where two
    /// coincide.
    let private angles (differences: Tensor) : Tensor =
        let directions = Rows.normalise differences
        Tensor.matmul directions (Tensor.transpose 1 2 directions)

    /// The loss of pooled features [batch, D] of two instances or more, each side with its own D: shape [].
    let loss (distance: float) (angle: float) (teacher: Tensor) (student: Tensor) : Tensor =
        let teacher, student = differences teacher, differences student

        Tensor.scale distance (smoothL1 (distances student) (distances teacher))
        + Tensor.scale angle (smoothL1 (angles student) (angles teacher))

    /// With the weights of distances and angles: 25 and 50 as published.
    let distiller (distance: float) (angle: float) (pair: ModelPair) : Result<Distiller, Error> =
        fun _ (input: DistillerInput) -> loss distance angle input.Teacher.Pooled input.Student.Pooled
        |> Distiller.connected "rkd" 2 []
        |> Distiller.withoutMaps
        |> Distiller.enough pair
