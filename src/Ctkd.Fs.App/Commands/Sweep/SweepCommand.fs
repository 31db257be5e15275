namespace Ctkd.Fs.App

open System
open System.IO
open Argu
open FsToolkit.ErrorHandling
open Ctkd.Fs

/// The command `sweep`: many runs, one after another or several at once.
module SweepCommand =

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
                    | Some name when List.contains name ShippedSweeps.names -> ShippedSweeps.find name
                    | Some name when not (Recipes.isFile name || Path.Exists name) ->
                        Error.unknown "sweep" ShippedSweeps.names name |> Result.Error
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
                    Ok {
                        start with
                            Seeds = seeds
                            Teachers = args.GetResult(SweepArgs.Teachers, start.Teachers)
                    }
                    |> Result.bind (folding Sweep.set sets)
                    |> Result.bind (folding Sweep.grid grids)

                let name =
                    source |> Option.map (Path.GetFileNameWithoutExtension >> string) |> Option.defaultValue "sweep"

                return Some sweep, args.GetResult(SweepArgs.Out, Path.Combine("runs", name))
        }

    /// The plan of the flags: that of the folder, extended by what is asked for.
    let private planned (scale: float option) (sweep: Sweep option) (folder: string) : Result<PlannedRun list, Error> =
        result {
            let change = scale |> Option.map Scale.settings |> Option.defaultValue id
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
                let! runs = SweepPlan.create change sweep
                return! SweepPlan.extend folder known runs
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
                let result = SweepView.swept folder run
                ended <- ended + 1
                taken <- taken + seconds
                let left = taken / float ended * float (count - ended) / float jobs
                let left = if ended < count then $"   about {Duration.words left} left" else ""

                let what =
                    match result.State, result.Top1 with
                    | "done", Some top1 -> $"top-1 {SweepView.points top1} %%"
                    | "failed", _ -> $"FAILED: {result.Problem}; see {SweepRun.log folder run}"
                    | state, _ -> state

                terminal.Say $"[{ended}/{count}] {run.Name}   {what}   {Duration.words seconds}{left}"

    /// A process that ended without a result and without a word: killed, or crashed in native code.
    let private silent (stopped: bool) (folder: string) (run: PlannedRun) : string option =
        match SweepRun.state folder run with
        | RunState.Done
        | RunState.Failed _ -> None
        | _ when stopped -> None
        | _ -> Some $"{run.Name} ended without a result, as when memory runs out: see {SweepRun.log folder run}"

    let private runAll (terminal: Terminal) (folder: string) (jobs: int) (retry: bool) figures (runs: PlannedRun list) =
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
        let results = runs |> List.map (SweepView.swept folder)
        terminal.Table(SweepView.table results)

        for run in results do
            if run.State = "failed" then terminal.Say $"failed: {run.Name}: {run.Problem}"

        crashed |> List.iter (fun text -> terminal.Say $"failed: {text}")
        let isDone = results |> List.forall (fun run -> run.State = "done")
        let drawn = if isDone then SweepFigures.drawAll terminal folder figures runs else []
        terminal.Json { Folder = folder; Runs = results; Figures = drawn }

        if Signals.stop () then
            terminal.Line $"interrupted; go on with: ctkd sweep {Shell.word folder}"
            ExitCode.ok
        elif isDone && drawn |> List.forall (fun figure -> figure.Problem = "") then
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
        args.TryGetResult SweepArgs.Jobs
        |> Command.count (FieldKind.whole 1 256) "jobs"
        |> Result.map (Option.defaultValue 1)

    let private emit (form: string) (folder: string) figures (runs: PlannedRun list) : Result<string list, Error> =
        match form with
        | "slurm" -> Ok(SweepScript.slurm folder figures runs)
        | "sh" -> Ok(SweepScript.lines folder figures runs)
        | _ -> Result.Error(Error.unknown "form of a script" [ "slurm"; "sh" ] form)

    /// The figures of a sweep: as asked for, or as its folder says.
    let private figures (folder: string) (sweep: Sweep option) : Result<SweepFigure list, Error> =
        match sweep with
        | Some sweep -> Ok sweep.Figures
        | None ->
            SweepPlan.readNote folder |> Result.map (fun note -> note |> Option.map _.Figures |> Option.defaultValue [])

    /// Makes the sweep's folder and its plan.
    let private write (folder: string) (sweep: Sweep option) (runs: PlannedRun list) : Result<unit, Error> =
        match sweep with
        | None -> Ok()
        | Some sweep ->
            result {
                do! Files.makeFolder folder
                do! SweepPlan.writeNote folder sweep
                do! SweepPlan.write folder runs
            }

    /// The sweeps that come with the program.
    let private list (terminal: Terminal) : Result<unit, Error> =
        result {
            let! sweeps =
                ShippedSweeps.names
                |> List.traverseResultM (fun name -> ShippedSweeps.find name |> Result.map (fun sweep -> name, sweep))

            terminal.Table {
                Caption = ""
                Header = [ "sweep"; "what it is" ]
                Rows = [ for name, sweep in sweeps -> [ name; sweep.About ] ]
            }

            terminal.Line "try one on the digits: ctkd sweep NAME --scale 0.02 --set data=digits"
            terminal.Json [ for name, sweep in sweeps -> {| Name = name; About = sweep.About |} ]
        }

    /// Plans runs, and does those that are not done.
    let command (args: ParseResults<SweepArgs>) : int =
        let terminal = Terminal(args.Contains SweepArgs.Json)
        if args.Contains SweepArgs.Until_Input_Ends then Signals.stopAtEndOfInput ()
        let mutable code = ExitCode.ok

        let ended =
            terminal.Stoppable(fun () ->
                if args.Contains SweepArgs.List then
                    list terminal
                else

                    result {
                        let! jobs = jobs args

                        let! scale =
                            args.TryGetResult SweepArgs.Scale
                            |> Option.map List.singleton
                            |> Command.read<float> (FieldKind.number FieldKind.positiveShare) "scale"

                        let! sweep, folder = asked args
                        let! runs = planned scale sweep folder
                        let! figures = figures folder sweep

                        match args.TryGetResult SweepArgs.Task, args.TryGetResult SweepArgs.Emit with
                        | Some number, None -> do! runTask terminal folder runs number
                        | Some _, Some _ ->
                            return! Command.usage "--task and --emit exclude each other" "leave one of them out"
                        | None, Some form ->
                            let! lines = emit form folder figures runs
                            do! write folder sweep runs
                            lines |> List.iter Console.Out.WriteLine
                        | None, None when args.Contains SweepArgs.Dry_Run ->
                            do! SweepView.dryRun terminal folder jobs (SweepFigures.plan figures runs) runs
                        | None, None ->
                            do! write folder sweep runs

                            do!
                                holding
                                    folder
                                    (fun () ->
                                        code <-
                                            runAll terminal folder jobs (args.Contains SweepArgs.Retry) figures runs

                                        Ok()
                                    )
                    }
            )

        if ended = ExitCode.ok then code else ended
