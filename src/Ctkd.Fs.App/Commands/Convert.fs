namespace Ctkd.Fs.App

open System
open System.IO
open Argu
open FsToolkit.ErrorHandling
open Ctkd.Fs

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

/// What `convert --json` prints.
type Conversion = {
    File: string
    Bytes: int64
    Format: string
    Model: string option
    Tensors: int
}

/// The commands `inspect` and `convert`: files of weights of any format.
module Convert =

    let private numbers (values: float list) : string = values |> List.map string |> String.concat " "

    /// The weights of a file, or the student of a checkpoint, and how they were found.
    let private read (path: string) : Result<WeightsFile, Error> =
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
                            "policy", (if info.Settings.Teacher = "" then "" else info.Settings.Policy)
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

    // ---- inspect

    let private elements (tensor: StoredTensor) : int64 = List.fold (*) 1L tensor.Shape

    let private isFloat (tensor: StoredTensor) : bool =
        List.contains tensor.DType [ "F64"; "F32"; "F16"; "BF16" ]

    /// Names of the tensors with numbers that are not finite.
    let private notFinite (tensors: StoredTensor list) : string list =
        tensors
        |> List.filter (fun tensor ->
            isFloat tensor && not (Tensor.scoped (fun () -> Weights.isFinite (Weights.load tensor)))
        )
        |> List.map (fun tensor -> Files.printable tensor.Name)

    let private warn (terminal: Terminal) (names: string list) : unit =
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
                tensors
                |> List.map (fun tensor -> { Name = tensor.Name; Type = tensor.DType; Shape = tensor.Shape })
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
    let inspect (args: ParseResults<InspectArgs>) : int =
        let terminal = Terminal(args.Contains InspectArgs.Json)

        Commands.guarded
            terminal
            (fun () ->
                match args.TryGetResult InspectArgs.File with
                | None -> Commands.usage "inspect needs a file" "give one: ctkd inspect FILE"
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

    // ---- convert

    let private formats = [ "safetensors"; "pytorch" ]

    let private formatOf (args: ParseResults<ConvertArgs>) (out: string) : Result<string, Error> =
        match args.TryGetResult Format, (string (Path.GetExtension out)).ToLowerInvariant() with
        | Some name, _ when List.contains name formats -> Ok name
        | Some name, _ -> Result.Error(Error.unknown "format" formats name)
        | None, ".safetensors" -> Ok "safetensors"
        | None, (".pt" | ".pth" | ".th" | ".ckpt") -> Ok "pytorch"
        | None, ending ->
            Commands.usage
                $"the ending '{ending}' of the new file tells no format"
                "end it with .safetensors or .pt, or give --format safetensors or --format pytorch"

    let private expected (model: Model) : Weights.Expected list =
        Weights.expected DType.Float32 (Model.declarations model)

    /// The model that the weights must fit when the user names one; else the one that they fit, if any.
    let private modelOf (byUser: string option) (file: WeightsFile) : Result<Model option, Error> =
        match byUser with
        | Some _ ->
            result {
                let! model = Identify.model byUser file
                let expected = expected model
                let stored = (WeightsFile.find expected file).Tensors |> Weights.adapt expected
                do! Weights.check $"model {model.Name} for {model.Classes} classes" file.Path expected stored
                return Some model
            }
        | None ->
            match Identify.fitting file with
            | [ only ] -> Ok(Some only)
            | _ -> Ok None

    let private write
        format
        (out: string)
        (model: Model option)
        (tensors: StoredTensor list)
        : Result<unit, Error> =
        match format with
        | "safetensors" ->
            let metadata =
                match model with
                | Some model -> [
                    // What other readers of safetensors look for.
                    "format", "pt"
                    Identify.modelKey, model.Name
                    Identify.classesKey, string model.Classes
                  ]
                | None -> [ "format", "pt" ]

            Safetensors.write out { Metadata = metadata; Tensors = tensors }
        | _ -> TorchFile.write out tensors

    /// Writes weights in another format. Every number stays as it is, to the bit.
    let convert (args: ParseResults<ConvertArgs>) : int =
        let terminal = Terminal(args.Contains ConvertArgs.Json)

        Commands.guarded
            terminal
            (fun () ->
                match args.TryGetResult ConvertArgs.Weights, args.TryGetResult ConvertArgs.Out with
                | None, _
                | _, None ->
                    Commands.usage
                        "convert needs two files"
                        "give them: ctkd convert --weights FILE --out NEW.safetensors"
                | Some path, Some out ->
                    result {
                        let! format = formatOf args out
                        let! file = read path
                        let! model = modelOf (args.TryGetResult ConvertArgs.Model) file

                        let found =
                            match model with
                            | Some model -> WeightsFile.find (expected model) file
                            | None -> file.Found

                        do! write format out model found.Tensors

                        let written = {
                            File = out
                            Bytes = FileInfo(out).Length
                            Format = format
                            Model = model |> Option.map _.Name
                            Tensors = found.Tensors.Length
                        }

                        let fits =
                            match model with
                            | Some model -> $"{model.Name}, {model.Classes} classes"
                            | None -> "no model of the zoo"

                        let place = StateDict.describe found
                        let place = if place = "" then "" else $" ({place})"
                        terminal.Say $"read     {path}: {file.Format}{place}"
                        terminal.Say $"weights  {written.Tensors} tensors, {fits}"
                        warn terminal (notFinite found.Tensors)
                        terminal.Say $"written  {out}: {format}, {written.Bytes:N0} bytes"
                        terminal.Json written
                    }
            )
