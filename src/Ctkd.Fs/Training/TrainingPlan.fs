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

/// The teacher's part in a plan.
[<NoComparison; NoEquality>]
type Distillation = {
    Model: Model
    /// Frozen; runs in evaluation mode, without gradient.
    Weights: Tree
    Policy: Policy
    /// Weighted distillation losses, each of a name of its own.
    Distillers: (Schedule * Distiller) list
}

/// Everything about a training run that does not change while it runs.
[<NoComparison; NoEquality>]
type TrainingPlan = {
    Student: Model
    /// None where the student learns from labels alone.
    Distillation: Distillation option
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

/// How a plan computes: precision, memory format, forward passes.
[<RequireQualifiedAccess>]
module TrainingPlan =

    /// Element type of weights.
    let dtype (plan: TrainingPlan) : DType =
        match plan.Precision with
        | F64 -> DType.Float64
        | F32
        | Bf16 -> DType.Float32

    /// The distillers with their weights by epoch; none without a teacher.
    let weightedDistillers (plan: TrainingPlan) : (Schedule * Distiller) list =
        plan.Distillation |> Option.map _.Distillers |> Option.defaultValue []

    /// The distillers; none without a teacher.
    let distillers (plan: TrainingPlan) : Distiller list = weightedDistillers plan |> List.map snd

    /// The temperature policy's agent; None without one.
    let agent (plan: TrainingPlan) : Agent option =
        plan.Distillation |> Option.bind (_.Policy >> Policy.agent)

    /// A generator for a purpose in an epoch: a function of seed, purpose and epoch, so that a resumed run repeats it.
    let random (purpose: string) (epoch: int) (plan: TrainingPlan) : Rng =
        Rng.ofSeed plan.Seed |> Rng.split purpose |> Rng.at epoch

    /// Names of the loss terms, the total last.
    let termNames (plan: TrainingPlan) : string list =
        [ "ce" ] @ (distillers plan |> List.map _.Name) @ [ "loss" ]

    /// Weights in the run's memory format.
    let format (plan: TrainingPlan) (weights: Tree) : Tree =
        weights
        |> Tree.map (fun _ w -> if plan.ChannelsLast && Tensor.rank w = 4 then Tensor.channelsLast w else w)

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

    /// The plan with its teacher made ready to run: it is frozen, so its batch normalisations are merged into its
    /// convolutions, and its weights get the run's precision and memory format. In float64, where reference numbers are
    /// wanted, its layers stay as they are.
    let prepareTeacher (plan: TrainingPlan) : TrainingPlan =
        let prepared (teacher: Distillation) =
            let model, weights =
                match plan.Precision with
                | F64 -> teacher.Model, teacher.Weights
                | F32 -> FoldBatchNorm.model teacher.Model teacher.Weights
                | Bf16 ->
                    let model, weights = FoldBatchNorm.model teacher.Model teacher.Weights
                    model, rounded model weights

            { teacher with Model = model; Weights = format plan weights }

        { plan with Distillation = Option.map prepared plan.Distillation }

    /// The type in which a plan's convolutions and linear layers multiply, where it is not that of the weights.
    let products (plan: TrainingPlan) : DType option =
        match plan.Precision with
        | F64
        | F32 -> None
        | Bf16 -> Some DType.BFloat16

    /// A model's classifier alone, in the plan's precision: pooled features to logits.
    let classify (plan: TrainingPlan) (model: Model) (weights: Tree) (pooled: Tensor) : Tensor =
        Layer.forwardIn (products plan) weights false (ResizeArray()) (Linear model.Classifier) pooled
        |> Tensor.toType (dtype plan)

    /// A forward pass in the plan's precision and memory format; logits come back in the weights' type.
    let forward
        (plan: TrainingPlan)
        (model: Model)
        (training: bool)
        (weights: Tree)
        (images: Tensor)
        : Outputs =
        let images = if plan.ChannelsLast then Tensor.channelsLast images else images
        let outputs: Outputs = Model.forwardIn (products plan) model training weights images
        let exact = Tensor.toType (dtype plan)

        { outputs with Logits = exact outputs.Logits; Pooled = exact outputs.Pooled }
