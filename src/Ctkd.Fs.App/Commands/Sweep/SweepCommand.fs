namespace Ctkd.Fs.App

open System
open System.Globalization
open System.IO
open Argu
open FsToolkit.ErrorHandling
open Ctkd.Fs

/// A run of a sweep as `sweep --json` prints it.
type SweptRun = {
    Name: string
    /// done, waiting, begun or failed.
    State: string
    Epochs: int
    Top1: float option
    BestTop1: float option
    Problem: string
}

/// What `sweep --json` prints.
type SweepResult = { Folder: string; Runs: SweptRun list }

/// A run of a plan as `sweep --dry-run --json` prints it.
type PlannedTime = { Name: string; Teacher: string; Seconds: float option }

/// The command `sweep`: many runs, one after another or several at once.
module SweepCommand =

    let private points (value: float) : string = value.ToString("F2", CultureInfo.InvariantCulture)

    /// Seconds in words.
    let duration (seconds: float) : string =
        let digits (format: string) (value: float) = value.ToString(format, CultureInfo.InvariantCulture)

        if seconds < 90.0 then digits "F0" seconds + " s"
        elif seconds < 5400.0 then digits "F0" (seconds / 60.0) + " min"
        elif seconds < 172_800.0 then digits "F1" (seconds / 3600.0) + " h"
        else digits "F1" (seconds / 86_400.0) + " days"

    // ---- the plan ----

    /// The sweep of the flags, and where its runs go; None for the folder of a sweep alone.
    let private asked (args: ParseResults<SweepArgs>) : Result<Sweep option * string, Error> =
        result {
            let source = args.TryGetResult SweepArgs.Source
            let grids, sets = args.GetResults SweepArgs.Grid, args.GetResults SweepArgs.Set
            let seeds = args.TryGetResult SweepArgs.Seeds
            let isFolder = source |> Option.exists Directory.Exists
            let given = not (List.isEmpty grids && List.isEmpty sets) || seeds.IsSome

            match source with
            | Some folder when isFolder && given ->
                return!
                    Command.usage
                        $"'{folder}' is a sweep's folder, and --grid, --set and --seeds would change its plan"
                        "go on with it without them, or give its file with them and --out"
            | Some folder when isFolder -> return None, folder
            | None when not given ->
                return!
                    Command.usage
                        "sweep needs something to vary"
                        "give a file of JSON, or: ctkd sweep --grid policy=fixed,ctkd-global --set teacher=resnet20 --seeds 3"
            | source ->
                let! start =
                    match source with
                    | Some file -> Sweep.read file
                    | None -> Ok Sweep.empty

                let! seeds =
                    match seeds with
                    | Some count -> Sweep.seedsUpTo count
                    | None -> Ok start.Seeds

                let folding read texts (sweep: Sweep) =
                    (Ok sweep, texts)
                    ||> List.fold (fun sweep text -> sweep |> Result.bind (fun sweep -> read sweep text))

                let! sweep =
                    Ok { start with Seeds = seeds }
                    |> Result.bind (folding Sweep.set sets)
                    |> Result.bind (folding Sweep.grid grids)

                let name =
                    source |> Option.map (Path.GetFileNameWithoutExtension >> string) |> Option.defaultValue "sweep"

                return Some sweep, args.GetResult(SweepArgs.Out, Path.Combine("runs", name))
        }

    /// The plan of the flags: that of the folder, extended by what is asked for.
    let private planned (sweep: Sweep option) (folder: string) : Result<PlannedRun list, Error> =
        result {
            let! known = SweepPlan.read folder

            match sweep with
            | None when known.IsEmpty ->
                return!
                    Error.fail
                        ErrorKind.Missing
                        "this folder holds no sweep"
                        folder
                        $"give one that holds {SweepPlan.fileName}, or the file of a sweep"
            | None -> return known
            | Some sweep ->
                let! runs = SweepPlan.create sweep
                return! SweepPlan.extend folder known runs
        }

    // ---- results ----

    let private swept (folder: string) (run: PlannedRun) : SweptRun =
        let numbers =
            match NewestCheckpoint.read (SweepRun.folder folder run) with
            | Ok { Checkpoint = { Info = info } } when info.Epoch > 1 ->
                Some info.Top1, Some info.Best.Top1, info.Epoch - 1
            | _ -> None, None, 0

        let top1, best, epochs = numbers

        let state, problem =
            match SweepRun.state folder run with
            | RunState.Done -> "done", ""
            | RunState.Waiting -> "waiting", ""
            | RunState.Begun _ -> "begun", ""
            | RunState.Failed error -> "failed", error.What

        {
            Name = run.Name
            State = state
            Epochs = epochs
            Top1 = top1
            BestTop1 = best
            Problem = problem
        }

    let private table (runs: SweptRun list) : Table =
        let cell = Option.map points >> Option.defaultValue "-"

        {
            Caption = ""
            Header = [ "run"; "state"; "epochs"; "top-1 %"; "best top-1 %" ]
            Rows = [ for run in runs -> [ run.Name; run.State; string run.Epochs; cell run.Top1; cell run.BestTop1 ] ]
        }

    // ---- dry runs ----

    /// What decides the time of a run: not the seed, nor places of files.
    let private timed (s: Settings) : Settings = {
        s with
            Seed = 1
            TeacherWeights = (if s.Teacher = "" then "" else "drawn")
    }

    let private dryRun (terminal: Terminal) (folder: string) (jobs: int) (runs: PlannedRun list) : Result<unit, Error> =
        result {
            let kinds = runs |> List.map (_.Settings >> timed) |> List.distinct

            let! times =
                terminal.Counting
                    "measuring steps"
                    (fun progress ->
                        kinds
                        |> List.indexed
                        |> List.traverseResultM (fun (i, s) ->
                            progress i kinds.Length
                            // A teacher that is a program has no drawn weights.
                            if List.contains s.Teacher NetworkFile.names then
                                Ok(s, None)
                            else
                                StepTime.measure s |> Result.map (fun time -> s, Some time.Run)
                        )
                    )

            let seconds (run: PlannedRun) = times |> List.find (fst >> (=) (timed run.Settings)) |> snd

            terminal.Table {
                Caption = ""
                Header = [ "no."; "run"; "teacher"; "state"; "about" ]
                Rows = [
                    for i, run in List.indexed runs ->
                        let teacher = if run.TeacherRun <> "" then run.TeacherRun else run.Settings.TeacherWeights

                        [
                            string (i + 1)
                            run.Name
                            (if teacher = "" then "-" else teacher)
                            (swept folder run).State
                            seconds run |> Option.map duration |> Option.defaultValue "-"
                        ]
                ]
            }

            let isOpen (run: PlannedRun) = SweepRun.state folder run <> RunState.Done
            let total = runs |> List.filter isOpen |> List.sumBy (seconds >> Option.defaultValue 0.0)

            terminal.Say
                $"{runs.Length} runs into {folder}; about {duration (total / float jobs)} for what is open, at {jobs} at once, from a few steps of each kind on this machine"

            if List.exists (snd >> Option.isNone) times then
                terminal.Say "not counted: runs whose teacher is a TorchScript or ONNX file"

            terminal.Json [ for run in runs -> { Name = run.Name; Teacher = run.TeacherRun; Seconds = seconds run } ]
        }

    // ---- runs ----

    /// A plan is one process's at a time; tasks that others start hold their own runs.
    let private holding (folder: string) (body: unit -> Result<'T, Error>) : Result<'T, Error> =
        RunDirectory.reopen folder
        |> Result.bind (fun held ->
            use _ = held
            body ()
        )

    /// Says what begins and ends, with the time left at the speed so far.
    let private progress (terminal: Terminal) (folder: string) (jobs: int) (count: int) =
        let mutable ended, taken = 0, 0.0

        fun (run: PlannedRun) (seconds: float option) ->
            match seconds with
            | None -> ()
            | Some seconds ->
                let result = swept folder run
                ended <- ended + 1
                taken <- taken + seconds
                let left = taken / float ended * float (count - ended) / float jobs
                let left = if ended < count then $"   about {duration left} left" else ""

                let what =
                    match result.State, result.Top1 with
                    | "done", Some top1 -> $"top-1 {points top1} %%"
                    | "failed", _ -> $"FAILED: {result.Problem}; see {SweepRun.log folder run}"
                    | state, _ -> state

                terminal.Say $"[{ended}/{count}] {run.Name}   {what}   {duration seconds}{left}"

    /// A process that ended without a result and without a word: killed, or crashed in native code.
    let private silent (stopped: bool) (folder: string) (run: PlannedRun) : string option =
        match SweepRun.state folder run with
        | RunState.Done
        | RunState.Failed _ -> None
        | _ when stopped -> None
        | _ -> Some $"{run.Name} ended without a result, as when memory runs out: see {SweepRun.log folder run}"

    let private runAll (terminal: Terminal) (folder: string) (jobs: int) (retry: bool) (runs: PlannedRun list) =
        let isWanted (run: PlannedRun) =
            match SweepRun.state folder run with
            | RunState.Done -> false
            | RunState.Failed error -> retry || error.Kind <> ErrorKind.Diverged
            | RunState.Waiting
            | RunState.Begun _ -> true

        let wanted = runs |> List.filter isWanted
        let before = runs.Length - wanted.Length

        terminal.Say(
            if before > 0 then
                $"{runs.Length} runs in {folder}, of which {before} have ended: {wanted.Length} to do"
            else
                $"{runs.Length} runs in {folder}"
        )

        SweepJobs.run folder jobs runs wanted (progress terminal folder jobs wanted.Length)
        let crashed = wanted |> List.choose (silent (Signals.stop ()) folder)
        let results = runs |> List.map (swept folder)
        terminal.Table(table results)

        for run in results do
            if run.State = "failed" then terminal.Say $"failed: {run.Name}: {run.Problem}"

        crashed |> List.iter (fun text -> terminal.Say $"failed: {text}")
        terminal.Json { Folder = folder; Runs = results }

        if Signals.stop () then
            terminal.Line $"interrupted; go on with: ctkd sweep {Shell.word folder}"
            ExitCode.ok
        elif results |> List.forall (fun run -> run.State = "done") then
            terminal.Line $"compare them with: ctkd report {Shell.word folder}"
            ExitCode.ok
        else
            ExitCode.failed

    /// One run of the plan, in this process.
    let private runTask
        (terminal: Terminal)
        (folder: string)
        (runs: PlannedRun list)
        (number: int)
        : Result<unit, Error> =
        result {
            let! run =
                match List.tryItem (number - 1) runs with
                | Some run -> Ok run
                | None -> Command.usage $"there is no run {number} in the plan" $"give a number from 1 to {runs.Length}"

            let! summary =
                terminal.Progress run.Name run.Settings.Epochs (fun hooks -> SweepRun.perform hooks folder runs run)

            match summary.Ending with
            | Finished ->
                if not (File.Exists(Path.Combine(summary.Folder, "report.html"))) then
                    do! RunReport.write (Path.Combine(summary.Folder, "report.html")) run.Name [ run.Name, summary ]

                terminal.Say $"{run.Name}: done"
            | Interrupted -> terminal.Say $"{run.Name}: interrupted"

            terminal.Json(RunResult.ofSummary summary)
        }

    let private jobs (args: ParseResults<SweepArgs>) : Result<int, Error> =
        match args.GetResult(SweepArgs.Jobs, 1) with
        | count when count >= 1 && count <= 256 -> Ok count
        | count -> Command.usage $"--jobs is {count}" "it takes a whole number from 1 to 256"

    let private emit (form: string) (folder: string) (runs: PlannedRun list) : Result<string list, Error> =
        match form with
        | "slurm" -> Ok(SweepScript.slurm folder runs)
        | "sh" -> Ok(SweepScript.lines folder runs)
        | _ -> Result.Error(Error.unknown "form of a script" [ "slurm"; "sh" ] form)

    /// Makes the sweep's folder and its plan.
    let private write (folder: string) (sweep: Sweep option) (runs: PlannedRun list) : Result<unit, Error> =
        match sweep with
        | None -> Ok()
        | Some _ -> Files.makeFolder folder |> Result.bind (fun () -> SweepPlan.write folder runs)

    /// Plans runs, and does those that are not done.
    let command (args: ParseResults<SweepArgs>) : int =
        let terminal = Terminal(args.Contains SweepArgs.Json)
        if args.Contains SweepArgs.Until_Input_Ends then Signals.stopAtEndOfInput ()
        let mutable code = ExitCode.ok

        let ended =
            terminal.Stoppable(fun () ->
                result {
                    let! jobs = jobs args
                    let! sweep, folder = asked args
                    let! runs = planned sweep folder

                    match args.TryGetResult SweepArgs.Task, args.TryGetResult SweepArgs.Emit with
                    | Some number, None -> do! runTask terminal folder runs number
                    | Some _, Some _ ->
                        return! Command.usage "--task and --emit exclude each other" "leave one of them out"
                    | None, Some form ->
                        let! lines = emit form folder runs
                        do! write folder sweep runs
                        lines |> List.iter Console.Out.WriteLine
                    | None, None when args.Contains SweepArgs.Dry_Run -> do! dryRun terminal folder jobs runs
                    | None, None ->
                        do! write folder sweep runs

                        do!
                            holding
                                folder
                                (fun () ->
                                    code <- runAll terminal folder jobs (args.Contains SweepArgs.Retry) runs
                                    Ok()
                                )
                }
            )

        if ended = ExitCode.ok then code else ended
