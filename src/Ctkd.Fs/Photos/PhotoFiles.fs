namespace Ctkd.Fs

open System
open System.IO
open System.IO.Hashing

/// Files of photographs, in the order that numbers them: by class, and in a class by path.
type PhotoFiles = {
    /// The folder that the paths are relative to, or the pack that holds them.
    Root: string
    /// Names of the classes, in the order of their UTF-8 bytes: a label is a place in this list.
    Classes: string list
    /// Relative paths, with '/' between their parts.
    Paths: string[]
    /// Bytes of each file.
    Lengths: int64[]
    /// A mark of each file's content (<c>PhotoMark</c>).
    Marks: uint32[]
    /// The class of each, or -1.
    Labels: int[]
}

/// What is in a folder, before anything is refused.
type PhotoTree = {
    Train: PhotoFiles
    /// Nothing where the folder has no validation of its own. It has its own list of classes.
    Val: PhotoFiles option
    /// Files that are no images of a format that is read.
    Others: string list
    /// Folders and files beside those for training and validation that are images, or hold some.
    Unused: string list
    /// Folders that lie too deep to be read.
    TooDeep: string list
}

/// The images to train with and those to test with; both have the classes of the first.
type PhotoSplits = {
    Train: PhotoFiles
    Val: PhotoFiles
    /// What is odd, for the user to see.
    Warnings: string list
}

/// A mark of a file's content, which tells it from most others of its length without reading all of it: the CRC-32 of its
/// first and last 4 KiB, of all its bytes where it has no more than 8 KiB.
[<RequireQualifiedAccess>]
module PhotoMark =
    let private part = 4096

    /// The mark of a file in memory.
    let ofBytes (file: ReadOnlySpan<byte>) : uint32 =
        let crc = Crc32()

        if file.Length <= 2 * part then
            crc.Append file
        else
            crc.Append(file.Slice(0, part))
            crc.Append(file.Slice(file.Length - part))

        crc.GetCurrentHashAsUInt32()

    /// The mark of a file, or 0 where it cannot be read: whoever reads all of it then says why.
    let ofFile (path: string) : uint32 =
        try
            use file = File.OpenHandle(path, share = (FileShare.ReadWrite ||| FileShare.Delete))
            let length = RandomAccess.GetLength file
            let bytes = Array.zeroCreate<byte>(int (min length (int64 (2 * part))))

            let read (start: int) (offset: int64) =
                RandomAccess.Read(file, bytes.AsSpan(start, min part (bytes.Length - start)), offset) |> ignore

            read 0 0L

            if bytes.Length > part then
                // Of a file of no more than two parts, the rest.
                read part (length - int64 (bytes.Length - part))

            ofBytes (ReadOnlySpan bytes)
        with
        | :? UnauthorizedAccessException
        | :? IOException -> 0u

/// Order by UTF-8 bytes.
[<RequireQualifiedAccess>]
module internal ByteOrder =
    /// UTF-8 puts the characters that UTF-16 writes with surrogates after all others.
    let private rank (c: char) : int =
        if c < '\uD800' then int c
        elif c >= '\uE000' then int c - 0x800
        else int c + 0x2000

    /// Compares two texts by their UTF-8 bytes.
    let compare (a: string) (b: string) : int =
        let same = a.AsSpan().CommonPrefixLength(b.AsSpan())

        if same = a.Length || same = b.Length then
            a.Length.CompareTo b.Length
        else
            (rank a[same]).CompareTo(rank b[same])
