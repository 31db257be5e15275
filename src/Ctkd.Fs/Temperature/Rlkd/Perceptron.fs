namespace Ctkd.Fs

/// What a hidden layer does to its sums.
[<RequireQualifiedAccess>]
type Activation =
    /// Nothing: the network is linear.
    | Identity
    | Relu

/// Two linear layers, sixteen units and one number: by the engine, and along single rows in plain numbers with gradients by
/// hand, since for so few units a call of an engine costs more than the arithmetic.
[<RequireQualifiedAccess>]
module Perceptron =

    /// Units of the hidden layer.
    let hidden = 16

    /// The parameters, with PyTorch's start: weights [16, inputs], biases [16], weights [1, 16], bias [1].
    let pack (inputs: int) : Pack =
        Pack.ofLayers [ Layer.dense "hidden" inputs hidden; Layer.dense "output" hidden 1 ]

    /// Outputs [batch] of inputs [batch, inputs], by the engine.
    let forward (activation: Activation) (p: Tensor[]) (x: Tensor) : Tensor =
        let sums = Tensor.linear p[0] (Some p[1]) x

        (if activation = Activation.Relu then Tensor.relu sums else sums)
        |> Tensor.linear p[2] (Some p[3])
        |> Tensor.squeeze 1

    // ---- by hand ----

    let private biases inputs = hidden * inputs
    let private outputs inputs = hidden * (inputs + 1)

    /// The output at row `row` of x [batch, inputs], which counts `factor` times; leaves the hidden layer in `units`.
    let output
        (activation: Activation)
        (inputs: int)
        (p: float[])
        (x: float[])
        (row: int)
        (factor: float)
        (units: float[])
        : float =
        let biases, outputs = biases inputs, outputs inputs
        let mutable sum = p[outputs + hidden]

        for j in 0 .. hidden - 1 do
            let mutable unit = p[biases + j]

            for k in 0 .. inputs - 1 do
                unit <- unit + factor * p[j * inputs + k] * x[row * inputs + k]

            units[j] <- if activation = Activation.Relu then max 0.0 unit else unit
            sum <- sum + p[outputs + j] * units[j]

        sum

    /// The slope of the output at a row by each unit's sum, of which `units` came: 0 where it is cut off.
    let inline private slopeOf activation (outputs: int) (p: float[]) (units: float[]) (j: int) : float =
        if activation = Activation.Relu && units[j] <= 0.0 then 0.0 else p[outputs + j]

    /// Adds to `gradient` the slopes by the parameters of `slope` times the output at a row with factor 1.
    let back
        (activation: Activation)
        (inputs: int)
        (p: float[])
        (x: float[])
        (row: int)
        (units: float[])
        (slope: float)
        (gradient: float[])
        : unit =
        let biases, outputs = biases inputs, outputs inputs
        gradient[outputs + hidden] <- gradient[outputs + hidden] + slope

        for j in 0 .. hidden - 1 do
            gradient[outputs + j] <- gradient[outputs + j] + slope * units[j]
            let inner = slope * slopeOf activation outputs p units j
            gradient[biases + j] <- gradient[biases + j] + inner

            for k in 0 .. inputs - 1 do
                gradient[j * inputs + k] <- gradient[j * inputs + k] + inner * x[row * inputs + k]

    /// The slope of the output at a row by its factor.
    let byFactor
        (activation: Activation)
        (inputs: int)
        (p: float[])
        (x: float[])
        (row: int)
        (units: float[])
        : float =
        let outputs = outputs inputs
        let mutable sum = 0.0

        for j in 0 .. hidden - 1 do
            let slope = slopeOf activation outputs p units j

            for k in 0 .. inputs - 1 do
                sum <- sum + slope * p[j * inputs + k] * x[row * inputs + k]

        sum
