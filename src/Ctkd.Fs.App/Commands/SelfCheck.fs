namespace Ctkd.Fs.App

open System
open System.Diagnostics
open Ctkd.Fs

/// What `doctor` finds: a fact, and where something is wrong the command that mends it.
type Finding = { Name: string; Value: string; Mend: string option }

/// Whether a device trains as it should, on small plans: `ctkd doctor --device`.
module SelfCheck =

    /// Policies, precisions and how far the teacher runs ahead; each plan has 25 steps per epoch.
    let private cases: (PolicyName * Precision * int) list = [
        PolicyName.Fixed, F32, 1
        PolicyName.Dtkd, F32, 1
        PolicyName.CtkdGlobal, F32, 1
        PolicyName.CtkdInstance, F32, 1
        PolicyName.CtkdGlobal, Bf16, 1
        PolicyName.CtkdGlobal, F32, 8
    ]

    let private epochs = 2

    /// Steps per epoch: fewer where nothing is recorded, and only the counter is at stake.
    let private stepsOn (device: Device) : int = if Engine.records device then 25 else 5

    /// Digits, a fresh teacher; learning rate and lambda change at the second epoch.
    let private settings (steps: int) (policy: PolicyName) (precision: Precision) : Settings = {
        Settings.withMethods (Settings.methodsOf policy) { Settings.defaults with Policy = policy } with
            Teacher = "resnet20"
            // Batches of 64 of ten classes.
            PerClass = 64 * steps / 10
            Epochs = epochs
            Milestones = [ 1 ]
            CurriculumEpochs = epochs
            Precision = precision
    }

    let private plan (device: Device) (s: Settings) (data: Splits) : TrainingPlan =
        let model name = Zoo.find name data.Train.Classes |> Error.orRaise
        let teacher = model s.Teacher
        let weights = Model.declarations teacher |> Initialise.tree DType.Float32 device (Rng.ofSeed 2)

        Settings.plan s (model s.Student) (Some(teacher, weights)) data device
        |> Error.orRaise
        |> TrainingPlan.prepareTeacher

    /// What a training leaves.
    [<NoComparison; NoEquality>]
    type private Training = {
        State: TrainState
        /// Milliseconds per step in the last epoch.
        Step: float
        /// Handles and bytes on the device after each of its steps.
        Held: (int64 * int64) list
    }

    let private train (steps: Steps) (state: TrainState) : Training =
        let device = steps.Trainer.Plan.Device
        let held = ResizeArray<int64 * int64>()

        let look (state: TrainState) (_: int) =
            if state.Epoch = epochs then held.Add(Tensor.live (), Engine.cudaMemory device)

            false

        let rec go (state: TrainState) =
            Engine.synchronize ()
            let watch = Stopwatch.StartNew()

            match Train.epoch steps (stepsOn device) look state with
            | Complete state when state.Epoch < epochs -> go (TrainState.nextEpoch state.Best state)
            | Complete state
            | Stopped state ->
                Engine.synchronize ()

                {
                    State = state
                    Step = watch.Elapsed.TotalMilliseconds / float (stepsOn device)
                    Held = List.ofSeq held
                }
            | Broke(step, term) ->
                Error.create Diverged $"the term '{term}' was not finite in step {step}" "" "ctkd doctor" |> Error.raise

        go state

    /// Names of the tensors of two states that differ in a bit.
    let private differences (a: TrainState) (b: TrainState) : string list =
        List.zip (Tree.toList (TrainState.toTree a)) (Tree.toList (TrainState.toTree b))
        |> List.filter (fun ((_, x), (_, y)) -> Tensor.toBytes x <> Tensor.toBytes y)
        |> List.map (fst >> fst)

    let private without = "train with --no-graph, and report this table"

    let private check (device: Device) (policy: PolicyName, precision: Precision, ahead: int) : Finding =
        let beside = if ahead = 1 then "" else $", the teacher {ahead} steps ahead"
        let name = $"step: {policy}, {Names.name precision}{beside}"
        let fine value = { Name = name; Value = value; Mend = None }
        let wrong value = { Name = name; Value = value; Mend = Some without }

        Tensor.scoped (fun () ->
            let s = settings (stepsOn device) policy precision
            let data = Settings.loadData s |> Error.orRaise
            let plan = plan device s data
            let set = Augment.upload (TrainingPlan.dtype plan) device data.Mean data.Std data.Train
            let options = { TeacherOutputs.simple with Ahead = ahead }
            let trainer = { Plan = plan; Teacher = options; Images = OnDevice set }

            let recorder = if Engine.records device then RecordedSteps.onDevice device else RecordedSteps.direct

            let fromHost = train (Train.fromHost trainer) (TrainState.start plan)
            let start = TrainState.start plan

            match RecordedSteps.record recorder trainer start with
            | Result.Error why -> wrong $"cannot be recorded: {why}"
            | Ok steps ->
                let replayed = train steps start
                steps.Free()
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
