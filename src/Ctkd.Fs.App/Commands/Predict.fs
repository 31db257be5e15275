namespace Ctkd.Fs.App

open System.IO
open Argu
open FsToolkit.ErrorHandling
open Ctkd.Fs

/// The flags of `predict`.
[<RequireQualifiedAccess; HelpFlags("--help", "-h", "help")>]
type PredictArgs =
    | [<MainCommand; Unique>] Images of IMAGE: string list
    | [<Unique>] Weights of FILE: string
    | [<Unique>] Model of NAME: string
    | [<Unique>] Classes of FILE: string
    | [<Unique>] Top of COUNT: int
    | [<Unique>] Size of PIXELS: int
    | [<Unique>] Mean of NUMBER: string list
    | [<Unique>] Std of NUMBER: string list
    | [<Unique>] Device of NAME: string
    | [<Unique>] Threads of COUNT: int
    | [<Unique>] Json

    interface IArgParserTemplate with
        member this.Usage =
            match this with
            | Images _ -> "image files, or folders of them: JPEG, PNG, WebP, BMP, GIF"
            | Weights _ -> $"weights: {Command.weightsFile}; needed"
            | Model _ -> "model of the weights [the one that they name or fit]"
            | Classes _ -> "text file with the names of the classes, one a line [those of the run]"
            | Top _ -> "classes that are told of each image [5, or all]"
            | Size _ -> "height and width of the images as the network sees them [as trained]"
            | Mean _ -> "mean of each channel, pixels from 0 to 1 [as trained]"
            | Std _ -> "standard deviation of each channel [as trained]"
            | Device _ -> $"cpu, cuda or cuda:N [{Settings.defaults.Device}]"
            | Threads _ -> Command.threadsHelp
            | Json -> "everything as one JSON object"

/// What `predict --json` prints.
type Predictions = { Model: string; Images: Prediction list }

/// The command `predict`.
module Predict =

    /// The files that are meant: a folder stands for all images below it.
    let private filesOf (say: string -> unit) (paths: string list) : Result<string list, Error> =
        paths
        |> List.traverseResultM (fun path ->
            if Directory.Exists path then
                PhotoFolder.images path
                |> Result.map (fun (images, warnings) ->
                    warnings |> List.iter (fun text -> say $"warning: {text}")
                    images |> Array.map (fun image -> Path.Combine(path, image)) |> List.ofArray
                )
            else
                Ok [ path ]
        )
        |> Result.map List.concat

    let private names (path: string option) : Result<string list option, Error> =
        match path with
        | None -> Ok None
        | Some path ->
            Files.read path
            |> Result.map (fun bytes ->
                // Some editors begin a file with a byte order mark.
                (System.Text.Encoding.UTF8.GetString bytes).TrimStart('\uFEFF').TrimEnd().Split('\n')
                |> Array.map _.Trim()
                |> List.ofArray
                |> Some
            )

    let private options (args: ParseResults<PredictArgs>) (trained: LoadedModel) : Result<PredictOptions, Error> =
        result {
            let! mean, std =
                Command.normalisation (args.TryGetResult PredictArgs.Mean) (args.TryGetResult PredictArgs.Std)

            let! size = Command.count (SettingsTable.ofFlag "size").Kind "size" (args.TryGetResult PredictArgs.Size)

            let! top = Command.count (FieldKind.whole 1 1000) "top" (args.TryGetResult PredictArgs.Top)
            let! names = names (args.TryGetResult PredictArgs.Classes)

            let! start =
                match size, mean, std with
                // All that weights without a record lack.
                | Some size, Some mean, Some std when trained.Info.IsNone ->
                    Ok(Ctkd.Fs.Predict.standard size size mean std [])
                | _ -> Ctkd.Fs.Predict.optionsOf trained

            return {
                start with
                    Height = size |> Option.defaultValue start.Height
                    Width = size |> Option.defaultValue start.Width
                    Mean = mean |> Option.defaultValue start.Mean
                    Std = std |> Option.defaultValue start.Std
                    ClassNames = names |> Option.defaultValue start.ClassNames
                    Top = top |> Option.defaultValue start.Top
            }
        }

    let private table (found: Prediction list) : Table = {
        Caption = ""
        Header = [ "image"; "class"; "probability" ]
        Rows = [
            for prediction in found do
                for i, chance in List.indexed prediction.Classes do
                    [ (if i = 0 then prediction.Image else ""); chance.Class; $"%.4f{chance.Probability}" ]
        ]
    }

    /// Classifies images.
    let command (args: ParseResults<PredictArgs>) : int =
        let terminal = Terminal(args.Contains PredictArgs.Json)

        terminal.Judged(fun () ->
            result {
                let! path =
                    match args.TryGetResult PredictArgs.Weights with
                    | Some path -> Ok path
                    | None ->
                        Command.usage
                            "predict needs weights"
                            "such as: ctkd predict photo.jpg --weights runs/distill-resnet8-1"

                let! images =
                    match args.TryGetResult PredictArgs.Images with
                    | Some(_ :: _ as paths) -> filesOf terminal.Say paths
                    | _ ->
                        Command.usage
                            "predict needs images"
                            $"such as: ctkd predict photo.jpg --weights {Shell.word path}"

                do! Command.threads (args.TryGetResult PredictArgs.Threads)
                let! device = Engine.device (args.GetResult(PredictArgs.Device, "cpu"))
                let weights = Command.weightsFor WeightsRole.Any false
                let! trained = Command.load terminal.Say weights device (args.TryGetResult PredictArgs.Model) path
                let! options = options args trained
                let! found = Ctkd.Fs.Predict.files device options trained images
                terminal.Table(table (found |> List.filter _.Problem.IsNone))
                terminal.Json { Model = trained.Model.Name; Images = found }

                for prediction in found do
                    prediction.Problem
                    |> Option.iter (eprintfn "error: %s cannot be read: %s" (Files.printable prediction.Image))

                return found |> List.forall _.Problem.IsNone
            }
        )
