namespace Ctkd.Fs.App

open Argu
open FsToolkit.ErrorHandling
open Ctkd.Fs

/// The flags of `eval`.
[<RequireQualifiedAccess; HelpFlags("--help", "-h", "help")>]
type EvalArgs =
    | [<Unique>] Weights of FILE: string
    | [<Unique>] Model of NAME: string
    | [<Unique>] Teacher_Weights of FILE: string
    | [<Unique>] Teacher of NAME: string
    | [<Unique>] Ignore_Extra
    | [<Unique>] Data of NAME: string
    | [<Unique>] Data_Dir of DIR: string
    | [<Unique>] Mean of NUMBER: string list
    | [<Unique>] Std of NUMBER: string list
    | [<Unique>] Batch of COUNT: int
    | [<Unique>] Precision of NAME: string
    | [<Unique>] Device of NAME: string
    | [<Unique>] Threads of COUNT: int
    | [<Unique>] Json

    interface IArgParserTemplate with
        member this.Usage =
            match this with
            | Weights _ -> $"weights: {Command.weightsFile}; needed"
            | Model _ -> "model of the weights [the one that they name or fit]"
            | Teacher_Weights _ -> "a teacher's weights: adds agreement with it and the mean KL to it [none]"
            | Teacher _ -> "the teacher's model [the one that its weights name or fit]"
            | Ignore_Extra -> Command.ignoreExtra
            | Data _ -> "data set whose test images are classified [the one the weights were trained on]"
            | Data_Dir _ -> "folder (or file) of the data set [as trained]"
            | Mean _ -> "mean of each channel [as trained; of another --data its own]"
            | Std _ -> "standard deviation of each channel [as trained; of another --data its own]"
            | Batch _ -> "images a forward pass [250]"
            | Precision _ -> $"{Command.precisions} [{Names.name Settings.defaults.Precision}]"
            | Device _ -> $"cpu, cuda or cuda:N [{Settings.defaults.Device}]"
            | Threads _ -> Command.threadsHelp
            | Json -> "the result as one JSON object"

/// What `eval --json` prints; what needs a teacher is null without one.
type EvalResult = {
    Model: string
    Images: int
    /// In percent.
    Top1: float
    Top5: float
    /// Mean negative log-likelihood of the labels, in nats.
    Nll: float
    /// Expected calibration error in 15 bins, in percent.
    Ece: float
    Teacher: string option
    /// Images on which both choose one class, in percent.
    Agreement: float option
    /// Mean KL from the teacher's to the student's probabilities at T = 1, in nats.
    TeacherKl: float option
}

/// The flags that say which test images are meant.
type TestFlags = {
    Data: string option
    DataDir: string option
    Mean: float list option
    Std: float list option
    Batch: int
    Precision: Precision
}

module TestFlags =

    /// The test images as they were in training.
    let asTrained: TestFlags = {
        Data = None
        DataDir = None
        Mean = None
        Std = None
        Batch = 250
        Precision = F32
    }

