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
module RlkdSums =
    let private choices = 8
    let private updates = 11

    /// Parts of the uncertainty's range.
    let tenths: int = 10

    /// What is summed in each: images, policy means, policy deviations.
    let private ofTenth = 3

    /// Numbers of the sums.
    let length: int = choices + updates + tenths * ofTenth

    /// Adds terms from a place on, the first being a count.
    let private add (start: int) (count: int) (terms: Tensor list) (sums: Tensor) : unit =
        Tensor.scoped (fun () ->
            let one = Tensor.scalar DType.Float64 (Tensor.device sums) (float count)
            let terms = one :: List.map (Tensor.toType DType.Float64) terms |> Tensor.stack 0
            Tensor.addInto (Tensor.slice 0 start (start + Tensor.size 0 terms) sums) terms
        )

    /// The sums of a batch in each tenth of the uncertainty, [tenths * ofTenth].
    let private byTenth (u: Tensor) (mean: Tensor) (deviation: Tensor) : Tensor =
        let last = float tenths - 0.5
        let tenth = Tensor.scale (float tenths) u |> Tensor.clamp 0.0 last |> Tensor.toType DType.Int64
        let each = Tensor.unsqueeze 1 (Tensor.arange (Tensor.device u) tenths)
        let isIn = Tensor.eq (Tensor.unsqueeze 0 tenth) each |> Tensor.toType DType.Float64
        let ones = Tensor.addNumber 1.0 (Tensor.scale 0.0 u)
        Tensor.matmul isIn (Tensor.stack 1 [ ones; mean; deviation ]) |> Tensor.reshape [| -1L |]

    /// Adds a batch.
    let addChoice (choice: RlkdChoice) (sums: Tensor) : unit =
        Tensor.scoped (fun () ->
            let count = Tensor.size 0 choice.T
            let exact = Tensor.toType DType.Float64
            let u, t, mean = exact choice.Uncertainty, exact choice.T, exact choice.Policy.Mean
            let deviation = exact choice.Policy.LogDeviation |> Tensor.exp |> Tensor.expand [| int64 count |]
            let products = [ u; t; u * u; t * t; u * t; mean; deviation ] |> List.map Tensor.sum
            add 0 count products sums
            Tensor.addInto (Tensor.slice 0 (choices + updates) length sums) (byTenth u mean deviation)
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

    /// The means by name; what did not happen is absent. "policyMean.3" is that of the images whose uncertainty is
    /// in the tenth from 0.3 on. Waits for the device.
    let read (sums: Tensor) : Map<string, float> =
        let s = Tensor.toFloats sums
        let chosen i = s[i] / s[0]
        let updated i = s[choices + i] / s[choices]

        let inTenth tenth i =
            let start = choices + updates + tenth * ofTenth
            s[start + i] / s[start]

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

                for tenth in 0 .. tenths - 1 do
                    $"policyMean.{tenth}", inTenth tenth 1
                    $"policySpread.{tenth}", inTenth tenth 2
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
