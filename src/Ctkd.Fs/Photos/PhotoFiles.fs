namespace Ctkd.Fs

open System

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
}

/// The images to train with and those to test with; both have the classes of the first.
type PhotoSplits = {
    Train: PhotoFiles
    Val: PhotoFiles
    /// What is odd, for the user to see.
    Warnings: string list
}

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
