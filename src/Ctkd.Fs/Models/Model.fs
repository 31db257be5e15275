namespace Ctkd.Fs

/// An image network as data: no module objects, no hidden state. Its weights are a separate `Tree`.
[<NoComparison; NoEquality>]
type Model = {
    Name: string
    Classes: int
    /// Maps images [N, 3, H, W] to pooled features [N, D].
    Body: Layer
    /// The last layer, separate because SRRL and linear probes need the teacher's. Of a `Whole` only its sizes count: it has
    /// the logits' length on both sides where the network shows no pooled features.
    Classifier: Dense
    /// Dropout probability of the pooled features before the classifier; 0 in most models.
    Dropout: float
    Starts: Starts
}

/// Functions over models.
[<RequireQualifiedAccess>]
module Model =

    /// Returns the last layer, from pooled features to logits; the identity where the body gives the logits by itself.
    let classifier (model: Model) : Layer = if model.Body.IsWhole then Layer.identity else Linear model.Classifier

    /// Returns the whole network as one layer.
    let layers (model: Model) : Layer = Sequence [ model.Body; classifier model ]

    /// Whether training may draw from the engine's generator, which is then seeded at each step: a network of its own making
    /// may have dropout.
    let draws (model: Model) : bool = model.Dropout > 0.0 || model.Body.IsWhole

    /// Returns the length of the pooled features; 0 if the model shows none.
    let pooled (model: Model) : int =
        match model.Body with
        | Whole whole -> whole.Pooled
        | _ -> model.Classifier.In

    /// Returns the shares of several networks in one; empty for one.
    let shares (model: Model) : float list =
        match model.Body with
        | Whole whole -> whole.Shares
        | _ -> []

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
        match model.Body with
        | Whole whole -> whole.Forward weights training images
        | body ->
            let taps = ResizeArray<Tensor>()
            let run = Layer.forwardIn products weights training taps
            let pooled = run body images

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

    /// A model of a network that is not made of layers.
    let ofWhole (whole: Whole) : Model =
        let width = if whole.Pooled = 0 then whole.Classes else whole.Pooled

        {
            Name = whole.Name
            Classes = whole.Classes
            Body = Whole whole
            Classifier = Layer.dense "classifier" width whole.Classes
            Dropout = 0.0
            Starts = Starts.pyTorch
        }

    /// Wraps any forward function, such as that of a trained TorchSharp module, as a teacher model with its weights, which
    /// are none of the library's. It shows logits only, so feature-based methods do not accept it.
    let ofLogits (name: string) (classes: int) (forward: Tensor -> Tensor) : Model * Tree =
        let outputs _ _ images =
            let logits = forward images
            { Features = []; Pooled = logits; Logits = logits }

        ofWhole {
            Name = name
            Declares = []
            Forward = outputs
            Maps = fun _ -> []
            Pooled = 0
            Shares = []
            Classes = classes
        },
        Tree.empty

    /// Returns the batch counters of a model's normalisations, which advance together in one call per step.
    let counters (weights: Tree) : Tensor[] = weights |> Tree.filter Layer.isCounter |> Tree.leaves

/// Initial values of declared tensors.
[<RequireQualifiedAccess>]
module Initialise =
    let private values (rng: Rng) (declaration: Declaration) : float[] =
        let count = List.fold (*) 1 declaration.Shape
        let key = rng.Key
        let rng = Rng.split declaration.Name rng

        match declaration.Initial with
        | Fill value -> Array.create count value
        | KaimingNormalFanOut ->
            let fanOut = declaration.Shape.Head * List.fold (*) 1 (List.skip 2 declaration.Shape)
            let deviation = sqrt (2.0 / float fanOut)
            Rng.normals count rng |> Array.map (fun x -> x * deviation)
        | Normal deviation -> Rng.normals count rng |> Array.map (fun x -> x * deviation)
        | UniformFanIn fanIn -> Rng.uniforms (1.0 / sqrt (float fanIn)) count rng
        | FromModule start -> (start.Draw key)[declaration.Name] |> Array.map float

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
