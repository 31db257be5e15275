namespace Ctkd.Fs

open System
open System.IO

/// Whole files: read into memory, or replaced in one step so that a failure leaves the old file as it was.
[<RequireQualifiedAccess>]
module Files =
    /// A text that comes from a file as part of a message: on one line, without control characters, not long.
    let printable (text: string) : string =
        let start = text |> Seq.truncate 300 |> Seq.map (fun c -> if Char.IsControl c then '?' else c)
        String(Array.ofSeq start) + (if text.Length > 300 then "..." else "")

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

    /// Whether the exception is one that the file system raises, and not a mistake of the program.
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
            let reason =
                $"it has {stream.Length} bytes, and at most {Array.MaxLength} fit into memory at once"

            Error(unreadable path reason "split it into smaller files")
        else
            let bytes = Array.zeroCreate<byte>(int stream.Length)
            stream.ReadExactly bytes
            Ok bytes

    /// All bytes of a file; an absent, empty, unreadable or too large one (2 GB) is an error, as is a folder.
    let read (path: string) : Result<byte[], Error> =
        if Directory.Exists path then
            Error(unreadable path "it is a folder" "give the path of a file inside it")
        elif not (File.Exists path) then
            Error(absent path)
        else
            try
                readExactly path
            with
            | :? UnauthorizedAccessException ->
                Error(unreadable path "permission denied" "give yourself the right to read it (chmod u+r)")
            | problem when isFileProblem problem ->
                Error(unreadable path problem.Message "check the disk, or copy the file again")

    let private unwritable (path: string) (problem: exn) : Error =
        let folder = Path.GetDirectoryName(Path.GetFullPath path)

        let reason, next =
            match problem with
            | :? DirectoryNotFoundException ->
                $"there is no folder '{folder}'", "make the folder, or choose another"
            | :? UnauthorizedAccessException ->
                "permission denied",
                $"give yourself the right to write into '{folder}', or choose another folder"
            | _ ->
                problem.Message,
                $"free space on the disk of '{folder}' if it is full, or choose another folder"

        Error.create Unwritable $"'{Path.GetFileName path}' cannot be written: {reason}" path next

    /// Removes the file if it is there; a failure to do so is of no interest beside the one that led here.
    let private discard (path: string) : unit =
        try
            File.Delete path
        with problem when isFileProblem problem ->
            ()

    /// <summary>
    /// Writes a file in one step: to a temporary name in the same folder, flushed to the disk, then renamed
    /// over the old file. Whatever fails, the old file stays whole and the temporary one is removed.
    /// </summary>
    /// <param name="path">The file to make or replace; its folder must exist.</param>
    /// <param name="write">Writes the contents; its exceptions pass through, except file problems.</param>
    /// <returns>Nothing, or an <c>Unwritable</c> error that names the path and the remedy.</returns>
    let replace (path: string) (write: Stream -> unit) : Result<unit, Error> =
        let temporary = $"{path}.{Guid.NewGuid():N}.tmp"

        try
            try
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

    /// Whether the name is one of `replace`'s temporary files.
    let private isTemporary (path: string) : bool =
        Text.RegularExpressions.Regex.IsMatch(path, @"\.[0-9a-f]{32}\.tmp$")

    /// Removes the temporary files that a process which was killed in `replace` left in a folder.
    let removeLeftovers (folder: string) : unit =
        Directory.GetFiles(folder, "*.tmp") |> Array.filter isTemporary |> Array.iter discard

    /// The parts one after the other.
    let internal join (parts: ReadOnlyMemory<byte> list) : byte[] =
        use stream = new MemoryStream()
        parts |> List.iter (fun part -> stream.Write part.Span)
        stream.ToArray()

    /// As `replace`, with a file of these parts; one that could not be read back (2 GB) is not begun.
    let internal replaceByParts (path: string) (parts: ReadOnlyMemory<byte> list) : Result<unit, Error> =
        let total = parts |> List.sumBy (fun part -> int64 part.Length)

        if total > int64 Array.MaxLength then
            let what =
                $"'{Path.GetFileName path}' would have {total} bytes, a file may have {Array.MaxLength}"

            Error(Error.create Unwritable what path "split it into smaller files")
        else
            replace path (fun stream -> parts |> List.iter (fun part -> stream.Write part.Span))
