namespace Ctkd.Fs

/// How a parameter starts.
type Initial =
    /// The same number everywhere.
    | Fill of float
    /// N(0, 2 / fan-out): He et al. 2015, for layers followed by ReLU.
    | KaimingNormalFanOut
    /// Uniform in +-1 / sqrt(fan-in): PyTorch's default for convolutions, linear layers and their biases.
    | UniformFanIn of fanIn: int

/// A tensor that a model, policy or distiller asks for.
type Declaration = {
    Name: string
    Shape: int list
    Initial: Initial
    /// Buffers (running statistics, counters) are part of the state and not trained.
    Trained: bool
}

/// A convolution without dilation; names are those of its tensors in the state_dict.
type Convolution = {
    Weight: string
    Bias: string option
    In: int
    Out: int
    Kernel: int
    Stride: int
    Padding: int
    Groups: int
}

/// Batch normalisation over [N, C, H, W].
type Normalisation = {
    Scale: string
    Shift: string
    Mean: string
    Variance: string
    Counter: string
    Channels: int
}

/// x W^T + b.
type Dense = { Weight: string; Bias: string; In: int; Out: int }

/// A network as data: it is run, declared, measured and printed by functions over this one type.
[<NoComparison>]
type Layer =
    | Conv of Convolution
    | BatchNorm of Normalisation
    | Relu
    | MaxPool of kernel: int * stride: int * padding: int
    | AvgPool of kernel: int * stride: int * padding: int
    /// Mean over height and width: [N, C, H, W] -> [N, C].
    | GlobalPool
    | Linear of Dense
    | Sequence of Layer list
    /// body x + shortcut x.
    | Residual of body: Layer * shortcut: Layer
    /// Records its input as a feature and passes it on.
    | Tap
    /// Frees what the body made but its result: activations that nothing needs die with their block.
    | Block of Layer
    /// Anything else, by what it declares and does.
    | Custom of Custom

/// A layer of the user's own.
and [<ReferenceEquality>] Custom = {
    Declares: Declaration list
    /// The weights, whether training, and the input.
    Forward: Tree -> bool -> Tensor -> Tensor
    /// [C; H; W] of one image to that of the result; raises `ArgumentException` when the input does not fit.
    OutputShape: int list -> int list
}

