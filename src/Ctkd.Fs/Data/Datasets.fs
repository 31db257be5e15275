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

    let private sets: (string * Place * (PhotoOptions -> string option -> Result<Splits, Error>)) list = [
        "digits", Embedded, (fun _ _ -> Ok(Digits.load ()))
        "cells", Embedded, (fun options _ -> Cells.load options)
        "cifar10", Arrays, (fun _ -> fromFolder Cifar.load10 "cifar10")
        "cifar100", Arrays, (fun _ -> fromFolder Cifar.load100 "cifar100")
        "file", Arrays, (fun _ -> fromFolder OwnSet.load "file")
        "photos", Photographs, (fun options -> fromFolder (PhotoSets.load options) "photos")
        "imagenet", Photographs, (fun options -> fromFolder (PhotoSets.imageNet options) "imagenet")
    ]

    let private inPlace (place: Place) : string list = [
        for name, other, _ in sets do
            if other = place then name
    ]

    /// All names: the embedded digits and blood cells, CIFAR-10 and CIFAR-100 from a folder, your own arrays, photographs, and
    /// ImageNet.
    let names: string list = [ for name, _, _ in sets -> name ]

    /// Whether a data set is one of photographs in a folder.
    let isPhotos (name: string) : bool = List.contains name (inPlace Photographs)

    /// The sets that are part of the library and need no folder.
    let embedded: string list = inPlace Embedded

    /// Training images of each class, on average, of the sets whose number is known.
    let perClass (name: string) : int option =
        match name with
        | "digits" -> Some 382
        | "cells" -> Some 150
        | "cifar10" -> Some 5_000
        | "cifar100" -> Some 500
        | "imagenet" -> Some 1_281
        | _ -> None

    /// Height and width at which networks see a set's photographs unless another is asked for.
    let photoSize (name: string) : int = if name = "cells" then Cells.size else PhotoSets.defaults.Size

    /// Loads a data set by name; `dir` is the folder of its files, which the embedded sets do not need. The options' share of
    /// each class is held out of the training images as the validation; the other options are for photographs.
    let loadWith (options: PhotoOptions) (name: string) (dir: string option) : Result<Splits, Error> =
        match List.tryFind (fun (known, _, _) -> known = name) sets with
        // They know whether the test has a folder of its own.
        | Some(_, Photographs, load) -> load options dir
        | Some(_, (Embedded | Arrays), load) ->
            load options dir |> Result.bind (Splits.holdOut options.ValSplit options.Seed)
        | None -> Error(Error.unknown "data set" names name)

    /// Loads a data set by name; `dir` is the folder of its files, which the embedded sets do not need.
    let load (name: string) (dir: string option) : Result<Splits, Error> =
        loadWith { PhotoSets.defaults with Size = photoSize name } name dir
