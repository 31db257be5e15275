namespace Ctkd.Fs.App

open System.IO
open Argu
open FsToolkit.ErrorHandling
open Ctkd.Fs

/// The flags of `export`.
[<RequireQualifiedAccess; HelpFlags("--help", "-h", "help")>]
type ExportArgs =
    | [<Unique>] Weights of FILE: string
    | [<Unique>] Model of NAME: string
    | [<Unique>] Ignore_Extra
    | [<Unique>] Onnx of FILE: string
    | [<Unique>] Fold_Batch_Norm
    | [<Unique>] Opset of NUMBER: int
    | [<Unique>] Size of PIXELS: int
    | [<Unique>] Normalise
    | [<Unique>] Preprocess
    | [<Unique>] Mean of NUMBER: string list
    | [<Unique>] Std of NUMBER: string list
    | [<Unique>] Json

    interface IArgParserTemplate with
        member this.Usage =
            match this with
            | Weights _ -> $"weights: {Command.weightsFile}; needed"
            | Model _ -> "model of the weights [the one that they name or fit]"
            | Ignore_Extra -> Command.ignoreExtra
            | Onnx _ -> "the ONNX file to write or replace; needed"
            | Fold_Batch_Norm -> "merge batch normalisations into the convolutions before them [no]"
            | Opset _ -> $"version of ONNX's operators, 17 to 21 [{(OnnxOptions.forSize 1).Opset}]"
            | Size _ -> "height and width of the images [those of the training data, or as published]"
            | Normalise -> "take pixels from 0 to 1 and normalise them in the network [the caller normalises them]"
            | Preprocess ->
                "take decoded images of bytes [batch, height, width, 3], resize and normalise them, and give probabilities [no]"
            | Mean _ -> "mean of each channel, pixels from 0 to 1 [as trained]"
            | Std _ -> "standard deviation of each channel [as trained]"
            | Json -> "what was written as one JSON object"

/// What `export --json` prints.
type Exported = {
    Path: string
    Bytes: int64
    Model: string
    Parameters: int64
    Opset: int
    Input: string
    Pixels: string
    BatchNormFolded: bool
}

