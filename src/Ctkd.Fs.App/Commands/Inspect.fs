namespace Ctkd.Fs.App

open System
open System.IO
open Argu
open FsToolkit.ErrorHandling
open Ctkd.Fs

/// The flags of `inspect`.
[<RequireQualifiedAccess; HelpFlags("--help", "-h", "help")>]
type InspectArgs =
    | [<MainCommand; Unique>] File of FILE: string
    | [<Unique>] Json

    interface IArgParserTemplate with
        member this.Usage =
            match this with
            | File _ -> "a checkpoint, a run's folder, a safetensors or PyTorch file"
            | Json -> "everything as one JSON object"

/// A tensor in a file, as `inspect --json` prints it.
type TensorRow = { Name: string; Type: string; Shape: int64 list }

/// What `inspect --json` prints.
[<NoComparison; NoEquality>]
type Inspection = {
    File: string
    Bytes: int64
    Format: string
    /// Where in the file the weights were found.
    Found: string
    /// The models of the zoo that the weights fit, and for how many classes.
    Fits: string list
    Classes: int option
    /// Numbers in all tensors of floating point, running statistics among them, and in all others.
    Floats: int64
    Integers: int64
    NotFinite: string list
    Metadata: Map<string, string>
    Tensors: TensorRow list
}

/// The command `inspect`: files of weights of any format.
module Inspect =

    let private numbers (values: float list) : string = values |> List.map string |> String.concat " "

    /// The weights of a file, or the student of a checkpoint, and how they were found.
    let read (path: string) : Result<WeightsFile, Error> =
        result {
            let! file = RunDirectory.checkpointOf path
            let! weights = WeightsFile.read file

            if Checkpoint.isCheckpoint weights.Metadata then
                let! checkpoint = Checkpoint.read file
                let info = checkpoint.Info
                let tensors = Checkpoint.studentTensors checkpoint

                return {
                    weights with
                        Format = "checkpoint of ctkd (safetensors)"
                        Root = TorchEntry.ofTensors tensors
                        Found = {
                            Tensors = tensors
                            Under = []
                            Prefix = "student/"
                            Aside = checkpoint.Tensors.Length - tensors.Length
                        }
                        Metadata = [
                            Identify.modelKey, info.Settings.Student
                            Identify.classesKey, string info.Classes
                            "teacher", info.Settings.Teacher
                            "policy", (if info.Settings.Teacher = "" then "" else Names.name info.Settings.Policy)
                            "data", info.Settings.Data
                            "images", $"{info.Images.Height} x {info.Images.Width}"
                            "mean", numbers info.Images.Mean
                            "std", numbers info.Images.Std
                            "epochs done", string (info.Epoch - 1)
                            "top-1", string info.Top1
                            "best top-1", string info.Best.Top1
                        ]
                }
            else
                return weights
        }

    let private elements (tensor: StoredTensor) : int64 = List.fold (*) 1L tensor.Shape

    let private isFloat (tensor: StoredTensor) : bool = List.contains tensor.DType [ "F64"; "F32"; "F16"; "BF16" ]

    /// Names of the tensors with numbers that are not finite.
    let notFinite (tensors: StoredTensor list) : string list =
        tensors
        |> List.filter (fun tensor ->
            isFloat tensor && not (Tensor.scoped (fun () -> Weights.isFinite (Weights.load tensor)))
        )
        |> List.map (fun tensor -> Files.printable tensor.Name)

    /// Warns of tensors with such numbers.
    let warn (terminal: Terminal) (names: string list) : unit =
        if not names.IsEmpty then
            let shown = names |> List.truncate 8 |> String.concat ", "
            let more = if names.Length > 8 then $" and {names.Length - 8} more" else ""
            terminal.Say $"warning: these tensors hold numbers that are not finite: {shown}{more}"

    let private inspection (file: WeightsFile) : Inspection =
        let tensors = file.Found.Tensors
        let count chosen = tensors |> List.filter chosen |> List.sumBy elements
        let fitting = Identify.fitting file

        {
            File = file.Path
            Bytes = FileInfo(file.Path).Length
            Format = file.Format
            Found = StateDict.describe file.Found
            Fits = fitting |> List.map _.Name
            Classes = fitting |> List.tryHead |> Option.map _.Classes
            Floats = count isFloat
            Integers = count (isFloat >> not)
            NotFinite = notFinite tensors
            Metadata = Map.ofList file.Metadata
            Tensors =
                tensors |> List.map (fun tensor -> { Name = tensor.Name; Type = tensor.DType; Shape = tensor.Shape })
        }

    let private say (terminal: Terminal) (i: Inspection) : unit =
        let line label (text: string) = if text <> "" then terminal.Say $"%-12s{label}{text}"
        line "file" i.File
        line "format" $"{i.Format}, {i.Bytes:N0} bytes"
        line "weights" i.Found
        line "tensors" $"{i.Tensors.Length}: {i.Floats:N0} floating-point numbers, {i.Integers:N0} others"

        match i.Fits, i.Classes with
        | [], _
        | _, None -> line "fits" "no model of the zoo"
        | names, Some classes ->
            let names = String.concat ", " names
            line "fits" $"{names}, {classes} classes"

        for key, value in Map.toList i.Metadata do
            if value.Length <= 200 then line (Files.printable key) (Files.printable value)

        warn terminal i.NotFinite

    /// Prints what a file of weights holds.
    let command (args: ParseResults<InspectArgs>) : int =
        let terminal = Terminal(args.Contains InspectArgs.Json)

        terminal.Guarded(fun () ->
            match args.TryGetResult InspectArgs.File with
            | None -> Command.usage "inspect needs a file" "give one: ctkd inspect FILE"
            | Some path ->
                result {
                    let! file = read path
                    let found = inspection file
                    say terminal found

                    terminal.Table {
                        Caption = ""
                        Header = [ "tensor"; "type"; "shape" ]
                        Rows =
                            found.Tensors
                            |> List.map (fun t -> [
                                Files.printable t.Name
                                t.Type
                                t.Shape |> List.map string |> String.concat " x "
                            ])
                    }

                    terminal.Json found
                }
        )
