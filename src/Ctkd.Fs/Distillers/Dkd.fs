namespace Ctkd.Fs

/// Decoupled knowledge distillation (Zhao et al. 2022, arXiv:2203.08679, eq. 7):
/// mean_i w_i (alpha TCKD_i + beta NCKD_i); alpha = 1 and beta = 1 - p_y of the teacher would give KD.
/// TCKD is the divergence of the pairs [p_y, 1 - p_y], NCKD that of the softmaxes over the other classes.
///
/// All computations are in log space: with d = z_y - logsumexp(others), log p_y = -softplus(-d) and
/// log(1 - p_y) = -softplus(d). The target's column is dropped, not set to minus infinity, which would make dL/dT NaN.
[<RequireQualifiedAccess>]
module Dkd =

    /// Splits logits into the target's [batch] and those of the other classes [batch, classes - 1], in order.
    let private split (labels: Tensor) (logits: Tensor) : Tensor * Tensor =
        let label = Tensor.unsqueeze 1 labels
        let column = Tensor.arange (Tensor.device labels) (Tensor.size 1 logits - 1) |> Tensor.unsqueeze 0
        let others = Tensor.where (Tensor.less column label) column (Tensor.addInt 1 column)
        logits |> Tensor.gather 1 label |> Tensor.squeeze 1, Tensor.gather 1 others logits

    /// Computes TCKD [batch] of softened logits [batch, classes].
    let target (labels: Tensor) (teacher: Tensor) (student: Tensor) : Tensor =
        let logPair logits =
            let target, others = split labels (Tensor.toType DType.Float64 logits)
            let d = target - Tensor.logSumExp -1 others
            -Tensor.softplus -d, -Tensor.softplus d

        let (teacherTarget, teacherOthers), (studentTarget, studentOthers) = logPair teacher, logPair student

        Loss.divergence teacherTarget studentTarget + Loss.divergence teacherOthers studentOthers
        |> Tensor.toType (Tensor.dtype student)

    /// Computes NCKD [batch] of softened logits [batch, classes].
    let others (labels: Tensor) (teacher: Tensor) (student: Tensor) : Tensor =
        Loss.kl (snd (split labels teacher)) (snd (split labels student))

    /// Computes DKD of softened logits with more than two classes: w (alpha TCKD + beta NCKD), shape [batch].
    let loss (alpha: float) (beta: float) (labels: Tensor) (softened: Softening) : Tensor =
        if Tensor.size 1 softened.Student < 3 then
            invalidArg (nameof softened) "DKD compares the classes other than the target: it needs at least 3."

        let part formula = formula labels softened.Teacher softened.Student
        softened.Weight * (Tensor.scale alpha (part target) + Tensor.scale beta (part others))

    /// Creates the distiller with its two weights: alpha is usually 1, beta 0.5 to 8 by pair of models.
    let distiller (alpha: float) (beta: float) (pair: ModelPair) : Result<Distiller, Error> =
        if pair.Student.Classes < 3 then
            ModelPair.refuse
                "dkd"
                pair
                "beside the target there must be two classes or more"
                "distill with kd, or data of three classes or more"
        else
            Distiller.simple "dkd" (fun input -> loss alpha beta input.Labels input.Softened |> Tensor.mean)
            |> Distiller.withoutMaps
            |> Ok
