namespace Ctkd.Fs

open System
open System.IO
open System.Runtime.InteropServices

/// Reads and atomically replaces whole files.
[<RequireQualifiedAccess>]
module Files =
    /// Makes text from a file fit for a message: one line, no control characters, at most 300 characters.
    let printable (text: string) : string =
        let start = text |> Seq.truncate 300 |> Seq.map (fun c -> if Char.IsControl c then '?' else c)
        String(Array.ofSeq start) + (if text.Length > 300 then "..." else "")

    [<DllImport("libc", SetLastError = true)>]
    extern int private statx(int folder, string path, int flags, uint32 mask, byte[] buffer)

    /// Whether something that is there is a file: reading a pipe may wait for ever, and replacing a device destroys it. Asked
    /// of Linux alone.
    let isFile (path: string) : bool =
        let buffer = Array.zeroCreate<byte> 256
        // AT_FDCWD, follow links, STATX_TYPE; the mode stands at byte 28 of struct statx, S_IFREG is 0x8000.
        if OperatingSystem.IsLinux() && statx (-100, path, 0, 1u, buffer) = 0 then
            BitConverter.ToUInt16(buffer, 28) &&& 0xF000us = 0x8000us
        else
            true

    let private absent (path: string) : Error =
        let folder = Path.GetDirectoryName(Path.GetFullPath path)

        let next =
            if Directory.Exists folder then
                "check the name of the file"
            else
                $"the folder '{folder}' is not there either: check the path"

        Error.create Missing $"there is no file '{Path.GetFileName path}'" path next

    let private unreadable (path: string) (reason: string) (next: string) : Error =
        Error.create Damaged $"'{Path.GetFileName path}' cannot be read: {reason}" path next

    /// Whether the exception comes from the file system rather than from a bug.
    let private isFileProblem (problem: exn) : bool =
        match problem with
        | :? IOException
        | :? UnauthorizedAccessException
        | :? NotSupportedException
        | :? ArgumentException
        | :? Security.SecurityException -> true
        | _ -> false

    let private readExactly (path: string) : Result<byte[], Error> =
        use stream = new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.Read)

        if stream.Length = 0L then
            Error(unreadable path "it is empty" "write or fetch it again")
        elif stream.Length > int64 Array.MaxLength then
            let reason = $"it has {stream.Length} bytes, and at most {Array.MaxLength} fit into memory at once"

            Error(unreadable path reason "split it into smaller files")
        else
            let bytes = Array.zeroCreate<byte>(int stream.Length)
            stream.ReadExactly bytes
            Ok bytes

    /// Runs a body that reads a file; what keeps it from being read becomes an error.
    let private guarded (path: string) (body: unit -> Result<'T, Error>) : Result<'T, Error> =
        if Directory.Exists path then
            Error(unreadable path "it is a folder" "give the path of a file inside it")
        elif not (File.Exists path) then
            Error(absent path)
        elif not (isFile path) then
            Error(unreadable path "it is a pipe or a device, and no file" "save its contents as a file first")
        else
            try
                body ()
            with
            | :? UnauthorizedAccessException ->
                Error(unreadable path "permission denied" "give yourself the right to read it (chmod u+r)")
            | problem when isFileProblem problem ->
                Error(unreadable path problem.Message "check the disk, or copy the file again")

    /// Opens a file that is longer than nothing, to read parts of it.
    let internal openRead (path: string) : Result<FileStream, Error> =
        guarded
            path
            (fun () ->
                let stream = new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.Read)

                if stream.Length > 0L then
                    Ok stream
                else
                    stream.Dispose()
                    Error(unreadable path "it is empty" "write or fetch it again")
            )

    /// Reads all bytes. Returns an error if the path is a folder, or the file is missing, empty, unreadable or larger
    /// than 2 GB.
    let read (path: string) : Result<byte[], Error> = guarded path (fun () -> readExactly path)

    /// Refuses a file of more than so many 10^6 bytes, before memory is taken for it.
    let atMost (megabytes: int) (path: string) : Result<unit, Error> =
        guarded
            path
            (fun () ->
                let length = FileInfo(path).Length

                if length <= int64 megabytes * 1_000_000L then
                    Ok()
                else
                    let reason = $"it has {length} bytes, and at most {megabytes} MB are expected"
                    Error(unreadable path reason "check that it is the file that you mean")
            )

    /// Reads a text file in UTF-8 of at most 16 MB, such as settings.
    let readText (path: string) : Result<string, Error> =
        atMost 16 path |> Result.bind (fun () -> read path) |> Result.map Text.Encoding.UTF8.GetString

    /// EROFS, which .NET on Unix gives as the code of an `IOException`.
    let private readOnly = 30

    let private unwritable (path: string) (problem: exn) : Error =
        let folder = Path.GetDirectoryName(Path.GetFullPath path)

        let reason, next =
            match problem with
            | :? DirectoryNotFoundException -> $"there is no folder '{folder}'", "make the folder, or choose another"
            | _ when Directory.Exists path -> "it is a folder", "give the name of a file, or choose another folder"
            | _ when File.Exists path && not (isFile path) ->
                "it is a pipe or a device, and no file", "give the name of a file, or choose another folder"
            | :? IOException when problem.HResult = readOnly -> "the file system is read-only", "choose another folder"
            | :? UnauthorizedAccessException ->
                "permission denied", $"give yourself the right to write into '{folder}', or choose another folder"
            | _ -> problem.Message, $"free space on the disk of '{folder}' if it is full, or choose another folder"

        Error.create Unwritable $"'{Path.GetFileName path}' cannot be written: {reason}" path next

    /// Deletes a file if it exists. Ignores failures: the error that led here is the one to report.
    let private discard (path: string) : unit =
        try
            File.Delete path
        with problem when isFileProblem problem ->
            ()

    /// The file that a link leads to, or the path itself: a link stays one. Where links lead nowhere, writing will tell.
    let private target (path: string) : string =
        try
            match FileInfo(path).LinkTarget, File.Exists path with
            | null, _
            | _, false -> path
            | _ -> (nonNull (File.ResolveLinkTarget(path, true))).FullName
        with problem when isFileProblem problem ->
            path

    /// Nothing but a file is replaced by a file.
    let private refuseOthers (path: string) : unit =
        if Directory.Exists path || File.Exists path && not (isFile path) then
            raise (IOException "it is no file")

    /// <summary>
    /// Writes a file atomically: to a temporary file in the same folder, flushed to disk, then renamed over the old
    /// one. On any failure the old file stays intact and the temporary one is deleted.
    /// </summary>
    /// The file to create or replace; its folder must exist.
    /// Writes the contents. File errors become an <c>Unwritable</c> error; other exceptions propagate.
    /// Nothing, or an <c>Unwritable</c> error with the path and a remedy.
    let replace (path: string) (write: Stream -> unit) : Result<unit, Error> =
        let path = target path
        let temporary = $"{path}.{Guid.NewGuid():N}.tmp"

        try
            try
                refuseOthers path

                using
                    (new FileStream(temporary, FileMode.CreateNew, FileAccess.Write))
                    (fun stream ->
                        write stream
                        stream.Flush true
                    )

                File.Move(temporary, path, true)
                Ok()
            with problem when isFileProblem problem ->
                Error(unwritable path problem)
        finally
            discard temporary

    /// Checks that `replace` can write a file: before long work whose result goes there. Leaves nothing behind.
    let checkWritable (path: string) : Result<unit, Error> =
        let path = target path
        let temporary = $"{path}.{Guid.NewGuid():N}.tmp"

        try
            try
                refuseOthers path
                use _ = new FileStream(temporary, FileMode.CreateNew, FileAccess.Write)
                Ok()
            with problem when isFileProblem problem ->
                Error(unwritable path problem)
        finally
            discard temporary

    /// Makes a folder if it is absent, and checks that files can be written there.
    let makeFolder (path: string) : Result<unit, Error> =
        try
            Directory.CreateDirectory path |> ignore
            checkWritable (Path.Combine(path, "any"))
        with problem when isFileProblem problem ->
            Error(unwritable path problem)

    /// The first name beside a file that no file has yet: path.old, path.old-2.
    let private aside (ending: string) (path: string) : string =
        Seq.initInfinite (fun i -> if i = 0 then $"{path}.{ending}" else $"{path}.{ending}-{i + 1}")
        |> Seq.find (File.Exists >> not)

    /// Gives a file a name with an ending that no file beside it has yet. Needs no room on the disk, and no right to read.
    /// Returns the new path.
    let moveAside (ending: string) (path: string) : string =
        let other = aside ending path
        File.Move(path, other)
        other

    /// Copies a file to a name with an ending that no file beside it has yet. Returns the copy's path.
    let keepAside (ending: string) (path: string) : string =
        let copy = aside ending path
        let temporary = $"{copy}.{Guid.NewGuid():N}.tmp"

        try
            File.Copy(path, temporary)
            File.Move(temporary, copy)
            copy
        finally
            discard temporary

    /// Whether `replace` made a file with this name.
    let private isTemporary (path: string) : bool = Text.RegularExpressions.Regex.IsMatch(path, @"\.[0-9a-f]{32}\.tmp$")

    /// Deletes the temporary files that a killed process left in a folder.
    let removeLeftovers (folder: string) : unit =
        Directory.GetFiles(folder, "*.tmp") |> Array.filter isTemporary |> Array.iter discard

    /// Concatenates the parts.
    let internal join (parts: ReadOnlyMemory<byte> list) : byte[] =
        use stream = new MemoryStream()
        parts |> List.iter (fun part -> stream.Write part.Span)
        stream.ToArray()

    /// Writes the concatenated parts as `replace` does. Refuses more than 2 GB, which `read` could not read back.
    let internal replaceByParts (path: string) (parts: ReadOnlyMemory<byte> list) : Result<unit, Error> =
        let total = parts |> List.sumBy (fun part -> int64 part.Length)

        if total > int64 Array.MaxLength then
            let what = $"'{Path.GetFileName path}' would have {total} bytes, a file may have {Array.MaxLength}"

            Error.fail Unwritable what path "split it into smaller files"
        else
            replace path (fun stream -> parts |> List.iter (fun part -> stream.Write part.Span))