/// The command `eval`.
module Eval =

    /// How the weights were trained, and what the flags change of it.
    let settings (flags: TestFlags) (trained: LoadedModel) : Result<Settings, Error> =
        result {
            let! recorded =
                match trained.Info, flags.Data with
                | Some info, _ -> Ok info.Settings
                | None, Some _ -> Ok { Settings.defaults with Student = trained.Model.Name }
                | None, None ->
                    Command.usage
                        "these weights do not say what they were trained on"
                        "name the data set with --data; where it was normalised otherwise, --mean and --std too"

            let data = Option.defaultValue recorded.Data flags.Data

            do!
                if flags.Data.IsSome || List.contains data Datasets.names then
                    Ok()
                else
                    Command.usage
                        $"these weights were trained on '{data}', images of a program's own"
                        "name a data set with --data"

            do! Command.dataDirHasData { recorded with Data = data; DataDir = Option.defaultValue "" flags.DataDir }

            return!
                Settings.validate {
                    Settings.withKnownNames recorded with
                        Data = data
                        DataDir = Option.defaultValue recorded.DataDir flags.DataDir
                        Mean = Option.defaultValue recorded.Mean flags.Mean
                        Std = Option.defaultValue recorded.Std flags.Std
                        Batch = flags.Batch
                        Precision = flags.Precision
                }
        }

    let private flags (args: ParseResults<EvalArgs>) : Result<TestFlags, Error> =
        result {
            let! precision = Command.precision (args.TryGetResult EvalArgs.Precision)
            let! mean, std = Command.normalisation (args.TryGetResult EvalArgs.Mean) (args.TryGetResult EvalArgs.Std)

            let data, dir = Command.dataOf (args.TryGetResult EvalArgs.Data) (args.TryGetResult EvalArgs.Data_Dir)

            return {
                Data = data
                DataDir = dir
                Mean = mean
                Std = std
                Batch = args.GetResult(EvalArgs.Batch, TestFlags.asTrained.Batch)
                Precision = precision
            }
        }

    let private resultOf (trained: LoadedModel) (teacher: LoadedModel option) (e: Evaluation) : EvalResult = {
        Model = trained.Model.Name
        Images = e.Accuracy.Images
        Top1 = e.Accuracy.Top1
        Top5 = e.Accuracy.Top5
        Nll = e.Accuracy.Loss
        Ece = 100.0 * e.CalibrationError
        Teacher = teacher |> Option.map _.Model.Name
        Agreement = e.Agreement
        TeacherKl = e.Likeness |> Option.map _.Divergence
    }

    /// Columns and the one row; the teacher's two are absent without one.
    let table (result: EvalResult) : Table =
        let percent (value: float) = $"%.2f{value}"
        let nats (value: float) = $"%.4f{value}"

        let cells =
            [
                "model", Some result.Model
                "images", Some(string result.Images)
                "top-1 %", Some(percent result.Top1)
                "top-5 %", Some(percent result.Top5)
                "nll", Some(nats result.Nll)
                "ece %", Some(percent result.Ece)
                "agreement %", Option.map percent result.Agreement
                "kl to teacher", Option.map nats result.TeacherKl
            ]
            |> List.choose (fun (header, cell) -> cell |> Option.map (fun cell -> header, cell))

        { Caption = ""; Header = List.map fst cells; Rows = [ List.map snd cells ] }

    /// The teacher that the flags name, if they do.
    let teacher say ignoreExtra (device: Device) (weights: string option) (model: string option) =
        match weights, model with
        | None, Some _ -> Command.usage "--teacher needs the teacher's weights" "give --teacher-weights FILE too"
        | None, None -> Ok None
        | Some path, model ->
            Command.load say (Command.weightsFor WeightsRole.Teacher ignoreExtra) device model path |> Result.map Some

    /// Classifies a test set.
    let command (args: ParseResults<EvalArgs>) : int =
        let terminal = Terminal(args.Contains EvalArgs.Json)

        terminal.Guarded(fun () ->
            match args.TryGetResult EvalArgs.Weights with
            | None ->
                Command.usage
                    "eval needs weights"
                    "give --weights FILE: a checkpoint, a run's folder, a safetensors or a PyTorch file"
            | Some path ->
                result {
                    let! flags = flags args
                    do! Command.threads (args.TryGetResult EvalArgs.Threads)
                    let! device = Engine.device (args.GetResult(EvalArgs.Device, "cpu"))
                    let ignoreExtra = args.Contains EvalArgs.Ignore_Extra
                    let options = Command.weightsFor WeightsRole.Any ignoreExtra
                    let! trained = Command.load terminal.Say options device (args.TryGetResult EvalArgs.Model) path
                    let! s = settings flags trained

                    let! teacher =
                        teacher
                            terminal.Say
                            ignoreExtra
                            device
                            (args.TryGetResult EvalArgs.Teacher_Weights)
                            (args.TryGetResult EvalArgs.Teacher)

                    let! evaluation = LoadedModel.evaluate device s teacher trained
                    let result = resultOf trained teacher evaluation
                    terminal.Table(table result)
                    terminal.Json result
                }
        )
