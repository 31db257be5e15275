namespace Ctkd.Fs

open System.Collections.Generic
open Ctkd.Images

/// Where the pixels of a set are.
[<RequireQualifiedAccess; NoComparison>]
type Pixels =
    /// [count, channels, height, width], row-major.
    | InMemory of byte[]
    /// Photographs, decoded when they are needed and cut to the set's height and width.
    | InFiles of PhotoSet

/// Labelled images that a network sees in one size. Without labels each label is -1.
[<NoComparison>]
type ImageSet = {
    Name: string
    Classes: int
    Channels: int
    Height: int
    Width: int
    Images: Pixels
    Labels: int[]
}

/// A data set: its training, validation and test images, the mean and standard deviation of each channel for normalisation (pixels
/// from 0 to 1), the augmentation's largest shift and whether it flips, and a citation.
[<NoComparison>]
type Splits = {
    Train: ImageSet
    /// Images that choose the best epoch, and that nothing is trained on; None where the test images choose it.
    Validation: ImageSet option
    Test: ImageSet
    /// Names of the classes in the order of the labels; empty where none are known.
    ClassNames: string list
    Mean: float list
    Std: float list
    Pad: int
    Flip: bool
    /// What is odd about the images, for the user to see.
    Warnings: string list
    Citation: string
}

[<RequireQualifiedAccess>]
module ImageSet =
    /// The size of the smallest batch of an epoch: often the last one, unless it is dropped.
    let smallestBatch (dropLast: bool) (batch: int) (images: int) : int =
        let rest = images % batch
        if rest = 0 || dropLast then batch else rest

    /// Batches of an epoch; the last may be smaller, where it is not dropped.
    let batches (dropLast: bool) (batch: int) (images: int) : int =
        if dropLast then images / batch else (images + batch - 1) / batch

    /// Returns the number of images.
    let count (set: ImageSet) : int = set.Labels.Length

    /// Returns the number of bytes per image.
    let imageSize (set: ImageSet) : int = set.Channels * set.Height * set.Width

    /// Returns the bytes of a set in memory; raises `ArgumentException` for photographs in files.
    let bytes (set: ImageSet) : byte[] =
        match set.Images with
        | Pixels.InMemory bytes -> bytes
        | Pixels.InFiles _ -> invalidArg (nameof set) $"the images of '{set.Name}' are files, not bytes in memory."

    /// Whether the images have no labels.
    let isUnlabelled (set: ImageSet) : bool = set.Labels.Length > 0 && Array.forall ((=) -1) set.Labels

    /// Returns the fault of a set's pixels, if any.
    let private mistakeOfPixels (set: ImageSet) : string option =
        match set.Images with
        | Pixels.InMemory bytes ->
            let needed = int64 (count set) * int64 set.Channels * int64 set.Height * int64 set.Width

            if int64 bytes.Length = needed then
                None
            else
                Some $"{count set} images need {needed} bytes, it has {bytes.Length}"
        | Pixels.InFiles photos when photos.Source.Count = count set -> None
        | Pixels.InFiles photos -> Some $"it has {photos.Source.Count} files and {count set} labels"

    /// Returns the first fault of a set, if any.
    let private mistake (set: ImageSet) : string option =
        let least = if isUnlabelled set then -1 else 0
        let outside = set.Labels |> Array.tryFindIndex (fun label -> label < least || label >= set.Classes)

        if count set = 0 then
            Some "it holds no images"
        elif set.Classes < 2 then
            Some $"its number of classes is {set.Classes}, at least 2 are needed"
        elif List.min [ set.Channels; set.Height; set.Width ] < 1 then
            Some $"its images have the size {set.Channels} x {set.Height} x {set.Width}"
        else
            mistakeOfPixels set
            |> Option.orElse (
                outside
                |> Option.map (fun i ->
                    $"the label of record {i} (from 0) is {set.Labels[i]}, allowed are 0 to {set.Classes - 1}"
                )
            )

    /// Returns the set if its sizes agree and its labels are in range; `where` is the path in messages.
    let create (where: string) (set: ImageSet) : Result<ImageSet, Error> =
        match mistake set with
        | None -> Ok set
        | Some reason ->
            let what = $"the set '{set.Name}' cannot be used: {reason}"

            Error.fail Damaged what where "check that this is the right file, or fetch or write it again"

    /// Returns the images at the given indices, in that order.
    let select (indices: int[]) (set: ImageSet) : ImageSet =
        let images =
            match set.Images with
            | Pixels.InMemory bytes ->
                let size = imageSize set
                let images = Array.zeroCreate<byte>(indices.Length * size)
                indices |> Array.iteri (fun i index -> System.Array.Copy(bytes, index * size, images, i * size, size))
                Pixels.InMemory images
            | Pixels.InFiles photos -> Pixels.InFiles(PhotoSet.select indices photos)

        {
            set with
                Images = images
                Labels = indices |> Array.map (fun index -> set.Labels[index])
        }

    /// Returns `number` images, spread evenly over the classes: the first ones of each, in the order of the set; all, if
    /// there are fewer.
    let subset (number: int) (set: ImageSet) : ImageSet =
        if number < 1 then
            invalidArg (nameof number) $"the number of images must be > 0, got {number}."

        // The rank of each image within its class; all classes' first images come before the second ones.
        let seen = Dictionary<int, int>()

        let ranks =
            set.Labels
            |> Array.map (fun label ->
                let rank = seen.GetValueOrDefault(label, 0)
                seen[label] <- rank + 1
                rank
            )

        let chosen = Array.init (count set) id |> Array.sortBy (fun i -> ranks[i], i) |> Array.truncate number
        select (Array.sort chosen) set

    /// Returns the first `number` images of each class (or all, if fewer), in the order of the set.
    let firstPerClass (number: int) (set: ImageSet) : ImageSet =
        if number < 1 then
            invalidArg (nameof number) $"the number of images a class must be > 0, got {number}."

        let indices =
            set.Labels
            |> Array.indexed
            |> Array.groupBy snd
            |> Array.collect (snd >> Array.truncate number)
            |> Array.map fst

        select (Array.sort indices) set

    /// Converts to three channels: grey is repeated, three stay; `None` for other counts.
    let toThreeChannels (set: ImageSet) : ImageSet option =
        let plane = set.Height * set.Width

        match set.Channels with
        | 3 -> Some set
        | 1 ->
            let grey = bytes set
            let images = Array.init (3 * grey.Length) (fun i -> grey[i / (3 * plane) * plane + i % plane])
            Some { set with Channels = 3; Images = Pixels.InMemory images }
        | _ -> None

    /// Computes mean and standard deviation of each channel over all pixels, for pixels from 0 to 1.
    let statistics (set: ImageSet) : (float * float) list =
        let plane, bytes = set.Height * set.Width, bytes set

        let channel c =
            let counts = Array.zeroCreate<int64> 256

            for image in 0 .. count set - 1 do
                let start = (image * set.Channels + c) * plane

                for pixel in start .. start + plane - 1 do
                    counts[int bytes[pixel]] <- counts[int bytes[pixel]] + 1L

            let total = float (Array.sum counts)

            let average power = Seq.sum (Seq.mapi (fun v n -> float n * (float v / 255.0) ** power) counts) / total

            let mean = average 1.0
            mean, sqrt (max 0.0 (average 2.0 - mean * mean))

        List.init set.Channels channel

