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

    let private loaders: (string * (PhotoOptions -> string option -> Result<Splits, Error>)) list = [
        "digits", (fun _ _ -> Ok(Digits.load ()))
        "cells", (fun options _ -> Cells.load options)
        "cifar10", (fun _ -> fromFolder Cifar.load10 "cifar10")
        "cifar100", (fun _ -> fromFolder Cifar.load100 "cifar100")
        "file", (fun _ -> fromFolder OwnSet.load "file")
        "photos", (fun options -> fromFolder (PhotoSets.load options) "photos")
        "imagenet", (fun options -> fromFolder (PhotoSets.imageNet options) "imagenet")
    ]

    /// All names: the embedded digits and blood cells, CIFAR-10 and CIFAR-100 from a folder, your own arrays, photographs, and
    /// ImageNet.
    let names: string list = List.map fst loaders

    /// Whether a data set is one of photographs, each of its own size.
    let isPhotos (name: string) : bool = List.contains name [ "photos"; "imagenet" ]

    /// The sets that are part of the library and need no folder.
    let embedded: string list = [ "digits"; "cells" ]

    /// Height and width at which networks see a set's photographs unless another is asked for.
    let photoSize (name: string) : int = if name = "cells" then Cells.size else PhotoSets.defaults.Size

    /// Loads a data set by name; `dir` is the folder of its files, which the embedded sets do not need. The options are for
    /// photographs.
    let loadWith (options: PhotoOptions) (name: string) (dir: string option) : Result<Splits, Error> =
        match List.tryFind (fun (known, _) -> known = name) loaders with
        | Some(_, load) -> load options dir
        | None -> Error(Error.unknown "data set" names name)

    /// Loads a data set by name; `dir` is the folder of its files, which the embedded sets do not need.
    let load (name: string) (dir: string option) : Result<Splits, Error> =
        loadWith { PhotoSets.defaults with Size = photoSize name } name dir
