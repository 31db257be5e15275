namespace Ctkd.Fs

open System

/// A normal distribution for each instance: over the draws z that become temperatures.
[<ReferenceEquality>]
type Gaussian = {
    /// Shape [batch].
    Mean: Tensor
    /// Logarithm of the deviation: shape [batch], or [] for one that all share.
    LogDeviation: Tensor
}

/// The policy (RLKD, eq. 8): a state to a normal distribution, a draw from it to a temperature.
[<RequireQualifiedAccess>]
module Actor =
    let private hidden = 256

    /// The logarithm of the deviation at the start: the deviation is 0.6065.
    let private startLog = -0.5

    /// Within these the logarithm of a head's deviation stays: the deviation is 0.0067 to 2.7.
    let private narrowest, private widest = -5.0, 1.0

    /// The network: two hidden layers of 256, and a mean; with a head, its log-deviation starts at -0.5
    /// everywhere.
    let pack (spread: RlkdSpread) (features: int) : Pack =
        let body =
            Pack.ofLayers [
                Layer.dense "l1" features hidden
                Layer.dense "l2" hidden hidden
                Layer.dense "mean" hidden 1
            ]

        let declares, (meanWeight, meanBias) =
            match List.splitAt 4 body.Declares with
            | declares, [ weight; bias ] -> declares, (weight, bias)
            | _ -> invalidOp "three linear layers have six parameters"

        let fill name shape value = { Name = name; Shape = shape; Initial = Fill value; Trained = true }

        let last, shapes =
            match spread with
            | RlkdSpread.Head ->
                [
                    meanWeight
                    fill "deviation.weight" [ 1; hidden ] 0.0
                    meanBias
                    fill "deviation.bias" [ 1 ] startLog
                ],
                [ [ 2; hidden ]; [ 2 ] ]
            | RlkdSpread.Shared rows ->
                [ meanWeight; meanBias; fill "deviation" [ rows ] 0.0 ], [ [ 1; hidden ]; [ 1 ]; [ rows ] ]

        { Declares = declares @ last; Shapes = (declares |> List.map _.Shape) @ shapes }

    /// The two hidden layers of actor and critic.
    let internal body (p: Tensor[]) (states: Tensor) : Tensor =
        states
        |> Tensor.linear p[0] (Some p[1])
        |> Tensor.relu
        |> Tensor.linear p[2] (Some p[3])
        |> Tensor.relu

    /// The distribution for states [batch, features]; its mean lies in (-1, 1).
    let forward (spread: RlkdSpread) (p: Tensor[]) (states: Tensor) : Gaussian =
        let output = body p states |> Tensor.linear p[4] (Some p[5])

        {
            Mean = Tensor.tanh (Tensor.select 1 0 output)
            LogDeviation =
                match spread with
                | RlkdSpread.Head -> Tensor.clamp narrowest widest (Tensor.select 1 1 output)
                | RlkdSpread.Shared _ -> Tensor.addNumber startLog (Tensor.sum p[6])
        }

    /// Standard normal numbers, float64 [count], as a function of a key (Box and Muller 1958).
    let noise (key: Tensor) (count: int) : Tensor =
        let uniform = Draws.uniform key [| 2L; int64 count |]
        let one = Tensor.select 0 0 uniform |> Tensor.neg |> Tensor.addNumber 1.0
        let radius = Tensor.log one |> Tensor.scale -2.0 |> Tensor.sqrt
        radius * Tensor.cos (Tensor.scale (2.0 * Math.PI) (Tensor.select 0 1 uniform))

    /// Draws z [batch]: mean + deviation noise.
    let draw (noise: Tensor) (policy: Gaussian) : Tensor =
        policy.Mean + Tensor.exp policy.LogDeviation * Tensor.toType (Tensor.dtype policy.Mean) noise

    /// The noise of draws z [batch]: (z - mean) / deviation.
    let noiseOf (policy: Gaussian) (z: Tensor) : Tensor = (z - policy.Mean) * Tensor.exp -policy.LogDeviation

    /// T = 10 sigmoid(z), at least `coolest` and, however far the draw, below 10.
    let squash (coolest: float) (z: Tensor) : Tensor =
        Tensor.sigmoid z
        |> Tensor.scale RlkdConfig.hottest
        |> Tensor.clamp coolest (RlkdConfig.hottest * (1.0 - 1e-6))

    /// Logarithm of the density, [batch], at so many deviations from the mean.
    let private logDensity (standard: Tensor) (policy: Gaussian) : Tensor =
        Tensor.scale -0.5 (standard * standard) - policy.LogDeviation
        |> Tensor.addNumber (-0.5 * log (2.0 * Math.PI))

    /// Logarithm of the likelihood of draws z [batch] that became temperatures t [batch]. The released code adds 1e-8 to the
    /// deviation that divides.
    let logLikelihood (where: RlkdLikelihood) (z: Tensor) (t: Tensor) (policy: Gaussian) : Tensor =
        match where with
        | RlkdLikelihood.Draw -> logDensity (noiseOf policy z) policy
        | RlkdLikelihood.Temperature ->
            let deviation = Tensor.exp policy.LogDeviation |> Tensor.addNumber 1e-8
            logDensity ((t - policy.Mean) / deviation) policy

/// The value of states.
[<RequireQualifiedAccess>]
module Critic =

    /// The network: two hidden layers of 256, and a number.
    let pack (features: int) : Pack =
        Pack.ofLayers [ Layer.dense "l1" features 256; Layer.dense "l2" 256 256; Layer.dense "value" 256 1 ]

    /// Values [batch] of states [batch, features].
    let forward (p: Tensor[]) (states: Tensor) : Tensor =
        Actor.body p states |> Tensor.linear p[4] (Some p[5]) |> Tensor.squeeze 1
