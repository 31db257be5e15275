namespace Ctkd.Fs

/// What a run asks of its data.
[<RequireQualifiedAccess>]
module DataCheck =

    /// Refuses batches larger than the data.
    let batch (s: Settings) (data: Splits) : Result<unit, Error> =
        let images = ImageSet.count data.Train

        if s.Batch <= images then
            Ok()
        else
            Error.fail
                Usage
                $"batch is {s.Batch}, but there are only {images} training images"
                ""
                $"use --batch {images} or less"

    /// Refuses names that are not one for each class.
    let names (data: Splits) : Result<unit, Error> =
        let count = data.ClassNames.Length

        if count = 0 || count = data.Train.Classes then
            Ok()
        else
            Error.fail
                Mismatch
                $"the data set has {data.Train.Classes} classes and {count} names for them"
                ""
                "give one name for each class, or none"

    /// An agent learns from each batch when it sees the next: an epoch of one batch would teach it nothing. It blends images
    /// in memory.
    let agent (s: Settings) (plan: TrainingPlan) (data: Splits) : Result<unit, Error> =
        let images = ImageSet.count data.Train

        match TrainingPlan.agent plan, data.Train.Images with
        | Some _, _ when ImageSet.batches s.DropLast s.Batch images < 2 ->
            Error.fail
                Usage
                $"policy {s.Policy} learns from two batches or more an epoch, but {images} training images are one of {s.Batch}"
                ""
                $"use --batch {max 1 (images / 2)} or less"
        | Some { Images = Some _ }, Pixels.InFiles _ ->
            Error.fail
                Usage
                $"policy {s.Policy} mixes training images in memory, and photographs are decoded anew in each epoch"
                ""
                "leave the mixing out, as RLKD's recipes for ImageNet do: --rl-no-mix"
        | _ -> Ok()

    /// The smallest batch that batch normalisation bears: MobileNetV2's running statistics explode under batches of one and
    /// two images, as PyTorch's do, and resnet20's under batches of one.
    let private enough = 3

    /// A warning of a last batch too small for batch normalisation: a variance over few images is no estimate.
    let smallBatch (s: Settings) (data: Splits) (student: Model) : string option =
        let isNorm (layer: Layer) = layer.IsBatchNorm
        let smallest = Settings.smallestBatch s data
        let images count = if count = 1 then "one image" else $"{count} images"

        if smallest >= enough || not (Layer.leaves student.Body |> List.exists isNorm) then
            None
        elif s.Batch < enough then
            Some $"batches of {images s.Batch} are too small for batch normalisation: choose a larger --batch"
        else
            Some
                $"the last batch of each epoch has {images smallest}, too few for batch normalisation: leave it out with --drop-last, or choose another --batch than {s.Batch}"

    /// The number of images for each purpose, in words.
    let counts (data: Splits) : string =
        let validation =
            match data.Validation with
            | None -> ""
            | Some set -> $", {ImageSet.count set} validation"

        $"{ImageSet.count data.Train} training{validation} and {ImageSet.count data.Test} test images"
