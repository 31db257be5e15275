/// Small plans that train in a moment.
module Ctkd.Fs.Tests.Plans

open Ctkd.Fs

/// A network with one convolution and a few hundred parameters.
let tiny (width: int) (classes: int) : Model = {
    Name = $"tiny{width}"
    Classes = classes
    Body =
        Sequence [
            Block(Sequence [ Layer.conv "conv" 3 2 3 width; Layer.batchNorm "bn" width; Relu ])
            Tap
            GlobalPool
        ]
    Classifier = Layer.dense "fc" width classes
    Dropout = 0.0
    Starts = Starts.kaiming
}

/// A teacher's weights, from their own seed.
let teacherWeights (dtype: DType) (teacher: Model) : Tree =
    Model.declarations teacher |> Initialise.tree dtype Device.Cpu (Rng.ofSeed 99)

/// A plan without a teacher: 4 classes, batches of 8.
let alone: TrainingPlan = {
    Student = tiny 4 4
    Distillation = None
    CrossEntropy = Schedule.constant 1.0
    LearningRate = Schedule.constant 0.05
    Optimiser = Optimiser.defaults
    DecayTemperature = true
    LabelSmoothing = 0.0
    ClipGradients = None
    Average = None
    Patience = None
    Mixup = None
    Epochs = 2
    Batch = 8
    DropLast = false
    TrainImages = 1000
    Unlabelled = false
    Seed = 1
    Pad = 1
    Flip = true
    Precision = F32
    ChannelsLast = false
    Device = Device.Cpu
}

/// The plan with a teacher under the policy.
let taught (policy: Policy) (plan: TrainingPlan) : TrainingPlan =
    let teacher = tiny 6 4

    {
        plan with
            Distillation =
                Some {
                    Model = teacher
                    Weights = teacherWeights (TrainingPlan.dtype plan) teacher
                    Policy = policy
                    Distillers = [ Schedule.constant 0.9, Kd.distiller ]
                }
            CrossEntropy = Schedule.constant 0.1
    }

/// An agent that learns and mixes images as early as possible.
let eager: RlkdConfig = { RlkdConfig.paper with WarmUp = 1; Every = 1 }

/// A fixed T, CTKD's two policies with a 2-epoch curriculum, and RLKD's agent.
let policies: Policy list = [
    Scheduled.fixedAt 4.0
    Ctkd.globalPolicy Ctkd.publishedRange (Schedule.curriculum 2)
    Ctkd.instancePolicy Ctkd.publishedRange 8 (Schedule.curriculum 2)
    Rlkd.policy eager 4.0
]

/// Uploads `count` random images for a plan.
let upload (count: int) (plan: TrainingPlan) : DeviceSet =
    let third = [ 0.5; 0.5; 0.5 ]

    Generators.images 5 count plan.Student.Classes 8
    |> Augment.upload (TrainingPlan.dtype plan) plan.Device third third

/// Never stops.
let never (_: TrainState) (_: int) : bool = false

/// A trainer of the plan on the images; the teacher runs within each step.
let trainer (plan: TrainingPlan) (set: DeviceSet) : Trainer = {
    Plan = plan
    Teacher = TeacherOutputs.simple
    Images = OnDevice set
}

/// Computes the losses of a state's next batch.
let losses (plan: TrainingPlan) (values: EpochValues) (state: TrainState) (batch: Batch) : BatchLosses =
    let clock = Tensor.scalar DType.Int64 plan.Device (float state.Step)
    TeacherOutputs.ofBatch plan batch |> MinMax.losses plan values clock state

/// Does one step on a batch.
let step (plan: TrainingPlan) (values: EpochValues) (state: TrainState) (batch: Batch) : TrainState =
    Tensor.scoped (fun () -> TeacherOutputs.ofBatch plan batch |> Train.step plan values state)

/// Runs the rest of a state's epoch from the host, with these options of the teacher.
let epochOf (options: TeacherOptions) plan (readEvery: int) pause (set: DeviceSet) (state: TrainState) : EpochEnd =
    Train.epoch (Train.fromHost { trainer plan set with Teacher = options }) readEvery pause state

/// Runs the rest of a state's epoch from the host.
let epoch (plan: TrainingPlan) (readEvery: int) pause (set: DeviceSet) (state: TrainState) : EpochEnd =
    epochOf TeacherOutputs.simple plan readEvery pause set state

/// Runs the state's epoch to its end.
let rec complete (plan: TrainingPlan) (set: DeviceSet) (state: TrainState) : TrainState =
    match epoch plan 100 never set state with
    | Complete state -> state
    | Stopped state -> complete plan set state
    | Broke(step, term) -> failwith $"{term} broke in step {step}"

/// Runs the state's epoch and all following ones.
let rec finish (plan: TrainingPlan) (set: DeviceSet) (state: TrainState) : TrainState =
    let state = complete plan set state

    if state.Epoch >= plan.Epochs then
        state
    else
        finish plan set (TrainState.nextEpoch state.Best state)
