namespace Ctkd.Fs

open System
open System.IO
open System.IO.Compression
open System.Runtime.InteropServices

/// A file in an archive of files.
type ArchiveFile = { Name: string; Bytes: int64 }

/// Finds files of weights in archives of files: tar, compressed by gzip or not, and zip. Executes and unpacks nothing else.
[<RequireQualifiedAccess>]
module internal Archive =
    let private refuse (reason: string) : 'T = PickleInput.refuse reason

    /// How archives are read.
    [<RequireQualifiedAccess>]
    type Kind =
        | Tar
        /// A tar archive or one file, compressed.
        | Gzip
        | Zip

    /// The kind in words.
    let describe (kind: Kind) : string =
        match kind with
        | Kind.Tar -> "a tar archive"
        | Kind.Gzip -> "a compressed archive (gzip)"
        | Kind.Zip -> "a zip archive"

    /// Number of bytes that `kindOf` needs.
    let sniffed = 512

    let private endings = [ ".pth"; ".pt"; ".th"; ".ckpt"; ".safetensors"; ".bin"; ".tar" ]

    /// Whether a file in an archive may be one of weights.
    let isWeights (file: ArchiveFile) : bool =
        // macOS puts a file of attributes beside each.
        let isAttributes =
            file.Name.Substring(file.Name.LastIndexOf '/' + 1).StartsWith("._", StringComparison.Ordinal)

        not isAttributes
        && endings |> List.exists (fun ending -> file.Name.EndsWith(ending, StringComparison.OrdinalIgnoreCase))

    /// The kind of an archive by how it begins. A zip file may be one of PyTorch's: see `isOfFiles`.
    let kindOf (start: byte[]) : Kind option =
        if TarEntries.isTar (ReadOnlySpan start) then Some Kind.Tar
        elif ReadOnlySpan(start).StartsWith(ReadOnlySpan [| 0x1Fuy; 0x8Buy |]) then Some Kind.Gzip
        elif ReadOnlySpan(start).StartsWith(ReadOnlySpan TorchZip.signature) then Some Kind.Zip
        else None

    /// Whether a zip file is an archive of files of weights, and no file of PyTorch's.
    let isOfFiles (data: byte[]) : bool =
        try
            let names = (ZipEntries.parse (MemoryBudget.create ()) data).Keys
            let isPickle (name: string) = name.EndsWith("/data.pkl", StringComparison.Ordinal)

            not (Seq.exists isPickle names) && names |> Seq.exists (fun name -> isWeights { Name = name; Bytes = 0L })
        with Unpicklable _ ->
            false

    /// Deflate cannot expand further; and the most bytes that are decompressed to find a file.
    let private maxExpansion, private maxDecompressed = 1_032L, 16_000_000_000L

    /// The bytes of a stream: those under one in memory, without a copy.
    let private bytesOf (stream: Stream) : byte[] =
        if stream.Length > int64 Array.MaxLength then refuse "it has more than 2 GB"

        match stream with
        | :? MemoryStream as inMemory when inMemory.TryGetBuffer() |> fst -> inMemory.GetBuffer()
        | _ ->
            let data = Array.zeroCreate<byte>(int stream.Length)
            stream.ReadExactly data
            data

    /// As an array of its own, without a copy where it is one.
    let private arrayOf (bytes: ReadOnlyMemory<byte>) : byte[] =
        match MemoryMarshal.TryGetArray bytes with
        | true, part when part.Offset = 0 && part.Count = (nonNull part.Array).Length -> nonNull part.Array
        | _ -> bytes.ToArray()

    let private byZip (wanted: int option) (inflation: Inflation) (stream: Stream) : ArchiveFile list * byte[] option =
        let entries =
            (ZipEntries.parse (MemoryBudget.create ()) (bytesOf stream)).Values
            |> Seq.filter (fun entry -> not (entry.Name.EndsWith '/'))
            |> List.ofSeq

        entries |> List.map (fun entry -> { Name = entry.Name; Bytes = int64 entry.Length }),
        wanted |> Option.map (fun place -> arrayOf (ZipEntries.contents inflation entries[place]))

    let private byTar (wanted: int option) (limit: int64) (inflation: Inflation) (stream: Stream) =
        let entries, contents = TarEntries.read wanted limit inflation stream
        entries |> List.map (fun entry -> { Name = entry.Name; Bytes = entry.Length }), contents

    /// The length of a decompressed stream, if `inflation` allows it.
    let private lengthOf (inflation: Inflation) (stream: Stream) : int64 =
        let buffer = Array.zeroCreate<byte> 65_536
        let mutable length = 0L
        let mutable count = stream.Read(buffer, 0, buffer.Length)

        while count > 0 do
            Inflation.take (int64 count) inflation
            length <- length + int64 count
            count <- stream.Read(buffer, 0, buffer.Length)

        if length > int64 Array.MaxLength then
            refuse "it decompresses to more than 2 GB"

        length

    let private byGzip (wanted: int option) (inflation: Inflation) (stream: Stream) : ArchiveFile list * byte[] option =
        let decompressed () =
            stream.Position <- 0L
            new GZipStream(stream, CompressionMode.Decompress, true)

        let start = Array.zeroCreate<byte> sniffed
        use first = decompressed ()
        let count = first.ReadAtLeast(Span start, sniffed, false)
        let limit = min maxDecompressed (maxExpansion * stream.Length)

        if TarEntries.isTar (ReadOnlySpan(start, 0, count)) then
            use again = decompressed ()
            byTar wanted limit inflation again
        elif wanted.IsNone then
            [ { Name = ""; Bytes = 0L } ], None
        else
            // Decompressed twice rather than held twice.
            use passed = decompressed ()
            let bytes = Array.zeroCreate<byte>(int (lengthOf inflation passed))
            use again = decompressed ()
            again.ReadExactly bytes
            [ { Name = ""; Bytes = bytes.LongLength } ], Some bytes

    /// <summary>Returns the files of an archive up to the wanted one, and its contents. Violations raise `Unpicklable`.</summary>
    /// <param name="kind">The kind of the archive.</param>
    /// <param name="wanted">The place of a file among the files that `list` gives; None for no contents.</param>
    /// <param name="inflation">What may be decompressed into memory.</param>
    /// <param name="stream">The archive.</param>
    let read
        (kind: Kind)
        (wanted: int option)
        (inflation: Inflation)
        (stream: Stream)
        : ArchiveFile list * byte[] option =
        try
            match kind with
            | Kind.Tar -> byTar wanted 0L inflation stream
            | Kind.Gzip -> byGzip wanted inflation stream
            | Kind.Zip -> byZip wanted inflation stream
        with :? InvalidDataException as problem ->
            refuse $"it does not decompress ({problem.Message})"

    /// Returns all files of an archive, in its order: a tar archive may have several of one name.
    let list (kind: Kind) (stream: Stream) : ArchiveFile list = read kind None (Inflation.ofFile 0L) stream |> fst

    /// The files that unpacking leaves: of several with one name the last.
    let unpacked (files: ArchiveFile list) : ArchiveFile list = files |> List.rev |> List.distinctBy _.Name |> List.rev

    /// Whether these are the parts of a file of PyTorch before 0.2.
    let isOldTorch (files: ArchiveFile list) : bool =
        [ "pickle"; "storages"; "tensors" ]
        |> List.forall (fun name -> files |> List.exists (fun file -> file.Name = name || file.Name = $"./{name}"))
