namespace Ctkd.Fs

open System

/// How numbers are stored and computed during a run; the formulas do not depend on it.
type Precision =
    /// float64 throughout, for reference numbers.
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
    /// Distillation losses with their weights by epoch; names must differ.
    Distillers: (Schedule * Distiller) list
}

/// Everything about a run that stays the same while it runs.
[<NoComparison; NoEquality>]
type TrainingPlan = {
    Student: Model
    /// None where the student learns from labels alone.
    Distillation: Distillation option
    /// Weight of the cross entropy with the labels.
    CrossEntropy: Schedule
    LearningRate: Schedule
    Optimiser: Optimiser
    /// Whether weight decay applies to the temperature's parameters too, as published.
    DecayTemperature: bool
    /// Share of the label that is spread evenly over all classes (`Loss.smoothed`), in [0, 1); 0 for none.
    LabelSmoothing: float
    /// The largest norm of all gradients together, connectors' and temperature's included (`Gradients.clipped`).
    ClipGradients: float option
    /// Decay of the moving average of the student's weights (`WeightAverage`), which is then evaluated and exported.
    Average: float option
    /// Epochs after which a run ends if its best top-1 has not risen (`Best.hasStalled`).
    Patience: int option
    /// Alpha of mixup's shares (`Mixup`); not beside an agent or cached features.
    Mixup: float option
    Epochs: int
    Batch: int
    /// Whether an epoch leaves out its last batch where it is smaller than the others.
    DropLast: bool
    /// Number of training images, or more: T of each is kept until the epoch's end.
    TrainImages: int
    /// Whether the training images have no labels: those of a batch are then the teacher's choices.
    Unlabelled: bool
    Seed: int
    /// Pixels of padding on each side before the random crop.
    Pad: int
    /// Random mirroring.
    Flip: bool
    Precision: Precision
    /// Memory format of images and weights: channels innermost.
    ChannelsLast: bool
    Device: Device
}

/// How a plan computes: precision, memory format, forward passes, losses.
[<RequireQualifiedAccess>]
module TrainingPlan =

    /// Element type of weights.
    let dtype (plan: TrainingPlan) : DType =
        match plan.Precision with
        | F64 -> DType.Float64
        | F32
        | Bf16 -> DType.Float32

    /// The size of the smallest batch of an epoch over so many images.
    let smallestBatch (images: int) (plan: TrainingPlan) : int = ImageSet.smallestBatch plan.DropLast plan.Batch images

    /// The distillers with their weights by epoch; none without a teacher.
    let weightedDistillers (plan: TrainingPlan) : (Schedule * Distiller) list =
        plan.Distillation |> Option.map _.Distillers |> Option.defaultValue []

    /// The distillers; none without a teacher.
    let distillers (plan: TrainingPlan) : Distiller list = weightedDistillers plan |> List.map snd

    /// The temperature policy's agent; None without one.
    let agent (plan: TrainingPlan) : Agent option = plan.Distillation |> Option.bind (_.Policy >> Policy.agent)

    /// The names of the numbers that the policy reports of each image besides T; none without a teacher.
    let reportedNames (plan: TrainingPlan) : string list =
        plan.Distillation |> Option.map (_.Policy >> Policy.reportedNames) |> Option.defaultValue []

    /// A generator for a purpose in an epoch: a function of seed, purpose and epoch, so that a resumed run repeats it.
    let random (purpose: string) (epoch: int) (plan: TrainingPlan) : Rng =
        Rng.ofSeed plan.Seed |> Rng.split purpose |> Rng.at epoch

    /// Names of the loss terms, the total last.
    let termNames (plan: TrainingPlan) : string list = [ "ce" ] @ (distillers plan |> List.map _.Name) @ [ "loss" ]

    /// Converts weights to the plan's memory format.
    let format (plan: TrainingPlan) (weights: Tree) : Tree =
        weights |> Tree.map (fun _ w -> if plan.ChannelsLast && Tensor.rank w = 4 then Tensor.channelsLast w else w)

    /// Rounds the convolutions' weights once to the type in which they are multiplied.
    let private rounded (model: Model) (weights: Tree) : Tree =
        let convolutions =
            Layer.leaves model.Body
            |> List.collect (
                function
                | Conv c -> c.Weight :: Option.toList c.Bias
                | _ -> []
            )
            |> Set.ofList

        weights |> Tree.map (fun name w -> if convolutions.Contains name then Tensor.toType DType.BFloat16 w else w)

    /// Prepares the plan's teacher: it is frozen, so its batch normalisations are merged into its convolutions, and its weights
    /// get the plan's precision and memory format. In float64 its layers stay as they are.
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

    /// The type in which convolutions and linear layers multiply; None for that of the weights.
    let products (plan: TrainingPlan) : DType option =
        match plan.Precision with
        | F64
        | F32 -> None
        | Bf16 -> Some DType.BFloat16

    /// Runs a model's classifier alone, in the plan's precision: pooled features to logits.
    let classify (plan: TrainingPlan) (model: Model) (weights: Tree) (pooled: Tensor) : Tensor =
        match Model.shares model with
        | [] -> Layer.forwardIn (products plan) weights false (ResizeArray()) (Model.classifier model) pooled
        | shares -> SeveralTeachers.split shares.Length pooled |> SeveralTeachers.logits shares
        |> Tensor.toType (dtype plan)

    /// Runs a model in the plan's precision and memory format; logits and pooled features get the weights' type.
    let forward (plan: TrainingPlan) (model: Model) (training: bool) (weights: Tree) (images: Tensor) : Outputs =
        let images = if plan.ChannelsLast then Tensor.channelsLast images else images
        let outputs: Outputs = Model.forwardIn (products plan) model training weights images
        let exact = Tensor.toType (dtype plan)

        { outputs with Logits = exact outputs.Logits; Pooled = exact outputs.Pooled }

    /// Cross entropy with a batch's labels, smoothed by the plan, mean over the instances: shape []. Blends count both labels
    /// by weight.
    let crossEntropy (plan: TrainingPlan) (batch: Batch) (logits: Tensor) : Tensor =
        let exact =
            match batch.Mix with
            | None -> Loss.crossEntropy batch.Labels logits
            | Some mix -> Loss.mixedCrossEntropy mix.Weight mix.Other batch.Labels logits

        if plan.LabelSmoothing = 0.0 then
            exact
        else
            Loss.smoothed plan.LabelSmoothing exact logits

    /// Blends a batch of consecutive steps of an epoch, from step `step` on, where the plan mixes images.
    let mixed (plan: TrainingPlan) (epoch: int) (step: int) (batch: Batch) : Batch =
        match plan.Mixup with
        | None -> batch
        | Some alpha -> Mixup.steps alpha (random "mixup" epoch plan) plan.Batch step batch
