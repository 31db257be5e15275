namespace Ctkd.Fs

open System.IO
open System.IO.Compression
open System.Reflection
open Ctkd.Images

/// The embedded photographs of blood cells: 450 to train with and 150 to test with, of three kinds, no side longer than 64
/// pixels. `scripts/_pack-cells.fsx` made the resource; licence and source are in `Data/Cells/cells.LICENSE.md`.
[<RequireQualifiedAccess>]
module Cells =
    /// The name of the embedded resource.
    let internal resource: string = "cells.zip"

    /// Height and width at which networks see them unless another is asked for.
    let size: int = 48

    let private citation =
        "BCCD, Blood Cell Count and Detection, https://github.com/Shenggan/BCCD_Dataset, MIT, (c) 2017 shenggan"

    /// The files of a part in the archive's order, which is by class and then by name: SPLIT/CLASS/FILE.
    let private part (classes: string list) (split: string) (files: (string * byte[]) list) : PhotoSet =
        let own =
            files
            |> List.filter (fun (name, _) -> name.StartsWith(split + "/", System.StringComparison.Ordinal))
            |> Array.ofList

        let paths = own |> Array.map fst

        {
            Files = {
                Root = resource
                Classes = classes
                Paths = paths
                Lengths = own |> Array.map (fun (_, bytes) -> bytes.LongLength)
                Labels = paths |> Array.map (fun path -> List.findIndex ((=) (path.Split("/")[1])) classes)
                Marks = own |> Array.map (fun (_, bytes) -> PhotoMark.ofBytes (System.ReadOnlySpan bytes))
            }
            Source = MemorySource(Array.map snd own)
        }

    let private files () : (string * byte[]) list =
        use stream = Assembly.GetExecutingAssembly().GetManifestResourceStream resource |> nonNull
        use archive = new ZipArchive(stream, ZipArchiveMode.Read)

        [
            for entry in archive.Entries do
                use content = entry.Open()
                let bytes = Array.zeroCreate<byte>(int entry.Length)
                content.ReadExactly(bytes, 0, bytes.Length)
                entry.FullName, bytes
        ]

    /// Loads the cells, to be seen in the options' size and normalised by ImageNet's mean and standard deviation. The classes
    /// are platelet, red blood cell and white blood cell.
    let load (options: PhotoOptions) : Result<Splits, Error> =
        Photos.checkDecoder ()
        |> Result.map (fun () ->
            let files = files ()
            let classes = ClassNames.ofData "cells"

            let photos: PhotoData = {
                Train = part classes "train" files
                Val = part classes "val" files
                HasOwnVal = true
                Warnings = []
            }

            { PhotoSets.ofPhotos options "cells" classes photos with Citation = citation }
        )
