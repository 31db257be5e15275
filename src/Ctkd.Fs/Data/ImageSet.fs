namespace Ctkd.Fs

/// Labelled images of one size, as bytes: `Images` is [count, channels, height, width], row-major.
type ImageSet = {
    Name: string
    Classes: int
    Channels: int
    Height: int
    Width: int
    Images: byte[]
    Labels: int[]
}

/// A data set: its training and test images, the mean and standard deviation of each channel for normalisation (pixels
/// from 0 to 1), the augmentation's largest shift and whether it flips, and a citation.
type Splits = {
    Train: ImageSet
    Test: ImageSet
    Mean: float list
    Std: float list
    Pad: int
    Flip: bool
    Citation: string
}

[<RequireQualifiedAccess>]
module ImageSet =
    /// The size of the smallest batch of an epoch: often the last one, unless it is dropped.
    let smallestBatch (dropLast: bool) (batch: int) (images: int) : int =
        let rest = images % batch
        if rest = 0 || dropLast then batch else rest

    /// Returns the number of images.
    let count (set: ImageSet) : int = set.Labels.Length

    /// Returns the number of bytes per image.
    let imageSize (set: ImageSet) : int = set.Channels * set.Height * set.Width

    /// Returns the first fault of a set, if any.
    let private mistake (set: ImageSet) : string option =
        let needed = int64 (count set) * int64 set.Channels * int64 set.Height * int64 set.Width
        let outside = set.Labels |> Array.tryFindIndex (fun label -> label < 0 || label >= set.Classes)

        if count set = 0 then
            Some "it holds no images"
        elif set.Classes < 2 then
            Some $"its number of classes is {set.Classes}, at least 2 are needed"
        elif List.min [ set.Channels; set.Height; set.Width ] < 1 then
            Some $"its images have the size {set.Channels} x {set.Height} x {set.Width}"
        elif int64 set.Images.Length <> needed then
            Some $"{count set} images need {needed} bytes, it has {set.Images.Length}"
        else
            outside
            |> Option.map (fun i ->
                $"the label of record {i} (from 0) is {set.Labels[i]}, allowed are 0 to {set.Classes - 1}"
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
        let size = imageSize set
        let images = Array.zeroCreate<byte>(indices.Length * size)

        indices |> Array.iteri (fun i index -> System.Array.Copy(set.Images, index * size, images, i * size, size))

        {
            set with
                Images = images
                Labels = indices |> Array.map (fun index -> set.Labels[index])
        }

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
            let images =
                Array.init (3 * set.Images.Length) (fun i -> set.Images[i / (3 * plane) * plane + i % plane])

            Some { set with Channels = 3; Images = images }
        | _ -> None

    /// Computes mean and standard deviation of each channel over all pixels, for pixels from 0 to 1.
    let statistics (set: ImageSet) : (float * float) list =
        let plane = set.Height * set.Width

        let channel c =
            let counts = Array.zeroCreate<int64> 256

            for image in 0 .. count set - 1 do
                let start = (image * set.Channels + c) * plane

                for pixel in start .. start + plane - 1 do
                    counts[int set.Images[pixel]] <- counts[int set.Images[pixel]] + 1L

            let total = float (Array.sum counts)

            let average power = Seq.sum (Seq.mapi (fun v n -> float n * (float v / 255.0) ** power) counts) / total

            let mean = average 1.0
            mean, sqrt (max 0.0 (average 2.0 - mean * mean))

        List.init set.Channels channel
