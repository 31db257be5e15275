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
    /// A long text as its valid UTF-8 bytes: protocols 0 to 2 of Python 3 write arrays so.
    | LongText of ReadOnlyMemory<byte>
    /// Bytes of Python 3, or a string of Python 2.
    | Bytes of ReadOnlyMemory<byte>
    | Sequence of ResizeArray<PickleValue>
    | Tuple of PickleValue list
    | Dictionary of ResizeArray<struct (PickleValue * PickleValue)>
    /// An imported name.
    | Global of string
    | Object of PickleObject
    /// A storage of PyTorch's: its bytes lie elsewhere in the file. No import makes one.
    | Storage of PickleStorage
    /// A view of a storage. No import makes one.
    | Tensor of PickleTensor
    | Unread of UnreadTensor

/// A storage by its element type, its key and its number of elements.
and PickleStorage = { DType: string; Key: string; Count: int64 }

/// What a pickle says of a tensor; nothing of it is checked.
and [<ReferenceEquality>] PickleTensor = {
    Storage: PickleValue
    Offset: PickleValue
    Extents: PickleValue
    Strides: PickleValue
    /// The element type, if the storage has none.
    DType: string option
}

/// A constructed object as inert data: its class or function and the arguments, and what the pickle added later.
and [<ReferenceEquality>] PickleObject = {
    Kind: string
    Arguments: PickleValue list
    /// Its attributes, for most classes.
    mutable State: PickleValue
    /// Its entries, of a class that is a dictionary, else nothing.
    mutable Entries: PickleValue
    /// Its items, of a class that is a list or set, else nothing.
    mutable Items: PickleValue
}

/// Reads the values of a pickle, as far as data files need it.
[<RequireQualifiedAccess>]
module PickleValue =
    /// An object of which only class or function and arguments are known.
    let inert (kind: string) (arguments: PickleValue list) : PickleValue =
        PickleValue.Object {
            Kind = kind
            Arguments = arguments
            State = PickleValue.Nothing
            Entries = PickleValue.Nothing
            Items = PickleValue.Nothing
        }

    let private latin1 (text: string) : ReadOnlyMemory<byte> option =
        if Seq.forall (fun c -> c <= '\255') text then
            Some(ReadOnlyMemory(Encoding.Latin1.GetBytes text))
        else
            None

    /// As `latin1`, of valid UTF-8.
    let private latin1OfUtf8 (text: ReadOnlyMemory<byte>) : ReadOnlyMemory<byte> option =
        let target = Array.zeroCreate<byte> text.Length
        let source = text.Span
        let mutable read, written = 0, 0

        // Two bytes, the first of them C2 or C3, are a character from 128 to 255.
        while read < source.Length && source[read] < 0xC4uy do
            let isOne = source[read] < 0x80uy
            target[written] <- if isOne then source[read] else (source[read] <<< 6) ||| (source[read + 1] &&& 0x3Fuy)
            read <- read + (if isOne then 1 else 2)
            written <- written + 1

        if read = source.Length then Some(ReadOnlyMemory(target, 0, written)) else None

    /// Returns the bytes of a value. Text counts as its Latin-1 bytes, as Python 3 writes them for Python 2.
    let bytes (value: PickleValue) : ReadOnlyMemory<byte> option =
        match value with
        | PickleValue.Bytes bytes -> Some bytes
        | PickleValue.Text text -> latin1 text
        | PickleValue.LongText bytes -> latin1OfUtf8 bytes
        | _ -> None

    /// Returns the text of a value. A string of Python 2 counts as Latin-1.
    let text (value: PickleValue) : string option =
        match value with
        | PickleValue.Text text -> Some text
        | PickleValue.LongText bytes -> Some(Encoding.UTF8.GetString bytes.Span)
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
            // Copies nothing.
            let mutable place = entries.Count - 1

            let isIt (struct (key, _)) = isText name key

            while place >= 0 && not (isIt entries[place]) do
                place <- place - 1

            if place < 0 then
                None
            else
                let struct (_, found) = entries[place]
                Some found
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
