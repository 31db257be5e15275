namespace Ctkd.Fs.App

open System
open System.IO
open Argu
open FsToolkit.ErrorHandling
open Ctkd.Fs

/// What a finished command prints as JSON for a run.
type RunResult = {
    Ending: string
    Folder: string
    Checkpoint: string
    Top1: float option
    BestTop1: float
    BestEpoch: int
    T: float option
    TeacherTop1: float option
}

/// The commands `teach` and `distill`: flags to settings, settings to library calls.
module Commands =

    /// Wrong usage: what is wrong, and what to do.
    let usage (what: string) (next: string) : Result<'T, Error> =
        Result.Error(Error.create ErrorKind.Usage what "" next)

    /// Runs a command's body; errors become messages and exit codes. Ctrl-C ends the process.
    let guarded (terminal: Terminal) (body: unit -> Result<unit, Error>) : int =
        let outcome =
            try
                Engine.guarded body
            with CtkdException error ->
                Result.Error error

        match outcome with
        | Result.Error error -> terminal.Fail error
        | Ok() -> ExitCode.ok

    /// Runs the body of a command that trains: as `guarded`, but Ctrl-C and SIGTERM stop it between two steps, and the exit
    /// code is then theirs.
    let stoppable (terminal: Terminal) (body: unit -> Result<unit, Error>) : int =
        use _ = Signals.listen ()
        let code = guarded terminal body
        if code = ExitCode.ok then Signals.exitCode () else code

    /// What is reported of a run.
    let outcomeOf (summary: Summary) : RunResult =
        let last = List.tryLast summary.Epochs

        {
            Ending = $"{summary.Ending}".ToLowerInvariant()
            Folder = summary.Folder
            Checkpoint = summary.Checkpoint
            Top1 = last |> Option.map _.Top1
            BestTop1 = summary.Best.Top1
            BestEpoch = summary.Best.Epoch
            T = last |> Option.bind _.T
            TeacherTop1 = summary.Teacher |> Option.map _.Top1
        }

    let private finish (terminal: Terminal) (name: string) (summary: Summary) : Result<unit, Error> =
        result {
            let report = Path.Combine(summary.Folder, "report.html")
            terminal.Table(RunReport.table [ name, summary ])
            terminal.Say $"checkpoint {summary.Checkpoint}"
            terminal.Json(outcomeOf summary)

            match summary.Ending with
            | Finished ->
                do! RunReport.write report name [ name, summary ]
                terminal.Say $"report     {report}"
            | Interrupted -> terminal.Say $"interrupted; go on with: ctkd {name} --resume {summary.Folder}"
        }

    let private run (terminal: Terminal) (name: string) (args: ParseResults<TrainArgs>) (settings: Settings) =
        result {
            let out =
                args.TryGetResult TrainArgs.Out
                |> Option.defaultWith (fun () ->
                    let what =
                        match args.TryGetResult Recipe with
                        | Some file when Recipes.isFile file ->
                            string (Path.GetFileNameWithoutExtension file)
                        | Some recipe -> recipe
                        | None -> $"{name}-{settings.Student}"

                    Path.Combine("runs", $"{what.Replace('/', '-')}-{settings.Seed}")
                )

            let! summary = terminal.Progress name settings.Epochs (fun hooks -> Run.start hooks out settings)
            return! finish terminal name summary
        }

    let private resume (terminal: Terminal) (name: string) (args: ParseResults<TrainArgs>) (path: string) =
        result {
            let ignored =
                args.GetAllResults()
                |> List.filter (
                    function
                    | Resume _
                    | TrainArgs.Json -> false
                    | _ -> true
                )

            if not ignored.IsEmpty then
                return!
                    usage
                        "--resume goes on with the run's own settings: other flags cannot be changed"
                        "give --resume alone (and --json), or start a new run"
            else
                let! file = RunDirectory.checkpointOf path
                let! checkpoint = Checkpoint.read file
                let epochs = checkpoint.Info.Settings.Epochs
                let! summary = terminal.Progress name epochs (fun hooks -> Run.resume hooks path)
                return! finish terminal name summary
        }

    /// A dry run, or what happens to settings that are whole.
    let private proceed
        (terminal: Terminal)
        (name: string)
        (args: ParseResults<TrainArgs>)
        (resolved: Resolved)
        =
        if args.Contains Dry_Run then
            result {
                do! Configure.check resolved.Settings
                terminal.Table(Configure.table resolved)
                Configure.remarks args resolved.Settings |> List.iter terminal.Say
                terminal.Json(Configure.json resolved)
            }
        else
            run terminal name args resolved.Settings

    let private noTeacher: Error =
        Error.create
            Usage
            "teach has no teacher: flags that --help marks 'distill' have no effect"
            ""
            "leave them out, or use: ctkd distill"

    /// Trains a model from labels alone.
    let teach (args: ParseResults<TrainArgs>) : int =
        let terminal = Terminal(args.Contains TrainArgs.Json)

        stoppable
            terminal
            (fun () ->
                match args.TryGetResult Resume with
                | Some path -> resume terminal "teach" args path
                | None ->
                    result {
                        let withoutTeacher = Result.requireFalse noTeacher
                        do! withoutTeacher (Configure.needTeacher args)
                        let! resolved = Configure.resolve args
                        let s = resolved.Settings
                        do! withoutTeacher (s.Teacher <> "" || s.TeacherWeights <> "")
                        return! proceed terminal "teach" args resolved
                    }
            )

    /// The teacher's file, and its model where the flags name none.
    let private withTeacher (resolved: Resolved) : Result<Resolved, Error> =
        result {
            let s = resolved.Settings
            let! file = RunDirectory.checkpointOf s.TeacherWeights
            let! teacher = if s.Teacher = "" then LoadedModel.nameOf file else Ok s.Teacher

            return {
                Settings = { s with Teacher = teacher; TeacherWeights = file }
                Origins =
                    if s.Teacher = "" then
                        Map.add "teacher" "--weights" resolved.Origins
                    else
                        resolved.Origins
            }
        }

    /// Trains a student from a teacher.
    let distill (args: ParseResults<TrainArgs>) : int =
        let terminal = Terminal(args.Contains TrainArgs.Json)

        stoppable
            terminal
            (fun () ->
                match args.TryGetResult Resume with
                | Some path -> resume terminal "distill" args path
                | None ->
                    result {
                        let! resolved = Configure.resolve args

                        match Settings.planned resolved.Settings with
                        | what :: _ when not (args.Contains Dry_Run) ->
                            return! usage what "ctkd distill --recipe NAME --dry-run prints the settings"
                        | _ when resolved.Settings.TeacherWeights <> "" ->
                            let! resolved = withTeacher resolved
                            return! proceed terminal "distill" args resolved
                        | _ when args.Contains Dry_Run -> return! proceed terminal "distill" args resolved
                        | _ ->
                            return!
                                usage
                                    "distill needs a teacher's weights"
                                    "give --weights FILE; train a teacher with: ctkd teach --model resnet20"
                    }
            )
