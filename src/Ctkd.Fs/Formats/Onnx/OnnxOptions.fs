namespace Ctkd.Fs

open System
open FsToolkit.ErrorHandling

/// What the images are that an exported network is given; mean and standard deviation are those of each
/// channel of pixels from 0 to 1.
[<RequireQualifiedAccess>]
type OnnxImages =
    /// As in training; the file does not say how.
    | AsTrained
    /// (pixel - mean) / std, computed by the caller; the file says so.
    | Normalised of mean: float list * std: float list
    /// Pixels from 0 to 1: the network itself computes (pixel - mean) / std first.
    | Pixels of mean: float list * std: float list

/// How a network is exported.
type OnnxOptions = {
    /// Version of ONNX's operators, from 17 to 21.
    Opset: int
    /// Height and width of the images; the batch is free.
    Height: int
    Width: int
    /// Whether batch normalisations are merged into the convolutions before them (`FoldBatchNorm`).
    FoldBatchNorm: bool
    /// Whether the tapped features are outputs too: "feature.0", "feature.1", ... behind the logits.
    Features: bool
    Images: OnnxImages
}

/// The options and what they may be.
[<RequireQualifiedAccess>]
module OnnxOptions =
    /// Opset 17 for square images of the given size, nothing merged, nothing added.
    let forSize (size: int) : OnnxOptions = {
        Opset = 17
        Height = size
        Width = size
        FoldBatchNorm = false
        Features = false
        Images = OnnxImages.AsTrained
    }

    let private perChannel (mean: float list, std: float list) : Result<unit, Error> =
        let good =
            (mean.Length, std.Length) = (3, 3)
            && List.forall Double.IsFinite (mean @ std)
            && List.forall (fun s -> s > 0.0) std

        if good then
            Ok()
        else
            let text (values: float list) = values |> List.map string |> String.concat ", "

            Result.Error(
                Error.create
                    Usage
                    $"mean and std must be 3 finite numbers each, std > 0; got {text mean} and {text std}"
                    ""
                    "give those that the network was trained with"
            )

    /// The options, if a model can be exported so.
    let validate (model: Model) (options: OnnxOptions) : Result<OnnxOptions, Error> =
        result {
            if options.Opset < 17 || options.Opset > 21 then
                return!
                    Error.create
                        Usage
                        $"opset must be from 17 to 21, got {options.Opset}"
                        ""
                        "17 suits every runtime since 2022"
                    |> Result.Error

            do! Model.checkInput options.Height options.Width model

            match options.Images with
            | OnnxImages.AsTrained -> ()
            | OnnxImages.Normalised(mean, std)
            | OnnxImages.Pixels(mean, std) -> do! perChannel (mean, std)

            return options
        }