/// Functions over data sets.
[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module Splits =

    /// The places of a share of each class, chosen by the seed, in the order of the set; one image of each class at least is
    /// left.
    let private chosen (share: float) (seed: int) (set: ImageSet) : int[] =
        let rng = Rng.ofSeed seed |> Rng.split "validation"

        set.Labels
        |> Array.indexed
        |> Array.groupBy snd
        |> Array.collect (fun (label, images) ->
            let count = min (images.Length - 1) (int (System.Math.Round(share * float images.Length)))
            let order = Rng.at label rng |> Rng.permutation images.Length
            order |> Array.truncate count |> Array.map (fun i -> fst images[int i])
        )
        |> Array.sort

    /// <summary>Holds a share of each class out of the training images, as the validation. Which images, the seed alone
    /// decides: it is done before any subset of the training images is taken.</summary>
    /// <param name="share">The share, in [0, 1); 0 leaves the data set as it is.</param>
    /// <param name="seed">Chooses the images.</param>
    /// <param name="data">The data set, without a validation where the share is not 0.</param>
    let holdOut (share: float) (seed: int) (data: Splits) : Result<Splits, Error> =
        let refused what next = Error.fail Usage what data.Train.Name next

        if share = 0.0 then
            Ok data
        elif not (share > 0.0 && share < 1.0) then
            refused $"the share for validation is {share}" "it takes 0 or more, and less than 1"
        elif data.Validation.IsSome then
            refused "--val-split takes a validation from the training images, and this data set has one" "leave it out"
        else
            let held = chosen share seed data.Train

            if held.Length = 0 then
                refused
                    $"too few training images to hold a share of {share} of each class out for validation"
                    "add images, or give a larger --val-split"
            else
                let rest = [| 0 .. ImageSet.count data.Train - 1 |] |> Array.except held
                let validation = ImageSet.select held data.Train
                let classes = Array.distinct validation.Labels
                let without = Array.distinct data.Train.Labels |> Array.except classes

                let warnings =
                    if without.Length = 0 then
                        []
                    else
                        [
                            $"{without.Length} of {without.Length + classes.Length} classes have too few images to hold any out for validation"
                        ]

                Ok {
                    data with
                        Train = ImageSet.select rest data.Train
                        Validation = Some { validation with Name = $"{data.Train.Name} (validation)" }
                        Warnings = data.Warnings @ warnings
                }
