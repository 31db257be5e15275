namespace Ctkd.Fs

open System
open System.Buffers.Binary
open System.Collections.Generic
open System.IO
open System.Text
open System.Text.Json

/// A tensor in a file. `DType` is F64, F32, BF16, F16, I64, I32, I16, I8, U8 or BOOL, or a type that is read but no part
/// of a model: U64, U32, U16, C64, C128, F8_E4M3, F8_E5M2, F8_E8M0, F4, F6_E2M3 or F6_E3M2. `Bytes` are the elements,
/// row-major and little-endian.
[<ReferenceEquality>]
type StoredTensor = { Name: string; DType: string; Shape: int64 list; Bytes: ReadOnlyMemory<byte> }

/// A safetensors file: metadata and tensors in file order.
[<ReferenceEquality>]
type SafetensorsFile = { Metadata: (string * string) list; Tensors: StoredTensor list }

/// Why bytes are not a safetensors file, or a value cannot become one. Never leaves the library.
exception internal NotSafetensors of string

/// The layout of a safetensors file: the header's length in eight bytes, a JSON header, the tensors' bytes. Violations
/// raise `NotSafetensors`.
[<RequireQualifiedAccess>]
module internal SafetensorsLayout =
    /// Bytes per element by type.
    let itemSizes: Map<string, int64> =
        Map [
            "F64", 8L
            "I64", 8L
            "F32", 4L
            "I32", 4L
            "F16", 2L
            "BF16", 2L
            "I16", 2L
            "I8", 1L
            "U8", 1L
            "BOOL", 1L
            "U64", 8L
            "U32", 4L
            "U16", 2L
            "C64", 8L
            "C128", 16L
            "F8_E4M3", 1L
            "F8_E5M2", 1L
            "F8_E8M0", 1L
        ]

    /// Bits per element of the types that are packed.
    let private packed: Map<string, int64> = Map [ "F4", 4L; "F6_E2M3", 6L; "F6_E3M2", 6L ]

    /// Whether weights of a model have this type; the engine has no other.
    let isOfModels (dtype: string) : bool =
        List.contains dtype [ "F64"; "F32"; "F16"; "BF16"; "I64"; "I32"; "I16"; "I8"; "U8"; "BOOL" ]

    let metadataName = "__metadata__"
    /// Number of bytes before the header.
    let prefixLength = sizeof<uint64>
    /// As much as the reference implementation allows. Reading takes up to ten times a header's size in memory.
    let private maxHeader = 100_000_000
    /// Each entry of the metadata takes more memory than its text.
    let private maxMetadata = 100_000
    /// PyTorch's own limit.
    let private maxRank = 64
    let private strictUtf8 = UTF8Encoding(false, true)

    let private refuse (reason: string) : 'T = raise (NotSafetensors reason)

    /// The reason is made only where it is needed: a header may describe a million tensors.
    let inline private require (condition: bool) ([<InlineIfLambda>] reason: unit -> string) : unit =
        if not condition then refuse (reason ())

    /// Returns a tensor's number of bytes. Refuses unknown types, negative dimensions and overflow.
    let sizeOf (name: string) (dtype: string) (shape: int64 list) : int64 =
        let bits =
            match Map.tryFind dtype itemSizes, Map.tryFind dtype packed with
            | Some size, _ -> 8L * size
            | None, Some bits -> bits
            | None, None -> refuse $"tensor '{name}' has the unknown type '{dtype}'"

        require (List.forall (fun extent -> extent >= 0L) shape) (fun () -> $"tensor '{name}' has a negative extent")

        let bits =
            try
                List.fold (fun total extent -> Checked.(*) total extent) bits shape
            with :? OverflowException ->
                refuse $"the size of tensor '{name}' overflows"

        require (bits % 8L = 0L) (fun () -> $"tensor '{name}' ends within a byte")
        bits / 8L

    // ---- reading: token by token, since a whole document would take forty times the header's size

    let private isName (reader: byref<Utf8JsonReader>) : bool =
        reader.Read() |> ignore
        reader.TokenType = JsonTokenType.PropertyName

    /// The next token must be of this kind.
    let private expect (kind: JsonTokenType) (what: string) (name: string) (reader: byref<Utf8JsonReader>) : unit =
        reader.Read() |> ignore
        if reader.TokenType <> kind then refuse (String.Format(what, name))

    let private text (name: string) (reader: byref<Utf8JsonReader>) : string =
        expect JsonTokenType.String "'{0}' must be text" name &reader
        string (reader.GetString())

    let private wholes (name: string) (reader: byref<Utf8JsonReader>) : int64 list =
        expect JsonTokenType.StartArray "shape and offsets of tensor '{0}' must be arrays" name &reader
        let values = ResizeArray<int64>()
        reader.Read() |> ignore

        while reader.TokenType <> JsonTokenType.EndArray do
            // Too deep a nesting is no JSON.
            reader.Skip()

            require
                (reader.TokenType = JsonTokenType.Number)
                (fun () -> $"shape and offsets of tensor '{name}' must be numbers")

            require (values.Count < maxRank) (fun () -> $"tensor '{name}' has more than {maxRank} dimensions")
            let mutable value = 0L

            let isWhole = reader.TryGetInt64(&value)
            require isWhole (fun () -> $"tensor '{name}' has an extent or offset that is no 64-bit integer")

            values.Add value
            reader.Read() |> ignore

        List.ofSeq values

    let private twice (name: string) : 'T = raise (JsonException $"the name '{name}' occurs twice")

    let private metadata (reader: byref<Utf8JsonReader>) : (string * string) list =
        expect JsonTokenType.StartObject "{0} must be an object" metadataName &reader
        let entries = ResizeArray<string * string>()
        let names = HashSet<string>()

        while isName &reader do
            let name = string (reader.GetString())
            if not (names.Add name) then twice name
            require (entries.Count < maxMetadata) (fun () -> $"{metadataName} has more than {maxMetadata} entries")
            entries.Add(name, text name &reader)

        List.ofSeq entries

    /// A tensor's name, type and shape, and its begin and end within the data.
    [<Struct>]
    type private Description = { Name: string; Type: string; Shape: int64 list; First: int64; Last: int64 }

    /// The types are few: each is kept once.
    let private shared (dtype: string) : string =
        match Map.tryFindKey (fun known _ -> known = dtype) itemSizes with
        | Some known -> known
        | None -> dtype

    let private description (name: string) (reader: byref<Utf8JsonReader>) : Description =
        expect JsonTokenType.StartObject "the entry of tensor '{0}' must be an object" name &reader
        let mutable dtype = ValueNone
        let mutable shape = ValueNone
        let mutable offsets = ValueNone
        let needed () = $"the entry of tensor '{name}' must hold dtype, shape, data_offsets"

        while isName &reader do
            if reader.ValueTextEquals "dtype" then
                if dtype.IsSome then twice "dtype"
                dtype <- ValueSome(shared (text "dtype" &reader))
            elif reader.ValueTextEquals "shape" then
                if shape.IsSome then twice "shape"
                shape <- ValueSome(wholes name &reader)
            elif reader.ValueTextEquals "data_offsets" then
                if offsets.IsSome then twice "data_offsets"
                offsets <- ValueSome(wholes name &reader)
            else
                refuse (needed ())

        match dtype, shape, offsets with
        | ValueSome dtype, ValueSome shape, ValueSome [ first; last ] -> {
            Name = name
            Type = dtype
            Shape = shape
            First = first
            Last = last
          }
        | ValueSome _, ValueSome _, ValueSome _ -> refuse $"tensor '{name}' must have two offsets"
        | _ -> refuse (needed ())

    /// Cuts the data into tensors. Refuses gaps, overlaps, sizes that contradict the shape, and trailing bytes.
    let private cut (data: ReadOnlyMemory<byte>) (descriptions: Description[]) : StoredTensor list =
        let next (position: int64) (d: Description) =
            require
                (d.First = position)
                (fun () -> $"tensor '{d.Name}' begins at {d.First} and not at {position}: a gap or overlap")

            let size = sizeOf d.Name d.Type d.Shape
            let isWhole = d.Last >= d.First && d.Last - d.First = size
            require isWhole (fun () -> $"tensor '{d.Name}' needs {size} bytes, its offsets differ")

            require
                (d.Last <= int64 data.Length)
                (fun () -> $"it is truncated: {data.Length} bytes of data, '{d.Name}' ends at {d.Last}")

            let bytes = data.Slice(int d.First, int size)
            { StoredTensor.Name = d.Name; DType = d.Type; Shape = d.Shape; Bytes = bytes }, d.Last

        // Stable: empty tensors keep their order.
        let inOrder (a: Description) (b: Description) =
            match a.First.CompareTo b.First with
            | 0 -> a.Last.CompareTo b.Last
            | order -> order

        let tensors, position = descriptions |> List.ofArray |> List.sortWith inOrder |> List.mapFold next 0L
        let rest = int64 data.Length - position
        require (rest = 0L) (fun () -> $"it holds {rest} bytes more than its header says")
        tensors

    let private parseHeader (header: ReadOnlyMemory<byte>) (data: ReadOnlyMemory<byte>) : SafetensorsFile =
        require (header.Span[0] = byte '{') (fun () -> "its header does not begin with {")
        // Rejects invalid UTF-8 without decoding a copy of the header.
        strictUtf8.GetCharCount header.Span |> ignore
        let mutable reader = Utf8JsonReader(header.Span, JsonReaderOptions(MaxDepth = 4))
        reader.Read() |> ignore
        let descriptions = ResizeArray<Description>()
        let names = HashSet<string>()
        let mutable entries = []

        while isName &reader do
            let name = string (reader.GetString())
            if not (names.Add name) then twice name

            if name = metadataName then
                entries <- metadata &reader
            else
                descriptions.Add(description name &reader)

        // Reads to the end: nothing but spaces may follow.
        while reader.Read() do
            ()

        { Metadata = entries; Tensors = cut data (descriptions.ToArray()) }

    /// Parses a file. JSON and Unicode exceptions propagate.
    let parse (bytes: byte[]) : SafetensorsFile =
        require (bytes.Length >= prefixLength + 2) (fun () -> $"it is truncated: only {bytes.Length} bytes")
        let length = BinaryPrimitives.ReadUInt64LittleEndian(ReadOnlySpan bytes)
        let rest = uint64 (bytes.Length - prefixLength)
        let there = $"its header should have {length} bytes"
        require (length >= 2UL && length <= uint64 maxHeader) (fun () -> $"{there}, allowed are 2 to {maxHeader}")
        require (length <= rest) (fun () -> $"it is truncated: {there}, {rest} are left")
        let data = prefixLength + int length

        parseHeader (ReadOnlyMemory(bytes, prefixLength, int length)) (ReadOnlyMemory(bytes, data, bytes.Length - data))

    // ---- writing

    let private checkTensor (tensor: StoredTensor) : unit =
        let size = sizeOf tensor.Name tensor.DType tensor.Shape

        require
            (size = int64 tensor.Bytes.Length)
            (fun () -> $"tensor '{tensor.Name}' needs {size} bytes, has {tensor.Bytes.Length}")

    /// Refuses sizes, types and names that a file cannot contain.
    let check (file: SafetensorsFile) : unit =
        let names = file.Tensors |> List.map _.Name

        let texts = [
            yield! names
            for key, value in file.Metadata do
                yield! [ key; value ]
        ]

        texts |> List.iter (fun text -> strictUtf8.GetByteCount text |> ignore)
        require (List.distinct names = names) (fun () -> "two tensors have the same name")

        require
            (List.distinctBy fst file.Metadata = file.Metadata)
            (fun () -> "two metadata entries have the same name")

        require (not (List.contains metadataName names)) (fun () -> $"no tensor may be named {metadataName}")
        List.iter checkTensor file.Tensors

    let private writeMetadata (json: Utf8JsonWriter) (entries: (string * string) list) : unit =
        if not entries.IsEmpty then
            json.WriteStartObject metadataName
            entries |> List.iter json.WriteString
            json.WriteEndObject()

    let private writeWholes (json: Utf8JsonWriter) (name: string) (values: int64 list) : unit =
        json.WriteStartArray name
        values |> List.iter json.WriteNumberValue
        json.WriteEndArray()

    let private writeDescription (json: Utf8JsonWriter) (first: int64) (tensor: StoredTensor) : int64 =
        let last = first + int64 tensor.Bytes.Length
        json.WriteStartObject tensor.Name
        json.WriteString("dtype", tensor.DType)
        writeWholes json "shape" tensor.Shape
        writeWholes json "data_offsets" [ first; last ]
        json.WriteEndObject()
        last

    /// Encodes the length prefix and the header, padded with spaces to a multiple of eight bytes.
    let head (file: SafetensorsFile) : byte[] =
        use stream = new MemoryStream()
        stream.Write(Array.zeroCreate<byte> prefixLength)

        using
            (new Utf8JsonWriter(stream))
            (fun json ->
                json.WriteStartObject()
                writeMetadata json file.Metadata
                List.fold (writeDescription json) 0L file.Tensors |> ignore
                json.WriteEndObject()
            )

        while stream.Length % 8L <> 0L do
            stream.WriteByte(byte ' ')

        let bytes = stream.ToArray()
        BinaryPrimitives.WriteUInt64LittleEndian(Span bytes, uint64 (bytes.Length - prefixLength))
        bytes
