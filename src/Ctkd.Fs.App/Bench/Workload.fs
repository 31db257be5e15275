/// Training steps on random images: what the benchmarks time.
module Ctkd.Fs.App.Workload

open System
open System.Diagnostics
open Ctkd.Fs

/// One kind of training step.
[<NoComparison; NoEquality>]
type Workload = {
    Student: string
    Teacher: string
    Classes: int
    Batch: int
    Precision: Precision
    Device: Device
    Policy: Policy
    /// The distillation loss, with its weight.
    Distiller: ModelPair -> Result<float * Distiller, Error>
}

/// The random images that steps are fed with, and those that the training set counts.
let images, private trainImages = 4096, 50_000

let private size, private pad = 32, 4

let private curriculum = Schedule.constant 0.5

/// RLKD's agent, which the first epoch finds choosing, or learning too.
let private agent (learns: bool) : Policy =
    Rlkd.policy { RlkdConfig.paper with WarmUp = 1; Every = if learns then 1 else 2 } 4.0

/// The temperature policies that the benchmarks compare, as published.
let policies: (string * Policy) list = [
    "fixed T", Scheduled.fixedAt 4.0
    "fixed T standardised", Standardise.policy (Scheduled.fixedAt 4.0)
    "CTKD global", Ctkd.globalPolicy Ctkd.publishedRange curriculum
    "CTKD instance-wise", Ctkd.instancePolicy Ctkd.publishedRange Settings.defaults.Hidden curriculum
    "DTKD", Dtkd.policy 4.0
    "RLKD chooses", agent false
    "RLKD learns", agent true
]

/// The work of torch_step.py: CTKD's global temperature.
let published: Workload = {
    Student = "resnet20"
    Teacher = "resnet56"
    Classes = 100
    Batch = 64
    Precision = F32
    Device = Device.Cpu
    Policy = Ctkd.globalPolicy Ctkd.publishedRange curriculum
    Distiller = fun _ -> Ok(0.9, Kd.distiller)
}

let private model (work: Workload) (name: string) : Model = Zoo.find name work.Classes |> Error.orRaise

/// Multiply-accumulates of a model of the work for an image.
let macs (work: Workload) (name: string) : float =
    float (Macs.ofLayer [ 3; size; size ] (Model.layers (model work name))).Total

/// The plan of the work, with random weights and a prepared teacher.
let plan (work: Workload) : TrainingPlan =
    let student, teacher = model work work.Student, model work work.Teacher

    let weight, distiller =
        ModelPair.create size size (Array.init trainImages (fun i -> i % work.Classes)) work.Batch teacher student
        |> work.Distiller
        |> Error.orRaise

    TrainingPlan.prepareTeacher {
        Student = student
        Distillation =
            Some {
                Model = teacher
                Weights = Model.declarations teacher |> Initialise.tree DType.Float32 work.Device (Rng.ofSeed 2)
                Policy = work.Policy
                Distillers = [ Schedule.constant weight, distiller ]
            }
        CrossEntropy = Schedule.constant 0.1
        LearningRate = Schedule.constant 0.05
        Optimiser = Optimiser.defaults
        DecayTemperature = true
        LabelSmoothing = 0.0
        ClipGradients = None
        Average = None
        Patience = None
        Mixup = None
        Epochs = 1
        Batch = work.Batch
        DropLast = false
        TrainImages = trainImages
        Unlabelled = false
        Seed = 1
        Pad = pad
        Flip = true
        Precision = work.Precision
        ChannelsLast = true
        Device = work.Device
    }

/// The random images as the work's plan sees them.
let upload (work: Workload) (plan: TrainingPlan) : DeviceSet =
    let random = Random 3
    let pixels = Array.zeroCreate<byte>(images * 3 * size * size)
    random.NextBytes pixels

    {
        Name = "random"
        Classes = work.Classes
        Channels = 3
        Height = size
        Width = size
        Images = Pixels.InMemory pixels
        Labels = Array.init images (fun _ -> random.Next work.Classes)
    }
    |> Augment.upload DType.Float32 plan.Device [ 0.5071; 0.4867; 0.4408 ] [ 0.2675; 0.2565; 0.2761 ]

/// Runs a body on the next batch of one epoch after the other. Only the batch lives in the body's scope.
let onNext (plan: TrainingPlan) (set: DeviceSet) : (Batch -> unit) -> unit =
    let fresh epoch = Augment.shuffle (Rng.ofSeed plan.Seed) epoch pad true set
    let mutable order = fresh 0
    let mutable at, epoch = 0, 0

    fun body ->
        if at = images then
            at <- 0
            epoch <- epoch + 1
            Augment.tensors order |> List.iter Tensor.free
            order <- fresh epoch

        at <- at + plan.Batch
        Tensor.scoped (fun () -> Augment.batch pad order (at - plan.Batch) at set |> body)

/// The first batch of an epoch.
let firstBatch (plan: TrainingPlan) (set: DeviceSet) : Batch =
    Augment.batch pad (Augment.shuffle (Rng.ofSeed 1) 0 pad true set) 0 plan.Batch set

/// A function that trains a batch; its state goes from call to call.
let learner (plan: TrainingPlan) : Batch -> unit =
    let values = EpochValues.create plan 1
    let mutable state = TrainState.start plan
    fun batch -> state <- TeacherOutputs.ofBatch plan batch |> Train.step plan values state

/// The engine, and where it works.
let engine (work: Workload) : string =
    $"libtorch {(Engine.facts ()).Version}, {Engine.threads ()} threads, {work.Device}"

/// Seconds that some work takes on a device.
let seconds (device: Device) (work: unit -> unit) : float =
    // A CUDA device still works when the host is done.
    let wait () = if Engine.records device then Engine.synchronize ()
    wait ()
    let start = Stopwatch.GetTimestamp()
    work ()
    wait ()
    Stopwatch.GetElapsedTime(start).TotalSeconds
