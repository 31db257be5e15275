namespace Ctkd.Fs

open System
open System.IO
open System.IO.Compression

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

    let private byZip (isWanted: ArchiveFile -> bool) (stream: Stream) : ArchiveFile list * byte[] option =
        if stream.Length > int64 Array.MaxLength then refuse "it has more than 2 GB"

        let data = Array.zeroCreate<byte>(int stream.Length)
        stream.ReadExactly data
        let entries = (ZipEntries.parse (MemoryBudget.create ()) data).Values |> List.ofSeq

        let files =
            entries
            |> List.filter (fun entry -> not (entry.Name.EndsWith '/'))
            |> List.map (fun entry -> { Name = entry.Name; Bytes = int64 entry.Length }, entry)

        List.map fst files,
        files
        |> List.tryFind (fst >> isWanted)
        |> Option.map (fun (_, entry) -> (ZipEntries.contents entry).ToArray())

    let private byTar (isWanted: ArchiveFile -> bool) (limit: int64) (stream: Stream) =
        let file (entry: TarEntry) : ArchiveFile = { Name = entry.Name; Bytes = entry.Length }
        let entries, contents = TarEntries.read (file >> isWanted) limit stream
        List.map file entries, contents

    /// The rest of a stream, refused where it is longer than an array.
    let private whole (limit: int64) (stream: Stream) : byte[] =
        use target = new MemoryStream()
        let buffer = Array.zeroCreate<byte> 65_536
        let mutable count = stream.Read(buffer, 0, buffer.Length)

        while count > 0 do
            if target.Length + int64 count > min limit (int64 Array.MaxLength) then
                refuse "it decompresses to more than 2 GB"

            target.Write(buffer, 0, count)
            count <- stream.Read(buffer, 0, buffer.Length)

        target.ToArray()

    let private byGzip (isWanted: ArchiveFile -> bool) (stream: Stream) : ArchiveFile list * byte[] option =
        let decompressed () =
            stream.Position <- 0L
            new GZipStream(stream, CompressionMode.Decompress, true)

        let start = Array.zeroCreate<byte> sniffed
        use first = decompressed ()
        let count = first.ReadAtLeast(Span start, sniffed, false)
        let limit = min maxDecompressed (maxExpansion * stream.Length)

        if TarEntries.isTar (ReadOnlySpan(start, 0, count)) then
            use again = decompressed ()
            byTar isWanted limit again
        else
            use again = decompressed ()
            let only = { Name = ""; Bytes = 0L }
            [ only ], (if isWanted only then Some(whole limit again) else None)

    /// Returns the files of an archive up to the wanted one, and its contents. Violations raise `Unpicklable`.
    let read (kind: Kind) (isWanted: ArchiveFile -> bool) (stream: Stream) : ArchiveFile list * byte[] option =
        try
            match kind with
            | Kind.Tar -> byTar isWanted 0L stream
            | Kind.Gzip -> byGzip isWanted stream
            | Kind.Zip -> byZip isWanted stream
        with :? InvalidDataException as problem ->
            refuse $"it does not decompress ({problem.Message})"

    /// Returns all files of an archive.
    let list (kind: Kind) (stream: Stream) : ArchiveFile list = read kind (fun _ -> false) stream |> fst

    /// Whether these are the parts of a file of PyTorch before 0.2.
    let isOldTorch (files: ArchiveFile list) : bool =
        [ "pickle"; "storages"; "tensors" ]
        |> List.forall (fun name -> files |> List.exists (fun file -> file.Name = name || file.Name = $"./{name}"))
