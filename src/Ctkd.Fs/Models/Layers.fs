namespace Ctkd.Fs

/// The outputs of a model for a batch.
[<ReferenceEquality>]
type Outputs = {
    /// The inputs of the tapped layers, from the stem on: [N, C, H, W] each.
    Features: Tensor list
    /// The input of the classifier: [N, D].
    Pooled: Tensor
    /// Unnormalised log-probabilities: [N, classes].
    Logits: Tensor
}

/// Functions over outputs.
[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module Outputs =

    /// Applies a function to every tensor.
    let map (change: Tensor -> Tensor) (outputs: Outputs) : Outputs = {
        Features = List.map change outputs.Features
        Pooled = change outputs.Pooled
        Logits = change outputs.Logits
    }

    /// Returns all tensors.
    let tensors (outputs: Outputs) : Tensor list = outputs.Logits :: outputs.Pooled :: outputs.Features

/// A convolution without dilation. Names are those of its tensors in the state_dict.
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

/// A network as data: other functions run, declare, measure and print it.
[<NoComparison>]
type Layer =
    | Conv of Convolution
    | BatchNorm of Normalisation
    | Relu
    /// min(max(x, 0), 6).
    | Relu6
    | MaxPool of kernel: int * stride: int * padding: int
    | AvgPool of kernel: int * stride: int * padding: int
    /// Mean over height and width: [N, C, H, W] -> [N, C].
    | GlobalPool
    | Linear of Dense
    | Sequence of Layer list
    /// body x + shortcut x.
    | Residual of body: Layer * shortcut: Layer
    /// Runs all branches on the same input and joins their results along the channels.
    | Concat of Layer list
    /// `count` channels from `first` on.
    | Channels of first: int * count: int
    /// Transposes channels as (groups, channels per group), to mix what grouped convolutions keep apart.
    | Shuffle of groups: int
    /// Records its input as a feature and returns it.
    | Tap
    /// Frees everything the body made except its result, so that activations die with their block.
    | Block of Layer
    /// Any other layer, by its declarations and its forward function.
    | Custom of Custom
    /// A whole network that the library only runs: the body of a model, which gives the logits by itself.
    | Whole of Whole

/// A user-defined layer.
and [<ReferenceEquality>] Custom = {
    /// Appears in messages.
    Name: string
    Declares: Declaration list
    /// Takes the weights, whether training, and the input.
    Forward: Tree -> bool -> Tensor -> Tensor
    /// Maps the shape [C; H; W] of one image to that of the result; raises `ArgumentException` if the input does not
    /// fit.
    OutputShape: int list -> int list
}

/// A network that is not made of layers: a module of the program's own, or the program in a file.
and [<ReferenceEquality>] Whole = {
    /// Appears in messages.
    Name: string
    Declares: Declaration list
    /// Takes the weights, whether training, and images [N, 3, H, W]. Without pooled features they are the logits again.
    Forward: Tree -> bool -> Tensor -> Outputs
    /// Maps the shape [3; H; W] of one image to those of the features.
    Maps: int list -> int list list
    /// Length of the pooled features; 0 if it shows none.
    Pooled: int
    /// Shares of several networks in one, which sum to 1: its pooled features are their logits side by side; empty for one.
    Shares: float list
    Classes: int
}

/// Constructors with PyTorch's names, and functions over `Layer`.
[<RequireQualifiedAccess>]
module Layer =

    /// Epsilon of every batch normalisation in the zoo: PyTorch's default, like the momentum.
    let epsilon = 1e-5

    let private momentum = 0.1

    /// A convolution that keeps the image size at stride 1 (padding kernel / 2), named after its module.
    let convolution (name: string) (kernel: int) (stride: int) (inputs: int) (outputs: int) : Convolution = {
        Weight = name + ".weight"
        Bias = None
        In = inputs
        Out = outputs
        Kernel = kernel
        Stride = stride
        Padding = kernel / 2
        Groups = 1
    }

    /// `convolution` as a layer, without bias.
    let conv (name: string) (kernel: int) (stride: int) (inputs: int) (outputs: int) : Layer =
        Conv(convolution name kernel stride inputs outputs)

    /// As `conv`, with bias.
    let convWithBias (name: string) (kernel: int) (stride: int) (inputs: int) (outputs: int) : Layer =
        Conv {
            convolution name kernel stride inputs outputs with
                Bias = Some(name + ".bias")
        }

    /// As `conv`, split into groups: each group of outputs depends only on its group of inputs.
    let groupedConv (groups: int) (name: string) (kernel: int) (stride: int) (inputs: int) (outputs: int) : Layer =
        Conv { convolution name kernel stride inputs outputs with Groups = groups }

    /// A 3 x 3 convolution of each channel separately.
    let depthwiseConv (name: string) (stride: int) (channels: int) : Layer =
        groupedConv channels name 3 stride channels channels

    /// Batch normalisation, named after its module.
    let batchNorm (name: string) (channels: int) : Layer =
        BatchNorm {
            Scale = name + ".weight"
            Shift = name + ".bias"
            Mean = name + ".running_mean"
            Variance = name + ".running_var"
            Counter = name + ".num_batches_tracked"
            Channels = channels
        }

    /// Whether the name is that of a normalisation's batch counter.
    let isCounter (name: string) : bool = name.EndsWith("num_batches_tracked", System.StringComparison.Ordinal)

    /// A linear layer with bias.
    let dense (name: string) (inputs: int) (outputs: int) : Dense = {
        Weight = name + ".weight"
        Bias = name + ".bias"
        In = inputs
        Out = outputs
    }

    /// Returns its input.
    let identity: Layer = Sequence []

    /// Returns the layers without nested layers, in execution order.
    let rec leaves (layer: Layer) : Layer list =
        match layer with
        | Sequence layers
        | Concat layers -> List.collect leaves layers
        | Residual(body, shortcut) -> leaves body @ leaves shortcut
        | Block body -> leaves body
        | leaf -> [ leaf ]

    /// Returns the tensors that the layer needs, in state_dict order.
    let rec declarations (starts: Starts) (layer: Layer) : Declaration list =
        let trained name shape initial = { Name = name; Shape = shape; Initial = initial; Trained = true }

        let buffer name shape value = { Name = name; Shape = shape; Initial = Fill value; Trained = false }

        match layer with
        | Conv c ->
            let fanIn = c.In / c.Groups * c.Kernel * c.Kernel

            let weight = trained c.Weight [ c.Out; c.In / c.Groups; c.Kernel; c.Kernel ] (starts.Convolution fanIn)

            let bias =
                c.Bias
                |> Option.map (fun name -> trained name [ c.Out ] (starts.ConvolutionBias fanIn))
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
            trained d.Weight [ d.Out; d.In ] (starts.Linear d.In)
            trained d.Bias [ d.Out ] (starts.LinearBias d.In)
          ]
        | Sequence layers
        | Concat layers -> List.collect (declarations starts) layers
        | Residual(body, shortcut) -> declarations starts body @ declarations starts shortcut
        | Block body -> declarations starts body
        | Custom custom -> custom.Declares
        | Whole whole -> whole.Declares
        | Relu
        | Relu6
        | MaxPool _
        | AvgPool _
        | GlobalPool
        | Channels _
        | Shuffle _
        | Tap -> []

    /// Whether the result may be overwritten in training: the layer allocated it, and no backward pass needs it.
    let rec private isFresh (layer: Layer) : bool =
        match layer with
        | Conv _
        | BatchNorm _ -> true
        | Sequence layers -> not layers.IsEmpty && isFresh (List.last layers)
        | _ -> false

    /// Whether the result may be overwritten without a backward pass, given whether the input may be.
    let rec private owns (input: bool) (layer: Layer) : bool =
        match layer with
        | Conv _
        | BatchNorm _
        | Relu
        | Relu6
        | MaxPool _
        | AvgPool _
        | Linear _
        | Residual _
        | Concat _ -> true
        | Sequence layers -> List.fold owns input layers
        | Block body -> owns input body
        | GlobalPool
        | Channels _
        | Shuffle _
        | Tap
        | Custom _
        | Whole _ -> false

    let private asConv (layer: Layer) : Convolution option =
        match layer with
        | Conv c -> Some c
        | _ -> None

    let private asNorm (layer: Layer) : Normalisation option =
        match layer with
        | BatchNorm n -> Some n
        | _ -> None

    /// Splits off the last layer if `pick` accepts it.
    let private (|EndsIn|_|) (pick: Layer -> 'T option) (layer: Layer) : (Layer * 'T) option =
        match layer with
        | Sequence layers ->
            match List.rev layers with
            | last :: before -> pick last |> Option.map (fun picked -> Sequence(List.rev before), picked)
            | [] -> None
        | layer -> pick layer |> Option.map (fun picked -> identity, picked)

    /// Whether a layer may keep its input after returning, or return it.
    let private keepsInput (layer: Layer) : bool =
        leaves layer
        |> List.exists (
            function
            | Tap
            | Custom _
            | Whole _ -> true
            | _ -> false
        )

    /// `products`: the type in which convolutions and linear layers multiply, or `None` for the type of their weights.
    /// `own`: whether the input may be overwritten without a backward pass.
    let rec private runOn
        (products: DType option)
        (weights: Tree)
        (training: bool)
        (taps: ResizeArray<Tensor>)
        (own: bool)
        (layer: Layer)
        (x: Tensor)
        : Tensor =
        let go = runOn products weights training taps
        let tensor name = Tree.find name weights
        let rounded (x: Tensor) = products |> Option.fold (fun x dtype -> Tensor.toType dtype x) x

        let convolve (operator: int -> int -> int -> Tensor -> Tensor option -> Tensor -> Tensor) c x =
            operator
                c.Stride
                c.Padding
                c.Groups
                (rounded (tensor c.Weight))
                (Option.map (tensor >> rounded) c.Bias)
                (rounded x)

        let normalise operator n x =
            operator training momentum epsilon (tensor n.Scale) (tensor n.Shift) (tensor n.Mean) (tensor n.Variance) x

        // Without training, a convolution and the following sum and ReLU run in one pass over memory. In training, a
        // ReLU overwrites the result of the layer before it if nothing else, including the backward pass, needs it.
        let rec run own layers x =
            match layers with
            | [] -> x
            | Conv c :: Relu :: rest when not training -> convolve Tensor.conv2dRelu c x |> run true rest
            | Residual(EndsIn asConv (before, c), shortcut) :: Relu :: rest when not training ->
                let inner, skip = go false before x, go false shortcut x
                let free = own && not (keepsInput before)
                let residual = if owns free shortcut then skip else Tensor.clone skip
                convolve (Tensor.conv2dAddRelu residual) c inner |> run true rest
            | Residual(EndsIn asNorm (before, n), shortcut) :: Relu :: rest when training ->
                let inner, skip = go false before x, go false shortcut x
                normalise (Tensor.batchNormAddRelu skip) n inner |> run true rest
            | BatchNorm n :: Relu :: rest -> normalise Tensor.batchNormRelu n x |> run true rest
            | (Conv _ | Residual _ | Concat _ as first) :: Relu :: rest ->
                let y = go own first x
                Tensor.reluInto y
                run true rest y
            | first :: rest -> go own first x |> run (owns own first) rest

        match layer with
        | Conv c -> convolve Tensor.conv2d c x
        | BatchNorm n -> normalise Tensor.batchNorm n x
        | Relu -> Tensor.relu x
        | Relu6 -> Tensor.clamp 0.0 6.0 x
        | MaxPool(kernel, stride, padding) -> Tensor.maxPool2d kernel stride padding x
        | AvgPool(kernel, stride, padding) -> Tensor.avgPool2d kernel stride padding x
        | GlobalPool -> Tensor.meanOverImage x
        | Linear d -> Tensor.linear (rounded (tensor d.Weight)) (Some(rounded (tensor d.Bias))) (rounded x)
        | Sequence layers -> run own layers x
        | Residual(body, shortcut) ->
            let sum, skip = go false body x, go false shortcut x

            if isFresh body then
                Tensor.addInto sum skip
                sum
            else
                sum + skip
        | Concat branches -> branches |> List.map (fun branch -> go false branch x) |> Tensor.cat 1
        | Channels(first, count) -> Tensor.slice 1 first (first + count) x
        | Shuffle groups -> Tensor.shuffleChannels groups x
        | Tap ->
            taps.Add x
            x
        | Block body -> Tensor.scopeWith (fun result -> Seq.append [ result ] taps) (fun () -> go own body x)
        | Custom custom ->
            let isRounded = products = Some(Tensor.dtype x) && Tensor.dtype x = DType.BFloat16
            custom.Forward weights training (if isRounded then Tensor.toType DType.Float32 x else x)
        | Whole whole ->
            let outputs = whole.Forward weights training x
            taps.AddRange outputs.Features
            outputs.Logits

    /// Runs the layer. `taps` collects the features in order. Training mode normalises with the batch's statistics and
    /// updates the running ones. Does not modify the input.
    ///
    /// With `products`, convolutions and linear layers round weights and inputs to that type and return it. Statistics
    /// keep the type of their weights, and user-defined layers (`Custom`) get float32.
    let forwardIn
        (products: DType option)
        (weights: Tree)
        (training: bool)
        (taps: ResizeArray<Tensor>)
        (layer: Layer)
        (x: Tensor)
        : Tensor =
        runOn products weights training taps false layer x

    /// `forwardIn` in the type of the weights.
    let forward (weights: Tree) (training: bool) (taps: ResizeArray<Tensor>) (layer: Layer) (x: Tensor) : Tensor =
        forwardIn None weights training taps layer x
