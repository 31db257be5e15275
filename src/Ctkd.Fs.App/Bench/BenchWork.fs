/// Our side of `ctkd bench`: a server that does the same work as bench/torch_step.py, one line a command.
module Ctkd.Fs.App.BenchWork

open System
open System.IO
open Ctkd.Fs
open Ctkd.Fs.App.Workload

/// What can be timed: the whole step; the step as it is recorded on a CUDA device (on the CPU it is done anew each time);
/// the whole step when the teacher's features are remembered; the teacher's forward pass; the student's forward pass,
/// backward pass and optimiser; the making of batches.
let parts = [ "step"; "recorded"; "remembered"; "teacher"; "student"; "data" ]

/// The parts that are timed on a device unless one is chosen.
let partsOn (device: Device) : string list = if Engine.records device then parts else List.except [ "recorded" ] parts

/// The part of torch_step.py that does the same work.
let twin (part: string) : string =
    match part with
    | "recorded"
    | "remembered" -> "step"
    | same -> same

/// Floating-point operations of a part for an image: two a multiply-accumulate, and a backward pass is twice its forward
/// pass. The making of batches has none worth counting.
let operations (part: string) : float option =
    let macs = macs published
    let teacher, student = 2.0 * macs published.Teacher, 6.0 * macs published.Student

    match part with
    | "step"
    | "recorded" -> Some(teacher + student)
    | "teacher" -> Some teacher
    | "remembered"
    | "student" -> Some student
    | _ -> None

/// Steps over one epoch again and again, whose features are all remembered after the first time.
let private rememberer (plan: TrainingPlan) (set: DeviceSet) : unit -> unit =
    let folder = Directory.CreateTempSubdirectory "ctkd-bench-"
    AppDomain.CurrentDomain.ProcessExit.Add(fun _ -> folder.Delete true)
    let width = plan.Distillation.Value.Model.Classifier.In
    let cache = TeacherCache.openFile folder.FullName "bench" width 1_000_000_000L Exact |> Error.orRaise
    let order = Augment.shuffle (Rng.ofSeed plan.Seed) 0 plan.Pad plan.Flip set
    let options = { TeacherOutputs.simple with Cache = Some cache }
    let teacher = TeacherOutputs.epoch plan options (ImageFeed.ordered plan.Pad order set)
    let values = EpochValues.create plan 1
    let steps = images / plan.Batch
    let mutable state = TrainState.start plan
    let mutable at = 0

    for step in 0 .. steps - 1 do
        teacher.OutputsAt step |> ignore

    fun () ->
        state <- Tensor.scoped (fun () -> teacher.At at |> Train.step plan values state)
        at <- (at + 1) % steps

/// The step as it is recorded, over one epoch again and again.
let private recorder (plan: TrainingPlan) (set: DeviceSet) : unit -> unit =
    let first = TrainState.start plan
    let trainer = { Plan = plan; Teacher = TeacherOutputs.simple; Images = OnDevice set }

    let recorder =
        if Engine.records plan.Device then
            RecordedSteps.onDevice plan.Device
        else
            RecordedSteps.direct

    let steps =
        match RecordedSteps.record recorder trainer first with
        | Ok steps -> steps
        | Result.Error why ->
            Error.create Engine "the step cannot be recorded" why "ctkd doctor --device" |> Error.raise

    let mutable step, epoch = 0, steps.Begin first

    fun () ->
        if step * plan.Batch = images then
            step <- 0
            epoch.Free()
            epoch <- steps.Begin first

        epoch.Work { first with Step = step }
        step <- step + 1

