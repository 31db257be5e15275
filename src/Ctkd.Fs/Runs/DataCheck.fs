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
