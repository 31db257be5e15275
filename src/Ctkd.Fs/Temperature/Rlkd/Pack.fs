namespace Ctkd.Fs

/// A small network whose parameters lie in one vector: an optimiser's step, a norm, is then one call of the
/// engine and not one a layer.
type Pack = {
    /// The parameters in their order, as they are initialised.
    Declares: Declaration list
    /// The shapes as the network reads the vector.
    Shapes: int list list
}

/// A packed network that Adam trains: parameters and moments, each a vector.
[<ReferenceEquality>]
type Learner = { Pack: Pack; Weights: Tensor; First: Tensor; Second: Tensor }

[<RequireQualifiedAccess>]
module Pack =

    /// Linear layers one after the other, with PyTorch's start.
    let ofLayers (layers: Dense list) : Pack =
        let declares = layers |> List.map Linear |> Sequence |> Layer.declarations Starts.pyTorch
        { Declares = declares; Shapes = declares |> List.map _.Shape }

    let private size (shape: int list) : int = List.fold (*) 1 shape

    /// Number of parameters.
    let count (pack: Pack) : int = pack.Shapes |> List.sumBy size

    /// Fresh parameters.
    let start (dtype: DType) (device: Device) (rng: Rng) (pack: Pack) : Tensor =
        Tensor.scope (fun () ->
            Initialise.tree dtype device rng pack.Declares
            |> Tree.leaves
            |> List.ofArray
            |> List.map (Tensor.reshape [| -1L |])
            |> Tensor.cat 0
        )

    /// The parameters by layer, as views of the vector.
    let views (pack: Pack) (vector: Tensor) : Tensor[] =
        let starts = pack.Shapes |> List.scan (fun start shape -> start + size shape) 0

        List.zip pack.Shapes (List.truncate pack.Shapes.Length starts)
        |> List.map (fun (shape, start) ->
            Tensor.slice 0 start (start + size shape) vector
            |> Tensor.reshape (shape |> List.map int64 |> Array.ofList)
        )
        |> Array.ofList

    /// Gradients by layer as one vector.
    let joined (gradients: Tensor[]) : Tensor =
        gradients |> List.ofArray |> List.map (Tensor.reshape [| -1L |]) |> Tensor.cat 0

    /// A gradient shortened to a norm, as PyTorch does it.
    let clipped (longest: float) (gradient: Tensor) : Tensor =
        let norm = Tensor.norm gradient |> Tensor.addNumber 1e-6
        let limit = Tensor.scalar (Tensor.dtype gradient) (Tensor.device gradient) longest
        gradient * Tensor.clamp 0.0 1.0 (limit / norm)

[<RequireQualifiedAccess>]
module Learner =
    let private names = [ "weights"; "first"; "second" ]

    /// A fresh learner as named tensors.
    let start (dtype: DType) (device: Device) (rng: Rng) (name: string) (pack: Pack) : Tree =
        let zeros () = Tensor.zeros dtype device [| int64 (Pack.count pack) |]
        let weights = Pack.start dtype device (Rng.split name rng) pack
        List.zip names [ weights; zeros (); zeros () ] |> Tree.ofSeq |> Tree.prefixed (name + "/")

    /// The learner of a name.
    let find (pack: Pack) (name: string) (tree: Tree) : Learner =
        let tensor part = Tree.find $"{name}/{part}" tree

        {
            Pack = pack
            Weights = tensor names[0]
            First = tensor names[1]
            Second = tensor names[2]
        }

    /// The parameters by layer.
    let weights (learner: Learner) : Tensor[] = Pack.views learner.Pack learner.Weights

    /// The parameters by layer as leaves of a graph. They share the vector's memory: each pass reads what the one
    /// before it wrote.
    let leaves (learner: Learner) : Tensor[] = weights learner |> Array.map Autograd.leaf

    /// One step down a loss of the leaves, in place; the gradient is shortened to the norm, if there is one.
    /// Answers the loss before the step: shape [].
    let pass
        (now: AdamStep)
        (longest: float option)
        (learner: Learner)
        (leaves: Tensor[])
        (loss: Tensor[] -> Tensor)
        : Tensor =
        Tensor.scope (fun () ->
            let value = loss leaves
            let gradient = Autograd.gradients value leaves |> Pack.joined
            let gradient = longest |> Option.fold (fun g longest -> Pack.clipped longest g) gradient
            Adam.step now [| gradient |] [| learner.First |] [| learner.Second |] [| learner.Weights |]
            Tensor.detach value
        )

    /// As `pass`, once for each of the steps; answers the loss before the first.
    let descend
        (steps: AdamStep[])
        (longest: float option)
        (learner: Learner)
        (loss: Tensor[] -> Tensor)
        : Tensor =
        let leaves = leaves learner
        steps |> Array.map (fun now -> pass now longest learner leaves loss) |> Array.head

/// A learner in plain numbers: for networks so small that calls of an engine cost more than the arithmetic, and only where
/// tensors lie in the processor's own memory, so that reading them waits for nothing.
[<NoComparison>]
type Numbers = { Parameters: float[]; Mean: float[]; Square: float[] }

[<RequireQualifiedAccess>]
module Numbers =

    /// A learner's numbers, each vector in the order that `arrange` gives it.
    let ofLearner (arrange: float[] -> float[]) (learner: Learner) : Numbers =
        let read = Tensor.toFloats >> arrange

        {
            Parameters = read learner.Weights
            Mean = read learner.First
            Square = read learner.Second
        }

    /// Writes the numbers back, in place; `arrange` is the reverse.
    let into (arrange: float[] -> float[]) (learner: Learner) (numbers: Numbers) : unit =
        let write (target: Tensor) (values: float[]) =
            Tensor.scoped (fun () ->
                Tensor.ofFloats (Tensor.dtype target) [ values.Length ] (arrange values)
                |> Tensor.copyInto target
            )

        write learner.Weights numbers.Parameters
        write learner.First numbers.Mean
        write learner.Second numbers.Square

    /// Settings, rate and epsilon of each step.
    let rates (steps: AdamStep[]) : struct (Adam * float * float)[] =
        steps
        |> Array.map (fun step ->
            let adam, t = step.Of, Tensor.toFloat step.Number
            let second = sqrt (1.0 - adam.Beta2 ** t)
            struct (adam, adam.Rate * second / (1.0 - adam.Beta1 ** t), adam.Epsilon * second)
        )

    /// One step of Adam, in place.
    let step
        (struct (adam, rate, epsilon): struct (Adam * float * float))
        (gradient: float[])
        (numbers: Numbers)
        : unit =
        let p, m, v = numbers.Parameters, numbers.Mean, numbers.Square

        for i in 0 .. p.Length - 1 do
            let g = gradient[i]
            m[i] <- adam.Beta1 * m[i] + (1.0 - adam.Beta1) * g
            v[i] <- adam.Beta2 * v[i] + (1.0 - adam.Beta2) * g * g
            p[i] <- p[i] - rate * m[i] / (sqrt v[i] + epsilon)