/// What each part does once; a part is set up when it is first asked for.
let private works (work: Workload) : Map<string, Lazy<unit -> unit>> =
    let plan = plan work
    let distillation = Option.get plan.Distillation
    let set = upload work plan
    let onNext = onNext plan set
    let one = lazy (firstBatch plan set)
    let inScope (work: unit -> unit) () = Tensor.scoped work

    let step () =
        let step = learner plan
        fun () -> onNext step

    let teacher () =
        let images = one.Value.Images

        inScope (fun () ->
            Autograd.noGrad (fun () -> TrainingPlan.forward plan distillation.Model false distillation.Weights images)
            |> ignore
        )

    let student () =
        let one, learn = one.Value, learner { plan with Distillation = None }
        inScope (fun () -> learn one)

    Map [
        "step", lazy step ()
        "recorded", lazy recorder plan set
        "remembered", lazy rememberer plan set
        "teacher", lazy teacher ()
        "student", lazy student ()
        "data", lazy (fun () -> onNext ignore)
    ]

/// The best of several timings: a ceiling is what the machine can do undisturbed.
let private best (device: Device) (work: unit -> unit) : float =
    Array.init 12 (fun _ -> seconds device (fun () -> Tensor.scoped work)) |> Array.min

/// Operations a second of a large convolution: 128 channels, 3 x 3, on 64 maps of 28 x 28.
let private convolutions (work: Workload) : float =
    Tensor.scoped (fun () ->
        let channels, maps, side = 128, 64, 28
        let plan = plan work

        let random shape =
            Tensor.ofFloats DType.Float32 shape (Rng.uniforms 1.0 (List.fold (*) 1 shape) (Rng.ofSeed 1))
            |> Tensor.toDevice work.Device
            |> Tensor.channelsLast

        let x, weight = random [ maps; channels; side; side ], random [ channels; channels; 3; 3 ]

        let model: Model = {
            Name = "ceiling"
            Classes = 2
            Body = Layer.conv "conv" 3 1 channels channels
            Classifier = Layer.dense "fc" channels 2
            Dropout = 0.0
            Starts = Starts.pyTorch
        }

        let weights = Tree.ofSeq [ "conv.weight", weight ]

        let forward () =
            Autograd.noGrad (fun () ->
                Layer.forwardIn (TrainingPlan.products plan) weights false (ResizeArray()) model.Body x
            )
            |> ignore

        2.0 * float (maps * side * side) * float (channels * channels * 9) / best work.Device forward
    )

/// Bytes a second of a copy of 256 MiB, each read and written once.
let private copies (device: Device) : float =
    Tensor.scoped (fun () ->
        let bytes = 256 <<< 20
        let source = Tensor.zeros DType.Byte device [| int64 bytes |]
        let target = Tensor.clone source
        2.0 * float bytes / best device (fun () -> Tensor.copyInto target source)
    )

/// Microseconds of one call of the engine: an addition of two tensors of one element.
let private callCost (device: Device) : float =
    let calls = 10_000
    use x = Tensor.scalar DType.Float32 device 1.0

    let add () =
        for _ in 1..calls do
            use _ = Tensor.add x x
            ()

    Array.init 30 (fun _ -> seconds device add / float calls * 1e6) |> Array.skip 15 |> Estimate.median

/// Peak resident memory of this process in MiB.
let private peak () : float =
    File.ReadLines "/proc/self/status"
    |> Seq.pick (fun line ->
        match line.Split([| ' '; '\t' |], StringSplitOptions.RemoveEmptyEntries) with
        | [| "VmHWM:"; kilobytes; _ |] -> Some(float kilobytes / 1024.0)
        | _ -> None
    )

/// Answers commands on the standard input: those of torch_step.py, and `cost`, `convolutions` and `copies`.
let serve (work: Workload) : unit =
    let works = works work

    let answer (command: string) : string =
        match command.Split ' ' with
        | [| "run"; part; count |] ->
            let once, count = works[part].Value, int count

            seconds
                work.Device
                (fun () ->
                    for _ in 1..count do
                        once ()
                )
            |> string
        | [| "memory" |] -> peak () |> string
        | [| "cost" |] -> callCost work.Device |> string
        | [| "convolutions" |] -> convolutions work |> string
        | [| "copies" |] -> copies work.Device |> string
        | [| "version" |] -> engine work
        | _ -> raise (NotSupportedException command)

    let rec go () =
        match Console.In.ReadLine() with
        | null
        | "quit" -> ()
        | command ->
            Console.Out.WriteLine(answer command)
            go ()

    go ()
