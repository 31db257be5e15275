namespace Ctkd.Fs

open System

/// A normal distribution of each instance's draw z.
[<ReferenceEquality>]
type Gaussian = {
    /// Shape [batch].
    Mean: Tensor
    /// Logarithm of the deviation: shape [batch], or [] for one that all instances share.
    LogDeviation: Tensor
}

/// The policy (RLKD, arXiv:2407.00115, eq. 8): maps a state to a normal distribution, and a draw z from it to a temperature.
[<RequireQualifiedAccess>]
module Actor =
    let private hidden = 256

    /// Logarithm of the deviation at the start: the deviation is 0.6065.
    let private startLog = -0.5

    /// Range of the logarithm of a head's deviation: the deviation is 0.0067 to 2.7.
    let private narrowest, private widest = -5.0, 1.0

    /// The two hidden layers of actor and critic, and their output of one number.
    let internal layers (features: int) (output: string) : Dense list = [
        Layer.dense "l1" features hidden
        Layer.dense "l2" hidden hidden
        Layer.dense output hidden 1
    ]

    /// The network: two hidden layers of 256 units, and the mean. A head adds a second output, the log-deviation, which
    /// is -1/2 for every state at the start.
    let pack (spread: RlkdSpread) (features: int) : Pack =
        let mean = Pack.ofLayers (layers features "mean")
        let fill name shape value = { Name = name; Shape = shape; Initial = Fill value; Trained = true }

        match spread, mean.Declares with
        | RlkdSpread.Head, [ w1; b1; w2; b2; weight; bias ] ->
            let body = [ w1; b1; w2; b2 ]
            let weights = [ weight; fill "deviation.weight" weight.Shape 0.0 ]
            let biases = [ bias; fill "deviation.bias" bias.Shape startLog ]

            {
                Declares = body @ weights @ biases
                // Mean and deviation are the two rows of one layer.
                Shapes = (body |> List.map _.Shape) @ [ [ 2; hidden ]; [ 2 ] ]
            }
        | RlkdSpread.Shared rows, declares -> Pack.ofDeclarations (declares @ [ fill "deviation" [ rows ] 0.0 ])
        | RlkdSpread.Head, _ -> invalidOp "three linear layers have six parameters"

    /// The hidden layers of actor and critic: relu(W2 relu(W1 s + b1) + b2), shape [batch, 256].
    let internal body (p: Tensor[]) (states: Tensor) : Tensor =
        states |> Tensor.linear p[0] (Some p[1]) |> Tensor.relu |> Tensor.linear p[2] (Some p[3]) |> Tensor.relu

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

    /// T = 10 sigmoid(z), clamped to [coolest, 10).
    let squash (coolest: float) (z: Tensor) : Tensor =
        Tensor.sigmoid z
        |> Tensor.scale RlkdConfig.hottest
        |> Tensor.clamp coolest (RlkdConfig.hottest * (1.0 - 1e-6))

    /// Log-density [batch] at a standardised draw: -x^2 / 2 - log deviation - log(2 pi) / 2.
    let private logDensity (standard: Tensor) (policy: Gaussian) : Tensor =
        Tensor.scale -0.5 (standard * standard) - policy.LogDeviation |> Tensor.addNumber (-0.5 * log (2.0 * Math.PI))

    /// Log-likelihood [batch] of draws z [batch] that became temperatures t [batch].
    let logLikelihood (where: RlkdLikelihood) (z: Tensor) (t: Tensor) (policy: Gaussian) : Tensor =
        match where with
        | RlkdLikelihood.Draw -> logDensity (noiseOf policy z) policy
        | RlkdLikelihood.Temperature ->
            // The released code adds 1e-8 to the deviation that divides.
            let deviation = Tensor.exp policy.LogDeviation |> Tensor.addNumber 1e-8
            logDensity ((t - policy.Mean) / deviation) policy

/// The value of states.
[<RequireQualifiedAccess>]
module Critic =

    /// The network: two hidden layers of 256 units, and a number.
    let pack (features: int) : Pack = Pack.ofLayers (Actor.layers features "value")

    /// Values [batch] of states [batch, features].
    let forward (p: Tensor[]) (states: Tensor) : Tensor =
        Actor.body p states |> Tensor.linear p[4] (Some p[5]) |> Tensor.squeeze 1
