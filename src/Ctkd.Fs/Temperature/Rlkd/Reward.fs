namespace Ctkd.Fs

open System

/// The reward of a batch's temperatures (RLKD, arXiv:2407.00115, eq. 9).
[<RequireQualifiedAccess>]
module Reward =

    let private micro (labels: Tensor) (logits: Tensor) : Tensor =
        Tensor.eq (Tensor.argMax -1 logits) labels |> Tensor.toType (Tensor.dtype logits) |> Tensor.mean

    let private macro (labels: Tensor) (logits: Tensor) : Tensor =
        let dtype = Tensor.dtype logits
        let classes = Tensor.arange (Tensor.device logits) (Tensor.size 1 logits)
        let oneHot x = Tensor.eq (Tensor.unsqueeze 1 x) classes |> Tensor.toType dtype
        let predicted, actual = oneHot (Tensor.argMax -1 logits), oneHot labels
        let hits, truth = Tensor.sumOver 0 (predicted * actual), Tensor.sumOver 0 actual
        let known = Tensor.clamp 0.0 1.0 (truth + Tensor.sumOver 0 predicted)
        Tensor.sum (hits / Tensor.clamp 1.0 infinity truth) / Tensor.sum known

    /// The accuracy of a batch in [0, 1], shape [], from labels int64 [batch] and logits [batch, classes].
    let accuracy (kind: RlkdAccuracy) (labels: Tensor) (logits: Tensor) : Tensor =
        match kind with
        | RlkdAccuracy.Micro -> micro labels logits
        | RlkdAccuracy.Macro -> macro labels logits

    /// The released factor: a falling cosine up to each of three epochs, then 1.
    let private cosines (first: int, second: int, third: int) (epoch: int) : float =
        let wave height period = height * ((cos (Math.PI * float epoch / period) + 1.0) / 2.0 + 1.0)

        if epoch < first then wave 10.0 75.0
        elif epoch < second then wave 5.0 30.0
        elif epoch < third then wave 2.0 30.0
        else 1.0

    /// The reward's factor in an epoch, counted from 1.
    let factor (factor: RlkdFactor) (epoch: int) : float =
        match factor with
        | RlkdFactor.Ramp epochs -> min 1.0 (float epoch / float epochs)
        | RlkdFactor.CosineCifar -> cosines (150, 210, 240) epoch
        | RlkdFactor.CosineImageNet -> cosines (30, 60, 90) epoch

    /// The reward R [] of a batch's temperatures from the accuracies of the batch before, the batch itself and the batch
    /// after, shape [] each. Next: factor (after - own). Lagged: factor (own - before).
    let ofAccuracies (kind: RlkdReward) (factor: float) (before: Tensor) (own: Tensor) (after: Tensor) : Tensor =
        match kind with
        | RlkdReward.Next -> Tensor.scale factor (after - own)
        | RlkdReward.Lagged -> Tensor.scale factor (own - before)
