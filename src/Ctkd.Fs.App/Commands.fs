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

/// What `eval --json` prints.
type EvalResult = { Model: string; Images: int; Top1: float; Top5: float; Loss: float }

/// The commands `teach`, `distill` and `eval`: flags to settings, settings to library calls.
module Commands =

    /// Wrong usage: what is wrong, and what to do.
    let usage (what: string) (next: string) : Result<'T, Error> =
        Result.Error(Error.create ErrorKind.Usage what "" next)

    /// Runs a command's body; errors become messages and exit codes, a signal its own exit code.
    let guarded (terminal: Terminal) (body: unit -> Result<unit, Error>) : int =
        use _ = Signals.listen ()

        let outcome =
            try
                Engine.guarded body
            with CtkdException error ->
                Result.Error error

        match outcome with
        | Result.Error error -> terminal.Fail error
        | Ok() -> Signals.exitCode ()

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

    /// Runs may go on from another folder than they began in: their settings name whole paths.
    let private absolute (path: string) : string = if path = "" then "" else Path.GetFullPath path

    /// Each flag that was given, as a change of the settings.
    let private change (settings: Settings) (flag: TrainArgs) : Settings =
        match flag with
        | TrainArgs.Model name
        | Student name -> { settings with Student = name }
        | Teacher name -> { settings with Teacher = name }
        | TrainArgs.Weights file -> { settings with TeacherWeights = absolute file }
        | TrainArgs.Data name -> { settings with Data = name }
        | TrainArgs.Data_Dir dir -> { settings with DataDir = absolute dir }
        | TrainArgs.Mean values -> { settings with Mean = values }
        | TrainArgs.Std values -> { settings with Std = values }
        | Per_Class count -> { settings with PerClass = count }
        | Epochs count -> { settings with Epochs = count }
        | TrainArgs.Batch count -> { settings with Batch = count }
        | Lr rate -> { settings with LearningRate = rate }
        | Milestones epochs -> { settings with Milestones = epochs }
        | Decay factor -> { settings with Decay = factor }
        | Momentum share -> { settings with Momentum = share }
        | Weight_Decay weight -> { settings with WeightDecay = weight }
        | Nesterov -> { settings with Nesterov = true }
        | TrainArgs.Policy name -> { settings with Policy = name }
        | T value -> { settings with T = value }
        | T_Stop value -> { settings with TStop = value }
        | T_Start value -> { settings with TStart = value }
        | T_Scale value -> { settings with TScale = value }
        | TrainArgs.Hidden width -> { settings with Hidden = width }
        | Curriculum_Start value -> { settings with CurriculumStart = value }
        | Curriculum_Stop value -> { settings with CurriculumStop = value }
        | Curriculum_Epochs count -> { settings with CurriculumEpochs = count }
        | No_Temperature_Decay -> { settings with DecayTemperature = false }
        | Ce weight -> { settings with CrossEntropy = weight }
        | Kd weight -> { settings with Kd = weight }
        | TrainArgs.Precision name -> { settings with Precision = name }
        | Contiguous -> { settings with ChannelsLast = false }
        | TrainArgs.Device name -> { settings with Device = name }
        | TrainArgs.Seed number -> { settings with Seed = number }
        | Teacher_Cache dir -> { settings with TeacherCache = absolute dir }
        | Teacher_Cache_Gb size -> { settings with TeacherCacheGb = size }
        | Teacher_Cache_Half -> { settings with TeacherCacheHalf = true }
        | Teacher_Ahead steps -> { settings with TeacherAhead = steps }
        | TrainArgs.Out _
        | Resume _
        | TrainArgs.Json -> settings

    /// Defaults that depend on other flags, then the flags themselves.
    let private settings (args: ParseResults<TrainArgs>) : Settings =
        let data = args.GetResult(TrainArgs.Data, Settings.defaults.Data)
        let epochs = args.GetResult(Epochs, Settings.epochsFor data)

        let start = {
            Settings.defaults with
                Epochs = epochs
                Milestones = Settings.milestones epochs
        }

        List.fold change start (args.GetAllResults())

    let private run (terminal: Terminal) (name: string) (args: ParseResults<TrainArgs>) (settings: Settings) =
        result {
            let out =
                args.GetResult(
                    TrainArgs.Out,
                    Path.Combine("runs", $"{name}-{settings.Student.Replace('/', '-')}-{settings.Seed}")
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

    /// Flags that mean nothing without a teacher.
    let private needsTeacher (flag: TrainArgs) : bool =
        match flag with
        | Student _
        | Teacher _
        | TrainArgs.Weights _
        | TrainArgs.Policy _
        | T _
        | T_Stop _
        | T_Start _
        | T_Scale _
        | TrainArgs.Hidden _
        | Curriculum_Start _
        | Curriculum_Stop _
        | Curriculum_Epochs _
        | No_Temperature_Decay
        | Teacher_Cache _
        | Teacher_Cache_Gb _
        | Teacher_Cache_Half
        | Teacher_Ahead _
        | Ce _
        | Kd _ -> true
        | _ -> false

    /// Trains a model from labels alone.
    let teach (args: ParseResults<TrainArgs>) : int =
        let terminal = Terminal(args.Contains TrainArgs.Json)

        guarded
            terminal
            (fun () ->
                match args.TryGetResult Resume with
                | Some path -> resume terminal "teach" args path
                | None ->
                    let s = settings args

                    if args.GetAllResults() |> List.exists needsTeacher then
                        usage
                            "teach has no teacher: flags that --help marks with 'distill' have no effect here"
                            "leave them out, or use: ctkd distill"
                    else
                        run terminal "teach" args s
            )

    /// Trains a student from a teacher.
    let distill (args: ParseResults<TrainArgs>) : int =
        let terminal = Terminal(args.Contains TrainArgs.Json)

        guarded
            terminal
            (fun () ->
                match args.TryGetResult Resume with
                | Some path -> resume terminal "distill" args path
                | None ->
                    result {
                        let s = settings args

                        if s.TeacherWeights = "" then
                            return!
                                usage
                                    "distill needs a teacher's weights"
                                    "give --weights FILE; train a teacher with: ctkd teach --model resnet20"
                        else
                            let! file = RunDirectory.checkpointOf s.TeacherWeights
                            let! teacher = if s.Teacher = "" then Trained.nameOf file else Ok s.Teacher

                            return!
                                run terminal "distill" args {
                                    s with
                                        Teacher = teacher
                                        TeacherWeights = file
                                }
                    }
            )

    /// How the weights were trained, and what the flags change of it.
    let private evalSettings (args: ParseResults<EvalArgs>) (trained: Trained) : Result<Settings, Error> =
        result {
            let! recorded =
                match trained.Info, args.TryGetResult EvalArgs.Data with
                | Some info, _ -> Ok info.Settings
                | None, Some _ -> Ok { Settings.defaults with Student = trained.Model.Name }
                | None, None ->
                    usage
                        "these weights do not say what they were trained on"
                        "name the data set with --data; where it was normalised otherwise, --mean and --std too"

            return!
                Settings.validate {
                    recorded with
                        Data = args.GetResult(EvalArgs.Data, recorded.Data)
                        DataDir = args.GetResult(EvalArgs.Data_Dir, recorded.DataDir)
                        Mean = args.GetResult(EvalArgs.Mean, recorded.Mean)
                        Std = args.GetResult(EvalArgs.Std, recorded.Std)
                        Batch = args.GetResult(EvalArgs.Batch, 250)
                        Precision = args.GetResult(EvalArgs.Precision, "f32")
                }
        }

    /// Classifies a test set.
    let eval (args: ParseResults<EvalArgs>) : int =
        let terminal = Terminal(args.Contains EvalArgs.Json)

        guarded
            terminal
            (fun () ->
                match args.TryGetResult EvalArgs.Weights with
                | None ->
                    usage
                        "eval needs weights"
                        "give --weights FILE: a checkpoint, a run's folder, a safetensors or a PyTorch file"
                | Some path ->
                    result {
                        let! device = Engine.device (args.GetResult(EvalArgs.Device, "cpu"))
                        let! trained = Trained.load device (args.TryGetResult EvalArgs.Model) path
                        let! s = evalSettings args trained
                        let! accuracy = Trained.accuracy device s trained

                        terminal.Table {
                            Caption = ""
                            Header = [ "model"; "images"; "top-1 %"; "top-5 %"; "loss" ]
                            Rows = [
                                [
                                    trained.Model.Name
                                    string accuracy.Images
                                    $"%.2f{accuracy.Top1}"
                                    $"%.2f{accuracy.Top5}"
                                    $"%.4f{accuracy.Loss}"
                                ]
                            ]
                        }

                        terminal.Json {
                            Model = trained.Model.Name
                            Images = accuracy.Images
                            Top1 = accuracy.Top1
                            Top5 = accuracy.Top5
                            Loss = accuracy.Loss
                        }
                    }
            )