/// Smart constructors in PyTorch's naming, and the functions over `Layer`.
[<RequireQualifiedAccess>]
module Layer =

    /// The epsilon and momentum of every batch normalisation in the zoo: PyTorch's defaults.
    let private epsilon, momentum = 1e-5, 0.1

    /// A convolution without bias: the name is that of the module.
    let conv (name: string) (kernel: int) (stride: int) (inputs: int) (outputs: int) : Layer =
        Conv {
            Weight = name + ".weight"
            Bias = None
            In = inputs
            Out = outputs
            Kernel = kernel
            Stride = stride
            Padding = kernel / 2
            Groups = 1
        }

    /// Batch normalisation: the name is that of the module.
    let batchNorm (name: string) (channels: int) : Layer =
        BatchNorm {
            Scale = name + ".weight"
            Shift = name + ".bias"
            Mean = name + ".running_mean"
            Variance = name + ".running_var"
            Counter = name + ".num_batches_tracked"
            Channels = channels
        }

    /// A linear layer with bias.
    let dense (name: string) (inputs: int) (outputs: int) : Dense = {
        Weight = name + ".weight"
        Bias = name + ".bias"
        In = inputs
        Out = outputs
    }

    /// The input itself.
    let identity: Layer = Sequence []

    /// What the layer needs, in state_dict order. `convolutions` says how the family's convolutions start.
    let rec declarations (convolutions: Initial) (layer: Layer) : Declaration list =
        let trained name shape initial = { Name = name; Shape = shape; Initial = initial; Trained = true }

        let buffer name shape value = { Name = name; Shape = shape; Initial = Fill value; Trained = false }

        match layer with
        | Conv c ->
            let fanIn = c.In / c.Groups * c.Kernel * c.Kernel
            let weight = trained c.Weight [ c.Out; c.In / c.Groups; c.Kernel; c.Kernel ] convolutions

            let bias =
                c.Bias
                |> Option.map (fun name -> trained name [ c.Out ] (UniformFanIn fanIn))
                |> Option.toList

            weight :: bias
        | BatchNorm n -> [
            trained n.Scale [ n.Channels ] (Fill 1.0)
            trained n.Shift [ n.Channels ] (Fill 0.0)
            buffer n.Mean [ n.Channels ] 0.0
            buffer n.Variance [ n.Channels ] 1.0
            buffer n.Counter [] 0.0
          ]
        | Linear d -> [
            trained d.Weight [ d.Out; d.In ] (UniformFanIn d.In)
            trained d.Bias [ d.Out ] (UniformFanIn d.In)
          ]
        | Sequence layers -> List.collect (declarations convolutions) layers
        | Residual(body, shortcut) -> declarations convolutions body @ declarations convolutions shortcut
        | Block body -> declarations convolutions body
        | Custom custom -> custom.Declares
        | Relu
        | MaxPool _
        | AvgPool _
        | GlobalPool
        | Tap -> []

    /// The shape [C; H; W] (or [C]) that the layer makes of one image of the given shape.
    let rec outputShape (layer: Layer) (input: int list) : int list =
        let windowed channels kernel stride padding =
            match input with
            | [ _; height; width ] ->
                let reduced size = (size + 2 * padding - kernel) / stride + 1
                [ channels; reduced height; reduced width ]
            | _ -> invalidArg (nameof input) $"an image [C; H; W] is expected, got %A{input}."

        match layer with
        | Conv c -> windowed c.Out c.Kernel c.Stride c.Padding
        | MaxPool(kernel, stride, padding)
        | AvgPool(kernel, stride, padding) -> windowed input.Head kernel stride padding
        | GlobalPool -> [ input.Head ]
        | Linear d -> [ d.Out ]
        | Sequence layers -> List.fold (fun shape layer -> outputShape layer shape) input layers
        | Residual(body, _)
        | Block body -> outputShape body input
        | Custom custom -> custom.OutputShape input
        | BatchNorm _
        | Relu
        | Tap -> input

    /// By how much the layer's strides divide an image: its smallest sensible height and width.
    let rec totalStride (layer: Layer) : int =
        match layer with
        | Conv c -> c.Stride
        | MaxPool(_, stride, _)
        | AvgPool(_, stride, _) -> stride
        | Sequence layers -> List.fold (fun stride layer -> stride * totalStride layer) 1 layers
        | Residual(body, _)
        | Block body -> totalStride body
        | BatchNorm _
        | Relu
        | GlobalPool
        | Linear _
        | Tap
        | Custom _ -> 1

    /// Runs the layer. `taps` collects the features in their order; in training mode batch normalisation uses and
    /// updates the statistics of the batch.
    let rec forward
        (weights: Tree)
        (training: bool)
        (taps: ResizeArray<Tensor>)
        (layer: Layer)
        (x: Tensor)
        : Tensor =
        let tensor name = Tree.find name weights

        // A ReLU overwrites what only it sees: the fresh result of the layer before it, which no backward pass needs.
        let rec run layers x =
            match layers with
            | [] -> x
            | (BatchNorm _ | Residual _ as first) :: Relu :: rest ->
                let y = forward weights training taps first x
                Tensor.reluInto y
                run rest y
            | first :: rest -> forward weights training taps first x |> run rest

        match layer with
        | Conv c -> Tensor.conv2d c.Stride c.Padding c.Groups (tensor c.Weight) (Option.map tensor c.Bias) x
        | BatchNorm n ->
            Tensor.batchNorm
                training
                momentum
                epsilon
                (tensor n.Scale)
                (tensor n.Shift)
                (tensor n.Mean)
                (tensor n.Variance)
                x
        | Relu -> Tensor.relu x
        | MaxPool(kernel, stride, padding) -> Tensor.maxPool2d kernel stride padding x
        | AvgPool(kernel, stride, padding) -> Tensor.avgPool2d kernel stride padding x
        | GlobalPool -> Tensor.meanOverImage x
        | Linear d -> Tensor.linear (tensor d.Weight) (Some(tensor d.Bias)) x
        | Sequence layers -> run layers x
        | Residual(body, shortcut) ->
            forward weights training taps body x + forward weights training taps shortcut x
        | Tap ->
            taps.Add x
            x
        | Block body ->
            Tensor.scopeWith
                (fun result -> Seq.append [ result ] taps)
                (fun () -> forward weights training taps body x)
        | Custom custom -> custom.Forward weights training x
