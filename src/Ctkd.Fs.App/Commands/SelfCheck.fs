namespace Ctkd.Fs.App

open System
open System.Diagnostics
open Ctkd.Fs

/// What `doctor` finds: a fact, and where something is wrong the command that mends it.
type Finding = { Name: string; Value: string; Mend: string option }

/// Whether a device trains as it should, on small courses: `ctkd doctor --device`.
module SelfCheck =

    /// Policies, precisions and how far the teacher runs ahead; each course has 25 steps an epoch.
    let private cases: (string * string * int) list = [
        "fixed", "f32", 1
        "dtkd", "f32", 1
        "ctkd-global", "f32", 1
        "ctkd-instance", "f32", 1
        "ctkd-global", "bf16", 1
        "ctkd-global", "f32", 8
    ]

    let private epochs = 2

    /// Steps an epoch: fewer where nothing is recorded, and only the counter is at stake.
    let private stepsOn (device: Device) : int = if Engine.records device then 25 else 5

    /// Digits, a fresh teacher; learning rate and lambda change at the second epoch.
    let private settings (steps: int) (policy: string) (precision: string) : Settings = {
        Settings.withMethods (Settings.methodsOf policy) { Settings.defaults with Policy = policy } with
            Teacher = "resnet20"
            // Batches of 64 of ten classes.
            PerClass = 64 * steps / 10
            Epochs = epochs
            Milestones = [ 1 ]
            CurriculumEpochs = epochs
            Precision = precision
    }

    let private course (device: Device) (s: Settings) (data: Splits) : Course =
        let model name = Zoo.find name data.Train.Classes |> Error.orRaise
        let teacher = model s.Teacher
        let weights = Model.declarations teacher |> Initialise.tree DType.Float32 device (Rng.ofSeed 2)

        Settings.course s (model s.Student) (Some(teacher, weights)) data device
        |> Error.orRaise
        |> Course.prepareTeacher

    /// What a training left behind.
    [<NoComparison; NoEquality>]
    type private Trained = {
        State: TrainState
        /// Milliseconds a step in the last epoch.
        Step: float
        /// Handles and bytes on the device after each of its steps.
        Held: (int64 * int64) list
    }

    let private train (course: Course) (set: DeviceSet) (stepping: Train.Stepping) state : Trained =
        let held = ResizeArray<int64 * int64>()

        let look (state: TrainState) (_: int) =
            if state.Epoch = epochs then
                held.Add(Tensor.live (), Engine.cudaMemory course.Device)

            false

        let rec go (state: TrainState) =
            Engine.synchronize ()
            let watch = Stopwatch.StartNew()

            match Train.epochBy stepping course (stepsOn course.Device) look set state with
            | Train.Complete state when state.Epoch < epochs -> go (Train.nextEpoch state.Best state)
            | Train.Complete state
            | Train.Stopped state ->
                Engine.synchronize ()

                {
                    State = state
                    Step = watch.Elapsed.TotalMilliseconds / float (stepsOn course.Device)
                    Held = List.ofSeq held
                }
            | Train.Broke(step, term) ->
                Error.create Diverged $"the term '{term}' was not finite in step {step}" "" "ctkd doctor"
                |> Error.raise

        go state

    /// Names of the tensors of two states that differ in a bit.
    let private differences (a: TrainState) (b: TrainState) : string list =
        List.zip (Tree.toList (Train.toTree a)) (Tree.toList (Train.toTree b))
        |> List.filter (fun ((_, x), (_, y)) -> Tensor.toBytes x <> Tensor.toBytes y)
        |> List.map (fst >> fst)

    let private without = "train with --no-graph, and report this table"

    let private check (device: Device) (policy: string, precision: string, ahead: int) : Finding =
        let beside = if ahead = 1 then "" else $", the teacher {ahead} steps ahead"
        let name = $"step: {policy}, {precision}{beside}"
        let fine value = { Name = name; Value = value; Mend = None }
        let wrong value = { Name = name; Value = value; Mend = Some without }

        Tensor.scoped (fun () ->
            let s = settings (stepsOn device) policy precision
            let data = Settings.loadData s |> Error.orRaise
            let course = course device s data
            let set = Augment.upload (Course.dtype course) device data.Mean data.Std data.Train
            let how = { Teach.simple with Ahead = ahead }
            let record = if Engine.records device then Replay.onDevice course else Replay.direct
            let fromHost = train course set (Train.stepping how course) (Train.start course)
            let start = Train.start course

            match Replay.create record how course set start with
            | Result.Error why -> wrong $"cannot be recorded: {why}"
            | Ok replay ->
                let replayed = train course set replay.Stepping start
                replay.Free()
                let differing = differences fromHost.State replayed.State
                let again = if Engine.records device then "replayed" else "by the counter"
                let times = $"%.2f{fromHost.Step} ms from the host, %.2f{replayed.Step} {again}"
                // A teacher that runs ahead works between the steps.
                let isFlat = ahead > 1 || (List.distinct replayed.Held).Length = 1

                if not differing.IsEmpty then
                    let first = differing |> List.truncate 3 |> String.concat ", "
                    wrong $"{differing.Length} tensors differ from the host's steps: {first}"
                elif not isFlat then
                    let bytes = replayed.Held |> List.map snd
                    wrong $"memory moves within an epoch: {List.min bytes} to {List.max bytes} bytes"
                else
                    fine $"{epochs * stepsOn device} steps the same to the bit; {times}"
        )

    /// Convolutions that are one with what follows them, beside the operators apart.
    let private fused (device: Device) : Finding =
        Tensor.scoped (fun () ->
            let random purpose shape =
                Rng.ofSeed 1
                |> Rng.split purpose
                |> Rng.uniforms 1.0 (List.fold (*) 1 shape)
                |> Tensor.ofFloats DType.Float32 shape
                |> Tensor.toDevice device
                |> Tensor.channelsLast

            let x, weight = random "x" [ 64; 16; 32; 32 ], random "weight" [ 16; 16; 3; 3 ]
            let bias = Tensor.zeros DType.Float32 device [| 16L |]
            let apart = Tensor.conv2d 1 1 1 weight (Some bias) x
            let one = Tensor.conv2dRelu 1 1 1 weight (Some bias) x
            let sum = Tensor.conv2dAddRelu (Tensor.clone x) 1 1 1 weight (Some bias) x

            let distance a b = Tensor.abs (Tensor.sub a b) |> Tensor.max |> Tensor.toFloat

            let worst = max (distance (Tensor.relu apart) one) (distance (Tensor.relu (apart + x)) sum)

            let value = $"within %.1e{worst} of the operators apart"

            {
                Name = "fused convolutions"
                Value = value
                Mend = if worst < 1e-3 then None else Some "report this table"
            }
        )

    /// Trains on the device and says what was found: steps from the host and recorded ones that agree to the bit, memory that
    /// stays. The CPU records nothing: there the steps that would be recorded are done anew each time.
    let findings (device: Device) : Finding list = [
        if Engine.records device then
            Engine.setDeterministic true
            Engine.setTf32 false
        fused device
        for case in cases do
            check device case
    ]
