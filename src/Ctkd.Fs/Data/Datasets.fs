namespace Ctkd.Fs

/// Data sets by name.
[<RequireQualifiedAccess>]
module Datasets =
    let private fromFolder (load: string -> Result<Splits, Error>) (name: string) (dir: string option) =
        match dir with
        | Some folder -> load folder
        | None ->
            let next = "give the folder with --data-dir DIR (for 'file': the folder or safetensors file)"
            Error.fail Usage $"the data set '{name}' is not part of the library" "" next

    /// Where the images of a set are.
    type private Place =
        /// Part of the library.
        | Embedded
        /// Files in a folder of the user's.
        | Arrays
        /// Photographs in a folder of the user's, each of its own size.
        | Photographs

    /// A data set: its name, where its images are, how many of each class train on average where that is known, and how it is
    /// loaded.
    [<NoComparison; NoEquality>]
    type private Known = {
        Name: string
        Place: Place
        PerClass: int option
        Load: PhotoOptions -> string option -> Result<Splits, Error>
    }

    let private known name place perClass load = { Name = name; Place = place; PerClass = perClass; Load = load }

    let private sets: Known list = [
        known "digits" Embedded (Some 382) (fun _ _ -> Ok(Digits.load ()))
        known "cells" Embedded (Some 150) (fun options _ -> Cells.load options)
        known "cifar10" Arrays (Some 5_000) (fun _ -> fromFolder Cifar.load10 "cifar10")
        known "cifar100" Arrays (Some 500) (fun _ -> fromFolder Cifar.load100 "cifar100")
        known "file" Arrays None (fun _ -> fromFolder OwnSet.load "file")
        known "photos" Photographs None (fun options -> fromFolder (PhotoSets.load options) "photos")
        known "imagenet" Photographs (Some 1_281) (fun options -> fromFolder (PhotoSets.imageNet options) "imagenet")
    ]

    let private find (name: string) : Known option = sets |> List.tryFind (fun set -> set.Name = name)

    let private inPlace (place: Place) : string list =
        sets |> List.filter (fun set -> set.Place = place) |> List.map _.Name

    /// All names: the embedded digits and blood cells, CIFAR-10 and CIFAR-100 from a folder, your own arrays, photographs, and
    /// ImageNet.
    let names: string list = sets |> List.map _.Name

    /// Whether a data set is one of photographs in a folder.
    let isPhotos (name: string) : bool = List.contains name (inPlace Photographs)

    /// The sets that are part of the library and need no folder.
    let embedded: string list = inPlace Embedded

    /// Training images of each class, on average, of the sets whose number is known.
    let perClass (name: string) : int option = find name |> Option.bind _.PerClass

    /// Height and width at which networks see a set's photographs unless another is asked for.
    let photoSize (name: string) : int = if name = "cells" then Cells.size else PhotoSets.defaults.Size

    /// Loads a data set by name; `dir` is the folder of its files, which the embedded sets do not need. The options' share of
    /// each class is held out of the training images as the validation; the other options are for photographs.
    let loadWith (options: PhotoOptions) (name: string) (dir: string option) : Result<Splits, Error> =
        match find name with
        // They know whether the test has a folder of its own.
        | Some { Place = Photographs; Load = load } -> load options dir
        | Some { Load = load } -> load options dir |> Result.bind (Splits.holdOut options.ValSplit options.Seed)
        | None -> Error(Error.unknown "data set" names name)

    /// Loads a data set by name; `dir` is the folder of its files, which the embedded sets do not need.
    let load (name: string) (dir: string option) : Result<Splits, Error> =
        loadWith { PhotoSets.defaults with Size = photoSize name } name dir
