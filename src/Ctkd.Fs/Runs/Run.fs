namespace Ctkd.Fs

open System
open System.Diagnostics
open System.IO
open FsToolkit.ErrorHandling

/// What a run tells the outside while it runs. Nothing in it changes the run, but `Stop`.
[<NoComparison; NoEquality>]
type Hooks = {
    /// A sentence for the user: what was loaded, a warning.
    Say: string -> unit
    /// Epoch, batches done, batches of the epoch.
    OnBatch: int -> int -> int -> unit
    OnEpoch: EpochMetrics -> unit
    /// Asked between batches: whether to write a checkpoint and stop.
    Stop: unit -> bool
}

/// How a run ended.
type Ending =
    | Finished
    | Interrupted

/// What a run leaves behind.
type Summary = {
    Ending: Ending
    Settings: Settings
    Best: Best
    Teacher: Accuracy option
    Epochs: EpochMetrics list
    Folder: string
    /// The checkpoint to resume or to deploy from.
    Checkpoint: string
}

/// Hooks that do nothing.
[<RequireQualifiedAccess>]
module Hooks =
    /// Silent and never stopping.
    let none: Hooks = {
        Say = ignore
        OnBatch = fun _ _ _ -> ()
        OnEpoch = ignore
        Stop = fun () -> false
    }

