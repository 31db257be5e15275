namespace Ctkd.Fs

open System.IO
open System.Text.RegularExpressions
open FsToolkit.ErrorHandling
open Ctkd.Images

/// How photographs become a data set.
type PhotoOptions = {
    /// Height and width of the images as the networks see them.
    Size: int
    /// The share of each class that is held out where the folder has no validation of its own; 0 for a tenth.
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

    let private ofFiles (options: PhotoOptions) (name: string) (classes: int) (source: IPhotoSource) (files: PhotoFiles) = {
        Name = name
        Classes = classes
        Channels = 3
        Height = options.Size
        Width = options.Size
        Images = Pixels.InFiles { Source = source; Lengths = files.Lengths }
        Labels = files.Labels
    }

    /// A part of unlabelled images for the test: the teacher's choices stand for labels there.
    let private holdOut (options: PhotoOptions) (splits: PhotoSplits) : PhotoSplits =
        let share = if options.ValSplit > 0.0 then options.ValSplit else heldOut
        let files = splits.Train
        let count = files.Paths.Length
        let held = max 1 (int (share * float count))
        let order = Rng.ofSeed options.Seed |> Rng.split "validation" |> Rng.permutation count |> Array.map int

        let choose (places: int[]) = {
            files with
                Paths = places |> Array.map (fun i -> files.Paths[i])
                Lengths = places |> Array.map (fun i -> files.Lengths[i])
                Labels = places |> Array.map (fun i -> files.Labels[i])
        }

        let warning =
            $"no labelled images for validation: {held} images are held out, and top-1 is the share on which the student agrees with its teacher"

        {
            splits with
                Train = choose (Array.sort (Array.skip held order))
                Val = choose (Array.sort (Array.truncate held order))
                Warnings = splits.Warnings @ [ warning ]
        }

    let private chosen (options: PhotoOptions) (path: string) (tree: PhotoTree) : Result<PhotoSplits, Error> =
        if options.Unlabelled then
            let splits = PhotoFolder.unlabelled tree

            if splits.Val.Paths.Length > 0 then
                Ok splits
            elif splits.Train.Paths.Length < 2 then
                Error.fail Missing "one image cannot both train and test" path "add images"
            else
                Ok(holdOut options splits)
        elif tree.Val.IsSome && options.ValSplit > 0.0 then
            Error.fail
                Usage
                "val-split holds out a part of the training images, and this folder has a validation of its own"
                path
                "leave out --val-split"
        else
            let share = if options.ValSplit > 0.0 then options.ValSplit else heldOut

            PhotoFolder.split share options.Seed tree
            |> Result.bind (fun splits ->
                if splits.Val.Paths.Length > 0 then
                    Ok splits
                else
                    Error.fail
                        Missing
                        "too few images to hold any out for the test"
                        path
                        "add images, give a larger --val-split, or put some into DIR/val/CLASS/"
            )

    /// The files of a folder or a pack, and how to read those of a part.
    let private find (path: string) : Result<PhotoTree * (PhotoFiles -> IPhotoSource), Error> =
        if File.Exists path then
            PhotoPack.openFile path |> Result.map (fun pack -> pack.Tree, pack.Source)
        else
            PhotoFolder.scan path
            |> Result.map (fun tree -> tree, (fun files -> FolderSource(files.Root, files.Paths) :> IPhotoSource))

    /// <summary>Loads photographs: <c>DIR/train/CLASS/*</c> and <c>DIR/val/CLASS/*</c>, or <c>DIR/CLASS/*</c> of which a part is
    /// held out, or a pack of such a folder. They are normalised by ImageNet's mean and standard deviation.</summary>
    /// <param name="options">Size, split, and whether there are labels.</param>
    /// <param name="path">The folder, or the pack.</param>
    let load (options: PhotoOptions) (path: string) : Result<Splits, Error> =
        result {
            let! tree, source = find path
            let! splits = chosen options path tree
            let name = string (Path.GetFileName(Path.TrimEndingDirectorySeparator(Path.GetFullPath path)))
            // Without labels the number of classes is the teacher's.
            let names = if options.Unlabelled then splits.Val.Classes else splits.Train.Classes
            let set = ofFiles options

            return {
                Train = set name names.Length (source splits.Train) splits.Train
                Test = set $"{name} (test)" names.Length (source splits.Val) splits.Val
                ClassNames = names
                Mean = imageNetMean
                Std = imageNetStd
                Pad = 0
                Flip = true
                Warnings = splits.Warnings
                Citation = ""
            }
        }

    /// <summary>Loads ImageNet (ILSVRC 2012): 1,000 folders named like n01440764 below train and below val. The class is the
    /// folder's place in the order of names.</summary>
    /// <param name="options">Size, split, and whether there are labels.</param>
    /// <param name="path">The folder that holds train and val, or a pack of it.</param>
    let imageNet (options: PhotoOptions) (path: string) : Result<Splits, Error> =
        result {
            let! data = load options path
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
                    [ $"ImageNet has {fst imageNetCounts} training and {snd imageNetCounts} validation images, this folder {fst counts} and {snd counts}" ]

            return { data with Warnings = data.Warnings @ warnings }
        }

    /// The list of a set's images as text (`PhotoIndex`); None for images in memory.
    let index (classNames: string list) (set: ImageSet) : string option =
        match set.Images with
        | Pixels.InMemory _ -> None
        | Pixels.InFiles photos ->
            Some(
                PhotoIndex.write {
                    Root = ""
                    Classes = classNames
                    Paths = Array.init photos.Source.Count photos.Source.Name
                    Lengths = photos.Lengths
                    Labels = set.Labels
                }
            )
