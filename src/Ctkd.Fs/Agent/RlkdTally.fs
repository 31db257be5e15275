namespace Ctkd.Fs

/// What is counted of a batch whose temperatures the agent chose.
[<ReferenceEquality>]
type RlkdChoice = { Uncertainty: Tensor; T: Tensor; Policy: Gaussian }

/// What is counted of an update: shape [] each.
[<ReferenceEquality>]
type RlkdUpdate = {
    Reward: Tensor
    /// Before they are scaled, [batch].
    Advantages: Tensor
    /// M, or 1 where states are not masked.
    Mask: Tensor
    CorrectorLoss: Tensor
    UpdaterLoss: Tensor
    EstimatorLoss: Tensor
    CriticLoss: Tensor
    ActorLoss: Tensor
}

/// Sums of an epoch on the device, float64 [`length`]: adding to them waits for nothing.
[<RequireQualifiedAccess>]
module RlkdTally =
    let private choices = 8
    let private updates = 11

    /// Numbers of the sums.
    let length: int = choices + updates

    /// Adds terms from a place on, the first being a count.
    let private add (start: int) (count: int) (terms: Tensor list) (sums: Tensor) : unit =
        Tensor.scoped (fun () ->
            let one = Tensor.scalar DType.Float64 (Tensor.device sums) (float count)
            let terms = one :: List.map (Tensor.toType DType.Float64) terms |> Tensor.stack 0
            Tensor.addInto (Tensor.slice 0 start (start + Tensor.size 0 terms) sums) terms
        )

    /// Adds a batch.
    let addChoice (choice: RlkdChoice) (sums: Tensor) : unit =
        Tensor.scoped (fun () ->
            let count = Tensor.size 0 choice.T
            let u = Tensor.toType DType.Float64 choice.Uncertainty
            let t = Tensor.toType DType.Float64 choice.T

            let deviation =
                Tensor.exp choice.Policy.LogDeviation |> Tensor.mean |> Tensor.scale (float count)

            let products = [ u; t; u * u; t * t; u * t ] |> List.map Tensor.sum
            add 0 count (products @ [ Tensor.sum choice.Policy.Mean; deviation ]) sums
        )

    /// Adds an update.
    let addUpdate (update: RlkdUpdate) (sums: Tensor) : unit =
        Tensor.scoped (fun () ->
            let size = update.Advantages * update.Advantages |> Tensor.mean |> Tensor.sqrt

            let terms = [
                update.Reward
                update.Reward * update.Reward
                Tensor.mean update.Advantages
                size
                Tensor.mean update.Mask
                update.CorrectorLoss
                update.UpdaterLoss
                update.EstimatorLoss
                update.CriticLoss
                update.ActorLoss
            ]

            add choices 1 terms sums
        )

    /// The means by name; what did not happen is absent. Waits for the device.
    let read (sums: Tensor) : Map<string, float> =
        let s = Tensor.toFloats sums
        let chosen i = s[i] / s[0]
        let updated i = s[choices + i] / s[choices]

        let correlation =
            let u, t = chosen 1, chosen 2
            let deviation i mean = sqrt (max 0.0 (chosen i - mean * mean))
            (chosen 5 - u * t) / (deviation 3 u * deviation 4 t)

        [
            if s[0] > 0.0 then
                "correlation", correlation
                "policyMean", chosen 6
                "policySpread", chosen 7
                "uncertainty", chosen 1
            if s[choices] > 0.0 then
                "updates", s[choices]
                "reward", updated 1
                "rewardSize", sqrt (updated 2)
                "advantage", updated 3
                "advantageSize", updated 4
                "mask", updated 5
                "correctorLoss", updated 6
                "updaterLoss", updated 7
                "estimatorLoss", updated 8
                "criticLoss", updated 9
                "actorLoss", updated 10
        ]
        |> List.filter (snd >> System.Double.IsFinite)
        |> Map
