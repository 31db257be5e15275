namespace Ctkd.Fs

open System.Numerics

/// A long short-term memory of one layer with a linear output, along one sequence in plain numbers: values and
/// gradients by hand. Sixteen units are so few that calls of an engine would cost a hundred times the arithmetic.
///
/// Its parameters come in the order of `Lstm.pack`; inside, matrices lie by columns, so that each input adds one
/// column to all gates.
[<RequireQualifiedAccess>]
module Lstm =

    /// Units: a multiple of every processor's vectors.
    let hidden = 16

    let private gates = 4 * hidden

    /// The parameters in PyTorch's order and with its start (uniform in +-1 / sqrt(units)): gates are those of input,
    /// forget, cell, output; the output is a number for each step.
    let pack (inputs: int) : Pack =
        let declare name shape = { Name = name; Shape = shape; Initial = UniformFanIn hidden; Trained = true }

        let declares = [
            declare "weight_ih" [ gates; inputs ]
            declare "weight_hh" [ gates; hidden ]
            declare "bias_ih" [ gates ]
            declare "bias_hh" [ gates ]
            declare "output.weight" [ 1; hidden ]
            declare "output.bias" [ 1 ]
        ]

        { Declares = declares; Shapes = declares |> List.map _.Shape }

    /// Predictions [T] of a sequence [T, inputs] by the engine: the same formula for any device.
    let forward (p: Tensor[]) (x: Tensor) : Tensor =
        Tensor.unsqueeze 1 x
        |> Tensor.lstm (Array.truncate 4 p)
        |> Tensor.squeeze 1
        |> Tensor.linear p[4] (Some p[5])
        |> Tensor.squeeze 1

    // ---- by hand ----

    /// Where a packed parameter lies by columns.
    let private place (inputs: int) (index: int) : int =
        if index < gates * inputs then
            index % inputs * gates + index / inputs
        elif index < gates * (inputs + hidden) then
            let index = index - gates * inputs
            (inputs + index % hidden) * gates + index / hidden
        else
            index

    /// Packed parameters by columns.
    let columns (inputs: int) (packed: float[]) : float[] =
        let result = Array.zeroCreate packed.Length
        packed |> Array.iteri (fun i value -> result[place inputs i] <- value)
        result

    /// The reverse of `columns`.
    let packed (inputs: int) (columns: float[]) : float[] =
        Array.init columns.Length (fun i -> columns[place inputs i])

    let private lanes = Vector<float>.Count

    /// y[to ..] += factor x[from ..], for `count` numbers.
    let private addScaled
        (factor: float)
        (x: float[])
        (from: int)
        (y: float[])
        (into: int)
        (count: int)
        : unit =
        let factor = Vector<float>(factor)
        let mutable i = 0

        while i < count do
            (Vector<float>(y, into + i) + factor * Vector<float>(x, from + i)).CopyTo(y, into + i)
            i <- i + lanes

    let private dot (x: float[]) (from: int) (y: float[]) (start: int) (count: int) : float =
        let mutable sum = Vector<float>.Zero
        let mutable i = 0

        while i < count do
            sum <- sum + Vector<float>(x, from + i) * Vector<float>(y, start + i)
            i <- i + lanes

        Vector.Sum sum

    /// outer / (1 + exp(-inner x)) + shift, in place: the sigmoid, and tanh x = 2 sigmoid(2 x) - 1.
    let private squash
        (inner: float)
        (outer: float)
        (shift: float)
        (x: float[])
        (from: int)
        (count: int)
        : unit =
        let inner, outer, shift = Vector<float>(-inner), Vector<float>(outer), Vector<float>(shift)
        let mutable i = from

        while i < from + count do
            (outer / (Vector<float>.One + Vector.Exp(inner * Vector<float>(x, i))) + shift).CopyTo(x, i)
            i <- i + lanes

    /// What a forward pass leaves for the backward one, step by step.
    [<NoComparison>]
    type Trace = {
        /// Gates after their squashing, [T, 4 units].
        Gates: float[]
        /// Cells and their tanh, hidden values: [T + 1, units], of which the first row is 0.
        Cells: float[]
        Squashed: float[]
        Hidden: float[]
        /// Predictions [T].
        Outputs: float[]
    }

    let trace (steps: int) : Trace =
        let rows () = Array.zeroCreate ((steps + 1) * hidden)

        {
            Gates = Array.zeroCreate (steps * gates)
            Cells = rows ()
            Squashed = rows ()
            Hidden = rows ()
            Outputs = Array.zeroCreate steps
        }

    /// Fills the trace for a sequence x [T, inputs] under parameters by columns.
    let run (inputs: int) (w: float[]) (x: float[]) (trace: Trace) : unit =
        let biases = gates * (inputs + hidden)
        let output = biases + 2 * gates

        for t in 0 .. trace.Outputs.Length - 1 do
            let at, now, before = t * gates, (t + 1) * hidden, t * hidden
            System.Array.Copy(w, biases, trace.Gates, at, gates)
            addScaled 1.0 w (biases + gates) trace.Gates at gates

            for k in 0 .. inputs - 1 do
                addScaled x[t * inputs + k] w (k * gates) trace.Gates at gates

            for k in 0 .. hidden - 1 do
                addScaled trace.Hidden[before + k] w ((inputs + k) * gates) trace.Gates at gates

            squash 1.0 1.0 0.0 trace.Gates at (2 * hidden)
            squash 2.0 2.0 -1.0 trace.Gates (at + 2 * hidden) hidden
            squash 1.0 1.0 0.0 trace.Gates (at + 3 * hidden) hidden

            for k in 0 .. hidden - 1 do
                let gate g = trace.Gates[at + g * hidden + k]
                trace.Cells[now + k] <- gate 1 * trace.Cells[before + k] + gate 0 * gate 2
                trace.Squashed[now + k] <- trace.Cells[now + k]

            squash 2.0 2.0 -1.0 trace.Squashed now hidden

            for k in 0 .. hidden - 1 do
                trace.Hidden[now + k] <- trace.Gates[at + 3 * hidden + k] * trace.Squashed[now + k]

            trace.Outputs[t] <- dot w output trace.Hidden now hidden + w[output + hidden]

    /// Gradients by columns of a loss whose slopes by the predictions are given, [T].
    let back (inputs: int) (w: float[]) (x: float[]) (trace: Trace) (slopes: float[]) : float[] =
        let biases = gates * (inputs + hidden)
        let output = biases + 2 * gates
        let gradient = Array.zeroCreate<float> w.Length
        let ofGates = Array.zeroCreate<float> gates
        let ofCell = Array.zeroCreate<float> hidden
        let ofHidden = Array.zeroCreate<float> hidden

        for t in slopes.Length - 1 .. -1 .. 0 do
            let at, now, before = t * gates, (t + 1) * hidden, t * hidden
            addScaled slopes[t] trace.Hidden now gradient output hidden
            gradient[output + hidden] <- gradient[output + hidden] + slopes[t]
            addScaled slopes[t] w output ofHidden 0 hidden

            for k in 0 .. hidden - 1 do
                let input, forget = trace.Gates[at + k], trace.Gates[at + hidden + k]
                let cell, out = trace.Gates[at + 2 * hidden + k], trace.Gates[at + 3 * hidden + k]
                let squashed = trace.Squashed[now + k]
                let slope = ofCell[k] + ofHidden[k] * out * (1.0 - squashed * squashed)
                ofGates[k] <- slope * cell * input * (1.0 - input)
                ofGates[hidden + k] <- slope * trace.Cells[before + k] * forget * (1.0 - forget)
                ofGates[2 * hidden + k] <- slope * input * (1.0 - cell * cell)
                ofGates[3 * hidden + k] <- ofHidden[k] * squashed * out * (1.0 - out)
                ofCell[k] <- slope * forget

            addScaled 1.0 ofGates 0 gradient biases gates

            for k in 0 .. inputs - 1 do
                addScaled x[t * inputs + k] ofGates 0 gradient (k * gates) gates

            for k in 0 .. hidden - 1 do
                let column = (inputs + k) * gates
                addScaled trace.Hidden[before + k] ofGates 0 gradient column gates
                ofHidden[k] <- dot w column ofGates 0 gates

        // Both biases add to the same gates.
        System.Array.Copy(gradient, biases, gradient, biases + gates, gates)
        gradient
