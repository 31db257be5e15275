namespace Ctkd.Fs

open System
open System.Buffers.Binary
open System.IO
open System.IO.Hashing
open System.Text

/// Writes PyTorch's zip format. Equal tensors give equal bytes, and `torch.load` needs only `collections.OrderedDict`,
/// storages and `_rebuild_tensor_v2`, which `weights_only=True` allows.
[<RequireQualifiedAccess>]
module internal TorchWriter =
    let private storageNames: Map<string, string> =
        Map [
            "F64", "DoubleStorage"
            "F32", "FloatStorage"
            "F16", "HalfStorage"
            "BF16", "BFloat16Storage"
            "I64", "LongStorage"
            "I32", "IntStorage"
            "I16", "ShortStorage"
            "I8", "CharStorage"
            "U8", "ByteStorage"
            "BOOL", "BoolStorage"
        ]

    // ---- the pickle, protocol 2

    let private ascii (text: string) (target: Stream) : unit = target.Write(ReadOnlySpan(Encoding.ASCII.GetBytes text))

    let private number (size: int) (value: int64) (target: Stream) : unit =
        let bytes = Array.zeroCreate<byte> 8
        BinaryPrimitives.WriteInt64LittleEndian(Span bytes, value)
        target.Write(bytes, 0, size)

    let private whole (value: int64) (target: Stream) : unit =
        if value <= int64 Int32.MaxValue then
            target.WriteByte(byte 'J')
            number 4 value target
        else
            target.WriteByte 0x8auy
            target.WriteByte 8uy
            number 8 value target

    let private text (value: string) (target: Stream) : unit =
        let bytes = Encoding.UTF8.GetBytes value
        target.WriteByte(byte 'X')
        number 4 (int64 bytes.Length) target
        target.Write(ReadOnlySpan bytes)

    let private tuple (values: int64 list) (target: Stream) : unit =
        ascii "(" target
        values |> List.iter (fun value -> whole value target)
        ascii "t" target

    let private rowMajor (shape: int64 list) : int64 list =
        (shape, [ 1L ]) ||> List.foldBack (fun extent strides -> max 1L extent * strides.Head :: strides) |> List.tail

    let private count (tensor: StoredTensor) : int64 =
        int64 tensor.Bytes.Length / SafetensorsLayout.itemSizes[tensor.DType]

    let private emptyDictionary = "ccollections\nOrderedDict\n)R"

    /// A call of `_rebuild_tensor_v2`: storage, offset, shape, strides, no gradient, no hooks.
    let private tensor (target: Stream) (key: int) (tensor: StoredTensor) : unit =
        text tensor.Name target
        ascii "ctorch._utils\n_rebuild_tensor_v2\n((" target
        text "storage" target
        ascii $"ctorch\n{storageNames[tensor.DType]}\n" target
        text (string key) target
        text "cpu" target
        whole (count tensor) target
        ascii "tQ" target
        whole 0L target
        tuple tensor.Shape target
        tuple (rowMajor tensor.Shape) target
        target.WriteByte 0x89uy
        ascii $"{emptyDictionary}tR" target

    let private pickle (tensors: StoredTensor list) : ReadOnlyMemory<byte> =
        use target = new MemoryStream()
        target.Write(ReadOnlySpan [| 0x80uy; 2uy |])
        ascii $"{emptyDictionary}(" target
        List.iteri (tensor target) tensors
        ascii "u." target
        ReadOnlyMemory(target.ToArray())

    // ---- the zip file, uncompressed

    /// 1 January 1980, the earliest date in zip files.
    let private date = 0x21L

    /// PyTorch's own alignment of the data, for memory mapping.
    let private alignment = 64L

    /// The fields common to a local header and the directory: version, flags, method, time, date, checksum, sizes,
    /// length of the name.
    let private common (name: string) (data: ReadOnlyMemory<byte>) (target: Stream) : unit =
        number 2 10L target
        number 6 0L target
        number 2 date target
        number 4 (int64 (Crc32.HashToUInt32 data.Span)) target
        number 4 (int64 data.Length) target
        number 4 (int64 data.Length) target
        number 2 (int64 name.Length) target

    /// Ends with an extra field (PyTorch's "FB") that aligns the data.
    let private localHeader (position: int64) (name: string) (data: ReadOnlyMemory<byte>) : byte[] =
        use target = new MemoryStream()
        ascii "PK\003\004" target
        common name data target
        // After the length of the extra field, the name, and the extra field's own type and length.
        let fixedEnd = position + target.Length + 2L + int64 name.Length + 4L
        let padding = (alignment - fixedEnd % alignment) % alignment
        number 2 (padding + 4L) target
        ascii name target
        ascii "FB" target
        number 2 padding target
        target.Write(Array.zeroCreate<byte>(int padding))
        target.ToArray()

    let private directoryEntry (target: Stream) (position: int64, name: string, data: ReadOnlyMemory<byte>) =
        ascii "PK\001\002" target
        number 2 10L target
        common name data target
        // No extra field, no comment, the first disk, no attributes.
        number 8 0L target
        number 4 0L target
        number 4 position target
        ascii name target

    let private endOfDirectory (count: int) (size: int64) (position: int64) (target: Stream) : unit =
        ascii "PK\005\006" target
        number 4 0L target
        number 2 (int64 count) target
        number 2 (int64 count) target
        number 4 size target
        number 4 position target
        number 2 0L target

    let private zip (entries: (string * ReadOnlyMemory<byte>) list) : ReadOnlyMemory<byte> list =
        let place (position: int64) (name, data: ReadOnlyMemory<byte>) =
            let header = localHeader position name data
            (position, header, name, data), position + int64 header.Length + int64 data.Length

        let placed, position = List.mapFold place 0L entries
        use target = new MemoryStream()

        placed |> List.iter (fun (position, _, name, data) -> directoryEntry target (position, name, data))

        endOfDirectory entries.Length target.Length position target

        [
            for _, header, _, data in placed do
                ReadOnlyMemory header
                data
            ReadOnlyMemory(target.ToArray())
        ]

    /// The most entries of a zip file without extensions.
    let private maxEntries = 65_534

    /// Returns the pieces of a file in order. A wrong size, type or name is a bug and raises an exception.
    let pieces (tensors: StoredTensor list) : ReadOnlyMemory<byte> list =
        try
            SafetensorsLayout.check { Metadata = []; Tensors = tensors }
        with NotSafetensors reason ->
            invalidArg (nameof tensors) reason

        let bytes (text: string) = ReadOnlyMemory(Encoding.ASCII.GetBytes text)

        if tensors.Length > maxEntries - 3 then
            invalidArg (nameof tensors) $"{tensors.Length} tensors are more than a file holds"

        zip [
            "archive/data.pkl", pickle tensors
            "archive/byteorder", bytes "little"
            yield! tensors |> List.mapi (fun key tensor -> $"archive/data/{key}", tensor.Bytes)
            "archive/version", bytes "3\n"
        ]
