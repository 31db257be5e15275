namespace Ctkd.Fs

open System
open System.Buffers.Binary

/// Decodes numpy's byte arrays and numbers in pickles of every numpy version and Python 2 or 3.
[<RequireQualifiedAccess>]
module Numpy =
    /// Kind of an array; its state are its version, shape, type, order and bytes.
    let internal arrayKind = "numpy.ndarray"

    let private typeKind = "numpy.dtype"

    /// Kind of a single number; its arguments are its type and its bytes.
    let internal numberKind = "numpy.scalar"

    let private notCalled (_: PickleValue list) : Result<PickleValue, string> = Error "it may not be called here"

    let private reconstruct (arguments: PickleValue list) : Result<PickleValue, string> =
        match arguments with
        | PickleValue.Global name :: _ when name = arrayKind -> Ok(PickleValue.inert arrayKind arguments)
        | _ -> Error "it may make nothing but an array"

    // For the protocols 0 to 2 Python 3 writes bytes as Latin-1 text and a call of this function. The text is returned
    // as it is, since `PickleValue.bytes` decodes it: many calls on one long text copy nothing.
    let private encode (arguments: PickleValue list) : Result<PickleValue, string> =
        match arguments with
        | [ PickleValue.Text _ | PickleValue.LongText _ as text; encoding ] when PickleValue.isText "latin1" encoding ->
            Ok text
        | _ -> Error "it may encode nothing but Latin-1"

    // Protocol 5: bytes, type, shape and order; then the order of the axes, where they are permuted.
    let private fromBuffer (arguments: PickleValue list) : Result<PickleValue, string> =
        match arguments with
        | data :: dtype :: shape :: order :: ([] | [ PickleValue.Nothing ]) ->
            let fortran = PickleValue.Truth(PickleValue.isText "F" order)

            Ok(
                PickleValue.Object {
                    Kind = arrayKind
                    Arguments = []
                    State = PickleValue.Tuple [ PickleValue.Whole 1L; shape; dtype; fortran; data ]
                    Entries = PickleValue.Nothing
                    Items = PickleValue.Nothing
                }
            )
        | _ -> Error "an array is made of its bytes, type, shape and order"

    /// The globals that `Pickle.parse` must allow for pickles with numpy arrays.
    let allowed: Map<string, PickleConstructor> =
        Map [
            "numpy.core.multiarray._reconstruct", reconstruct
            "numpy._core.multiarray._reconstruct", reconstruct
            "numpy.core.multiarray.scalar", (PickleValue.inert numberKind >> Ok)
            "numpy._core.multiarray.scalar", (PickleValue.inert numberKind >> Ok)
            "numpy.core.numeric._frombuffer", fromBuffer
            "numpy._core.numeric._frombuffer", fromBuffer
            arrayKind, notCalled
            typeKind, (PickleValue.inert typeKind >> Ok)
            "_codecs.encode", encode
        ]

    /// PyTorch's limit, and numpy's.
    let private maxRank = 64

    let rec private isShort (longest: int) (items: PickleValue list) : bool =
        items.IsEmpty || longest > 0 && isShort (longest - 1) items.Tail

    let private extents (value: PickleValue) : int list option =
        let extent item =
            match item with
            | PickleValue.Whole size when size >= 0L && size <= int64 Int32.MaxValue -> Some(int size)
            | _ -> None

        match value with
        // A pickle may give one long tuple to many arrays.
        | PickleValue.Tuple items when isShort maxRank items && List.forall (extent >> Option.isSome) items ->
            Some(List.choose extent items)
        | _ -> None

    let private isByteType (value: PickleValue) : bool =
        match value with
        | PickleValue.Object { Kind = kind; Arguments = name :: _ } when kind = typeKind ->
            PickleValue.isText "u1" name || PickleValue.isText "|u1" name
        | _ -> false

    /// Whether the array is stored in column-major order.
    let private isFortran (value: PickleValue) : bool =
        match value with
        | PickleValue.Truth yes -> yes
        | PickleValue.Whole number -> number <> 0L
        | _ -> false

    let private transposed (rows: int) (columns: int) (bytes: ReadOnlyMemory<byte>) : ReadOnlyMemory<byte> =
        let source = bytes.ToArray()
        ReadOnlyMemory(Array.init source.Length (fun i -> source[i % columns * rows + i / columns]))

    let private rowMajor (rows: int) (columns: int) (order: PickleValue) (bytes: ReadOnlyMemory<byte>) =
        if isFortran order then transposed rows columns bytes else bytes

    let private matrixOfState (state: PickleValue) : Result<int * int * ReadOnlyMemory<byte>, string> =
        match state with
        | PickleValue.Tuple [ _; shape; dtype; order; data ] ->
            match extents shape, isByteType dtype, PickleValue.bytes data with
            | Some [ rows; columns ], true, Some bytes when int64 rows * int64 columns = int64 bytes.Length ->
                Ok(rows, columns, rowMajor rows columns order bytes)
            | Some [ rows; columns ], true, Some bytes ->
                Error $"an array of {rows} x {columns} bytes has {bytes.Length}"
            | Some [ _; _ ], false, _ -> Error "an array has another element type than uint8"
            | _ -> Error "an array is no matrix of bytes"
        | _ -> Error "an array has no contents"

    /// Returns rows, columns and row-major bytes of a matrix of bytes.
    let byteMatrix (value: PickleValue) : Result<int * int * ReadOnlyMemory<byte>, string> =
        match value with
        | PickleValue.Object o when o.Kind = arrayKind -> matrixOfState o.State
        | _ -> Error "it is no numpy array"

    // ---- numbers

    let private decoders: (string * (ReadOnlyMemory<byte> -> PickleValue)) list = [
        "f8", (fun b -> PickleValue.Real(BinaryPrimitives.ReadDoubleLittleEndian b.Span))
        "f4", (fun b -> PickleValue.Real(float (BinaryPrimitives.ReadSingleLittleEndian b.Span)))
        "i8", (fun b -> PickleValue.Whole(BinaryPrimitives.ReadInt64LittleEndian b.Span))
        "i4", (fun b -> PickleValue.Whole(int64 (BinaryPrimitives.ReadInt32LittleEndian b.Span)))
        "b1", (fun b -> PickleValue.Truth(b.Span[0] <> 0uy))
    ]

    let private isBig (state: PickleValue) : bool =
        match state with
        | PickleValue.Tuple(_ :: order :: _) -> PickleValue.isText ">" order
        | _ -> false

    /// Returns the type's name, such as "f8", unless it is big-endian.
    let private littleType (dtype: PickleValue) : PickleValue option =
        match dtype with
        | PickleValue.Object o when o.Kind = typeKind && not (isBig o.State) -> List.tryHead o.Arguments
        | _ -> None

    /// Returns the bytes if there are exactly `length`. Does not copy a long text to find out.
    let private exactly (length: int) (value: PickleValue) : ReadOnlyMemory<byte> option =
        match value with
        | PickleValue.Text text when text.Length <> length -> None
        | PickleValue.LongText bytes when bytes.Length > 2 * length -> None
        | _ -> PickleValue.bytes value |> Option.filter (fun bytes -> bytes.Length = length)

    /// Decodes a scalar's arguments if it has a usual type: float, integer or boolean.
    let internal number (arguments: PickleValue list) : PickleValue option =
        match arguments with
        | [ dtype; value ] ->
            littleType dtype
            |> Option.bind (fun name -> List.tryFind (fun (code, _) -> PickleValue.isText code name) decoders)
            |> Option.bind (fun (code: string, decode) -> exactly (int code[1] - int '0') value |> Option.map decode)
        | _ -> None

    // ---- arrays of any type

    /// The element types by numpy's codes.
    let private elements: Map<string, string> =
        Map [
            "f8", "F64"
            "f4", "F32"
            "f2", "F16"
            "i8", "I64"
            "i4", "I32"
            "i2", "I16"
            "i1", "I8"
            "u8", "U64"
            "u4", "U32"
            "u2", "U16"
            "u1", "U8"
            "b1", "BOOL"
            "c8", "C64"
            "c16", "C128"
        ]

    /// The longest code of a type with its order, such as "<c16".
    let private longestCode = 4

    /// The element type by numpy's code, which is not copied unless it is short.
    let private elementType (code: PickleValue) : string option =
        let isShort =
            match code with
            | PickleValue.Text text -> text.Length <= longestCode
            | PickleValue.Bytes bytes -> bytes.Length <= longestCode
            | _ -> false

        if isShort then
            PickleValue.text code |> Option.bind (fun code -> Map.tryFind (code.TrimStart('|', '<')) elements)
        else
            None

    /// Whether a value is an array, of any type and shape.
    let internal isArray (value: PickleValue) : bool =
        match value with
        | PickleValue.Object o -> o.Kind = arrayKind
        | _ -> false

    /// Returns an array's element type, extents, whether it is column-major, and its bytes; or why it is not read. None for
    /// anything but an array.
    let internal array (value: PickleValue) : Result<string * int64 list * bool * PickleValue, UnreadTensor> option =
        match value with
        | PickleValue.Object { Kind = kind; State = PickleValue.Tuple [ _; shape; dtype; order; data ] } when
            kind = arrayKind
            ->
            match dtype with
            | PickleValue.Object o when o.Kind = typeKind && isBig o.State -> Some(Error UnreadTensor.BigEndianArray)
            | _ ->
                match extents shape, littleType dtype |> Option.bind elementType with
                | Some extents, Some dtype -> Some(Ok(dtype, List.map int64 extents, isFortran order, data))
                | None, _ -> Some(Error UnreadTensor.ArrayOfUnknownShape)
                | _, None -> Some(Error UnreadTensor.ArrayOfUnknownType)
        | PickleValue.Object o when o.Kind = arrayKind -> Some(Error UnreadTensor.EmptyArray)
        | _ -> None
