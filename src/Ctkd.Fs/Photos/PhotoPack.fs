namespace Ctkd.Fs

open System
open System.Buffers.Binary
open System.Collections.Generic
open System.IO
open System.IO.Hashing
open System.Security.Cryptography
open System.Text
open Ctkd.Images

/// A pack: the original bytes of a folder's images in one file.
[<NoComparison; ReferenceEquality>]
type PhotoPack = {
    /// What was in the folder; its root is the pack.
    Tree: PhotoTree
    /// Where each path lies.
    Entries: Dictionary<string, PackedFile>
}

/// Packs of photographs: one file that copies and opens at once, where a folder would be opened a million times. The file
/// has a header of 64 bytes (magic, version, place and length of the index, its SHA-256), the bytes of each image, and the
/// index: the text of `PhotoIndex` for each split, and a line with offset and CRC-32 for each image.
[<RequireQualifiedAccess>]
module PhotoPack =
    let private magic = "CTKDPACK"B
    let private version = 2
    let private headerLength = 64

    /// The longest index that is read: 1 GiB, some ten million images.
    let private mostIndex = 1L <<< 30

    let private header (offset: int64) (index: byte[]) : byte[] =
        let bytes = Array.zeroCreate<byte> headerLength
        magic.CopyTo(bytes, 0)
        BinaryPrimitives.WriteInt32LittleEndian(bytes.AsSpan 8, version)
        BinaryPrimitives.WriteInt64LittleEndian(bytes.AsSpan 16, offset)
        BinaryPrimitives.WriteInt64LittleEndian(bytes.AsSpan 24, index.LongLength)
        SHA256.HashData(index: byte[]).CopyTo(bytes, 32)
        bytes

    let private guarded (path: string) (read: unit -> Result<'T, Error>) : Result<'T, Error> =
        try
            read ()
        with
        | :? UnauthorizedAccessException as problem ->
            Error.fail Damaged $"the file cannot be read: {problem.Message}" path "give yourself the right to read it"
        | :? IOException as problem ->
            Error.fail Damaged $"the file cannot be read: {problem.Message}" path "check the disk"

    /// Whether a file begins as a pack does. Fails where there is a file that cannot be read.
    let isPack (path: string) : Result<bool, Error> =
        guarded
            path
            (fun () ->
                if File.Exists path && Files.isFile path then
                    use file = File.OpenHandle path
                    let start = Array.zeroCreate<byte> magic.Length
                    Ok(RandomAccess.Read(file, start.AsSpan(), 0L) = magic.Length && start = magic)
                else
                    Ok false
            )

    /// Nothing but a pack is replaced by one.
    let private mayWrite (out: string) : Result<unit, Error> =
        isPack out
        |> Result.bind (fun isPack ->
            if File.Exists out && not isPack then
                Error.fail Unwritable "this file is no pack, and is not replaced by one" out "give a name that is free"
            else
                Files.checkWritable out
        )

    /// Returns the set with the lengths and marks of what was read: a file may have changed since it was found.
    let private appendImages
        (stream: Stream)
        (tick: unit -> unit)
        (files: PhotoFiles)
        (places: StringBuilder)
        : PhotoFiles =
        let lengths, marks = Array.copy files.Lengths, Array.copy files.Marks
        let source = FolderSource(files.Root, files.Paths)
        let mutable buffer = Array.empty<byte>

        for i in 0 .. files.Paths.Length - 1 do
            let length =
                try
                    source.Read(i, &buffer)
                with :? PhotoException as problem ->
                    let what = $"'{Files.printable files.Paths[i]}' cannot be packed: {problem.Message}"
                    Error.create Damaged what files.Root "mend or delete it, then pack again" |> Error.raise

            let crc = Crc32.HashToUInt32(ReadOnlySpan(buffer, 0, length))
            places.Append($"{stream.Position}\t{length}\t{crc:x8}\n") |> ignore
            stream.Write(buffer, 0, length)
            lengths[i] <- int64 length
            marks[i] <- PhotoMark.ofBytes (ReadOnlySpan(buffer, 0, length))
            tick ()

        { files with Lengths = lengths; Marks = marks }

    /// <summary>
    /// Writes a pack of a folder. A pack that is there is replaced at the end, other files never; a failure leaves nothing.
    /// </summary>
    /// <param name="progress">Is told how many images are done, and of how many.</param>
    /// <param name="tree">What is in the folder.</param>
    /// <param name="out">The new file.</param>
    let write (progress: int -> int -> unit) (tree: PhotoTree) (out: string) : Result<unit, Error> =
        let sets = tree.Train :: Option.toList tree.Val
        let total = sets |> List.sumBy _.Paths.Length
        let isDone = ref 0

        let tick () =
            isDone.Value <- isDone.Value + 1
            progress isDone.Value total

        let body (stream: Stream) =
            stream.Write(Array.zeroCreate<byte> headerLength, 0, headerLength)
            let index = StringBuilder($"sets\t{sets.Length}\n")

            for files in sets do
                let places = StringBuilder()
                appendImages stream tick files places |> PhotoIndex.append index
                index.Append places |> ignore

            let bytes = Encoding.UTF8.GetBytes(index.ToString())
            let offset = stream.Position
            stream.Write(bytes, 0, bytes.Length)
            stream.Position <- 0L
            stream.Write(header offset bytes, 0, headerLength)

        try
            mayWrite out |> Result.bind (fun () -> Files.replace out body)
        with CtkdException error ->
            Result.Error error

    let private wrong (path: string) (reason: string) : Result<'T, Error> =
        Error.fail
            Damaged
            $"the pack is damaged: {reason}"
            path
            "copy it again, or make it again: ctkd data pack DIR OUT"

    /// The index, after its place and its hash are checked.
    let private index (path: string) : Result<string * int64, Error> =
        use file = File.OpenHandle path
        let length = RandomAccess.GetLength file
        let head = Array.zeroCreate<byte> headerLength

        if RandomAccess.Read(file, head.AsSpan(), 0L) < headerLength || head[..7] <> magic then
            wrong path "it has no header of a pack"
        else
            let offset = BinaryPrimitives.ReadInt64LittleEndian(ReadOnlySpan(head, 16, 8))
            let size = BinaryPrimitives.ReadInt64LittleEndian(ReadOnlySpan(head, 24, 8))

            match BinaryPrimitives.ReadInt32LittleEndian(ReadOnlySpan(head, 8, 4)) with
            | found when found <> version ->
                Error.fail
                    Mismatch
                    $"the pack has version {found}, and {version} is read"
                    path
                    "make it again: ctkd data pack DIR OUT"
            | _ when size < 0L || size > mostIndex || offset < int64 headerLength || offset > length - size ->
                wrong path "it ends before its index, or its header is not that of a pack"
            | _ ->
                let bytes = Array.zeroCreate<byte>(int size)
                let mutable read = 0
                let mutable isAtEnd = false

                while read < bytes.Length && not isAtEnd do
                    let more = RandomAccess.Read(file, bytes.AsSpan read, offset + int64 read)
                    isAtEnd <- more = 0
                    read <- read + more

                if SHA256.HashData(bytes: byte[]) <> head[32..] then
                    wrong path "its index is not the one that was written"
                else
                    Ok(Encoding.UTF8.GetString bytes, offset)

    /// The offset, length and CRC-32 of an image.
    let private place
        (lines: LineReader)
        (fileEnd: int64)
        (line: string)
        : Result<struct (int64 * int64 * uint32), Error> =
        match line.Split '\t' with
        | [| offset; length; crc |] ->
            match PhotoIndex.number offset, PhotoIndex.number length, PhotoIndex.crc crc with
            | Some offset, Some length, Some crc when
                offset >= int64 headerLength
                && length >= 0L
                && length <= int64 PhotoSources.MostBytes
                && offset <= fileEnd - length
                ->
                Ok(struct (offset, length, crc))
            | _ -> lines.Wrong "an image is not within the pack, or its CRC-32 is no eight hexadecimal digits"
        | _ -> lines.Wrong "it is no offset, length and CRC-32"

    let private readSet (path: string) (lines: LineReader) (fileEnd: int64) (entries: Dictionary<string, PackedFile>) =
        PhotoIndex.readFrom path lines
        |> Result.bind (fun files ->
            PhotoIndex.rows lines files.Paths.Length (place lines fileEnd)
            |> Result.map (fun places ->
                places
                |> Array.iteri (fun i (struct (offset, length, crc)) ->
                    entries[files.Paths[i]] <- PackedFile(files.Paths[i], offset, int length, crc)
                )

                files
            )
        )

    /// Reads the index of a pack.
    let read (path: string) : Result<PhotoPack, Error> =
        let parse (text: string, fileEnd: int64) =
            let lines = LineReader(path, text)
            let entries = Dictionary<string, PackedFile>()
            let set () = readSet path lines fileEnd entries

            let pack (train: PhotoFiles) (validation: PhotoFiles option) =
                if lines.IsAtEnd then
                    Ok {
                        Tree = {
                            PhotoTree.Train = train
                            Val = validation
                            Others = []
                            Unused = []
                            TooDeep = []
                        }
                        Entries = entries
                    }
                else
                    lines.Wrong "more lines follow than it says"

            match lines.Take() with
            | Ok "sets\t1" -> set () |> Result.bind (fun train -> pack train None)
            | Ok "sets\t2" ->
                set ()
                |> Result.bind (fun train -> set () |> Result.bind (fun validation -> pack train (Some validation)))
            | Ok _ -> lines.Wrong "it is not the number of its sets"
            | Result.Error error -> Result.Error error

        guarded path (fun () -> index path |> Result.bind parse)
