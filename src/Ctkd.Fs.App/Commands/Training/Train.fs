namespace Ctkd.Fs.App

open System.IO
open FsToolkit.ErrorHandling
open Ctkd.Fs

/// What a finished command prints as JSON for a run.
type RunResult = {
    Ending: string
    Folder: string
    Checkpoint: string
    Top1: float option
    /// On the test images in the best epoch, which the validation images choose where there are any.
    BestTop1: float
    BestEpoch: int
    /// On the validation images, in the last and in the best epoch; null where none are held out.
    ValTop1: float option
    BestValTop1: float option
    /// In the epoch that the test images themselves would choose.
    BestOnTestTop1: float option
    BestOnTestEpoch: int option
    T: float option
    TeacherTop1: float option
}

module RunResult =

    /// What is reported of a run.
    let ofSummary (summary: Summary) : RunResult =
        let last = List.tryLast summary.Epochs

        {
            Ending = $"{summary.Ending}".ToLowerInvariant()
            Folder = summary.Folder
            Checkpoint = summary.Checkpoint
            Top1 = summary.Top1
            BestTop1 = summary.Best.Top1
            BestEpoch = summary.Best.Epoch
            ValTop1 = last |> Option.bind _.ValTop1
            BestValTop1 = summary.Best.ValTop1
            BestOnTestTop1 = summary.BestOnTest |> Option.map _.Top1
            BestOnTestEpoch = summary.BestOnTest |> Option.map _.Epoch
            T = last |> Option.bind _.T
            TeacherTop1 = summary.Teacher |> Option.map _.Top1
        }

/// The commands `teach` and `distill`: flags to settings, settings to library calls.
module Train =

    /// Prints the results, and writes the report: of a run that had finished before only where it is missing.
    let private finish
        (terminal: Terminal)
        (name: string)
        (hadFinished: bool)
        (summary: Summary)
        : Result<unit, Error> =
        result {
            let report = Path.Combine(summary.Folder, "report.html")
            terminal.Table(RunReport.table [ name, summary ])
            terminal.Say $"checkpoint {summary.Checkpoint}"

            match summary.Ending with
            | Finished ->
                if not (hadFinished && File.Exists report) then
                    do! RunReport.write report name [ name, summary ]

                terminal.Say $"report     {report}"
            | Interrupted -> terminal.Line $"interrupted; go on with: ctkd {name} --resume {Shell.word summary.Folder}"

            // Last: with --json there is one object, this one or that of an error.
            terminal.Json(RunResult.ofSummary summary)
        }

    /// Refuses the other command's runs: what it would print and advise is not theirs.
    let private checkCommand (name: string) (path: string) (s: Settings) : Result<unit, Error> =
        match name, s.Teacher with
        | "teach", teacher when teacher <> "" ->
            Command.usage
                $"this run distils from the teacher {teacher}"
                $"resume it with: ctkd distill --resume {Shell.word path}"
        | "distill", "" ->
            Command.usage "this run learns from labels alone" $"resume it with: ctkd teach --resume {Shell.word path}"
        | _ -> Ok()

    let private resume (terminal: Terminal) (name: string) (given: GivenFlags) (path: string) =
        result {
            let! change = TrainFlags.changes given
            let! newest = NewestCheckpoint.read path
            let checkpoint = newest.Checkpoint
            let recorded = checkpoint.Info.Settings
            do! checkCommand name path recorded

            let! summary =
                terminal.Progress
                    name
                    (change recorded).Epochs
                    (fun hooks -> Prepare.ofSettings hooks recorded |> Run.resumeChanged path change)

            let hadFinished = Checkpoint.hasEnded (change recorded) checkpoint.Info

            if hadFinished then
                let flag = if summary.StoppedEarly then "patience" else "epochs"
                terminal.Line $"for more epochs: ctkd {name} --resume {Shell.word path} --{flag} COUNT"

            return! finish terminal name hadFinished summary
        }

    /// A dry run, or a run of settings that are complete.
    let private proceed (terminal: Terminal) (name: string) (given: GivenFlags) (resolved: Resolved) =
        result {
            let s = resolved.Settings
            do! Command.dataDirHasData s

            if TrainFlags.isDry given then
                do! TrainFlags.check s
                terminal.Table(TrainFlags.table resolved)
                TrainFlags.remarks given s |> List.iter terminal.Say
                terminal.Json(TrainFlags.toJson resolved)
            else
                let folder = TrainFlags.folder name s given

                let! summary =
                    terminal.Progress
                        name
                        s.Epochs
                        (fun hooks ->
                            Run.startExperiment folder {
                                Prepare.ofSettings hooks s with
                                    IgnoreExtra = TrainFlags.ignoresExtra given
                                    Recipe = TrainFlags.recipeOf given
                            }
                        )

                return! finish terminal name false summary
        }

    let private noTeacher: Error =
        Error.create
            Usage
            "teach has no teacher: flags that --help marks 'distill' have no effect"
            ""
            "leave them out, or use: ctkd distill"

    /// Settings without a teacher.
    let private alone (given: GivenFlags) : Result<Resolved, Error> =
        result {
            let withoutTeacher = Result.requireFalse noTeacher
            do! withoutTeacher (TrainFlags.needTeacher given)
            let! resolved = TrainFlags.resolve given
            let s = resolved.Settings
            do! withoutTeacher (s.Teacher <> "" || s.TeacherWeights <> "")
            return resolved
        }

    /// The teacher's file, and its model where the flags name none.
    let private withTeacher (given: GivenFlags) (resolved: Resolved) : Result<Resolved, Error> =
        result {
            let s = resolved.Settings
            let! path = RunDirectory.weightsOf s.TeacherWeights
            let file = WeightsPath.text path
            let options = Command.weightsFor WeightsRole.Teacher (TrainFlags.ignoresExtra given)
            let! teacher = if s.Teacher = "" then LoadedModel.nameWith options file else Ok s.Teacher

            return {
                Settings = { s with Teacher = teacher; TeacherWeights = file }
                Origins =
                    if s.Teacher = "" then
                        Map.add "teacher" "--weights" resolved.Origins
                    else
                        resolved.Origins
            }
        }

    /// Settings with a teacher; a dry run needs no weights.
    let private taught (given: GivenFlags) : Result<Resolved, Error> =
        result {
            let! resolved = TrainFlags.resolve given

            if resolved.Settings.TeacherWeights <> "" then
                return! withTeacher given resolved
            elif TrainFlags.isDry given then
                return resolved
            else
                return!
                    Command.usage
                        "distill needs a teacher's weights"
                        "give --weights FILE; train a teacher with: ctkd teach --model resnet20"
        }

    let private untrainedTeacher: Error =
        Error.create
            Usage
            "a teacher with an untrained classifier teaches nothing: --fresh-classifier is for convert"
            ""
            "leave it out; if the classifier is another, train it first"

    let private command (name: string) (settings: GivenFlags -> Result<Resolved, Error>) (words: string list) : int =
        let failed = Terminal(List.contains "--json" words).Fail

        match Flags.parse name TrainFlags.all words with
        | _ when List.contains "--fresh-classifier" words -> failed untrainedTeacher
        | Result.Error error -> failed error
        | Ok given ->
            let terminal = Terminal(TrainFlags.wantsJson given)

            terminal.Stoppable(fun () ->
                match TrainFlags.resumed given with
                | Some path -> resume terminal name given path
                | None -> settings given |> Result.bind (proceed terminal name given)
            )

    /// Trains a model from labels alone.
    let teach (words: string list) : int = command "teach" alone words

    /// Trains a student from a teacher.
    let distill (words: string list) : int = command "distill" taught words