/// Runs in folders: from settings to checkpoints, metrics and a report.
[<RequireQualifiedAccess>]
module Run =

    /// Batches between two looks at the loss, and images of an evaluation batch.
    let private readEvery, private evaluationBatch = 50, 250

    /// Everything that a run needs, loaded and checked.
    [<NoComparison; NoEquality>]
    type private Prepared = {
        Settings: Settings
        Trainer: Trainer
        Test: DeviceSet
        Images: ImagesSeen
        Teacher: Accuracy option
        TeacherHash: string
        DataHash: string
    }

    let private checkBatch (s: Settings) (data: Splits) : Result<unit, Error> =
        let images = ImageSet.count data.Train

        if s.Batch <= images then
            Ok()
        else
            Result.Error(
                Error.create
                    Usage
                    $"batch is {s.Batch}, but there are only {images} training images"
                    ""
                    $"use --batch {images} or less"
            )

    /// An agent learns from each batch when it sees the next: an epoch of one batch would teach it nothing.
    let private checkAgent (s: Settings) (data: Splits) : Result<unit, Error> =
        let images = ImageSet.count data.Train

        if s.Teacher = "" || s.Policy <> PolicyName.Rlkd || s.Batch < images then
            Ok()
        else
            Result.Error(
                Error.create
                    Usage
                    $"policy rlkd learns from two batches or more an epoch, but {images} training images are one of {s.Batch}"
                    ""
                    $"use --batch {max 1 (images / 2)} or less"
            )

    /// The teacher that the settings name, checked against the data.
    let private loadTeacher
        (s: Settings)
        (data: Splits)
        (device: Device)
        : Result<LoadedModel option, Error> =
        if s.Teacher = "" then
            Ok None
        else
            result {
                let! trained = LoadedModel.load device (Some s.Teacher) s.TeacherWeights
                do! LoadedModel.fits data trained
                return Some trained
            }

    /// The teacher's accuracy, said aloud with a warning where it looks wrong.
    let private judge
        (hooks: Hooks)
        (s: Settings)
        (plan: TrainingPlan)
        (test: DeviceSet)
        (teacher: LoadedModel)
        : Accuracy =
        let accuracy = LoadedModel.accuracyIn evaluationBatch plan teacher.Model teacher.Weights test
        hooks.Say $"teacher {s.Teacher}: %.2f{accuracy.Top1} %% top-1 on {accuracy.Images} test images"

        LoadedModel.warning s teacher accuracy
        |> Option.iter (fun warning -> hooks.Say $"warning: {warning}")

        accuracy

    /// A temperature that no method reads changes nothing: better said than searched for.
    let private warnOfTemperature (hooks: Hooks) (s: Settings) : unit =
        if s.Teacher <> "" && not (s.Methods.Keys |> Seq.exists Settings.reads) then
            let names = String.concat ", " s.Methods.Keys
            hooks.Say $"warning: {names} read no softened logits: the policy {s.Policy} has no effect"

    let private prepare (hooks: Hooks) (settings: Settings) : Result<Prepared, Error> =
        result {
            let! s = Settings.validate settings
            let! device = Engine.device s.Device
            let! data = Settings.loadData s
            do! checkBatch s data
            do! checkAgent s data
            let! student = Zoo.find s.Student data.Train.Classes
            do! Model.checkInput data.Train.Height data.Train.Width student
            let rest = ImageSet.count data.Train % s.Batch
            let smallest = if rest = 0 then s.Batch else rest
            do! Model.checkBatch smallest data.Train.Height data.Train.Width student
            let! teacher = loadTeacher s data device
            let taught = teacher |> Option.map (fun trained -> trained.Model, trained.Weights)
            let! plan = Settings.plan s student taught data device
            let plan = TrainingPlan.prepareTeacher plan
            let upload = Augment.upload (TrainingPlan.dtype plan) device data.Mean data.Std
            let test = upload data.Test

            if device <> Device.Cpu then
                Engine.setDeterministic true
                Engine.setTf32 s.Tf32

            warnOfTemperature hooks s

            hooks.Say
                $"{s.Data}: {ImageSet.count data.Train} training and {ImageSet.count data.Test} test images"

            let teacherHash =
                teacher |> Option.map (fun t -> LoadedModel.fingerprint t.Weights) |> Option.defaultValue ""

            let dataHash = Settings.fingerprint data
            let! options = TeacherMemory.options s teacherHash dataHash data plan

            return {
                Settings = s
                Trainer = { Plan = plan; Teacher = options; Images = upload data.Train }
                Test = test
                Images = {
                    Height = data.Train.Height
                    Width = data.Train.Width
                    Mean = data.Mean
                    Std = data.Std
                }
                Teacher = teacher |> Option.map (judge hooks s plan test)
                TeacherHash = teacherHash
                DataHash = dataHash
            }
        }

    let private info (run: Prepared) (state: TrainState) (top1: float) (lines: int) : CheckpointInfo = {
        Settings = run.Settings
        Classes = run.Trainer.Plan.Student.Classes
        Images = run.Images
        DataHash = run.DataHash
        Epoch = state.Epoch
        Step = state.Step
        Best = state.Best
        Top1 = top1
        MetricLines = lines
        TeacherHash = run.TeacherHash
    }

    let private diverged (folder: RunDirectory) (epoch: int) (step: int) (term: string) : Error =
        let good =
            if File.Exists folder.Last then
                $"the last good checkpoint is {folder.Last}; "
            else
                "no checkpoint was written yet; "

        Error.create
            Diverged
            $"the term '{term}' was not finite in epoch {epoch}, step {step}: the run was stopped"
            folder.Path
            (good + "try a smaller --lr, or --precision f32")

    /// Whether every number of the state is one: the last step's loss was, before it changed them.
    let private isSound (state: TrainState) : bool =
        Tensor.scoped (fun () ->
            Tree.concat [
                state.Student
                Tree.prefixed "trained/" state.Trained
                Tree.prefixed "velocity/" state.Velocity
                Tree.prefixed "agent/" state.Agent
            ]
            |> Tree.leaves
            |> Array.forall Weights.isFinite
        )

    /// Epochs from a state to the end, a stop or a failure. Every epoch leaves a line of metrics and a checkpoint.
    let private go
        (hooks: Hooks)
        (folder: RunDirectory)
        (run: Prepared)
        (state: TrainState)
        (completed: EpochMetrics list)
        =
        let plan = run.Trainer.Plan

        let top1 (lines: EpochMetrics list) =
            lines |> List.tryLast |> Option.map _.Top1 |> Option.defaultValue 0.0

        let save path state lines =
            Checkpoint.write path (info run state (top1 lines) (List.length lines)) state

        let summary ending (state: TrainState) lines = {
            Ending = ending
            Settings = run.Settings
            Best = state.Best
            Teacher = run.Teacher
            Epochs = lines
            Folder = folder.Path
            Checkpoint = folder.Last
        }

        let complete (seconds: float) (firstStep: int) (state: TrainState) (lines: EpochMetrics list) =
            result {
                let test = LoadedModel.accuracyIn evaluationBatch plan plan.Student state.Student run.Test

                do!
                    if Double.IsFinite test.Loss && isSound state then
                        Ok()
                    else
                        Result.Error(diverged folder state.Epoch state.Step "test loss")

                let metrics = Metrics.ofEpoch plan state firstStep test seconds |> Metrics.warnOnce lines
                let better = test.Top1 > state.Best.Top1
                let best = if better then { Epoch = state.Epoch; Top1 = test.Top1 } else state.Best
                let next = TrainState.nextEpoch best state
                let lines = lines @ [ metrics ]
                do! Metrics.append folder.Metrics metrics
                // The latest checkpoint comes last: what it says of the best one is then true whenever the machine stops.
                do! if better then save folder.Best next lines else Ok()
                do! save folder.Last next lines
                hooks.OnEpoch metrics
                metrics.Warning |> Option.iter (fun warning -> hooks.Say $"warning: {warning}")
                return next, lines
            }

        let stopped (state: TrainState) (lines: EpochMetrics list) =
            save folder.Last state lines |> Result.map (fun () -> summary Interrupted state lines)

        let rec epochs steps (state: TrainState) (lines: EpochMetrics list) : Result<Summary, Error> =
            if state.Epoch > plan.Epochs then
                Ok(summary Finished state lines)
            elif hooks.Stop() then
                stopped state lines
            else
                let watch = Stopwatch.StartNew()

                let pause (state: TrainState) (steps: int) =
                    hooks.OnBatch state.Epoch state.Step steps
                    hooks.Stop()

                match Train.epoch run.Trainer steps readEvery pause state with
                | Broke(step, term) -> Result.Error(diverged folder state.Epoch step term)
                | Stopped state when isSound state -> stopped state lines
                | Stopped state -> Result.Error(diverged folder state.Epoch state.Step "weights")
                | Complete ended ->
                    complete watch.Elapsed.TotalSeconds state.Step ended lines
                    |> Result.bind (fun (next, lines) -> epochs steps next lines)

        try
            let steps =
                if run.Settings.Graph then
                    RecordedSteps.choose hooks.Say run.Trainer state
                else
                    Train.fromHost run.Trainer

            try
                epochs steps state completed
            finally
                steps.Free()
        finally
            run.Trainer.Teacher.Cache |> Option.iter (TeacherMemory.close hooks.Say)

    /// Releases the folder whatever happens; problems with files on the way become errors of the run.
    let private holding
        (folder: RunDirectory)
        (body: unit -> Result<Summary, Error>)
        : Result<Summary, Error> =
        use _ = folder

        try
            Engine.guarded body
        with
        | CtkdException error -> Result.Error error
        | :? IOException
        | :? UnauthorizedAccessException as problem ->
            Result.Error(
                Error.create
                    Unwritable
                    problem.Message
                    folder.Path
                    "free some space; the checkpoints written so far are whole"
            )

    /// Starts a run in a new folder.
    let start (hooks: Hooks) (out: string) (settings: Settings) : Result<Summary, Error> =
        Tensor.scoped (fun () ->
            result {
                let! run = prepare hooks settings
                let! folder = RunDirectory.create out
                let text = Json.writeIndented run.Settings + "\n" |> Text.Encoding.UTF8.GetBytes

                return!
                    holding
                        folder
                        (fun () ->
                            Files.replace folder.Settings (fun stream -> stream.Write(ReadOnlySpan text))
                            |> Result.bind (fun () ->
                                go hooks folder run (TrainState.start run.Trainer.Plan) []
                            )
                        )
            }
        )

    let private checkTeacher (run: Prepared) (checkpoint: Checkpoint) : Result<unit, Error> =
        if run.TeacherHash = checkpoint.Info.TeacherHash then
            Ok()
        else
            Result.Error(
                Error.create
                    Mismatch
                    "the teacher's weights are not those that the run began with"
                    run.Settings.TeacherWeights
                    "put the original file back, or start a new run"
            )

    let private checkData (run: Prepared) (checkpoint: Checkpoint) : Result<unit, Error> =
        if run.DataHash = checkpoint.Info.DataHash then
            Ok()
        else
            Result.Error(
                Error.create
                    Mismatch
                    "the data set is not the one that the run began with"
                    run.Settings.DataDir
                    "put the original data set back, or start a new run"
            )

    /// An older checkpoint becomes the latest one; what was there after it is kept beside, with the ending .old.
    let private takeUp (hooks: Hooks) (folder: RunDirectory) (checkpoint: Checkpoint) (state: TrainState) =
        if checkpoint.Path = folder.Last then
            Ok()
        else
            for file in [ folder.Last; folder.Metrics ] do
                if File.Exists file then File.Copy(file, file + ".old", true)

            hooks.Say
                $"going on from epoch {checkpoint.Info.Epoch}; what came after it is kept in {folder.Last}.old and {folder.Metrics}.old"

            Checkpoint.write folder.Last checkpoint.Info state

    /// Goes on from a checkpoint, in the folder where it lies: bit for bit what the uninterrupted run would have done.
    let resume (hooks: Hooks) (path: string) : Result<Summary, Error> =
        Tensor.scoped (fun () ->
            result {
                let! file = RunDirectory.checkpointOf path
                let! folder = RunDirectory.reopen (string (Path.GetDirectoryName(Path.GetFullPath file)))

                return!
                    holding
                        folder
                        (fun () ->
                            result {
                                let! checkpoint = Checkpoint.read (Path.GetFullPath file)
                                let! run = prepare hooks checkpoint.Info.Settings
                                do! checkTeacher run checkpoint
                                do! checkData run checkpoint
                                let! state = Checkpoint.restore run.Trainer.Plan checkpoint
                                do! takeUp hooks folder checkpoint state
                                let! lines = Metrics.keep checkpoint.Info.MetricLines folder.Metrics
                                return! go hooks folder run state lines
                            }
                        )
            }
        )
