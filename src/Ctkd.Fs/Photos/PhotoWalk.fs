namespace Ctkd.Fs

open System
open System.IO
open Ctkd.Images

/// What is below folders.
[<NoComparison; NoEquality>]
type internal FoundFiles = {
    /// Paths below the root, and bytes.
    Images: ResizeArray<struct (string * int64)>
    /// Files that are no images.
    Others: ResizeArray<string>
    /// Folders that lie too deep to be read.
    TooDeep: ResizeArray<string>
}

/// Finds image files, by their names or else by their first bytes. Links are followed, hidden files left out.
[<RequireQualifiedAccess>]
module internal PhotoWalk =

    let private extensions = [ ".jpg"; ".jpeg"; ".png"; ".webp"; ".bmp"; ".gif" ]

    /// Deeper folders are not read.
    let mostDepth = 64

    let private isHidden (name: string) : bool = name.StartsWith '.'

    let private isLink (entry: FileSystemInfo) : bool = not (isNull entry.LinkTarget)

    /// Whether a file begins as an image does. One that may not be read is none; those that are named as images are listed
    /// without a look inside, and reading them tells.
    let private beginsAsImage (path: string) : bool =
        try
            use file = File.OpenHandle path
            let start = Array.zeroCreate<byte> PhotoFormats.Enough
            let read = RandomAccess.Read(file, start.AsSpan(), 0L)
            PhotoFormats.Of(ReadOnlySpan(start, 0, read)) <> PhotoFormat.Other
        with
        | :? UnauthorizedAccessException
        | :? IOException -> false

    /// Where the bytes of a file lie: a link leads there. Nothing where it leads nowhere, or round.
    let private target (entry: FileSystemInfo) : string option =
        try
            let path = if isLink entry then (nonNull (entry.ResolveLinkTarget true)).FullName else entry.FullName
            if File.Exists path then Some path else None
        with :? IOException ->
            None

    let private addFile (walk: FoundFiles) (relative: string) (entry: FileSystemInfo) : unit =
        let isImageByName =
            List.exists (fun (e: string) -> e.Equals(entry.Extension, StringComparison.OrdinalIgnoreCase)) extensions

        match target entry with
        | Some path when not (Files.isFile path) -> walk.Others.Add relative
        | Some path when isImageByName || beginsAsImage path ->
            walk.Images.Add(struct (relative, FileInfo(path).Length))
        // A link that leads nowhere is an image that cannot be read.
        | None when isImageByName -> walk.Images.Add(struct (relative, 0L))
        | _ -> walk.Others.Add relative

    /// The path of a folder without links, of which so many are followed.
    let rec private withoutLinks (links: int) (path: string) : string =
        match Path.GetDirectoryName path with
        | null -> path
        | parent ->
            let parent = withoutLinks links parent
            let inside = Path.Combine(parent, string (Path.GetFileName path))

            match DirectoryInfo(inside).LinkTarget with
            | null -> inside
            | _ when links = 0 -> inside
            | target -> withoutLinks (links - 1) (Path.GetFullPath(Path.Combine(parent, target)))

    /// Adds what is below a folder. `above` holds the folders that led here, as they are without links.
    let rec private visit
        (walk: FoundFiles)
        (leaveOut: string list)
        (above: string list)
        (relative: string)
        (folder: DirectoryInfo)
        : unit =
        let real =
            match above with
            | [] -> withoutLinks 40 folder.FullName
            | parent :: _ when isLink folder -> withoutLinks 40 (Path.Combine(parent, folder.Name))
            | parent :: _ -> Path.Combine(parent, folder.Name)

        // A link to a folder that it lies in would go on for ever.
        if List.contains real above || List.contains relative leaveOut then
            ()
        elif above.Length >= mostDepth then
            walk.TooDeep.Add relative
        else
            for entry in folder.EnumerateFileSystemInfos() do
                if not (isHidden entry.Name) then
                    let name = if relative = "" then entry.Name else $"{relative}/{entry.Name}"

                    match entry with
                    | :? DirectoryInfo as inner -> visit walk leaveOut (real :: above) name inner
                    | _ when isLink entry && Directory.Exists entry.FullName ->
                        visit walk leaveOut (real :: above) name (DirectoryInfo entry.FullName)
                    | _ -> addFile walk name entry

    /// The folder `under` below a root: the root itself where it is empty.
    let private inside (root: string) (under: string) : string = if under = "" then root else Path.Combine(root, under)

    /// <summary>Finds what is below a folder, in no order.</summary>
    /// <param name="root">The folder that paths are relative to.</param>
    /// <param name="under">Where to begin below it, or "".</param>
    /// <param name="leaveOut">Paths of folders that are not looked into.</param>
    let below (root: string) (under: string) (leaveOut: string list) : FoundFiles =
        let walk: FoundFiles = { Images = ResizeArray(); Others = ResizeArray(); TooDeep = ResizeArray() }
        visit walk leaveOut [] under (DirectoryInfo(inside root under))
        walk

    /// The names of the folders in the folder `under` below a root, in the order of their bytes.
    let folders (root: string) (under: string) : string list =
        Directory.GetDirectories(inside root under)
        |> Array.map (fun path -> string (Path.GetFileName path))
        |> Array.filter (isHidden >> not)
        |> List.ofArray
        |> List.sortWith ByteOrder.compare