/// The command `export`.
module Export =
    let private needed (what: string) (next: string) (value: 'T option) : Result<'T, Error> =
        match value with
        | Some value -> Ok value
        | None -> Command.usage what next

    /// Mean and standard deviation of the flags, or those that the run recorded.
    let private scale
        (args: ParseResults<ExportArgs>)
        (trained: LoadedModel)
        : Result<(float list * float list) option, Error> =
        result {
            match! Command.normalisation (args.TryGetResult ExportArgs.Mean) (args.TryGetResult ExportArgs.Std) with
            | Some mean, Some std -> return Some(mean, std)
            | None, None -> return trained.Info |> Option.map (fun info -> info.Images.Mean, info.Images.Std)
            | _ -> return! Command.usage "mean and std must be given together" "give both, or neither"
        }

    let private images (args: ParseResults<ExportArgs>) (scale: (float list * float list) option) =
        match args.Contains ExportArgs.Preprocess, args.Contains ExportArgs.Normalise, scale with
        | true, _, Some(mean, std) -> Ok(OnnxImages.Bytes(mean, std))
        | false, true, Some(mean, std) -> Ok(OnnxImages.Pixels(mean, std))
        | true, _, None
        | _, true, None ->
            Command.usage "these weights do not say how their images were normalised" "give --mean and --std"
        | false, false, Some(mean, std) -> Ok(OnnxImages.Normalised(mean, std))
        | false, false, None -> Ok OnnxImages.AsTrained

    /// One number of grey images stands for each channel that the network sees.
    let private perChannel (mean: float list, std: float list) : float list * float list =
        let each (values: float list) =
            match values with
            | [ one ] -> [ one; one; one ]
            | values -> values

        each mean, each std

    let private described (images: OnnxImages) : string =
        match images with
        | OnnxImages.Pixels _ -> "from 0 to 1"
        | OnnxImages.Bytes _ -> "bytes from 0 to 255, RGB, channels last; probabilities come out"
        | OnnxImages.Normalised _ -> "normalised by the caller: mean and std are in the file"
        | OnnxImages.AsTrained -> "normalised by the caller as in training: the file does not say how"

    let private inputOf (options: OnnxOptions) : string =
        match options.Images with
        | OnnxImages.Bytes _ when options.Opset >= 18 -> "[batch, height, width, 3]"
        | OnnxImages.Bytes _ -> $"[batch, {options.Height}, {options.Width}, 3]"
        | _ -> $"[batch, 3, {options.Height}, {options.Width}]"

    /// The size of the flag, or that of the images that the run saw, or the one that the model was published for.
    let private size (args: ParseResults<ExportArgs>) (trained: LoadedModel) : Result<int * int, Error> =
        match args.TryGetResult ExportArgs.Size, trained.Info with
        | Some pixels, _ -> Ok(pixels, pixels)
        | None, Some info -> Ok(info.Images.Height, info.Images.Width)
        | None, None -> Zoo.published trained.Model.Name |> Result.map (fun p -> p.Size, p.Size)

    let private checkSize (pixels: int option) : Result<unit, Error> =
        match pixels with
        | Some pixels when pixels < 1 || pixels > 4096 ->
            Command.usage $"size must be from 1 to 4096, got {pixels}" "give the images' height and width in pixels"
        | _ -> Ok()

    /// Writes trained weights as an ONNX file.
    let command (args: ParseResults<ExportArgs>) : int =
        let terminal = Terminal(args.Contains ExportArgs.Json)

        terminal.Guarded(fun () ->
            result {
                let! weights =
                    args.TryGetResult ExportArgs.Weights
                    |> needed
                        "export needs weights"
                        "give --weights FILE: a checkpoint, a run's folder, a safetensors or PyTorch file"

                let! path =
                    args.TryGetResult ExportArgs.Onnx |> needed "export needs a file to write" "give --onnx FILE"

                do! Files.checkWritable path
                do! Command.notItself weights path
                do! checkSize (args.TryGetResult ExportArgs.Size)
                let options = Command.weightsFor WeightsRole.Any (args.Contains ExportArgs.Ignore_Extra)

                let! trained =
                    Command.load terminal.Say options Device.Cpu (args.TryGetResult ExportArgs.Model) weights

                let! scale = scale args trained
                let! images = images args (Option.map perChannel scale)
                let classNames = trained.Info |> Option.map CheckpointInfo.classNames

                let! height, width = size args trained
                let standard = OnnxOptions.forSize height

                // Resizing with antialiasing came with opset 18.
                let opset = if images.IsBytes then 18 else standard.Opset

                let options = {
                    standard with
                        Width = width
                        Opset = args.GetResult(ExportArgs.Opset, opset)
                        FoldBatchNorm = args.Contains ExportArgs.Fold_Batch_Norm
                        Images = images
                        ClassNames = defaultArg classNames []
                        // Photographs are seen as in evaluation.
                        ShortSide =
                            (match trained.Info with
                             | Some info when info.Images.ShortSide > 0 -> PhotoStream.shortSide height
                             | _ -> 0)
                }

                do! Onnx.write path options trained.Model trained.Weights

                let exported = {
                    Path = Path.GetFullPath path
                    Bytes = FileInfo(path).Length
                    Model = trained.Model.Name
                    Parameters = Model.parameterCount trained.Model
                    Opset = options.Opset
                    Input = inputOf options
                    Pixels = described images
                    BatchNormFolded = options.FoldBatchNorm
                }

                terminal.Table {
                    Caption = ""
                    Header = [ "model"; "parameters"; "input"; "opset"; "bytes"; "batch norm" ]
                    Rows = [
                        [
                            exported.Model
                            $"{exported.Parameters:N0}"
                            exported.Input
                            string exported.Opset
                            $"{exported.Bytes:N0}"
                            (if exported.BatchNormFolded then "folded" else "kept")
                        ]
                    ]
                }

                terminal.Say $"pixels     {exported.Pixels}"
                terminal.Say $"written    {exported.Path}"
                terminal.Json exported
            }
        )
