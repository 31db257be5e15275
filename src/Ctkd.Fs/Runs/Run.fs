namespace Ctkd.Fs

open System
open System.Diagnostics
open System.IO
open FsToolkit.ErrorHandling

/// How a run ended.
type Ending =
    | Finished
    | Interrupted

/// The results of a run.
type Summary = {
    Ending: Ending
    Settings: Settings
    Best: Best
    /// Test accuracy after the latest whole epoch, in percent; None before the first.
    Top1: float option
    Teacher: Accuracy option
    Epochs: EpochMetrics list
    Folder: string
    /// The checkpoint to resume or to deploy from.
    Checkpoint: string
} with

    /// Whether the run ended before its last epoch, because its best top-1 did not rise any more.
    member summary.StoppedEarly: bool =
        summary.Ending = Finished
        && summary.Epochs |> List.tryLast |> Option.exists (fun last -> last.Epoch < summary.Settings.Epochs)

    /// The epoch of the highest top-1 on the test images, chosen on them: the first of equals.
    member summary.BestOnTest: EpochMetrics option =
        match summary.Epochs with
        | [] -> None
        | epochs -> Some(List.maxBy _.Top1 epochs)

/// Runs in folders: from an experiment to checkpoints and metrics.
[<RequireQualifiedAccess>]
module Run =

    /// Batches between two looks at the loss.
    let private readEvery = 50

    let private info (run: PreparedRun) (state: TrainState) (top1: float) (lines: int) : CheckpointInfo = {
        Settings = run.Settings
        Classes = run.Trainer.Plan.Student.Classes
        ClassNames = run.ClassNames
        Images = run.Images
        DataHash = run.DataHash
        Epoch = state.Epoch
        Step = state.Step
        Best = state.Best
        Top1 = top1
        MetricLines = lines
        TeacherHash = run.TeacherHash
    }

    let private diverged (s: Settings) (folder: RunDirectory) (epoch: int) (step: int) (term: string) : Error =
        let precision = if s.Precision = F32 then "" else ", or --precision f32"

        let good =
            if File.Exists folder.Last then
                $"the last good checkpoint is {folder.Last}; "
            else
                "no checkpoint was written yet; "

        Error.create
            Diverged
            $"the term '{term}' was not finite in epoch {epoch}, step {step}: the run was stopped"
            folder.Path
            (good + $"try a smaller --lr in a new run, with another --out{precision}")

    /// Whether every number of the state is finite: the last step's loss was read before the step changed them.
    let private isSound (state: TrainState) : bool =
        Tensor.scoped (fun () ->
            Tree.concat [
                state.Student
                Tree.prefixed "trained/" state.Trained
                Tree.prefixed "velocity/" state.Velocity
                Tree.prefixed "average/" state.Average
                Tree.prefixed "agent/" state.Agent
            ]
            |> Tree.leaves
            |> Array.forall Weights.isFinite
        )

    /// Runs epochs from a state to the end, a stop or a failure. Every epoch writes a line of metrics and a checkpoint.
    let private go
        (hooks: Hooks)
        (folder: RunDirectory)
        (run: PreparedRun)
        (state: TrainState)
        (completed: EpochMetrics list)
        =
        let plan = run.Trainer.Plan

        let top1 (lines: EpochMetrics list) = lines |> List.tryLast |> Option.map _.Top1 |> Option.defaultValue 0.0

        let save path state lines = Checkpoint.write path (info run state (top1 lines) (List.length lines)) state

        let summary ending (state: TrainState) (lines: EpochMetrics list) = {
            Ending = ending
            Settings = run.Settings
            Best = state.Best
            Top1 = lines |> List.tryLast |> Option.map _.Top1
            Teacher = run.Teacher
            Epochs = lines
            Folder = folder.Path
            Checkpoint = folder.Last
        }

        let batch = Prepare.evaluationBatch run.Images
        let waited () = (ImageFeed.waited run.Trainer.Images).TotalSeconds
        let told = ref 0
        let log = RunLog.writer run.Settings folder

        let complete (seconds: float) (waited: float) (firstStep: int) (state: TrainState) (lines: EpochMetrics list) =
            result {
                let accuracy = LoadedModel.accuracyIn batch plan plan.Student (TrainState.deployed state)
                let test, validation = accuracy run.Feeds.Test, run.Feeds.Validation |> Option.map accuracy

                do!
                    if not (Double.IsFinite test.Loss && isSound state) then
                        Result.Error(diverged run.Settings folder state.Epoch state.Step "test loss")
                    elif not (validation |> Option.forall (_.Loss >> Double.IsFinite)) then
                        Result.Error(diverged run.Settings folder state.Epoch state.Step "validation loss")
                    else
                        Ok()

                let waited = if run.Trainer.Images.IsStreamed then Some waited else None

                let metrics =
                    Metrics.ofEpoch plan state firstStep test seconds waited
                    |> Metrics.withValidation validation
                    |> Metrics.warnOnce lines

                let best = Best.better state.Best (Metrics.candidate metrics)
                do! log state metrics
                let next = TrainState.nextEpoch best state
                let lines = lines @ [ metrics ]
                // The latest checkpoint is written last: what it records of the best one is then true whenever the machine stops.
                do! if best.Epoch = state.Epoch then save folder.Best next lines else Ok()
                do! save folder.Last next lines
                hooks.OnEpoch metrics
                metrics.Warning |> Option.iter (fun warning -> hooks.Say $"warning: {warning}")
                told.Value <- Unreadable.say hooks.Say told.Value (ImageFeed.unreadable run.Trainer.Images)
                return next, lines
            }

        let stopped (state: TrainState) (lines: EpochMetrics list) =
            save folder.Last state lines |> Result.map (fun () -> summary Interrupted state lines)

        let rec epochs steps (state: TrainState) (lines: EpochMetrics list) : Result<Summary, Error> =
            if state.Epoch > plan.Epochs then
                Ok(summary Finished state lines)
            elif state.Step = 0 && Best.hasStalled plan.Patience state.Epoch state.Best then
                hooks.Say(Best.stalled plan.Patience.Value state.Epoch state.Best)
                Ok(summary Finished state lines)
            elif hooks.Stop() then
                stopped state lines
            else
                let watch, before = Stopwatch.StartNew(), waited ()

                let pause (state: TrainState) (steps: int) =
                    hooks.OnBatch state.Epoch state.Step steps
                    hooks.Stop()

                match Train.epoch steps readEvery pause state with
                | Broke(step, term) -> Result.Error(diverged run.Settings folder state.Epoch step term)
                | Stopped state when isSound state -> stopped state lines
                | Stopped state -> Result.Error(diverged run.Settings folder state.Epoch state.Step "weights")
                | Complete ended ->
                    complete watch.Elapsed.TotalSeconds (waited () - before) state.Step ended lines
                    |> Result.bind (fun (next, lines) -> epochs steps next lines)

        let steps =
            if run.Settings.Graph then
                RecordedSteps.choose hooks.Say run.Trainer state
            else
                Train.fromHost run.Trainer

        try
            epochs steps state completed
        finally
            steps.Free()

    /// Closes what the run holds open, whatever happens in the body.
    let private closing
        (hooks: Hooks)
        (run: PreparedRun)
        (body: unit -> Result<Summary, Error>)
        : Result<Summary, Error> =
        try
            body ()
        finally
            (run.Feeds :> IDisposable).Dispose()
            run.Trainer.Teacher.Cache |> Option.iter (TeacherMemory.close hooks.Say)

    /// The state before the first step; a run that cannot start is closed.
    let private started (hooks: Hooks) (run: PreparedRun) : Result<PreparedRun * TrainState, Error> =
        let mutable isStarted = false

        try
            let start = StudentStart.ofRun hooks.Say run
            isStarted <- start.IsOk
            start
        finally
            if not isStarted then
                (run.Feeds :> IDisposable).Dispose()
                run.Trainer.Teacher.Cache |> Option.iter (fun cache -> (cache :> IDisposable).Dispose())

    /// Releases the folder whatever happens; problems with files on the way become errors of the run.
    let private holding (folder: RunDirectory) (body: unit -> Result<Summary, Error>) : Result<Summary, Error> =
        use _ = folder
        Engine.working folder.Path "free some space; the checkpoints written so far are whole" body

    /// Starts an experiment in a new folder, which is made first: a folder that cannot be used is told at once.
    let startExperiment (out: string) (experiment: Experiment) : Result<Summary, Error> =
        let prepared (folder: RunDirectory) =
            let run =
                try
                    Engine.guarded (fun () -> Prepare.load experiment |> Result.bind (started experiment.Hooks))
                with CtkdException error ->
                    Result.Error error

            if run.IsError then RunDirectory.discard folder
            run

        Tensor.scoped (fun () ->
            result {
                let! folder = RunDirectory.create out

                return!
                    holding
                        folder
                        (fun () ->
                            result {
                                let! run, state = prepared folder

                                return!
                                    closing
                                        experiment.Hooks
                                        run
                                        (fun () ->
                                            result {
                                                do! RunDirectory.keepEarlier folder
                                                do! RunDirectory.writeSettings folder run.Settings
                                                do! RunDirectory.writeIndex folder (run.Index())
                                                do! RunRecord.start experiment.Recipe folder run
                                                return! go experiment.Hooks folder run state []
                                            }
                                        )
                            }
                        )
            }
        )

    /// Starts a run in a new folder.
    let start (hooks: Hooks) (out: string) (settings: Settings) : Result<Summary, Error> =
        Prepare.ofSettings hooks settings |> startExperiment out

    /// The results of a run that has ended. Neither teacher nor data are needed.
    let private finished
        hooks
        (folder: RunDirectory)
        (s: Settings)
        (newest: NewestCheckpoint)
        : Result<Summary, Error> =
        let checkpoint = newest.Checkpoint
        let info = checkpoint.Info

        (if newest.Damage.IsSome then NewestCheckpoint.takeUp hooks.Say folder newest else Ok())
        |> Result.bind (fun () -> Metrics.readable info.MetricLines folder.Metrics)
        |> Result.map (fun (lines, problem) ->
            problem |> Option.iter (fun problem -> hooks.Say $"warning: {problem}; the checkpoints are whole")

            if info.Epoch > s.Epochs then
                hooks.Say $"all {info.Settings.Epochs} epochs are done: nothing was trained"
            else
                hooks.Say(Best.stalled s.Patience info.Epoch info.Best)
                hooks.Say "nothing was trained: give more --patience, or 0, to go on"

            {
                Ending = Finished
                Settings = info.Settings
                Best = info.Best
                Top1 = Some info.Top1
                Teacher = None
                Epochs = lines
                Folder = folder.Path
                Checkpoint = checkpoint.Path
            }
        )

    /// Adds to the error of a missing file how a run finds what was moved.
    let private moved (error: Error) : Error =
        if error.Kind = Missing then
            let next =
                $"{error.Next}; what was moved is named by --weights (of several teachers --teacher) or --data-dir beside --resume"

            { error with Next = next }
        else
            error

    /// Goes on with a run from a checkpoint, with settings that may differ in places and epochs.
    let private goOn (folder: RunDirectory) (newest: NewestCheckpoint) (changed: Settings) (experiment: Experiment) =
        result {
            let checkpoint = newest.Checkpoint
            let recorded, hooks = checkpoint.Info.Settings, experiment.Hooks

            // The teacher's hash is checked: what its file holds beside it does not matter.
            let! run =
                Prepare.load { experiment with Settings = changed; IgnoreExtra = true } |> Result.mapError moved

            return!
                closing
                    hooks
                    run
                    (fun () ->
                        result {
                            do! ResumeCheck.values checkpoint.Path changed run.Settings
                            do! ResumeCheck.teacher run checkpoint
                            do! ResumeCheck.data run checkpoint
                            let! state = Checkpoint.restore run.Trainer.Plan checkpoint
                            Settings.ofMoreEpochs recorded changed |> List.iter hooks.Say
                            do! NewestCheckpoint.takeUp hooks.Say folder newest
                            do! if recorded = changed then Ok() else RunDirectory.writeSettings folder changed
                            do! RunRecord.goOn hooks.Say folder checkpoint.Info.Epoch run
                            let! lines, warning = Metrics.keep checkpoint.Info.MetricLines folder.Metrics
                            warning |> Option.iter (fun warning -> hooks.Say $"warning: {warning}")
                            return! go hooks folder run state lines
                        }
                    )
        }

    /// <summary>Resumes from a checkpoint in the folder where it is, with other places of files or more epochs.</summary>
    /// <param name="path">A run's folder or one of its checkpoints.</param>
    /// <param name="change">Changes settings whose row in <c>SettingsTable</c> allows it.</param>
    /// <param name="experiment">The values that the run began with; its settings come from the checkpoint.</param>
    let resumeChanged (path: string) (change: Settings -> Settings) (experiment: Experiment) : Result<Summary, Error> =
        Tensor.scoped (fun () ->
            result {
                let! file = RunDirectory.checkpointOf path |> Result.map Path.GetFullPath
                let! folder = RunDirectory.reopen (string (Path.GetDirectoryName file))

                return!
                    holding
                        folder
                        (fun () ->
                            result {
                                let! newest = NewestCheckpoint.read path
                                let checkpoint = newest.Checkpoint
                                let changed = change checkpoint.Info.Settings
                                do! ResumeCheck.parts file checkpoint.Info.Settings experiment
                                do! ResumeCheck.changes file checkpoint.Info.Settings changed

                                if Checkpoint.hasEnded changed checkpoint.Info then
                                    return! finished experiment.Hooks folder changed newest
                                else
                                    return! goOn folder newest changed experiment
                            }
                        )
            }
        )

    /// <summary>Resumes from a checkpoint in the folder where it is: bit for bit what the uninterrupted run would have
    /// done.</summary>
    /// <param name="path">A run's folder or one of its checkpoints.</param>
    /// <param name="experiment">The values that the run began with; its settings come from the checkpoint.</param>
    let resumeExperiment (path: string) (experiment: Experiment) : Result<Summary, Error> =
        resumeChanged path id experiment

    /// Resumes a run from its folder or one of its checkpoints, with the settings that it began with.
    let resume (hooks: Hooks) (path: string) : Result<Summary, Error> =
        Prepare.ofSettings hooks Settings.defaults |> resumeExperiment path
