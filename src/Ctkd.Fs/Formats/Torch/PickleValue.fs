namespace Ctkd.Fs

open System
open System.Text

/// A value in a pickle. Lists and dictionaries may contain themselves, so values are compared by reference, and readers
/// follow only the paths that they expect.
[<RequireQualifiedAccess; ReferenceEquality>]
type PickleValue =
    | Nothing
    | Truth of bool
    | Whole of int64
    /// An integer that exceeds 64 bits.
    | Large of bigint
    | Real of float
    | Text of string
    /// Bytes of Python 3, or a string of Python 2.
    | Bytes of ReadOnlyMemory<byte>
    | Sequence of ResizeArray<PickleValue>
    | Tuple of PickleValue list
    | Dictionary of ResizeArray<struct (PickleValue * PickleValue)>
    /// An imported name.
    | Global of string
    | Object of PickleObject

/// A constructed object as inert data: kind, arguments, and the state that the pickle set later.
and [<ReferenceEquality>] PickleObject = { Kind: string; Arguments: PickleValue list; mutable State: PickleValue }

/// Reads the values of a pickle, as far as data files need it.
[<RequireQualifiedAccess>]
module PickleValue =
    /// Returns the bytes of a value. Text counts as its Latin-1 bytes, as Python 3 writes them for Python 2.
    let bytes (value: PickleValue) : ReadOnlyMemory<byte> option =
        match value with
        | PickleValue.Bytes bytes -> Some bytes
        | PickleValue.Text text when Seq.forall (fun c -> c <= '\255') text ->
            Some(ReadOnlyMemory(Encoding.Latin1.GetBytes text))
        | _ -> None

    /// Returns the text of a value. A string of Python 2 counts as Latin-1.
    let text (value: PickleValue) : string option =
        match value with
        | PickleValue.Text text -> Some text
        | PickleValue.Bytes bytes -> Some(Encoding.Latin1.GetString bytes.Span)
        | _ -> None

    /// Whether a value is this text. Compares lengths first: a hostile file may repeat long keys.
    let isText (expected: string) (value: PickleValue) : bool =
        match value with
        | PickleValue.Text text -> text = expected
        | PickleValue.Bytes bytes -> bytes.Length = expected.Length && Encoding.Latin1.GetString bytes.Span = expected
        | _ -> false

    /// Returns a dictionary's value of a key; the last one if the key occurs more than once.
    let field (name: string) (value: PickleValue) : PickleValue option =
        match value with
        | PickleValue.Dictionary entries ->
            entries
            |> Seq.tryFindBack (fun (struct (key, _)) -> isText name key)
            |> Option.map (fun (struct (_, found)) -> found)
        | _ -> None

    /// Returns the integers of a list.
    let wholes (value: PickleValue) : int64[] option =
        let whole item =
            match item with
            | PickleValue.Whole number -> Some number
            | _ -> None

        match value with
        | PickleValue.Sequence items when Seq.forall (whole >> Option.isSome) items ->
            Some(items |> Seq.choose whole |> Array.ofSeq)
        | _ -> None
