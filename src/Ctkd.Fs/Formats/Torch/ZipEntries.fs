namespace Ctkd.Fs

open System
open System.Buffers.Binary
open System.IO.Hashing
open System.Text

/// An entry of a zip file; its bytes are a view of the file.
[<ReferenceEquality>]
type internal ZipEntry = {
    Name: string
    Checksum: uint32
    Data: ReadOnlyMemory<byte>
    Start: int
    End: int
}

/// Reads the entries of an uncompressed zip file as views of its bytes. The directory and the local headers must agree;
/// violations raise `Unpicklable`.
[<RequireQualifiedAccess>]
module internal ZipEntries =
    let private refuse (reason: string) : 'T = PickleInput.refuse reason

    let private uint16 (data: byte[]) (place: int) : int =
        int (BinaryPrimitives.ReadUInt16LittleEndian(ReadOnlySpan(data, place, 2)))

    let private uint32 (data: byte[]) (place: int) : uint32 =
        BinaryPrimitives.ReadUInt32LittleEndian(ReadOnlySpan(data, place, 4))

    let private begins (signature: string) (data: byte[]) (place: int) : bool =
        ReadOnlySpan(data, place, 4).SequenceEqual(ReadOnlySpan(Encoding.Latin1.GetBytes signature))

    let private wide (what: string) : 'T = refuse $"{what} as in files of more than 4 GB (zip64), which are not read"

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

    /// Returns the number of entries, and begin and end of the directory.
    let private directory (data: byte[]) : int * int * int =
        let place = endRecord data
        let count, size, start = uint16 data (place + 10), uint32 data (place + 12), uint32 data (place + 16)

        if count = 0xFFFF || size = UInt32.MaxValue || start = UInt32.MaxValue then
            wide "its directory is one"

        if uint32 data (place + 4) <> 0u || uint16 data (place + 8) <> count then
            refuse "it is a part of a divided zip file"

        if uint64 start + uint64 size > uint64 place then
            refuse "it is no whole zip file: its directory reaches beyond its end"

        count, int start, int start + int size

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

    /// Reads checksum and both sizes at a position: in the directory, in a header, or after the data.
    let private facts (data: byte[]) (place: int) : uint32 * uint32 * uint32 =
        uint32 data place, uint32 data (place + 4), uint32 data (place + 8)

    /// Size of the record after the data of an entry whose header was written first, as PyTorch does.
    let private descriptorSize = 16

    /// Checks the header at `start` against the directory; returns the begin of the data and the end of the entry.
    let private header (data: byte[]) (limit: int) (place: int) (name: string) (start: int) : int * int =
        let differs what = refuse $"the {what} of its entry '{name}' differs from the directory's"
        let nameLength = uint16 data (place + 28)

        if start + headerSize > limit || not (begins "PK\003\004" data start) then
            refuse $"its entry '{name}' is not where the directory says"

        // Flags and method.
        if uint32 data (start + 6) <> uint32 data (place + 8) then differs "method"

        let first = start + headerSize + uint16 data (start + 26) + uint16 data (start + 28)
        let checksum, size, fullSize = facts data (place + 16)

        if uint64 first + uint64 size > uint64 limit then
            refuse $"its entry '{name}' announces {size} bytes, more than are there"

        let localName =
            ReadOnlySpan(data, start + headerSize, min nameLength (data.Length - start - headerSize))

        if
            uint16 data (start + 26) <> nameLength
            || not (localName.SequenceEqual(ReadOnlySpan(data, place + directorySize, nameLength)))
        then
            differs "name"

        let there, last = facts data (start + 14), first + int size
        let hasDescriptor = uint16 data (start + 6) &&& 8 <> 0

        if hasDescriptor then
            let isThere = last + descriptorSize <= limit && begins "PK\007\008" data last

            if not isThere || facts data (last + 4) <> (checksum, size, fullSize) then
                differs "size or checksum"

        if there <> (checksum, size, fullSize) && not (hasDescriptor && there = (0u, 0u, 0u)) then
            differs "size or checksum"

        first, (if hasDescriptor then last + descriptorSize else last)

    /// Returns the entry at a position of the directory, and the position after it.
    let private entry (budget: MemoryBudget) (data: byte[]) (start: int, stop: int) (place: int) : ZipEntry * int =
        if place + directorySize > stop || not (begins "PK\001\002" data place) then
            refuse "its directory is damaged"

        let nameLength = uint16 data (place + 28)
        let length = directorySize + nameLength + uint16 data (place + 30) + uint16 data (place + 32)

        if length > stop - place then refuse "its directory is damaged"

        MemoryBudget.charge (entrySize + 4L * int64 nameLength) budget
        let name = Encoding.UTF8.GetString(data, place + directorySize, nameLength)
        let _, size, fullSize = facts data (place + 16)
        let where = uint32 data (place + 42)

        if not (isSafe name) then
            refuse $"its entry '{name}' has a name that leads out of the file's folder"

        if size = UInt32.MaxValue || fullSize = UInt32.MaxValue || where = UInt32.MaxValue then
            wide $"its entry '{name}' is one"

        if uint16 data (place + 8) &&& 1 <> 0 then
            refuse $"its entry '{name}' is encrypted"

        if uint16 data (place + 10) <> 0 || size <> fullSize then
            refuse $"its entry '{name}' is compressed, and PyTorch compresses none"

        if uint64 where > uint64 start then
            refuse $"its entry '{name}' is not where the directory says"

        let first, last = header data start place name (int where)

        {
            Name = name
            Checksum = uint32 data (place + 16)
            Data = ReadOnlyMemory(data, first, int size)
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

        let entries, last =
            List.mapFold (fun place _ -> entry budget data (start, stop) place) start [ 1..count ]

        if last <> stop then refuse "its directory is longer than its entries"

        checkOverlaps entries

        let add (known: Map<string, ZipEntry>) (entry: ZipEntry) =
            if known.ContainsKey entry.Name then
                refuse $"it has the entry '{entry.Name}' twice"

            known.Add(entry.Name, entry)

        List.fold add Map.empty entries

    /// Returns the bytes of an entry after checking its checksum. PyTorch can be configured to write zeros instead.
    let contents (entry: ZipEntry) : ReadOnlyMemory<byte> =
        if entry.Checksum <> 0u && entry.Checksum <> Crc32.HashToUInt32 entry.Data.Span then
            refuse $"the checksum of its entry '{entry.Name}' differs"

        entry.Data
