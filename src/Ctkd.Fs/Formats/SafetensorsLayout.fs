namespace Ctkd.Fs

open System
open System.Buffers.Binary
open System.IO
open System.Text
open System.Text.Json

/// A tensor in a safetensors file. `DType` is F64, F32, BF16, F16, I64, I32, I16, I8, U8 or BOOL; `Bytes` are the
/// elements, row-major and little-endian.
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
        ]

    let metadataName = "__metadata__"
    /// Number of bytes before the header.
    let prefixLength = sizeof<uint64>
    /// Enough for 9,000 tensors. Parsing a header takes up to forty times its size in memory.
    let private maxHeader = 1_000_000
    let private strictUtf8 = UTF8Encoding(false, true)

    let private refuse (reason: string) : 'T = raise (NotSafetensors reason)
    let private require (condition: bool) (reason: string) : unit = if not condition then refuse reason

    /// Returns a tensor's number of bytes. Refuses unknown types, negative dimensions and overflow.
    let sizeOf (name: string) (dtype: string) (shape: int64 list) : int64 =
        let item =
            match Map.tryFind dtype itemSizes with
            | Some size -> size
            | None -> refuse $"tensor '{name}' has the unknown type '{dtype}'"

        require (List.forall (fun extent -> extent >= 0L) shape) $"tensor '{name}' has a negative extent"

        try
            List.fold (fun total extent -> Checked.(*) total extent) item shape
        with :? OverflowException ->
            refuse $"the size of tensor '{name}' overflows"

    // ---- reading

    let private text (name: string) (element: JsonElement) : string =
        require (element.ValueKind = JsonValueKind.String) $"'{name}' must be text"
        string (element.GetString())

    let private whole (name: string) (element: JsonElement) : int64 =
        require (element.ValueKind = JsonValueKind.Number) $"shape and offsets of tensor '{name}' must be numbers"

        match element.TryGetInt64() with
        | true, value -> value
        | _ -> refuse $"tensor '{name}' has an extent or offset that is no 64-bit integer"

    let private wholes (name: string) (element: JsonElement) : int64 list =
        require (element.ValueKind = JsonValueKind.Array) $"shape and offsets of tensor '{name}' must be arrays"

        element.EnumerateArray() |> Seq.map (whole name) |> List.ofSeq

    let private metadata (element: JsonElement) : (string * string) list =
        require (element.ValueKind = JsonValueKind.Object) $"{metadataName} must be an object"
        [ for entry in element.EnumerateObject() -> entry.Name, text entry.Name entry.Value ]

    /// Returns a tensor's name, type, shape, and begin and end within the data.
    let private description (entry: JsonProperty) : string * string * int64 list * int64 * int64 =
        let name = entry.Name

        require (entry.Value.ValueKind = JsonValueKind.Object) $"the entry of tensor '{name}' must be an object"

        let fields = Map [ for field in entry.Value.EnumerateObject() -> field.Name, field.Value ]
        let known = [ "data_offsets"; "dtype"; "shape" ]

        require (List.ofSeq fields.Keys = known) $"the entry of tensor '{name}' must hold dtype, shape, data_offsets"

        match wholes name fields["data_offsets"] with
        | [ first; last ] -> name, text "dtype" fields["dtype"], wholes name fields["shape"], first, last
        | _ -> refuse $"tensor '{name}' must have two offsets"

    /// Cuts the data into tensors. Refuses gaps, overlaps, sizes that contradict the shape, and trailing bytes.
    let private cut (data: ReadOnlyMemory<byte>) (descriptions: (string * string * int64 list * int64 * int64) list) =
        let next (position: int64) (name, dtype, shape, first, last) =
            require (first = position) $"tensor '{name}' begins at {first} and not at {position}: a gap or overlap"

            let size = sizeOf name dtype shape

            require (last >= first && last - first = size) $"tensor '{name}' needs {size} bytes, its offsets differ"

            require (last <= int64 data.Length) $"it is truncated: {data.Length} bytes of data, '{name}' ends at {last}"

            let bytes = data.Slice(int first, int size)
            { Name = name; DType = dtype; Shape = shape; Bytes = bytes }, last

        let sorted = descriptions |> List.sortBy (fun (_, _, _, first, last) -> first, last)
        let tensors, last = List.mapFold next 0L sorted

        require (last = int64 data.Length) $"it holds {int64 data.Length - last} bytes more than its header says"

        tensors

    let private parseHeader (header: ReadOnlyMemory<byte>) (data: ReadOnlyMemory<byte>) : SafetensorsFile =
        require (header.Span[0] = byte '{') "its header does not begin with {"
        let options = JsonDocumentOptions(MaxDepth = 4, AllowDuplicateProperties = false)
        // Rejects invalid UTF-8 without decoding a copy of the header.
        strictUtf8.GetCharCount header.Span |> ignore
        use document = JsonDocument.Parse(header, options)

        let metadataEntries, tensors =
            document.RootElement.EnumerateObject() |> List.ofSeq |> List.partition _.NameEquals(metadataName)

        {
            Metadata = metadataEntries |> List.collect (fun entry -> metadata entry.Value)
            Tensors = tensors |> List.map description |> cut data
        }

    /// Parses a file. JSON and Unicode exceptions propagate.
    let parse (bytes: byte[]) : SafetensorsFile =
        require (bytes.Length >= prefixLength + 2) $"it is truncated: only {bytes.Length} bytes"
        let length = BinaryPrimitives.ReadUInt64LittleEndian(ReadOnlySpan bytes)
        let rest = uint64 (bytes.Length - prefixLength)
        let there = $"its header should have {length} bytes"
        require (length >= 2UL && length <= uint64 maxHeader) $"{there}, allowed are 2 to {maxHeader}"
        require (length <= rest) $"it is truncated: {there}, {rest} are left"
        let data = prefixLength + int length

        parseHeader (ReadOnlyMemory(bytes, prefixLength, int length)) (ReadOnlyMemory(bytes, data, bytes.Length - data))

    // ---- writing

    let private checkTensor (tensor: StoredTensor) : unit =
        let size = sizeOf tensor.Name tensor.DType tensor.Shape

        require
            (size = int64 tensor.Bytes.Length)
            $"tensor '{tensor.Name}' needs {size} bytes, has {tensor.Bytes.Length}"

    /// Refuses sizes, types and names that a file cannot contain.
    let check (file: SafetensorsFile) : unit =
        let names = file.Tensors |> List.map _.Name

        let texts = [
            yield! names
            for key, value in file.Metadata do
                yield! [ key; value ]
        ]

        texts |> List.iter (fun text -> strictUtf8.GetByteCount text |> ignore)
        require (List.distinct names = names) "two tensors have the same name"
        require (List.distinctBy fst file.Metadata = file.Metadata) "two metadata entries have the same name"
        require (not (List.contains metadataName names)) $"no tensor may be named {metadataName}"
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
