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
    /// Numbers in all tensors of floating point, and in all others.
    Parameters: int64
    Others: int64
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
module WeightFiles =

    let private usage (what: string) (next: string) : Result<'T, Error> =
        Result.Error(Error.create ErrorKind.Usage what "" next)

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

    let private isFinite (tensor: StoredTensor) : bool =
        elements tensor = 0L
        || Tensor.scoped (fun () -> Weights.load tensor |> Tensor.isFinite |> Tensor.all |> Tensor.toFloat) =
            1.0

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
            Parameters = count isFloat
            Others = count (isFloat >> not)
            NotFinite =
                tensors
                |> List.filter (fun tensor -> isFloat tensor && not (isFinite tensor))
                |> List.map (fun tensor -> Files.printable tensor.Name)
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
        line "tensors" $"{i.Tensors.Length}: {i.Parameters:N0} floating-point numbers, {i.Others:N0} others"

        match i.Fits, i.Classes with
        | [], _
        | _, None -> line "fits" "no model of the zoo"
        | names, Some classes ->
            let names = String.concat ", " names
            line "fits" $"{names}, {classes} classes"

        for key, value in Map.toList i.Metadata do
            if value.Length <= 200 then line (Files.printable key) (Files.printable value)

        if not i.NotFinite.IsEmpty then
            let shown = i.NotFinite |> List.truncate 8 |> String.concat ", "
            terminal.Say $"warning: {i.NotFinite.Length} tensors hold numbers that are not finite: {shown}"

    /// Prints what a file of weights holds.
    let inspect (args: ParseResults<InspectArgs>) : int =
        let terminal = Terminal(args.Contains InspectArgs.Json)

        Commands.guarded
            terminal
            (fun () ->
                match args.TryGetResult InspectArgs.File with
                | None -> usage "inspect needs a file" "give one: ctkd inspect FILE"
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
            usage
                $"the ending '{ending}' of the new file tells no format"
                "end it with .safetensors or .pt, or give --format safetensors or --format pytorch"

    /// The model that the weights must fit when the user or the file names one; else the one that they fit, if any.
    let private modelOf (named: string option) (file: WeightsFile) : Result<Model option, Error> =
        let states = file.Metadata |> List.exists (fun (key, _) -> key = Identify.modelKey)

        if named.IsSome || states then
            result {
                let! model = Identify.model named file
                let expected = Weights.expected DType.Float32 (Model.declarations model)

                do!
                    Tensor.scoped (fun () ->
                        WeightsFile.fit $"model {model.Name}" Device.Cpu expected file |> Result.map ignore
                    )

                return Some model
            }
        else
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
                    usage
                        "convert needs two files"
                        "give them: ctkd convert --weights FILE --out NEW.safetensors"
                | Some path, Some out ->
                    result {
                        let! format = formatOf args out
                        let! file = read path
                        let! model = modelOf (args.TryGetResult ConvertArgs.Model) file

                        let tensors =
                            match model with
                            | Some model ->
                                (WeightsFile.find
                                    (Weights.expected DType.Float32 (Model.declarations model))
                                    file)
                                    .Tensors
                            | None -> file.Found.Tensors

                        do! write format out model tensors

                        let written = {
                            File = out
                            Bytes = FileInfo(out).Length
                            Format = format
                            Model = model |> Option.map _.Name
                            Tensors = tensors.Length
                        }

                        let fits =
                            match model with
                            | Some model -> $"{model.Name}, {model.Classes} classes"
                            | None -> "no model of the zoo"

                        let found = StateDict.describe file.Found
                        let found = if found = "" then "" else $" ({found})"
                        terminal.Say $"read     {path}: {file.Format}{found}"
                        terminal.Say $"weights  {tensors.Length} tensors, {fits}"
                        terminal.Say $"written  {out}: {format}, {written.Bytes:N0} bytes"
                        terminal.Json written
                    }
            )
