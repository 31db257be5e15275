namespace Ctkd.Fs.App

open System.IO
open Argu
open FsToolkit.ErrorHandling
open Ctkd.Fs

/// The flags of `convert`.
[<RequireQualifiedAccess; HelpFlags("--help", "-h", "help")>]
type ConvertArgs =
    | [<Unique>] Weights of FILE: string
    | [<Unique>] Out of FILE: string
    | [<Unique>] Model of NAME: string
    | [<Unique>] Format of NAME: string
    | [<Unique>] Ignore_Extra
    | [<Unique>] Fresh_Classifier
    | [<Unique>] Classes of COUNT: int
    | [<Unique>] Seed of NUMBER: int
    | [<Unique>] Json

    interface IArgParserTemplate with
        member this.Usage =
            match this with
            | Weights _ -> $"what is converted: {Command.weightsFile}; needed"
            | Out _ -> "the new file; needed"
            | Model _ -> "model of the weights: they are checked against it [the one that they name or fit, if any]"
            | Format _ -> "safetensors or pytorch [by the new file's ending: .safetensors, or .pt .pth .th .ckpt]"
            | Ignore_Extra -> Command.ignoreExtra
            | Fresh_Classifier ->
                "start a new classifier in place of one that is missing or of another shape; with --model [an error]"
            | Classes _ -> "classes of the new classifier [those of the published model]"
            | Seed _ -> $"seed of the new classifier [{Settings.defaults.Seed}]"
            | Json -> "the result as one JSON object"

/// What `convert --json` prints.
type Conversion = {
    File: string
    Bytes: int64
    Format: string
    Model: string option
    Tensors: int
}

/// The command `convert`: weights in another format.
module Convert =

    let private formats = [ "safetensors"; "pytorch" ]

    let private formatOf (args: ParseResults<ConvertArgs>) (out: string) : Result<string, Error> =
        match args.TryGetResult ConvertArgs.Format, (string (Path.GetExtension out)).ToLowerInvariant() with
        | Some name, _ when List.contains name formats -> Ok name
        | Some name, _ -> Result.Error(Error.unknown "format" formats name)
        | None, ".safetensors" -> Ok "safetensors"
        | None, (".pt" | ".pth" | ".th" | ".ckpt") -> Ok "pytorch"
        | None, ending ->
            Command.usage
                $"the ending '{ending}' of the new file tells no format"
                "end it with .safetensors or .pt, or give --format safetensors or --format pytorch"

    /// The model that the weights must fit when the user names one; else the one that they fit, if any.
    let private modelOf (args: ParseResults<ConvertArgs>) (file: WeightsFile) : Result<Model option, Error> =
        let byUser = args.TryGetResult ConvertArgs.Model

        match byUser, args.Contains ConvertArgs.Fresh_Classifier, args.TryGetResult ConvertArgs.Classes with
        | None, true, _ -> Command.usage "--fresh-classifier needs the model" "name it with --model"
        | _, false, Some _ -> Command.usage "--classes is for a new classifier" "add --fresh-classifier"
        | Some name, true, classes ->
            result {
                let! published = Zoo.published name
                let classes = Option.defaultValue published.Classes classes

                if classes < 2 || classes > Identify.maxClasses then
                    return!
                        Command.usage
                            $"a classifier has 2 to {Identify.maxClasses} classes, got {classes}"
                            $"give --classes 2 to {Identify.maxClasses}"

                return Some(published.Create classes)
            }
        | Some _, false, _ -> Identify.model byUser file |> Result.map Some
        | None, false, _ when args.Contains ConvertArgs.Ignore_Extra ->
            Identify.modelOf true None file |> Result.map Some
        | None, false, _ ->
            match Identify.fitting file with
            | [ only ] -> Ok(Some only)
            | _ -> Ok None

    /// The weights as they are stored, checked against the model, and what to say of them.
    let private weightsFor (args: ParseResults<ConvertArgs>) (model: Model option) (file: WeightsFile) =
        match model with
        | None -> Ok(file.Found, WeightsFile.notes file.Found file)
        | Some model ->
            let options = {
                Command.weightsFor WeightsRole.Any (args.Contains ConvertArgs.Ignore_Extra) with
                    FreshClassifier =
                        if args.Contains ConvertArgs.Fresh_Classifier then
                            Some(args.GetResult(ConvertArgs.Seed, Settings.defaults.Seed))
                        else
                            None
            }

            WeightsFit.tensors options model file

    let private write format (out: string) (model: Model option) (tensors: StoredTensor list) : Result<unit, Error> =
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
    let command (args: ParseResults<ConvertArgs>) : int =
        let terminal = Terminal(args.Contains ConvertArgs.Json)

        terminal.Guarded(fun () ->
            match args.TryGetResult ConvertArgs.Weights, args.TryGetResult ConvertArgs.Out with
            | None, _
            | _, None ->
                Command.usage "convert needs two files" "give them: ctkd convert --weights FILE --out NEW.safetensors"
            | Some path, Some out ->
                result {
                    let! format = formatOf args out
                    // Before long work whose result goes there.
                    do! Files.checkWritable out
                    do! Command.notItself path out
                    let! file = Inspect.read path
                    let! model = modelOf args file
                    let! found, notes = weightsFor args model file
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
                    notes |> List.iter terminal.Say

                    if not found.Skipped.IsEmpty then
                        let names = found.Skipped |> List.truncate 8 |> List.map (_.Name >> Files.printable)
                        let more = if found.Skipped.Length > 8 then $" and {found.Skipped.Length - 8} more" else ""
                        terminal.Say $"""not read {String.concat ", " names}{more}"""

                    Inspect.warn terminal (Inspect.notFinite found.Tensors)
                    terminal.Say $"written  {out}: {format}, {written.Bytes:N0} bytes"
                    terminal.Json written
                }
        )
