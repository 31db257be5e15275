namespace Ctkd.Fs

open System
open FsToolkit.ErrorHandling

/// The images that an exported network takes. Mean and standard deviation are per channel, for pixels from 0 to 1.
[<RequireQualifiedAccess>]
type OnnxImages =
    /// As in training; the file does not document how.
    | AsTrained
    /// (pixel - mean) / std, computed by the caller and documented in the file.
    | Normalised of mean: float list * std: float list
    /// Pixels from 0 to 1: the network computes (pixel - mean) / std itself.
    | Pixels of mean: float list * std: float list
    /// Decoded images of bytes, uint8 [batch, height, width, 3], RGB: the network scales and normalises them, and gives
    /// "probabilities" before "logits". From opset 18 on it takes any height and width and resizes the whole image, bilinear with
    /// antialiasing: PIL's BILINEAR without its rounding to bytes, and without a crop.
    | Bytes of mean: float list * std: float list

/// Options of an export.
type OnnxOptions = {
    /// Version of ONNX's operators, 17 to 21.
    Opset: int
    /// Height and width of the images; the batch size is free.
    Height: int
    Width: int
    /// Whether to merge batch normalisations into the convolutions before them (`FoldBatchNorm`).
    FoldBatchNorm: bool
    /// Whether to output the tapped features, "feature.0", "feature.1", ..., after the logits.
    Features: bool
    Images: OnnxImages
    /// Names of the classes in the order of the logits, written into the file; empty where none are known.
    ClassNames: string list
    /// The shorter side to which images are resized before their centre is cropped, written into the file; 0 if they are not.
    ShortSide: int
}

/// Creates and validates options.
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
        ClassNames = []
        ShortSide = 0
    }

    let private perChannel (mean: float list, std: float list) : Result<unit, Error> =
        let isValid =
            (mean.Length, std.Length) = (3, 3)
            && List.forall Double.IsFinite (mean @ std)
            && List.forall (fun s -> s > 0.0) std

        if isValid then
            Ok()
        else
            let text (values: float list) = values |> List.map string |> String.concat ", "

            Error.fail
                Usage
                $"mean and std must be 3 finite numbers each, std > 0; got {text mean} and {text std}"
                ""
                "give those that the network was trained with"

    /// Returns the options if the model can be exported with them.
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
            | OnnxImages.Pixels(mean, std)
            | OnnxImages.Bytes(mean, std) -> do! perChannel (mean, std)

            if not options.ClassNames.IsEmpty && options.ClassNames.Length <> model.Classes then
                return!
                    Error.fail
                        Usage
                        $"{model.Name} knows {model.Classes} classes, and {options.ClassNames.Length} are named"
                        ""
                        "name each class, in the order of the logits"

            return options
        }
