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
    | [<Unique>] Json

    interface IArgParserTemplate with
        member this.Usage =
            match this with
            | Weights _ -> "what is converted: a checkpoint, a run's folder, a safetensors or PyTorch file; needed"
            | Out _ -> "the new file; needed"
            | Model _ -> "model of the weights: they are checked against it [the one that they name or fit, if any]"
            | Format _ -> "safetensors or pytorch [by the new file's ending: .safetensors, or .pt .pth .th .ckpt]"
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
                    let! file = Inspect.read path
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
                    Inspect.warn terminal (Inspect.notFinite found.Tensors)
                    terminal.Say $"written  {out}: {format}, {written.Bytes:N0} bytes"
                    terminal.Json written
                }
        )
