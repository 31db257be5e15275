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
    Teacher: Accuracy option
    Epochs: EpochMetrics list
    Folder: string
    /// The checkpoint to resume or to deploy from.
    Checkpoint: string
}

/// Runs in folders: from an experiment to checkpoints and metrics.
[<RequireQualifiedAccess>]
module Run =

    /// Batches between two looks at the loss.
    let private readEvery = 50

    let private info (run: PreparedRun) (state: TrainState) (top1: float) (lines: int) : CheckpointInfo = {
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

    /// Whether every number of the state is finite: the last step's loss was read before the step changed them.
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
                let test = LoadedModel.accuracyIn Prepare.evaluationBatch plan plan.Student state.Student run.Test

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
                // The latest checkpoint is written last: what it records of the best one is then true whenever the machine stops.
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

                match Train.epoch steps readEvery pause state with
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
    let private holding (folder: RunDirectory) (body: unit -> Result<Summary, Error>) : Result<Summary, Error> =
        use _ = folder

        try
            Engine.guarded body
        with
        | CtkdException error -> Result.Error error
        | :? IOException
        | :? UnauthorizedAccessException as problem ->
            Error.fail
                Unwritable
                problem.Message
                folder.Path
                "free some space; the checkpoints written so far are whole"

    /// Starts an experiment in a new folder.
    let startExperiment (out: string) (experiment: Experiment) : Result<Summary, Error> =
        Tensor.scoped (fun () ->
            result {
                let! run = Prepare.load experiment
                let! folder = RunDirectory.create out
                let text = Json.writeIndented run.Settings + "\n" |> Text.Encoding.UTF8.GetBytes

                return!
                    holding
                        folder
                        (fun () ->
                            Files.replace folder.Settings (fun stream -> stream.Write(ReadOnlySpan text))
                            |> Result.bind (fun () ->
                                go experiment.Hooks folder run (TrainState.start run.Trainer.Plan) []
                            )
                        )
            }
        )

    /// Starts a run in a new folder.
    let start (hooks: Hooks) (out: string) (settings: Settings) : Result<Summary, Error> =
        Prepare.ofSettings hooks settings |> startExperiment out

    let private checkTeacher (run: PreparedRun) (checkpoint: Checkpoint) : Result<unit, Error> =
        if run.TeacherHash = checkpoint.Info.TeacherHash then
            Ok()
        else
            Error.fail
                Mismatch
                "the teacher's weights are not those that the run began with"
                run.Settings.TeacherWeights
                "put the original file back, or start a new run"

    let private checkData (run: PreparedRun) (checkpoint: Checkpoint) : Result<unit, Error> =
        if (run.DataHash, run.Images) = (checkpoint.Info.DataHash, checkpoint.Info.Images) then
            Ok()
        else
            Error.fail
                Mismatch
                "the data set is not the one that the run began with"
                run.Settings.DataDir
                "put the original data set back, or start a new run"

    /// Makes an older checkpoint the latest one; keeps what came after it beside, with the ending .old.
    let private takeUp (hooks: Hooks) (folder: RunDirectory) (checkpoint: Checkpoint) (state: TrainState) =
        if checkpoint.Path = folder.Last then
            Ok()
        else
            for file in [ folder.Last; folder.Metrics ] do
                if File.Exists file then File.Copy(file, file + ".old", true)

            hooks.Say
                $"going on from epoch {checkpoint.Info.Epoch}; what came after it is kept in {folder.Last}.old and {folder.Metrics}.old"

            Checkpoint.write folder.Last checkpoint.Info state

    /// Refuses to resume without the values of the program that began the run.
    let private checkParts (path: string) (recorded: Settings) (experiment: Experiment) : Result<unit, Error> =
        match Prepare.missing recorded experiment with
        | [] -> Ok()
        | parts ->
            let names = String.concat ", " parts

            Error.create
                Mismatch
                $"the run was begun by a program with values of its own: {names}"
                path
                "resume it from that program, by Distil.resume with the same values"
            |> Result.Error

    /// Refuses to resume with other values than those that the run began with, by their names and weights.
    let private checkValues (path: string) (recorded: Settings) (given: Settings) : Result<unit, Error> =
        let differing = [
            for field in SettingsTable.all do
                if Field.get field.Name recorded <> Field.get field.Name given then field.Name
        ]

        if recorded = given then
            Ok()
        else
            let names = String.concat ", " differing
            let what = $"the run began with other values than it is resumed with: {names} differ"
            Error.fail Mismatch what path "resume it with the values that it began with, or start a new run"

    /// <summary>Resumes from a checkpoint in the folder where it lies: bit for bit what the uninterrupted run would have
    /// done.</summary>
    /// <param name="path">A run's folder or one of its checkpoints.</param>
    /// <param name="experiment">The values that the run began with; its settings come from the checkpoint.</param>
    let resumeExperiment (path: string) (experiment: Experiment) : Result<Summary, Error> =
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
                                let recorded = checkpoint.Info.Settings
                                do! checkParts file recorded experiment
                                // The teacher's hash is checked: what its file holds beside it does not matter.
                                let! run = Prepare.load { experiment with Settings = recorded; IgnoreExtra = true }
                                do! checkValues file recorded run.Settings
                                do! checkTeacher run checkpoint
                                do! checkData run checkpoint
                                let! state = Checkpoint.restore run.Trainer.Plan checkpoint
                                do! takeUp experiment.Hooks folder checkpoint state
                                let! lines = Metrics.keep checkpoint.Info.MetricLines folder.Metrics
                                return! go experiment.Hooks folder run state lines
                            }
                        )
            }
        )

    /// Resumes a run from its folder or one of its checkpoints, with the settings that it began with.
    let resume (hooks: Hooks) (path: string) : Result<Summary, Error> =
        Prepare.ofSettings hooks Settings.defaults |> resumeExperiment path
