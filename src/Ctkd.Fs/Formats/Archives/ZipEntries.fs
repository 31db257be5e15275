namespace Ctkd.Fs

open System
open System.Buffers.Binary
open System.IO
open System.IO.Compression
open System.IO.Hashing
open System.Runtime.InteropServices
open System.Text

/// An entry of a zip file; its bytes are a view of the file.
[<ReferenceEquality>]
type internal ZipEntry = {
    Name: string
    Checksum: uint32
    /// As stored.
    Data: ReadOnlyMemory<byte>
    IsDeflated: bool
    /// The number of bytes after decompression.
    Length: int
    Start: int
    End: int
}

/// Reads the entries of a zip file, stored or deflated, as views of its bytes. The directory and the local headers must
/// agree; violations raise `Unpicklable`.
[<RequireQualifiedAccess>]
module internal ZipEntries =
    let private refuse (reason: string) : 'T = PickleInput.refuse reason

    let private uint16 (data: byte[]) (place: int) : int =
        int (BinaryPrimitives.ReadUInt16LittleEndian(ReadOnlySpan(data, place, 2)))

    let private uint32 (data: byte[]) (place: int) : uint32 =
        BinaryPrimitives.ReadUInt32LittleEndian(ReadOnlySpan(data, place, 4))

    let private begins (signature: string) (data: byte[]) (place: int) : bool =
        ReadOnlySpan(data, place, 4).SequenceEqual(ReadOnlySpan(Encoding.Latin1.GetBytes signature))

    let private wide (data: byte[]) (place: int) : uint64 =
        BinaryPrimitives.ReadUInt64LittleEndian(ReadOnlySpan(data, place, 8))

    /// Sizes of the fixed parts.
    let private endSize, private directorySize, private headerSize = 22, 46, 30

    /// Memory of an entry without its name.
    let private entrySize = 400L

    // ---- location of the directory

    /// Finds the end record: only its own comment may follow it.
    let private endRecord (data: byte[]) : int =
        let longest = min (data.Length - endSize) 65_535

        let isEnd place = begins "PK\005\006" data place && uint16 data (place + 20) = data.Length - place - endSize

        match Seq.tryFind isEnd (seq { data.Length - endSize .. -1 .. data.Length - endSize - longest }) with
        | Some place -> place
        | None -> refuse "it is no whole zip file: its directory is not there"

    /// The 64-bit end record that the locator before the end record names, if there is one.
    let private wideEndRecord (data: byte[]) (place: int) : int option =
        let locator = place - 20

        if locator >= 0 && begins "PK\006\007" data locator then
            let record = wide data (locator + 8)

            // A difference: the sum with a hostile place would overflow.
            if locator >= 56 && record <= uint64 (locator - 56) && begins "PK\006\006" data (int record) then
                Some(int record)
            else
                refuse "it is no whole zip file: its 64-bit directory is not there"
        else
            None

    /// Returns the number of entries, and begin and end of the directory.
    let private directory (data: byte[]) : int * int * int =
        let place = endRecord data

        let count, size, start =
            uint64 (uint16 data (place + 10)), uint64 (uint32 data (place + 12)), uint64 (uint32 data (place + 16))

        let isWide = count = 0xFFFFUL || size = uint64 UInt32.MaxValue || start = uint64 UInt32.MaxValue

        let limit, here, count, size, start =
            match (if isWide then wideEndRecord data place else None) with
            | Some record ->
                record,
                wide data (record + 24),
                wide data (record + 32),
                wide data (record + 40),
                wide data (record + 48)
            | None -> place, uint64 (uint16 data (place + 8)), count, size, start

        if uint32 data (place + 4) <> 0u || here <> count then
            refuse "it is a part of a divided zip file"

        if size > uint64 limit || start > uint64 limit - size then
            refuse "it is no whole zip file: its directory reaches beyond its end"

        if count > size / uint64 directorySize then
            refuse "its directory is shorter than its entries"

        int count, int start, int start + int size

    // ---- names

    let private isSafe (name: string) : bool =
        let parts = name.TrimEnd('/').Split '/'
        let isPlain part = part <> "" && part <> "." && part <> ".."

        name.IndexOf '\\' < 0
        && not (name.Length >= 2 && name[1] = ':')
        && not (Seq.exists Char.IsControl name)
        && not (name.StartsWith '/')
        && Array.forall isPlain parts

    // ---- entries

    /// Checksum, stored and full size of an entry.
    type private Facts = (struct (uint32 * uint64 * uint64))

    /// Reads checksum and both sizes at a position: in the directory, in a header, or after the data.
    let private facts (data: byte[]) (place: int) : Facts =
        struct (uint32 data place, uint64 (uint32 data (place + 4)), uint64 (uint32 data (place + 8)))

    let private unknown = uint64 UInt32.MaxValue

    /// The 64-bit numbers of an extra field, in place of those that are unknown.
    let private widened (data: byte[]) (extra: int) (extraLength: int) (values: uint64 list) : uint64 list =
        let stop = extra + extraLength

        let rec field (place: int) =
            if place + 4 > stop then
                None
            else
                match uint16 data place, uint16 data (place + 2) with
                | _, length when place + 4 + length > stop -> None
                | 1, length -> Some(place + 4, place + 4 + length)
                | _, length -> field (place + 4 + length)

        match (if List.contains unknown values then field extra else None) with
        | None -> values
        | Some(first, last) ->
            let next (place: int) (value: uint64) =
                if value = unknown && place + 8 <= last then wide data place, place + 8 else value, place

            List.mapFold next first values |> fst

    /// Size of the record after the data of an entry whose header was written first, as PyTorch does; with 64-bit sizes.
    let private descriptorSize, private wideDescriptorSize = 16, 24

    /// Returns the end of the record after the data, which must agree with the directory.
    let private afterDescriptor (data: byte[]) (limit: int) (expected: Facts) (last: int) : int option =
        let isThere size = last + size <= limit && begins "PK\007\008" data last

        if isThere descriptorSize && facts data (last + 4) = expected then
            Some(last + descriptorSize)
        elif
            isThere wideDescriptorSize
            && struct (uint32 data (last + 4), wide data (last + 8), wide data (last + 16)) = expected
        then
            Some(last + wideDescriptorSize)
        else
            None

    /// Checks the header at `start` against the directory; returns the begin of the data and the end of the entry.
    let private header
        (data: byte[])
        (limit: int)
        (place: int)
        (name: string)
        (expected: Facts)
        (start: int)
        : int * int =
        let differs what = refuse $"the {what} of its entry '{name}' differs from the directory's"
        let nameLength = uint16 data (place + 28)
        let struct (_, size, _) = expected

        if start + headerSize > limit || not (begins "PK\003\004" data start) then
            refuse $"its entry '{name}' is not where the directory says"

        // Flags and method.
        if uint32 data (start + 6) <> uint32 data (place + 8) then differs "method"

        let extra = start + headerSize + uint16 data (start + 26)
        let extraLength = uint16 data (start + 28)
        let first = extra + extraLength

        if uint64 first + size > uint64 limit then
            refuse $"its entry '{name}' announces {size} bytes, more than are there"

        let localName =
            ReadOnlySpan(data, start + headerSize, min nameLength (data.Length - start - headerSize))

        if
            uint16 data (start + 26) <> nameLength
            || not (localName.SequenceEqual(ReadOnlySpan(data, place + directorySize, nameLength)))
        then
            differs "name"

        let struct (checksum, there, fullSize) = facts data (start + 14)

        // The full size comes first in an extra field.
        let there: Facts =
            match widened data extra extraLength [ fullSize; there ] with
            | [ fullSize; there ] -> struct (checksum, there, fullSize)
            | _ -> differs "size or checksum"

        let last = first + int size
        let hasDescriptor = uint16 data (start + 6) &&& 8 <> 0

        let stop =
            if hasDescriptor then
                match afterDescriptor data limit expected last with
                | Some stop -> stop
                | None -> differs "size or checksum"
            else
                last

        let isBlank =
            match there with
            | struct (0u, size, fullSize) -> (size = 0UL || size = unknown) && (fullSize = 0UL || fullSize = unknown)
            | _ -> false

        if there <> expected && not (hasDescriptor && isBlank) then
            differs "size or checksum"

        first, stop

    /// Deflate cannot expand further.
    let private maxExpansion = 1_032UL

    /// Returns the entry at a position of the directory, and the position after it.
    let private entry (budget: MemoryBudget) (data: byte[]) (start: int, stop: int) (place: int) : ZipEntry * int =
        if place + directorySize > stop || not (begins "PK\001\002" data place) then
            refuse "its directory is damaged"

        let nameLength, extraLength = uint16 data (place + 28), uint16 data (place + 30)
        let length = directorySize + nameLength + extraLength + uint16 data (place + 32)

        if length > stop - place then refuse "its directory is damaged"

        MemoryBudget.charge (entrySize + 4L * int64 nameLength) budget
        let name = Encoding.UTF8.GetString(data, place + directorySize, nameLength)
        let struct (checksum, size, fullSize) = facts data (place + 16)

        let fullSize, size, where =
            match
                widened data (place + directorySize + nameLength) extraLength [
                    fullSize
                    size
                    uint64 (uint32 data (place + 42))
                ]
            with
            | [ fullSize; size; where ] -> fullSize, size, where
            | _ -> refuse "its directory is damaged"

        if not (isSafe name) then
            refuse $"its entry '{name}' has a name that leads out of the file's folder"

        if uint16 data (place + 8) &&& 1 <> 0 then
            refuse $"its entry '{name}' is encrypted"

        let method = uint16 data (place + 10)

        if method <> 0 && method <> 8 then
            refuse $"its entry '{name}' is compressed by the method {method}, and only deflate is read"

        if size > uint64 data.Length then
            refuse $"its entry '{name}' announces {size} bytes, more than are there"

        if method = 0 && size <> fullSize then
            refuse $"its entry '{name}' is stored as {size} bytes and announces {fullSize}"

        if fullSize > maxExpansion * size + maxExpansion || fullSize > uint64 Array.MaxLength then
            refuse $"its entry '{name}' announces {fullSize} bytes, more than {size} compressed ones can give"

        if where > uint64 start then
            refuse $"its entry '{name}' is not where the directory says"

        let first, last = header data start place name (struct (checksum, size, fullSize)) (int where)

        {
            Name = name
            Checksum = checksum
            Data = ReadOnlyMemory(data, first, int size)
            IsDeflated = (method = 8)
            Length = int fullSize
            Start = int where
            End = last
        },
        place + length

    let private checkOverlaps (entries: ZipEntry list) : unit =
        for before, behind in entries |> List.sortBy _.Start |> List.pairwise do
            if behind.Start < before.End then
                refuse $"its entries '{before.Name}' and '{behind.Name}' overlap"

    /// Returns the entries by name.
    let parse (budget: MemoryBudget) (data: byte[]) : Map<string, ZipEntry> =
        let count, start, stop = directory data

        let entries = ResizeArray<ZipEntry>()
        let mutable place = start

        for _ in 1..count do
            let entry, next = entry budget data (start, stop) place
            entries.Add entry
            place <- next

        if place <> stop then refuse "its directory is longer than its entries"

        let entries = List.ofSeq entries
        checkOverlaps entries

        let add (known: Map<string, ZipEntry>) (entry: ZipEntry) =
            if known.ContainsKey entry.Name then
                refuse $"it has the entry '{entry.Name}' twice"

            known.Add(entry.Name, entry)

        List.fold add Map.empty entries

    /// The bytes as a stream, without a copy.
    let private streamOf (bytes: ReadOnlyMemory<byte>) : MemoryStream =
        match MemoryMarshal.TryGetArray bytes with
        | true, part -> new MemoryStream(nonNull part.Array, part.Offset, part.Count, false)
        | _ -> new MemoryStream(bytes.ToArray(), false)

    /// Decompresses an entry to exactly the length that it announces.
    let private inflated (inflation: Inflation) (entry: ZipEntry) : ReadOnlyMemory<byte> =
        Inflation.take (int64 entry.Length) inflation
        let target = Array.zeroCreate<byte> entry.Length

        use source = new DeflateStream(streamOf entry.Data, CompressionMode.Decompress)

        let ends =
            try
                source.ReadExactly target
                source.ReadByte() = -1
            with
            | :? EndOfStreamException
            | :? InvalidDataException -> false

        if not ends then
            refuse $"its entry '{entry.Name}' does not decompress to the {entry.Length} bytes that it announces"

        ReadOnlyMemory target

    /// Returns the bytes of an entry after checking its checksum. PyTorch can be configured to write zeros instead.
    let contents (inflation: Inflation) (entry: ZipEntry) : ReadOnlyMemory<byte> =
        let bytes = if entry.IsDeflated then inflated inflation entry else entry.Data

        if entry.Checksum <> 0u && entry.Checksum <> Crc32.HashToUInt32 bytes.Span then
            refuse $"the checksum of its entry '{entry.Name}' differs"

        bytes
