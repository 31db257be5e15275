namespace Ctkd.Fs

/// The temperature policies that settings name.
[<RequireQualifiedAccess>]
type PolicyName =
    | Fixed
    | Linear
    | Cosine
    | Dtkd
    | CtkdGlobal
    | CtkdInstance
    | Rlkd
    /// A policy of the program's own; `ctkd` knows none.
    | Own of string

    override policy.ToString() = Names.name policy

/// The optimisers that settings name.
[<RequireQualifiedAccess>]
type OptimiserName =
    | Sgd
    | Adamw

    override optimiser.ToString() = Names.name optimiser

/// How the learning rate falls.
[<RequireQualifiedAccess>]
type RateSchedule =
    /// By a factor at milestones.
    | Steps
    /// Along half a cosine.
    | Cosine

    override schedule.ToString() = Names.name schedule

/// Where the numbers of a run's epochs are written.
[<RequireQualifiedAccess>]
type LogName =
    /// `metrics.jsonl`, which every run writes.
    | Jsonl
    /// Event files of TensorBoard, too.
    | Tensorboard

    override log.ToString() = Names.name log

/// Every setting of a training run as plain data: it prints, serialises, compares, and a checkpoint carries it. What each
/// field means, its unit and its bound are in its row of `SettingsTable.all`.
type Settings = {
    Student: string
    Teacher: string
    TeacherWeights: string
    Teaching: TeacherSettings
    /// Weights that the student starts from; empty for drawn values.
    StudentWeights: string
    /// SHA-256 of these weights as they are used.
    StudentHash: string
    Data: string
    DataDir: string
    Mean: float list
    Std: float list
    PerClass: int
    Subset: int
    ValSplit: float
    SplitSeed: int
    Photos: PhotoSettings
    Epochs: int
    Batch: int
    DropLast: bool
    LearningRate: float
    Milestones: int list
    Decay: float
    LrSchedule: RateSchedule
    LrStop: float
    LrWarmUp: int
    Optimiser: OptimiserName
    Momentum: float
    WeightDecay: float
    Nesterov: bool
    AdamBeta1: float
    AdamBeta2: float
    AdamEpsilon: float
    LabelSmoothing: float
    Mixup: float
    ClipGradients: float
    Ema: float
    Patience: int
    Policy: PolicyName
    Standardise: bool
    T: float
    TStop: float
    TStart: float
    TScale: float
    Hidden: int
    CurriculumStart: float
    CurriculumStop: float
    CurriculumEpochs: int
    Rlkd: RlkdSettings
    DecayTemperature: bool
    CrossEntropy: float
    /// The distillation losses that are added up, each by its name with its weight.
    Methods: Map<string, float>
    DkdAlpha: float
    DkdBeta: float
    WarmUp: int
    Precision: Precision
    ChannelsLast: bool
    Device: string
    /// Threads of the processor; 0 leaves them as they are.
    Threads: int
    Tf32: bool
    Graph: bool
    Seed: int
    Log: LogName list
    TeacherAhead: int
    TeacherCache: string
    TeacherCacheGb: float
    TeacherCacheHalf: bool
}
