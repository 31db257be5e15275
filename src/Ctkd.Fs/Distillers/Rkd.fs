namespace Ctkd.Fs

/// Relational knowledge distillation (Park et al. 2019, arXiv:1904.05068, section 3.2) of pooled features: smooth L1
/// between the distances of all pairs, divided by each side's mean, and between the cosines of all triplets.
[<RequireQualifiedAccess>]
module Rkd =

    /// Computes the mean of 0.5 x^2 if |x| <= 1, else |x| - 0.5, with x = a - b.
    let private smoothL1 (a: Tensor) (b: Tensor) : Tensor =
        let size = Tensor.abs (a - b)
        let inner = Tensor.clamp 0.0 1.0 size
        Tensor.mean (inner * (size - Tensor.scale 0.5 inner))

    /// Computes the differences of all pairs of rows: [batch, batch, D].
    let private differences (x: Tensor) : Tensor = Tensor.unsqueeze 0 x - Tensor.unsqueeze 1 x

    /// Computes the distances of all pairs, divided by the mean of the positive ones: at least 1e-6 before the
    /// division, and 0 from an instance to itself.
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

    /// Computes the cosines of all triplets: of the angle at the first instance between the second and the third; 0 if
    /// two coincide.
    let private angles (differences: Tensor) : Tensor =
        let directions = Rows.normalise differences
        Tensor.matmul directions (Tensor.transpose 1 2 directions)

    /// Computes the loss of pooled features [batch, D], batch >= 2, where D may differ between the sides: shape [].
    let loss (distance: float) (angle: float) (teacher: Tensor) (student: Tensor) : Tensor =
        let teacher, student = differences teacher, differences student

        Tensor.scale distance (smoothL1 (distances student) (distances teacher))
        + Tensor.scale angle (smoothL1 (angles student) (angles teacher))

    /// Creates the distiller with the weights of distances and angles: 25 and 50 as published.
    let distiller (distance: float) (angle: float) (pair: ModelPair) : Result<Distiller, Error> =
        fun _ (input: DistillerInput) -> loss distance angle input.Teacher.Pooled input.Student.Pooled
        |> Distiller.connected "rkd" 2 []
        |> Distiller.withoutMaps
        |> Distiller.enough pair
