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

/// An image network as data: no module objects, no hidden state. Its weights are a separate `Tree`.
[<NoComparison; NoEquality>]
type Model = {
    Name: string
    Classes: int
    /// Maps images [N, 3, H, W] to pooled features [N, D].
    Body: Layer
    /// The last layer, separate because SRRL and linear probes need the teacher's.
    Classifier: Dense
    /// Dropout probability of the pooled features before the classifier; 0 in most models.
    Dropout: float
    Starts: Starts
}

/// Functions over models.
[<RequireQualifiedAccess>]
module Model =

    /// Returns the whole network as one layer.
    let layers (model: Model) : Layer = Sequence [ model.Body; Linear model.Classifier ]

    /// Returns every layer with its shapes for images of the given size, in execution order.
    let trace (height: int) (width: int) (model: Model) : Traced list =
        Shapes.trace (layers model) [ 3; height; width ] |> fst

    /// Returns the declarations of all tensors in the state_dict, in PyTorch's order.
    let declarations (model: Model) : Declaration list = Layer.declarations model.Starts (layers model)

    /// Counts the trained parameters.
    let parameterCount (model: Model) : int64 =
        model |> declarations |> List.filter _.Trained |> List.sumBy (_.Shape >> Shapes.elements)

    /// Returns the names of the trained tensors.
    let trainedNames (model: Model) : Set<string> =
        model |> declarations |> List.filter _.Trained |> List.map _.Name |> Set.ofList

    /// Returns the smallest image size that the model's strides allow.
    let smallestInput (model: Model) : int = Shapes.totalStride model.Body

    /// Refuses images smaller than the model's strides allow.
    let checkInput (height: int) (width: int) (model: Model) : Result<unit, Error> =
        let smallest = smallestInput model

        if min height width >= smallest then
            Ok()
        else
            Error.fail
                Usage
                $"model {model.Name} cannot see images of {height} x {width}"
                "its strides halve an image until nothing is left"
                $"use images of at least {smallest} x {smallest}, or a model with fewer strides"

    /// Refuses training batches that leave a batch normalisation with one value per channel: a single image whose map
    /// is one pixel there.
    let checkBatch (smallest: int) (height: int) (width: int) (model: Model) : Result<unit, Error> =
        let isAlone (traced: Traced) =
            match traced.Layer with
            | BatchNorm _ -> Shapes.elements traced.Input.Tail = 1L
            | _ -> false

        if smallest > 1 || not (List.exists isAlone (trace height width model)) then
            Ok()
        else
            Error.fail
                Usage
                $"model {model.Name} cannot be trained on a batch of one image of {height} x {width}"
                "a batch normalisation sees one pixel of it, which has no variance"
                "leave out the last batch with --drop-last, choose another --batch of 2 or more, or take larger images"

    /// Computes logits and features of a batch of images. Training mode normalises with the batch's statistics and
    /// updates the running ones in place; the training step advances the batch counters (`counters`). Dropout draws
    /// from the engine's generator, which the training step seeds. `products` as in `Layer.forwardIn`.
    let forwardIn (products: DType option) (model: Model) (training: bool) (weights: Tree) (images: Tensor) : Outputs =
        let taps = ResizeArray<Tensor>()
        let run = Layer.forwardIn products weights training taps
        let pooled = run model.Body images

        let kept = if training && model.Dropout > 0.0 then Tensor.dropout model.Dropout pooled else pooled

        let logits = run (Linear model.Classifier) kept

        { Features = List.ofSeq taps; Pooled = pooled; Logits = logits }

    /// `forwardIn` in the type of the weights.
    let forward (model: Model) (training: bool) (weights: Tree) (images: Tensor) : Outputs =
        forwardIn None model training weights images

    /// A model of layers: `body` takes images [N, 3, H, W] to pooled features [N, D], `classifier` those to logits.
    let ofLayers (name: string) (starts: Starts) (body: Layer) (classifier: Dense) : Model = {
        Name = name
        Classes = classifier.Out
        Body = body
        Classifier = classifier
        Dropout = 0.0
        Starts = starts
    }

    /// Wraps any forward function, such as that of a trained TorchSharp module, as a teacher model with its weights. It
    /// provides logits only, so feature-based methods do not accept it. Its last layer is the identity, which is exact
    /// in float32 and rounds if the run multiplies in a smaller type.
    let ofLogits (name: string) (classes: int) (forward: Tensor -> Tensor) : Model * Tree =
        let identity = Layer.dense "logits" classes classes

        let body = {
            Name = name
            Declares = []
            Forward = fun _ _ images -> forward images
            OutputShape = fun _ -> [ classes ]
        }

        let ones = Array.init (classes * classes) (fun i -> if i % (classes + 1) = 0 then 1.0 else 0.0)

        {
            Name = name
            Classes = classes
            Body = Custom body
            Classifier = identity
            Dropout = 0.0
            Starts = Starts.pyTorch
        },
        Tree.ofSeq [
            identity.Weight, Tensor.ofFloats DType.Float32 [ classes; classes ] ones
            identity.Bias, Tensor.zeros DType.Float32 Device.Cpu [| int64 classes |]
        ]

    /// Returns the batch counters of a model's normalisations, which advance together in one call per step.
    let counters (weights: Tree) : Tensor[] = weights |> Tree.filter Layer.isCounter |> Tree.leaves

/// Initial values of declared tensors.
[<RequireQualifiedAccess>]
module Initialise =
    let private values (rng: Rng) (declaration: Declaration) : float[] =
        let count = List.fold (*) 1 declaration.Shape
        let rng = Rng.split declaration.Name rng

        match declaration.Initial with
        | Fill value -> Array.create count value
        | KaimingNormalFanOut ->
            let fanOut = declaration.Shape.Head * List.fold (*) 1 (List.skip 2 declaration.Shape)
            let deviation = sqrt (2.0 / float fanOut)
            Rng.normals count rng |> Array.map (fun x -> x * deviation)
        | Normal deviation -> Rng.normals count rng |> Array.map (fun x -> x * deviation)
        | UniformFanIn fanIn -> Rng.uniforms (1.0 / sqrt (float fanIn)) count rng

    /// Returns the type in which a tensor is stored: int64 for counters, else `dtype`.
    let dtypeOf (dtype: DType) (name: string) : DType = if Layer.isCounter name then DType.Int64 else dtype

    /// Draws the values of every declaration, each from its own key: adding a layer does not change the others.
    let tree (dtype: DType) (device: Device) (rng: Rng) (declarations: Declaration list) : Tree =
        declarations
        |> List.map (fun d ->
            let make () = Tensor.ofFloats (dtypeOf dtype d.Name) d.Shape (values rng d) |> Tensor.toDevice device

            d.Name, Tensor.scope make
        )
        |> Tree.ofSeq
