namespace Ctkd.Fs

open System.IO
open System.Text.RegularExpressions
open FsToolkit.ErrorHandling
open Ctkd.Images

/// How photographs become a data set.
type PhotoOptions = {
    /// Height and width of the images as the networks see them.
    Size: int
    /// The share of each class that is held out of the training images: as the validation, or as the test where the folder has
    /// no val folder; 0 for none, or a tenth.
    ValSplit: float
    /// Chooses what is held out.
    Seed: int
    /// Whether the training images have no labels.
    Unlabelled: bool
}

/// Data sets of photographs: folders, and packs of `ctkd data pack`.
[<RequireQualifiedAccess>]
module PhotoSets =

    /// 224 x 224 pixels, labelled, a tenth held out where there is no validation.
    let defaults: PhotoOptions = { Size = 224; ValSplit = 0.0; Seed = 1; Unlabelled = false }

    /// Mean and standard deviation of ImageNet's channels, which networks trained on it expect.
    let imageNetMean, imageNetStd = [ 0.485; 0.456; 0.406 ], [ 0.229; 0.224; 0.225 ]

    /// ImageNet's training and validation images (ILSVRC 2012).
    let private imageNetCounts = 1_281_167, 50_000

    let private imageNetClasses = 1000

    /// The share that is held out unless another is asked for.
    let private heldOut = 0.1

    let private imageSet (options: PhotoOptions) (name: string) (classes: int) (photos: PhotoSet) : ImageSet = {
        Name = name
        Classes = classes
        Channels = 3
        Height = options.Size
        Width = options.Size
        Images = Pixels.InFiles photos
        Labels = photos.Files.Labels
    }

    /// A part of unlabelled images for the test: the teacher's choices stand for labels there.
    let private holdOut (options: PhotoOptions) (data: PhotoData) : PhotoData =
        let count = data.Train.Source.Count
        let held = max 1 (int (options.ValSplit * float count))
        let order = Rng.ofSeed options.Seed |> Rng.split "validation" |> Rng.permutation count |> Array.map int

        let warning =
            $"no labelled images for validation: {held} images are held out, and top-1 is the share on which the student agrees with its teacher"

        {
            data with
                Train = PhotoSet.select (Array.sort (Array.skip held order)) data.Train
                Val = PhotoSet.select (Array.sort (Array.truncate held order)) data.Train
                Warnings = data.Warnings @ [ warning ]
        }

    let private read (options: PhotoOptions) (path: string) : Result<PhotoData, Error> =
        let share = if options.ValSplit > 0.0 then options.ValSplit else heldOut

        let labels =
            if options.Unlabelled then
                PhotoLabels.Unlabelled
            else
                PhotoLabels.Labelled(share, options.Seed)

        result {
            let! data = Photos.read labels path

            if data.Val.Source.Count > 0 then
                return data
            elif options.Unlabelled && data.Train.Source.Count > 1 then
                return holdOut { options with ValSplit = share } data
            else
                return!
                    Error.fail
                        Missing
                        "too few images to hold any out for the test"
                        path
                        "add images, give a larger --val-split, or put some into DIR/val/CLASS/"
        }

    /// The data set of photographs that were found, with names of the classes; without labels the number of classes is the
    /// teacher's.
    let internal ofPhotos
        (options: PhotoOptions)
        (name: string)
        (classNames: string list)
        (photos: PhotoData)
        : Splits =
        let set = imageSet options

        {
            Train = set name classNames.Length photos.Train
            Validation = None
            Test = set $"{name} (test)" classNames.Length photos.Val
            ClassNames = classNames
            Mean = imageNetMean
            Std = imageNetStd
            Pad = 0
            Flip = true
            Warnings = photos.Warnings
            Citation = ""
        }

    /// Photographs before a validation is held out, and whether the test has a folder of its own.
    let private loadWhole (options: PhotoOptions) (path: string) : Result<Splits * bool, Error> =
        result {
            let! photos = read options path
            let name = string (Path.GetFileName(Path.TrimEndingDirectorySeparator(Path.GetFullPath path)))
            let names = (if options.Unlabelled then photos.Val else photos.Train).Files.Classes
            return ofPhotos options name names photos, photos.HasOwnVal
        }

    /// With the validation that the options ask for. Where the test had to be held out, it is all that is.
    let private validated (options: PhotoOptions) (data: Splits, hasOwnTest: bool) : Result<Splits, Error> =
        if hasOwnTest then Splits.holdOut options.ValSplit options.Seed data else Ok data

    /// <summary>Loads photographs: <c>DIR/train/CLASS/*</c> and <c>DIR/val/CLASS/*</c>, or <c>DIR/CLASS/*</c> of which a part is
    /// held out for the test, or a pack of such a folder. They are normalised by ImageNet's mean and standard deviation.</summary>
    /// <param name="options">Size, split, and whether there are labels.</param>
    /// <param name="path">The folder, or the pack.</param>
    let load (options: PhotoOptions) (path: string) : Result<Splits, Error> =
        loadWhole options path |> Result.bind (validated options)

    /// <summary>Loads ImageNet (ILSVRC 2012): 1,000 folders named like n01440764 below train and below val. The class is the
    /// folder's place in the order of names.</summary>
    /// <param name="options">Size, split, and whether there are labels.</param>
    /// <param name="path">The folder that holds train and val, or a pack of it.</param>
    let imageNet (options: PhotoOptions) (path: string) : Result<Splits, Error> =
        result {
            let! data, hasOwnTest = loadWhole options path
            let strangers = data.ClassNames |> List.filter (fun name -> not (Regex.IsMatch(name, @"\An\d{8}\z")))

            if data.ClassNames.Length <> imageNetClasses || not strangers.IsEmpty then
                let odd = if strangers.IsEmpty then "" else $", one of them '{Files.printable strangers.Head}'"

                return!
                    Error.fail
                        Mismatch
                        $"this is not ImageNet: it has {data.ClassNames.Length} classes{odd}, not 1,000 folders named like n01440764"
                        path
                        "give the folder that holds train and val of ILSVRC 2012; folders of your own are --data DIR"

            let counts = ImageSet.count data.Train, ImageSet.count data.Test

            let warnings =
                if counts = imageNetCounts then
                    []
                else
                    [
                        $"ImageNet has {fst imageNetCounts} training and {snd imageNetCounts} validation images, this folder {fst counts} and {snd counts}"
                    ]

            return! validated options ({ data with Warnings = data.Warnings @ warnings }, hasOwnTest)
        }

    /// The list of a set's images as text (`PhotoIndex`); None for images in memory.
    let index (classNames: string list) (set: ImageSet) : string option =
        match set.Images with
        | Pixels.InMemory _ -> None
        | Pixels.InFiles photos -> Some(PhotoIndex.write { photos.Files with Classes = classNames })
