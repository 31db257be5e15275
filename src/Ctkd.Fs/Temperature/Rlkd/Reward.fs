namespace Ctkd.Fs

open System

/// What a batch's temperatures led to (RLKD, eq. 9).
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

    /// The accuracy of a batch, 0 .. 1: shape [].
    let accuracy (kind: RlkdAccuracy) (labels: Tensor) (logits: Tensor) : Tensor =
        match kind with
        | RlkdAccuracy.Micro -> micro labels logits
        | RlkdAccuracy.Macro -> macro labels logits

    /// The released factor: three falling cosines and 1, on epochs that end at the boundaries.
    let private cosines (first: int, second: int, third: int) (epoch: int) : float =
        let wave height period = height * ((cos (Math.PI * float epoch / period) + 1.0) / 2.0 + 1.0)

        if epoch < first then wave 10.0 75.0
        elif epoch < second then wave 5.0 30.0
        elif epoch < third then wave 2.0 30.0
        else 1.0

    /// The reward's factor in an epoch.
    let factor (factor: RlkdFactor) (epoch: int) : float =
        match factor with
        | RlkdFactor.Ramp epochs -> min 1.0 (float epoch / float epochs)
        | RlkdFactor.CosineCifar -> cosines (150, 210, 240) epoch
        | RlkdFactor.CosineImageNet -> cosines (30, 60, 90) epoch

    /// The reward of the temperatures of a batch, from its accuracy, that of the batch before it and that of
    /// the one after it: shape [] each.
    let ofAccuracies
        (kind: RlkdReward)
        (factor: float)
        (before: Tensor)
        (own: Tensor)
        (after: Tensor)
        : Tensor =
        match kind with
        | RlkdReward.Next -> Tensor.scale factor (after - own)
        | RlkdReward.Lagged -> Tensor.scale factor (own - before)
