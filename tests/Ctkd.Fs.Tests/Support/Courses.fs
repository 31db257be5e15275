/// Small courses that train in a moment.
module Ctkd.Fs.Tests.Courses

open Ctkd.Fs

/// A network of one convolution: some hundred parameters.
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

/// Weights of a teacher, from its own seed.
let teacherWeights (dtype: DType) (teacher: Model) : Tree =
    Model.declarations teacher |> Initialise.tree dtype Device.Cpu (Rng.ofSeed 99)

/// Labels alone: 4 classes, batches of 8.
let alone: Course = {
    Student = tiny 4 4
    Teaching = None
    CrossEntropy = Schedule.constant 1.0
    LearningRate = Schedule.constant 0.05
    Sgd = Sgd.defaults
    DecayTemperature = true
    Epochs = 2
    Batch = 8
    TrainImages = 1000
    Seed = 1
    Pad = 1
    Flip = true
    Precision = F32
    ChannelsLast = false
    Device = Device.Cpu
}

/// A course with a teacher under the policy.
let taught (policy: Policy) (course: Course) : Course =
    let teacher = tiny 6 4

    {
        course with
            Teaching =
                Some {
                    Model = teacher
                    Weights = teacherWeights (Course.dtype course) teacher
                    Policy = policy
                    Distillers = [ Schedule.constant 0.9, Distiller.kd ]
                }
            CrossEntropy = Schedule.constant 0.1
    }

/// An agent that learns and mixes images as early as it can.
let eager: RlkdConfig = { RlkdConfig.paper with WarmUp = 1; Every = 1 }

/// A fixed T, CTKD's two policies with a curriculum of 2 epochs, and RLKD's agent.
let policies: Policy list = [
    Temperature.fixedAt 4.0
    Temperature.ctkdGlobal Temperature.published (Schedule.curriculum 2)
    Temperature.ctkdInstance Temperature.published 8 (Schedule.curriculum 2)
    Rlkd.policy eager 4.0
]

/// So many random images for a course.
let upload (count: int) (course: Course) : DeviceSet =
    let third = [ 0.5; 0.5; 0.5 ]

    Generators.images 5 count course.Student.Classes 8
    |> Augment.upload (Course.dtype course) course.Device third third

/// Asks nobody to stop.
let never (_: TrainState) (_: int) : bool = false

/// Runs the state's epoch to its end.
let rec complete (course: Course) (set: DeviceSet) (state: TrainState) : TrainState =
    match Train.epoch course 100 never set state with
    | Train.Complete state -> state
    | Train.Stopped state -> complete course set state
    | Train.Broke(step, term) -> failwith $"{term} broke in step {step}"

/// Runs the state's epoch and all that follow.
let rec finish (course: Course) (set: DeviceSet) (state: TrainState) : TrainState =
    let state = complete course set state

    if state.Epoch >= course.Epochs then
        state
    else
        finish course set (Train.nextEpoch state.Best state)
