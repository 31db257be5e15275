namespace Ctkd.Fs

open System
open Ctkd.Images

/// Whether the classes of photographs count.
[<RequireQualifiedAccess>]
type PhotoLabels =
    /// They do. Where there is no validation, this share of each class is held out, chosen by the seed.
    | Labelled of share: float * seed: int
    /// They do not: every image is one to train with, wherever it lies.
    | Unlabelled

/// Photographs, and where to read them.
[<NoComparison; ReferenceEquality>]
type PhotoSet = { Files: PhotoFiles; Source: IPhotoSource }

/// Functions over photographs.
[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module PhotoSet =

    /// The photographs at the given places, in that order.
    let select (places: int[]) (photos: PhotoSet) : PhotoSet = {
        Files = PhotoFolder.choose places photos.Files
        Source = new SelectedSource(photos.Source, places)
    }

/// The photographs of a folder or a pack.
[<NoComparison; ReferenceEquality>]
type PhotoData = {
    Train: PhotoSet
    Val: PhotoSet
    /// Whether the validation has a folder of its own.
    HasOwnVal: bool
    /// What is odd, for the user to see.
    Warnings: string list
}

/// Opens photographs, wherever they are.
[<RequireQualifiedAccess>]
module Photos =
    /// Whether there is a decoder: CTKD_JPEG may ask for one that is not installed.
    let internal checkDecoder () : Result<unit, Error> =
        try
            (new Decoder()).Dispose()
            Ok()
        with
        | :? ArgumentException
        | :? DllNotFoundException as problem -> Error.fail Usage problem.Message "" $"unset {Decoder.Variable}"

    /// What is in a folder or a pack, and how its files are read.
    let internal tree (path: string) : Result<PhotoTree * (PhotoFiles -> IPhotoSource), Error> =
        match PhotoPack.isPack path with
        | Result.Error error -> Result.Error error
        | Ok true ->
            PhotoPack.read path
            |> Result.map (fun pack ->
                pack.Tree,
                fun files ->
                    new PackSource(path, files.Paths |> Array.map (fun name -> pack.Entries[name])) :> IPhotoSource
            )
        | Ok false when IO.File.Exists path ->
            Error.fail
                Mismatch
                "this file is no pack of photographs"
                path
                "give a folder, or make a pack: ctkd data pack DIR OUT"
        | Ok false ->
            PhotoFolder.scan path
            |> Result.map (fun tree -> tree, fun files -> FolderSource(files.Root, files.Paths) :> IPhotoSource)

    /// Opens a folder or a pack; both give the same images in the same order.
    let read (labels: PhotoLabels) (path: string) : Result<PhotoData, Error> =
        let chosen (tree: PhotoTree) =
            match labels with
            | PhotoLabels.Labelled(share, seed) -> PhotoFolder.split share seed tree
            | PhotoLabels.Unlabelled -> Ok(PhotoFolder.unlabelled tree)

        checkDecoder ()
        |> Result.bind (fun () -> tree path)
        |> Result.bind (fun (tree, source) ->
            chosen tree
            |> Result.map (fun splits -> {
                PhotoData.Train = { Files = splits.Train; Source = source splits.Train }
                Val = { Files = splits.Val; Source = source splits.Val }
                HasOwnVal = tree.Val.IsSome
                Warnings = splits.Warnings
            })
        )
