namespace Ctkd.Fs

/// What is summed of a batch whose temperatures the agent chose: uncertainty and T, shape [batch], and the policy.
[<ReferenceEquality>]
type RlkdChoice = { Uncertainty: Tensor; T: Tensor; Policy: Gaussian }

/// What is summed of an update: shape [] each, unless stated.
[<ReferenceEquality>]
type RlkdUpdate = {
    Reward: Tensor
    /// Before scaling, [batch].
    Advantages: Tensor
    /// M [batch, 1], or 1 where states are not masked.
    Mask: Tensor
    CorrectorLoss: Tensor
    UpdaterLoss: Tensor
    EstimatorLoss: Tensor
    CriticLoss: Tensor
    ActorLoss: Tensor
}

/// Sums of an epoch on the device, float64 [`length`]. Adding to them waits for nothing.
[<RequireQualifiedAccess>]
module RlkdSums =
    let private choices = 8
    let private updates = 11

    /// Number of equal parts of the uncertainty's range [0, 1].
    let internal tenths: int = 10

    /// Sums of each part: images, policy means, policy deviations.
    let private ofTenth = 3

    /// Number of sums.
    let length: int = choices + updates + tenths * ofTenth

    /// Adds a count and terms to the sums from `start` on.
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

    /// Adds a batch, in place.
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

    /// Adds an update, in place.
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

    /// The means by name, without those of which there is no value. "policyMean.3" is the mean over the images whose
    /// uncertainty is in [0.3, 0.4). Waits for the device.
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

/// How reports show the numbers of `RlkdSums.read`.
[<RequireQualifiedAccess>]
module RlkdReport =

    /// A row for each epoch in which the agent learned.
    let table: AgentTable = {
        Caption = "Epochs in which the agent learned"
        Columns = [
            "updates", "updates", 0
            "reward", "reward", 5
            "rms reward", "rewardSize", 5
            "advantage", "advantage", 5
            "correlation", "correlation", 3
            "policy mean", "policyMean", 3
            "spread", "policySpread", 3
            "mask", "mask", 3
            "corrector", "correctorLoss", 6
            "updater", "updaterLoss", 6
            "critic", "criticLoss", 6
        ]
    }

    let private byEpoch (key: string) (epochs: (int * Map<string, float>) list) : (float * float) list =
        epochs |> List.choose (fun (epoch, numbers) -> numbers.TryFind key |> Option.map (fun y -> float epoch, y))

    /// 10 sigmoid(mean) and one deviation on either side against the uncertainty, in an epoch with two or more tenths.
    let private byUncertainty (run: string) (epoch: int, numbers: Map<string, float>) : AgentFigure option =
        let tenths = [
            for tenth in 0 .. RlkdSums.tenths - 1 do
                match numbers.TryFind $"policyMean.{tenth}", numbers.TryFind $"policySpread.{tenth}" with
                | Some mean, Some spread -> (float tenth + 0.5) / float RlkdSums.tenths, mean, spread
                | _ -> ()
        ]

        let curve label sign =
            label,
            tenths |> List.map (fun (u, mean, spread) -> u, RlkdConfig.hottest / (1.0 + exp -(mean + sign * spread)))

        if tenths.Length < 2 then
            None
        else
            Some {
                Title = $"The agent's T by uncertainty: {run}, epoch {epoch}"
                XLabel = "student's uncertainty"
                YLabel = "T"
                YRange = Some(0.0, RlkdConfig.hottest)
                Curves = [ curve "mean" 0.0; curve "mean + spread" 1.0; curve "mean - spread" -1.0 ]
            }

    /// The correlation of T with the uncertainty, the policy's mean and spread by epoch, and T by uncertainty in the latest
    /// epoch in which the agent chose.
    let figures (run: string) (epochs: (int * Map<string, float>) list) : AgentFigure list = [
        {
            Title = "T and the student's uncertainty"
            XLabel = "epoch"
            YLabel = "correlation"
            YRange = None
            Curves = [ run, byEpoch "correlation" epochs ]
        }
        {
            Title = $"The agent's policy: {run}"
            XLabel = "epoch"
            YLabel = "z"
            YRange = None
            Curves = [ "mean", byEpoch "policyMean" epochs; "spread", byEpoch "policySpread" epochs ]
        }
        yield! epochs |> List.choose (byUncertainty run) |> List.tryLast |> Option.toList
    ]
