namespace Ctkd.Fs

open System
open System.Text

/// What a pickle may contain. Lists and dictionaries can contain themselves, so values are compared by
/// reference and a reader of them follows only the path that it expects.
[<RequireQualifiedAccess; ReferenceEquality>]
type PickleValue =
    | Nothing
    | Truth of bool
    | Whole of int64
    /// An integer beyond 64 bits.
    | Large of bigint
    | Real of float
    | Text of string
    /// Bytes of Python 3, or a string of Python 2.
    | Bytes of ReadOnlyMemory<byte>
    | Sequence of ResizeArray<PickleValue>
    | Tuple of PickleValue list
    | Dictionary of ResizeArray<struct (PickleValue * PickleValue)>
    /// A name that the pickle imports.
    | Global of string
    | Object of PickleObject

/// What a constructor made: inert, a kind and its arguments, and the state that the pickle gave it later.
and [<ReferenceEquality>] PickleObject = {
    Kind: string
    Arguments: PickleValue list
    mutable State: PickleValue
}

/// Looks into the values of a pickle, as far as a reader of data files needs it.
[<RequireQualifiedAccess>]
module PickleValue =
    /// The bytes of a value; a text counts as its Latin-1 bytes, as Python 3 writes them for Python 2.
    let bytes (value: PickleValue) : ReadOnlyMemory<byte> option =
        match value with
        | PickleValue.Bytes bytes -> Some bytes
        | PickleValue.Text text when Seq.forall (fun c -> c <= '\255') text ->
            Some(ReadOnlyMemory(Encoding.Latin1.GetBytes text))
        | _ -> None

    /// The text of a value; a string of Python 2 counts as Latin-1.
    let text (value: PickleValue) : string option =
        match value with
        | PickleValue.Text text -> Some text
        | PickleValue.Bytes bytes -> Some(Encoding.Latin1.GetString bytes.Span)
        | _ -> None

    /// Whether a value is this text; its length is compared first, because a hostile file may hold long keys
    /// many times.
    let isText (expected: string) (value: PickleValue) : bool =
        match value with
        | PickleValue.Text text -> text = expected
        | PickleValue.Bytes bytes ->
            bytes.Length = expected.Length && Encoding.Latin1.GetString bytes.Span = expected
        | _ -> false

    /// What a dictionary holds under a name, the last one where it is there more than once.
    let field (name: string) (value: PickleValue) : PickleValue option =
        match value with
        | PickleValue.Dictionary entries ->
            entries
            |> Seq.tryFindBack (fun (struct (key, _)) -> isText name key)
            |> Option.map (fun (struct (_, found)) -> found)
        | _ -> None

    /// The integers of a list.
    let wholes (value: PickleValue) : int64[] option =
        let whole item =
            match item with
            | PickleValue.Whole number -> Some number
            | _ -> None

        match value with
        | PickleValue.Sequence items when Seq.forall (whole >> Option.isSome) items ->
            Some(items |> Seq.choose whole |> Array.ofSeq)
        | _ -> None
