namespace Ctkd.Fs

open System
open System.IO
open System.Text
open System.Threading
open FsToolkit.ErrorHandling

/// How far a run of a sweep is.
[<RequireQualifiedAccess>]
type RunState =
    /// Nothing is done.
    | Waiting
    /// So many epochs are whole.
    | Begun of epochs: int
    | Done
    /// The last try ended with an error.
    | Failed of Error

/// Runs of a sweep, each in a folder of its own within the sweep's.
[<RequireQualifiedAccess>]
module SweepRun =

    /// The folder of a run.
    let folder (sweep: string) (run: PlannedRun) : string = Path.Combine(sweep, run.Name)

    /// The error that ended a run's last try.
    let private failure (sweep: string) (run: PlannedRun) : string = Path.Combine(folder sweep run, "failed.json")

    /// What a run says while it is in a process of its own.
    let log (sweep: string) (run: PlannedRun) : string = Path.Combine(folder sweep run, "log.txt")

    let private checkpoint (sweep: string) (run: PlannedRun) : Result<Checkpoint option, Error> =
        match RunDirectory.checkpointOf (folder sweep run) with
        | Error _ -> Ok None
        | Ok _ -> NewestCheckpoint.read (folder sweep run) |> Result.map (fun newest -> Some newest.Checkpoint)

    /// How far a run is, by what lies in its folder.
    let state (sweep: string) (run: PlannedRun) : RunState =
        let failed = failure sweep run

        match checkpoint sweep run with
        | Ok(Some checkpoint) when Checkpoint.hasEnded run.Settings checkpoint.Info -> RunState.Done
        | _ when File.Exists failed ->
            match Files.read failed |> Result.bind (Encoding.UTF8.GetString >> Json.read<Error> failed) with
            | Ok error
            | Error error -> RunState.Failed error
        | Ok(Some checkpoint) -> RunState.Begun(checkpoint.Info.Epoch - 1)
        | Ok None -> RunState.Waiting
        | Error error -> RunState.Failed error

    /// The runs of which figures are drawn: those of seed 1, or of the first seed, without the teachers that others learn from.
    let ofFigures (runs: PlannedRun list) : PlannedRun list =
        let isTeacher (run: PlannedRun) = runs |> List.exists (fun other -> other.TeacherRun = run.Name)
        let students = runs |> List.filter (isTeacher >> not)
        let seeds = students |> List.map _.Settings.Seed |> List.distinct
        let seed = seeds |> List.tryFind ((=) 1) |> Option.orElse (List.tryHead seeds)
        students |> List.filter (fun run -> Some run.Settings.Seed = seed)

    /// The settings with the weights of the teacher that the sweep has trained.
    let private withTeacher (sweep: string) (run: PlannedRun) : Settings =
        if run.TeacherRun = "" then
            run.Settings
        else
            let weights = Path.Combine(sweep, run.TeacherRun, "last.safetensors") |> Path.GetFullPath
            { run.Settings with TeacherWeights = weights }

    /// A run that began with other settings is not the planned one: only places of files may differ, and more epochs.
    let private checkSettings (sweep: string) (run: PlannedRun) (recorded: Settings) : Result<unit, Error> =
        // Hashes are recorded when a run starts.
        let own = [ "studentHash" ]
        let mayChange = SettingsTable.all |> List.filter _.MayChange |> List.map _.Name

        match SweepPlan.changes recorded run.Settings |> List.except (own @ mayChange) with
        | [] -> Ok()
        | changed ->
            let changed = String.concat ", " changed

            Error.fail
                Mismatch
                $"the folder holds a run that differs from the planned one in: {changed}"
                (folder sweep run)
                "move it away, or give the sweep another folder with --out"

    let private mayChange (asked: Settings) (recorded: Settings) : Settings =
        (recorded, SettingsTable.all |> List.filter _.MayChange)
        ||> List.fold (fun s field -> Field.set field.Name (Field.get field.Name asked) s)

    let private attempt (hooks: Hooks) (sweep: string) (run: PlannedRun) : Result<Summary, Error> =
        result {
            let s = withTeacher sweep run
            let place = folder sweep run

            let experiment = { Prepare.ofSettings hooks s with Recipe = run.Recipe; Shared = sweep }

            match! checkpoint sweep run with
            | None -> return! Run.startExperiment place experiment
            | Some checkpoint ->
                do! checkSettings sweep run checkpoint.Info.Settings
                return! Run.resumeChanged place (mayChange s) experiment
        }

    /// Keeps why a run failed beside it, and forgets it when it has not.
    let private record (sweep: string) (run: PlannedRun) (outcome: Result<Summary, Error>) : Result<Summary, Error> =
        let file = failure sweep run

        match outcome with
        | Ok summary ->
            File.Delete file
            Ok summary
        | Error error ->
            Files.makeFolder (folder sweep run)
            |> Result.bind (fun () ->
                Files.replace
                    file
                    (fun stream -> stream.Write(ReadOnlySpan(Encoding.UTF8.GetBytes(Json.write error + "\n"))))
            )
            |> Result.bind (fun () -> Error error)

    /// Between two looks at a folder that another process uses.
    let private pause = TimeSpan.FromSeconds 1.0

    /// Waits while another process works in a run's folder, until it is done or a stop is asked for.
    let rec private whileBusy (hooks: Hooks) (sweep: string) (run: PlannedRun) : unit =
        if RunDirectory.isBusy (folder sweep run) && not (hooks.Stop()) then
            Thread.Sleep pause
            whileBusy hooks sweep run

    /// Waits for a process of an earlier call, which may be starting or writing its last checkpoint, and goes on where it ended.
    let rec private whenFree (hooks: Hooks) (sweep: string) (run: PlannedRun) : Result<Summary, Error> =
        whileBusy hooks sweep run

        match attempt hooks sweep run with
        | Error error when RunDirectory.isTaken error && not (hooks.Stop()) ->
            Thread.Sleep pause
            whenFree hooks sweep run
        | outcome -> outcome

    /// Trains a run's teacher where no other process does, or waits for one that does: whether it is whole.
    let rec private isTaught (hooks: Hooks) (sweep: string) (runs: PlannedRun list) (run: PlannedRun) =
        match runs |> List.tryFind (fun other -> other.Name = run.TeacherRun) with
        | None -> Ok true
        | Some teacher ->
            whileBusy hooks sweep teacher

            match state sweep teacher with
            | RunState.Done -> Ok true
            | _ when hooks.Stop() -> Ok false
            | _ ->
                hooks.Say $"its teacher first: {teacher.Name}"

                perform hooks sweep runs teacher
                |> Result.map (fun summary -> summary.Ending = Finished)
                |> Result.mapError (fun error -> {
                    error with
                        What = $"its teacher {teacher.Name} failed: {error.What}"
                })

    /// <summary>Starts a run, or goes on with it, or does nothing where it is done. Trains its teacher first where no other process
    /// does; waits for one that does.</summary>
    /// <param name="hooks">What is told meanwhile.</param>
    /// <param name="sweep">The sweep's folder.</param>
    /// <param name="runs">All runs of the sweep.</param>
    /// <param name="run">The run.</param>
    and perform (hooks: Hooks) (sweep: string) (runs: PlannedRun list) (run: PlannedRun) : Result<Summary, Error> =
        match isTaught hooks sweep runs run with
        | Ok true -> whenFree hooks sweep run |> record sweep run
        // Nobody's failure: nothing is recorded.
        | Ok false -> Error.fail Missing "the run was stopped before its teacher was trained" run.Name "start it again"
        | Error error -> record sweep run (Error error)
