namespace Ctkd.Fs.App

open System.IO
open Argu
open FsToolkit.ErrorHandling
open Ctkd.Fs

/// The flags of `quickstart`.
[<RequireQualifiedAccess; HelpFlags("--help", "-h", "help")>]
type QuickstartArgs =
    | [<Unique>] Out of DIR: string
    | [<Unique>] Seed of NUMBER: int
    | [<Unique>] Precision of NAME: string
    | [<Unique>] Device of NAME: string
    | [<Unique>] Threads of COUNT: int
    | [<Unique>] Json

    interface IArgParserTemplate with
        member this.Usage =
            match this with
            | Out _ -> "folder of the runs [runs/quickstart, or the next free number; an interrupted one is resumed]"
            | Seed _ -> $"seed of everything random [{Settings.defaults.Seed}]"
            | Precision _ -> $"{Command.precisions} [{Names.name Settings.defaults.Precision}]"
            | Device _ -> $"cpu, cuda or cuda:N [{Settings.defaults.Device}]"
            | Threads _ -> Command.threadsHelp
            | Json -> "the result as one JSON object"

/// The tour: a teacher on handwritten digits, and four students that see only 10 images a class.
module Quickstart =
    let private teacherEpochs, private studentEpochs, private perClass = 8, 60, 10

    // The published values, 10 epochs of 240 and 512 hidden units, drive the instance-wise T to its upper bound by epoch 6
    // here, where 60 epochs have 120 steps. Over five seeds these keep it learning; the global T learns with either.
    let private curriculumEpochs, private hidden = 20, 16

    let private withEpochs (epochs: int) (settings: Settings) : Settings = {
        settings with
            Epochs = epochs
            Milestones = Settings.milestones epochs
    }

    /// The runs by name, the teacher first: how each changes the settings that are common to all.
    let plan (common: Settings) (teacher: string) : (string * Settings) list =
        let student = {
            withEpochs studentEpochs common with
                Student = "resnet8"
                PerClass = perClass
        }

        let taught (policy: PolicyName) = {
            student with
                Teacher = "resnet20"
                TeacherWeights = teacher
                Policy = policy
        }

        [
            "teacher", { withEpochs teacherEpochs common with Student = "resnet20" }
            "alone", student
            "kd-t4", taught PolicyName.Fixed
            "ctkd-global", taught PolicyName.CtkdGlobal
            "ctkd-instance",
            {
                taught PolicyName.CtkdInstance with
                    CurriculumEpochs = curriculumEpochs
                    Hidden = hidden
            }
        ]

    /// The first folder that holds no finished tour: an interrupted one is resumed.
    let private freeFolder () : string =
        Seq.initInfinite (fun i -> Path.Combine("runs", if i = 0 then "quickstart" else $"quickstart-{i + 1}"))
        |> Seq.find (fun folder -> not (File.Exists(Path.Combine(folder, "report.html"))))

    let private run (terminal: Terminal) (folder: string) (name: string) (settings: Settings) =
        let out = Path.Combine(folder, name)
        let last = Path.Combine(out, "last.safetensors")

        let resume (hooks: Hooks) (checkpoint: Checkpoint) =
            if checkpoint.Info.Settings = settings then
                Run.resume hooks out
            else
                Error.fail
                    ErrorKind.Usage
                    $"the run '{name}' was begun with other flags"
                    out
                    "give the same flags again, or another folder with --out"

        terminal.Progress
            name
            settings.Epochs
            (fun hooks ->
                if File.Exists last then
                    Checkpoint.read last |> Result.bind (resume hooks)
                else
                    Run.start hooks out settings
            )

    /// Runs the rest of the plan, to its end or an interruption.
    let rec private go
        (terminal: Terminal)
        folder
        (finished: (string * Summary) list)
        (rest: (string * Settings) list)
        =
        match rest with
        | [] -> Ok finished
        | (name, settings) :: rest ->
            result {
                let! summary = run terminal folder name settings
                let finished = finished @ [ name, summary ]

                match summary.Ending with
                | Interrupted -> return finished
                | Finished -> return! go terminal folder finished rest
            }

    /// The command.
    let command (args: ParseResults<QuickstartArgs>) : int =
        let terminal = Terminal(args.Contains QuickstartArgs.Json)

        terminal.Stoppable(fun () ->
            result {
                let folder =
                    args.TryGetResult QuickstartArgs.Out
                    |> Option.filter ((<>) "")
                    |> Option.defaultWith freeFolder
                    |> Path.GetFullPath

                let teacher = Path.Combine(folder, "teacher", "last.safetensors")

                let! precision = Command.precision (args.TryGetResult QuickstartArgs.Precision)

                let! common =
                    Settings.validate {
                        Settings.defaults with
                            Seed = args.GetResult(QuickstartArgs.Seed, Settings.defaults.Seed)
                            Precision = precision
                            Device = args.GetResult(QuickstartArgs.Device, Settings.defaults.Device)
                            Threads = args.GetResult(QuickstartArgs.Threads, Settings.defaults.Threads)
                    }

                terminal.Say
                    $"a teacher (resnet20) on all training digits, then resnet8 on {perClass} images a class:\nalone, with KD at T = 4, with CTKD's global and with its instance-wise temperature,\nthe last with a curriculum of {curriculumEpochs} epochs and {hidden} hidden units"

                let! runs = go terminal folder [] (plan common teacher)
                terminal.Table(RunReport.table runs)

                if runs.Length = 5 && List.forall (fun (_, s: Summary) -> s.Ending = Finished) runs then
                    let report = Path.Combine(folder, "report.html")
                    do! RunReport.write report "Quickstart: handwritten digits" runs
                    terminal.Say $"report {report}"
                else
                    terminal.Line $"interrupted; go on with: ctkd quickstart --out {Shell.word folder}"

                terminal.Json(
                    runs |> List.map (fun (name, summary) -> name, RunResult.ofSummary summary) |> Map.ofList
                )
            }
        )
