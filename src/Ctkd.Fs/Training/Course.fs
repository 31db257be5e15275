namespace Ctkd.Fs

open System

/// How numbers are kept and computed during a run; the formulas do not know.
type Precision =
    /// float64 throughout: for reference numbers.
    | F64
    /// float32 throughout.
    | F32
    /// float32 weights; convolutions and products in bfloat16.
    | Bf16

/// The teacher's part in a course.
[<NoComparison; NoEquality>]
type Teaching = {
    Model: Model
    /// Frozen; runs in evaluation mode, without gradient.
    Weights: Tree
    Policy: Policy
    /// Weighted distillation losses, each of a name of its own.
    Distillers: (Schedule * Distiller) list
}

/// Everything about a training run that does not change while it runs.
[<NoComparison; NoEquality>]
type Course = {
    Student: Model
    /// None: the student learns from labels alone.
    Teaching: Teaching option
    /// Weight of the cross entropy with the labels.
    CrossEntropy: Schedule
    LearningRate: Schedule
    Sgd: Sgd
    /// Whether weight decay pulls the temperature's parameters too, as published.
    DecayTemperature: bool
    Epochs: int
    Batch: int
    /// Images of the training set, or more: T of each is kept until the epoch's end.
    TrainImages: int
    Seed: int
    /// Random crop after padding by so many pixels.
    Pad: int
    /// Random mirroring.
    Flip: bool
    Precision: Precision
    /// Memory format of images and weights: channels innermost.
    ChannelsLast: bool
    Device: Device
}

/// How a course computes: precision, memory format, forward passes.
[<RequireQualifiedAccess>]
module Course =

    /// Element type of weights.
    let dtype (course: Course) : DType =
        match course.Precision with
        | F64 -> DType.Float64
        | F32
        | Bf16 -> DType.Float32

    /// Its distillers; none without a teacher.
    let distillers (course: Course) : Distiller list =
        course.Teaching |> Option.map _.Distillers |> Option.defaultValue [] |> List.map snd

    /// Names of the loss terms, the total last.
    let termNames (course: Course) : string list =
        [ "ce" ] @ (distillers course |> List.map _.Name) @ [ "loss" ]

    /// Weights in the run's memory format.
    let format (course: Course) (weights: Tree) : Tree =
        weights
        |> Tree.map (fun _ w -> if course.ChannelsLast && Tensor.rank w = 4 then Tensor.channelsLast w else w)

    /// The convolutions' weights rounded once to the type in which they are multiplied.
    let private rounded (model: Model) (weights: Tree) : Tree =
        let convolutions =
            Layer.leaves model.Body
            |> List.collect (
                function
                | Conv c -> c.Weight :: Option.toList c.Bias
                | _ -> []
            )
            |> Set.ofList

        weights
        |> Tree.map (fun name w -> if convolutions.Contains name then Tensor.toType DType.BFloat16 w else w)

    /// The course with its teacher made ready to run: it is frozen, so its batch normalisations are merged into its
    /// convolutions, and its weights get the run's precision and memory format. In float64, where reference numbers are
    /// wanted, its layers stay as they are.
    let prepareTeacher (course: Course) : Course =
        let prepared (teaching: Teaching) =
            let model, weights =
                match course.Precision with
                | F64 -> teaching.Model, teaching.Weights
                | F32 -> FoldBatchNorm.model teaching.Model teaching.Weights
                | Bf16 ->
                    let model, weights = FoldBatchNorm.model teaching.Model teaching.Weights
                    model, rounded model weights

            { teaching with Model = model; Weights = format course weights }

        { course with Teaching = Option.map prepared course.Teaching }

    /// The type in which a course's convolutions and linear layers multiply, where it is not that of the weights.
    let products (course: Course) : DType option =
        match course.Precision with
        | F64
        | F32 -> None
        | Bf16 -> Some DType.BFloat16

    /// A model's classifier alone, in the course's precision: pooled features to logits.
    let classify (course: Course) (model: Model) (weights: Tree) (pooled: Tensor) : Tensor =
        Layer.forwardIn (products course) weights false (ResizeArray()) (Linear model.Classifier) pooled
        |> Tensor.toType (dtype course)

    /// A forward pass in the course's precision and memory format; logits come back in the weights' type.
    let forward (course: Course) (model: Model) (training: bool) (weights: Tree) (images: Tensor) : Outputs =
        let images = if course.ChannelsLast then Tensor.channelsLast images else images
        let outputs: Outputs = Model.forwardIn (products course) model training weights images
        let exact = Tensor.toType (dtype course)

        { outputs with Logits = exact outputs.Logits; Pooled = exact outputs.Pooled }
