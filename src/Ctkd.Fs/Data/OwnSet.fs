namespace Ctkd.Fs

open System
open System.Buffers.Binary
open System.IO

/// Loads your own data set without code, from safetensors files with `images` (U8, [N, C, H, W]) and `labels` (I64, I32
/// or U8, [N]): a folder with train.safetensors and test.safetensors, or one file, with test_images and test_labels or
/// else every tenth image held out for the test. Optional metadata: `classes`, `mean` and `std` (1 or 3 numbers
/// separated by commas or spaces, pixels 0 to 1), `pad`, `flip`, `citation`.
[<RequireQualifiedAccess>]
module OwnSet =
    let private help =
        "write images as U8 [N, C, H, W] with 1 or 3 channels and labels as I64, I32 or U8 [N]; "
        + "metadata may give classes, mean, std, pad and flip"

    let private wrong (path: string) (reason: string) : Error =
        let what = $"'{Path.GetFileName path}' is no set of images: {Files.printable reason}"
        Error.create Damaged what path help

    let private shapeText (tensor: StoredTensor) : string =
        let extents = tensor.Shape |> List.map string |> String.concat ", "
        $"{tensor.DType} [{extents}]"

    // ---- metadata

    let private value (name: string) (file: SafetensorsFile) : string option =
        file.Metadata |> List.tryFind (fun (key, _) -> key = name) |> Option.map snd

    /// Reads a metadata value with `read`. A missing value is `None`, an invalid one an error.
    let private parsed
        (path: string)
        (expected: string)
        (read: string -> Result<'T, string>)
        (name: string)
        (file: SafetensorsFile)
        : Result<'T option, Error> =
        match value name file |> Option.map (fun text -> text, read text) with
        | None -> Ok None
        | Some(_, Ok result) -> Ok(Some result)
        | Some(text, Error reason) ->
            Error(wrong path $"its metadata '{name}' is '{text}': {reason}; expected is {expected}")

    /// One number a channel, or one for all.
    let private numbers (accept: float -> bool) (text: string) : Result<float list, string> =
        match Numbers.readList text with
        | Ok values when List.contains values.Length [ 1; 3 ] && List.forall accept values -> Ok values
        | Ok values -> Error $"{values.Length} numbers, or some out of range"
        | Error reason -> Error reason

    // ---- images and labels

    let private tensor (path: string) (file: SafetensorsFile) (name: string) : Result<StoredTensor, Error> =
        match file.Tensors |> List.tryFind (fun tensor -> tensor.Name = name) with
        | Some tensor -> Ok tensor
        | None ->
            let names = file.Tensors |> List.truncate 8 |> List.map _.Name |> String.concat ", "
            Error(wrong path $"it has no tensor '{name}', only: {names}")

    let private labelValues (path: string) (tensor: StoredTensor) : Result<int64[], Error> =
        let at size i = tensor.Bytes.Slice(i * size, size)

        match tensor.DType, tensor.Shape with
        | "U8", [ _ ] -> Ok(tensor.Bytes.ToArray() |> Array.map int64)
        | "I32", [ n ] -> Ok(Array.init (int n) (fun i -> int64 (BinaryPrimitives.ReadInt32LittleEndian (at 4 i).Span)))
        | "I64", [ n ] -> Ok(Array.init (int n) (fun i -> BinaryPrimitives.ReadInt64LittleEndian (at 8 i).Span))
        | _ -> Error(wrong path $"'{tensor.Name}' is {shapeText tensor}, expected is I64, I32 or U8 [N]")

    let private narrow (label: int64) : int = if label >= 0L && label < 1_000_000L then int label else -1

    /// Combines images and labels from the file; `Classes` is the highest label plus one.
    let private assemble (path: string) (images: StoredTensor) (labels: int64[]) : Result<ImageSet, Error> =
        match images.DType, images.Shape with
        | "U8", [ n; c; h; w ] when n = labels.LongLength && List.max [ c; h; w ] <= 65536L ->
            Ok {
                Name = string (Path.GetFileName path)
                Classes = 1 + (Array.append [| 0L |] labels |> Array.max |> narrow)
                Channels = int c
                Height = int h
                Width = int w
                Images = Pixels.InMemory(images.Bytes.ToArray())
                Labels = Array.map narrow labels
            }
        | "U8", n :: _ when n <> labels.LongLength -> Error(wrong path $"it has {n} images and {labels.Length} labels")
        | _ -> Error(wrong path $"'{images.Name}' is {shapeText images}, expected is U8 [N, C, H, W]")

    let private colour (path: string) (set: ImageSet) : Result<ImageSet, Error> =
        match ImageSet.toThreeChannels set with
        | _ when set.Channels = 1 && (ImageSet.bytes set).Length > Array.MaxLength / 3 ->
            Error(wrong path "its grey images take more than 2 GB with three channels")
        | Some colour -> Ok colour
        | None -> Error(wrong path $"its images have {set.Channels} channels, expected are 1 or 3")

    let private images (path: string) (file: SafetensorsFile) (prefix: string) : Result<ImageSet, Error> =
        tensor path file (prefix + "labels")
        |> Result.bind (labelValues path)
        |> Result.bind (fun labels ->
            tensor path file (prefix + "images") |> Result.bind (fun images -> assemble path images labels)
        )
        |> Result.bind (colour path)

    // ---- splits

    /// Holds out every tenth image for the test, or the last of fewer than ten.
    let private holdOut (set: ImageSet) : ImageSet * ImageSet =
        let last = ImageSet.count set - 1
        let isTest i = i % 10 = 9 || (last < 9 && i = last)
        let test, train = Array.partition isTest [| 0..last |]
        ImageSet.select train set, ImageSet.select test set

    let private within (path: string) (key: string) (least: int) (most: int) (value: int option) =
        match value with
        | Some number when number < least || number > most ->
            Error(wrong path $"its metadata '{key}' is {number}, expected is a number from {least} to {most}")
        | _ -> Ok value

    let private classes (path: string) (file: SafetensorsFile) : Result<int option, Error> =
        parsed path "a whole number" Numbers.readWhole "classes" file |> Result.bind (within path "classes" 2 100_000)

    /// Reads the file's tensors with `prefix` in their names, and checks them against the number of classes, if given.
    let private valid (path: string) (classes: int option) (file: SafetensorsFile) (prefix: string) =
        images path file prefix
        |> Result.bind (fun set -> ImageSet.create path { set with Classes = defaultArg classes set.Classes })

    let private hasTest (file: SafetensorsFile) : bool =
        file.Tensors |> List.exists (fun tensor -> tensor.Name.StartsWith("test_", StringComparison.Ordinal))

    /// Reads training and test images from one file.
    let private pair (path: string) (file: SafetensorsFile) : Result<ImageSet * ImageSet, Error> =
        classes path file
        |> Result.bind (fun classes -> valid path classes file "")
        |> Result.bind (fun train ->
            if hasTest file then
                valid path (Some train.Classes) file "test_" |> Result.map (fun test -> train, test)
            elif ImageSet.count train = 1 then
                Error(wrong path "it has one image, which cannot both train and test")
            else
                Ok(holdOut train)
        )

    /// Reads training images from the first file and test images from the second.
    let private pairOfFiles (path: string) (file: SafetensorsFile) (test: string) =
        classes path file
        |> Result.bind (fun classes -> valid path classes file "")
        |> Result.bind (fun train ->
            Safetensors.read test
            |> Result.bind (fun file -> valid test (Some train.Classes) file "")
            |> Result.map (fun test -> train, test)
        )

    let private statistics (path: string) (set: ImageSet) : Result<float list * float list, Error> =
        let means, stds = List.unzip (ImageSet.statistics set)

        if List.forall (fun std -> std > 0.0) stds then
            Ok(means, stds)
        else
            Error(wrong path "all pixels of a channel are equal, so they cannot be normalised: give std")

    let private three (values: float list) : float list =
        if values.Length = 1 then List.replicate 3 values.Head else values

    let private normalisation (path: string) (file: SafetensorsFile) (train: ImageSet) =
        let mean =
            parsed path "1 or 3 finite numbers" (numbers (FieldKind.isWithin FieldKind.anyNumber)) "mean" file

        let std =
            parsed path "1 or 3 finite numbers > 0" (numbers (FieldKind.isWithin FieldKind.positive)) "std" file

        match mean, std with
        | Error error, _
        | _, Error error -> Error error
        | Ok(Some mean), Ok(Some std) -> Ok(three mean, three std)
        | Ok mean, Ok std ->
            statistics path train |> Result.map (fun (m, s) -> three (defaultArg mean m), three (defaultArg std s))

    let private splits
        (path: string)
        (file: SafetensorsFile)
        (train: ImageSet, test: ImageSet)
        : Result<Splits, Error> =
        let pad =
            parsed path "a whole number" Numbers.readWhole "pad" file |> Result.bind (within path "pad" 0 256)

        let flip = parsed path "true or false" FieldKind.readSwitch "flip" file

        match normalisation path file train, pad, flip with
        | Error error, _, _
        | _, Error error, _
        | _, _, Error error -> Error error
        | Ok(mean, std), Ok pad, Ok flip ->
            Ok {
                Train = train
                Validation = None
                Test = test
                ClassNames = []
                Mean = mean
                Std = std
                Pad = defaultArg pad (min train.Height train.Width / 8)
                Flip = defaultArg flip false
                Warnings = []
                Citation = defaultArg (value "citation" file) ""
            }

    /// Builds the splits, with the metadata of the training file.
    let private build (path: string) (file: SafetensorsFile) (train: ImageSet, test: ImageSet) =
        if (train.Height, train.Width) = (test.Height, test.Width) then
            splits path file (train, { test with Name = $"{test.Name} (test)" })
        else
            let size (set: ImageSet) = $"{set.Height} x {set.Width}"
            Error(wrong path $"its images are {size train} in training and {size test} in the test")

    let private loadFile (path: string) : Result<Splits, Error> =
        Safetensors.read path |> Result.bind (fun file -> pair path file |> Result.bind (build path file))

    let private loadFolder (folder: string) : Result<Splits, Error> =
        let train, test = Path.Combine(folder, "train.safetensors"), Path.Combine(folder, "test.safetensors")

        Safetensors.read train
        |> Result.bind (fun file -> pairOfFiles train file test |> Result.bind (build train file))

    /// Loads the set in a folder or file. By default the augmentation shifts by an eighth of the image and does not
    /// flip.
    let load (path: string) : Result<Splits, Error> = if Directory.Exists path then loadFolder path else loadFile path

    /// <summary>A set from arrays. Every tenth image is held out for the test; pixels are normalised by the training images'
    /// mean and standard deviation; the augmentation shifts by an eighth of the image and does not flip.</summary>
    /// <param name="name">Name of the set, for messages and checkpoints.</param>
    /// <param name="height">Height of the images in pixels.</param>
    /// <param name="width">Width of the images in pixels.</param>
    /// <param name="images">One array per image: bytes [C, H, W] in row-major order, with 1 or 3 channels.</param>
    /// <param name="labels">The class of each image, from 0.</param>
    let ofArrays (name: string) (height: int) (width: int) (images: byte[][]) (labels: int[]) : Result<Splits, Error> =
        if height < 1 || width < 1 then
            invalidArg (nameof height) $"images must be at least 1 x 1 pixels, got {height} x {width}."

        let channels = if images.Length = 0 then 0 else images[0].Length / (height * width)

        match images |> Array.tryFindIndex (fun image -> image.Length <> channels * height * width) with
        | Some i ->
            Error(wrong name $"image {i} (from 0) has {images[i].Length} bytes, the first has {images[0].Length}")
        | None when images.Length < 2 || labels.Length <> images.Length ->
            Error(wrong name $"it has {images.Length} images and {labels.Length} labels; at least 2 of each are needed")
        | None ->
            {
                Name = name
                Classes = 1 + Array.max labels
                Channels = channels
                Height = height
                Width = width
                Images = Pixels.InMemory(Array.concat images)
                Labels = labels
            }
            |> ImageSet.create name
            |> Result.bind (colour name)
            |> Result.map holdOut
            |> Result.bind (fun (train, test) -> splits name { Metadata = []; Tensors = [] } (train, test))
