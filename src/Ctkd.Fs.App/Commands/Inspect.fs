namespace Ctkd.Fs.App

open System
open System.Collections.Generic
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
            | File _ -> Command.weightsFile
            | Json -> "everything as one JSON object"

/// A tensor in a file, as `inspect --json` prints it.
type TensorRow = { Name: string; Type: string; Shape: int64 list }

/// A group of tensors beside those that were taken; FILE#KEY takes it.
type OtherRow = { Key: string; Tensors: int }

/// A tensor that is not read, and what it is.
type SkippedRow = { Name: string; What: string }

/// An object that is kept as inert data, and its class.
type ObjectRow = { Key: string; Class: string }

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
    /// What else the file holds.
    Others: OtherRow list
    Skipped: SkippedRow list
    Objects: ObjectRow list
}

/// What `inspect --json` prints of an archive of several files.
type ArchiveInspection = { File: string; Bytes: int64; Format: string; Files: ArchiveFile list }

/// The command `inspect`: files of weights of any format.
module Inspect =

    let private numbers (values: float list) : string = values |> List.map string |> String.concat " "

    /// The weights of a file; of a checkpoint its student.
    let private ofStudent (path: WeightsPath) (weights: WeightsFile) : Result<WeightsFile, Error> =
        result {
            if Checkpoint.isCheckpoint weights.Metadata && path.Inner = "" && path.Key = "" then
                let! checkpoint = Checkpoint.read path.File
                let info = checkpoint.Info
                let tensors = Checkpoint.studentTensors checkpoint
                let root = TorchEntry.ofTensors tensors

                return {
                    weights with
                        Format = "checkpoint of ctkd (safetensors)"
                        Root = root
                        Find = StateDict.finder WeightsRole.Any root
                        Found = {
                            weights.Found with
                                Tensors = tensors
                                Under = []
                                Prefix = Checkpoint.studentPrefix checkpoint
                                Aside = checkpoint.Tensors.Length - tensors.Length
                                Others = []
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
                            if info.Settings.Ema > 0.0 then
                                "weights", $"moving average, decay {string info.Settings.Ema} a step"
                            "epochs done", string (info.Epoch - 1)
                            "top-1", string info.Top1
                            "best epoch", string info.Best.Epoch
                            "best top-1", string info.Best.Top1
                            match info.Best.ValTop1 with
                            | Some top1 -> "best validation top-1", string top1
                            | None -> ()
                        ]
                }
            else
                return weights
        }

    /// The weights of a file, or the student of a checkpoint, and how they were found.
    let read (path: string) : Result<WeightsFile, Error> =
        result {
            let! path = RunDirectory.weightsOf path
            let! weights = WeightsFile.readAs WeightsRole.Any path
            return! ofStudent path weights
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

    /// The most rows of each kind that are printed.
    let private most = 1_000

    /// Everything in a file that is no group and no tensor of the weights, by its key.
    let rec private walk (key: string) (entry: TorchEntry) : (string * TorchEntry) seq =
        seq {
            for name, held in TorchEntry.entries entry do
                let key = if key = "" then name else $"{key}.{name}"
                yield key, held

                match held with
                | TorchEntry.Group _ -> yield! walk key held
                | _ -> ()
        }

    let private skipped (file: WeightsFile) : SkippedRow list =
        let row (name: string, what: UnreadTensor) : SkippedRow = {
            Name = Files.printable name
            What = UnreadTensor.describe what
        }

        let own = file.Found.Skipped |> List.map (fun tensor -> row (tensor.Name, tensor.What))

        /// Their keys in the whole file.
        let keys =
            file.Found.Skipped
            |> List.map (fun tensor -> String.concat "." (file.Found.Under @ [ tensor.Stored ]))
            |> HashSet

        let elsewhere =
            walk "" file.Root
            |> Seq.filter (fst >> keys.Contains >> not)
            |> Seq.choose (fun (key, held) ->
                match held with
                | TorchEntry.Unread what -> Some(row (key, what))
                | TorchEntry.Tensor tensor when not (Weights.isOfModels tensor.DType) ->
                    Some(row (key, UnreadTensor.OfType tensor.DType))
                | _ -> None
            )
            |> Seq.truncate most
            |> List.ofSeq

        List.truncate most own @ elsewhere

    let private objects (file: WeightsFile) : ObjectRow list =
        Seq.append [ "", file.Root ] (walk "" file.Root)
        |> Seq.choose (fun (key, held) ->
            match held with
            | TorchEntry.Object(kind, _) -> Some { Key = Files.printable key; Class = Files.printable kind }
            | _ -> None
        )
        |> Seq.truncate most
        |> List.ofSeq

    let private inspection (file: WeightsFile) : Inspection =
        let fitting = Identify.fitting file

        // As the commands take them: with the names of the model that they fit.
        let found =
            match fitting with
            | [ only ] -> WeightsFile.find (Weights.expected DType.Float32 (Model.declarations only)) file
            | _ -> file.Found

        let file = { file with Found = found }
        let tensors = found.Tensors
        let count chosen = tensors |> List.filter chosen |> List.sumBy elements

        {
            File = file.Path
            Bytes = FileInfo(file.Source.File).Length
            Format = file.Format
            Found = StateDict.describe found
            Fits = fitting |> List.map _.Name
            Classes = fitting |> List.tryHead |> Option.map _.Classes
            Floats = count isFloat
            Integers = count (isFloat >> not)
            NotFinite = notFinite tensors
            Metadata = Map.ofList file.Metadata
            Tensors =
                tensors |> List.map (fun tensor -> { Name = tensor.Name; Type = tensor.DType; Shape = tensor.Shape })
            Others = found.Others |> List.map (fun (key, count) -> { Key = Files.printable key; Tensors = count })
            Skipped = skipped file
            Objects = objects file
        }

    let private say (terminal: Terminal) (source: WeightsPath) (i: Inspection) : unit =
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

        let listed label (rows: string list) =
            rows |> List.truncate 8 |> List.iteri (fun place row -> line (if place = 0 then label else "") row)

            if rows.Length > 8 then
                line "" $"and {rows.Length - 8} more; all of them with --json"

        i.Others
        |> List.map (fun other -> $"'{other.Key}', {other.Tensors} tensors: {WeightsPath.withKey other.Key source}")
        |> listed "also there"

        i.Skipped |> List.map (fun row -> $"'{row.Name}', {row.What}") |> listed "not read"

        i.Objects
        |> List.map (fun row -> (if row.Key = "" then "the file itself" else $"'{row.Key}'") + $", {row.Class}")
        |> listed "inert data"

        warn terminal i.NotFinite

    let private sayArchive (terminal: Terminal) (path: string) (files: ArchiveFile list) : unit =
        terminal.Say $"file        {path}"
        terminal.Say $"format      an archive of {files.Length} files: read one by {path}:FILE"

        terminal.Table {
            Caption = ""
            Header = [ "file"; "bytes" ]
            Rows =
                files |> List.truncate most |> List.map (fun file -> [ Files.printable file.Name; string file.Bytes ])
        }

        terminal.Json {
            File = path
            Bytes = FileInfo(path).Length
            Format = "an archive"
            Files = files
        }

    let private sayFile (terminal: Terminal) (file: WeightsFile) : unit =
        let found = inspection file
        say terminal file.Source found

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

    /// Prints what a file of weights holds, or an archive of several.
    let command (args: ParseResults<InspectArgs>) : int =
        let terminal = Terminal(args.Contains InspectArgs.Json)

        terminal.Guarded(fun () ->
            match args.TryGetResult InspectArgs.File with
            | None -> Command.usage "inspect needs a file" "give one: ctkd inspect FILE"
            | Some path ->
                result {
                    let! source = RunDirectory.weightsOf path

                    match! WeightsFile.contents source with
                    | Several files -> sayArchive terminal path files
                    | OneFile weights ->
                        let! file = ofStudent source weights
                        sayFile terminal file
                }
        )
