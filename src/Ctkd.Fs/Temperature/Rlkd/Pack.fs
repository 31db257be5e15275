namespace Ctkd.Fs

/// A small network whose parameters lie in one vector: an optimiser's step and a norm then take one call of the engine
/// and not one per layer.
[<NoComparison>]
type Pack = {
    /// The parameters in the order of the vector, with their initial values.
    Declares: Declaration list
    /// The shapes in which the network reads the vector.
    Shapes: int list list
}

/// A packed network and its state of Adam: parameters and moments, each a vector.
[<ReferenceEquality>]
type Learner = { Pack: Pack; Weights: Tensor; First: Tensor; Second: Tensor }

[<RequireQualifiedAccess>]
module Pack =

    /// A pack whose network reads its parameters in the shapes in which they are initialised.
    let ofDeclarations (declares: Declaration list) : Pack = {
        Declares = declares
        Shapes = declares |> List.map _.Shape
    }

    /// Linear layers in sequence, with PyTorch's initial values.
    let ofLayers (layers: Dense list) : Pack =
        layers |> List.map Linear |> Sequence |> Layer.declarations Starts.pyTorch |> ofDeclarations

    let private size (shape: int list) : int = List.fold (*) 1 shape

    /// Number of parameters.
    let count (pack: Pack) : int = pack.Shapes |> List.sumBy size

    /// Multiply-accumulates of a network of linear layers for one row: the sizes of its matrices.
    let macs (pack: Pack) : Macs =
        let matrices = pack.Shapes |> List.filter (fun shape -> shape.Length = 2)
        { Macs.Zero with Linear = matrices |> List.sumBy size |> int64 }

    /// Initial parameters.
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

    /// Shortens a gradient to a norm: g min(1, longest / (|g| + 1e-6)), as PyTorch does.
    let clipped (longest: float) (gradient: Tensor) : Tensor =
        let norm = Tensor.norm gradient |> Tensor.addNumber 1e-6
        let limit = Tensor.scalar (Tensor.dtype gradient) (Tensor.device gradient) longest
        gradient * Tensor.clamp 0.0 1.0 (limit / norm)

/// Packed networks in the agent's state, and their training.
[<RequireQualifiedAccess>]
module Learner =
    let private names = [ "weights"; "first"; "second" ]

    /// An untrained network as named tensors: NAME/weights, NAME/first, NAME/second.
    let start (dtype: DType) (device: Device) (rng: Rng) (name: string) (pack: Pack) : Tree =
        let zeros () = Tensor.zeros dtype device [| int64 (Pack.count pack) |]
        let weights = Pack.start dtype device (Rng.split name rng) pack
        List.zip names [ weights; zeros (); zeros () ] |> Tree.ofSeq |> Tree.prefixed (name + "/")

    /// The network of a name in the agent's state.
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

    /// The parameters by layer as leaves of a graph. They share the vector's memory: each pass reads what the pass before
    /// it wrote.
    let leaves (learner: Learner) : Tensor[] = weights learner |> Array.map Autograd.leaf

    /// Takes one step of Adam down a loss of the leaves, in place; shortens the gradient to the norm `longest`, if given.
    /// Returns the loss before the step, shape [].
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

    /// Runs `pass` once per step. Returns the loss before the first, shape [].
    let descend (steps: AdamStep[]) (longest: float option) (learner: Learner) (loss: Tensor[] -> Tensor) : Tensor =
        let leaves = leaves learner
        steps |> Array.map (fun now -> pass now longest learner leaves loss) |> Array.head

/// Two linear layers: inputs to 16 units to one number.
[<RequireQualifiedAccess>]
module Perceptron =
    let private hidden = 16

    /// The parameters: weights [16, inputs], biases [16], weights [1, 16], bias [1].
    let pack (inputs: int) : Pack = Pack.ofLayers [ Layer.dense "hidden" inputs hidden; Layer.dense "output" hidden 1 ]

    /// Outputs [batch] of inputs [batch, inputs]; `activation` follows the hidden layer.
    let forward (activation: Tensor -> Tensor) (p: Tensor[]) (x: Tensor) : Tensor =
        Tensor.linear p[0] (Some p[1]) x |> activation |> Tensor.linear p[2] (Some p[3]) |> Tensor.squeeze 1
