namespace Ctkd.Fs

open System
open System.Collections.Generic
open System.IO
open System.IO.Compression

/// PyTorch's zip format, written since version 1.6: a pickle, and the bytes of each storage as an entry of
/// its own. What is against the format raises `Unpicklable`; a broken zip also raises what .NET's reader
/// does.
[<RequireQualifiedAccess>]
module internal TorchZip =
    let private refuse (reason: string) : 'T = PickleInput.refuse reason

    /// The beginning of a zip file.
    let signature = [| byte 'P'; byte 'K'; 3uy; 4uy |]

    /// The entries by their names. PyTorch compresses none, so that what they announce cannot exceed the
    /// file.
    let private entries (size: int) (archive: ZipArchive) : Map<string, ZipArchiveEntry> =
        let add (known: Map<string, ZipArchiveEntry>) (entry: ZipArchiveEntry) =
            let name = entry.FullName

            if known.ContainsKey name then refuse $"it has the entry '{name}' twice"

            // Each by itself first: their sum would overflow.
            if entry.Length < 0L || entry.Length > int64 size then
                refuse $"its entry '{name}' announces {entry.Length} bytes, and the file has {size}"

            if entry.Length <> entry.CompressedLength then
                refuse $"its entry '{name}' is compressed, and PyTorch compresses none"

            known.Add(name, entry)

        let known = Seq.fold add Map.empty archive.Entries
        let announced = archive.Entries |> Seq.sumBy _.Length

        if announced > int64 size then
            refuse $"its entries announce {announced} bytes, and it has {size}"

        known

    let private contents (entry: ZipArchiveEntry) : ReadOnlyMemory<byte> =
        use stream = entry.Open()
        let bytes = Array.zeroCreate<byte>(int entry.Length)
        stream.ReadExactly bytes

        // Some programs leave the checksum out, and PyTorch does not ask for it.
        if entry.Crc32 <> 0u && entry.Crc32 <> Crc32.compute (ReadOnlySpan bytes) then
            refuse $"the checksum of its entry '{entry.FullName}' differs"

        ReadOnlyMemory bytes

    /// The folder in the zip that holds everything: the name is the writer's choice.
    let private folder (entries: Map<string, ZipArchiveEntry>) : string =
        let ending = "/data.pkl"

        match entries.Keys |> Seq.filter _.EndsWith(ending, StringComparison.Ordinal) |> List.ofSeq with
        | [ name ] -> name.Substring(0, name.Length - ending.Length + 1)
        | [] -> refuse "it is a zip file without the entry data.pkl, which PyTorch's have"
        | _ -> refuse "it has several entries data.pkl"

    let private checkByteOrder (entry: ZipArchiveEntry) : unit =
        if entry.Length > 16L || (contents entry).Span.SequenceEqual(ReadOnlySpan "big"B) then
            refuse "it was written on a big-endian machine: save it again on another"

    /// The bytes of each storage, read once.
    let private storages (folder: string) (entries: Map<string, ZipArchiveEntry>) : TorchTree.Storage =
        let read = Dictionary<string, ReadOnlyMemory<byte>>()

        fun dtype key count ->
            let name = $"{folder}data/{key}"

            let bytes =
                match read.TryGetValue name, Map.tryFind name entries with
                | (true, bytes), _ -> bytes
                | _, Some entry -> contents entry
                | _, None -> refuse $"its entry '{name}' is not there"

            read[name] <- bytes
            let there = int64 bytes.Length / SafetensorsLayout.itemSizes[dtype]

            if there <> count then
                refuse $"storage '{key}' has {there} elements, and {count} are announced"

            bytes

    /// The entries of a file.
    let parse (data: byte[]) : TorchEntry =
        use stream = new MemoryStream(data, false)
        use archive = new ZipArchive(stream, ZipArchiveMode.Read)
        let entries = entries data.Length archive
        let folder = folder entries

        if entries.ContainsKey $"{folder}constants.pkl" then
            refuse "it is a TorchScript program: save the state_dict of the module instead"

        Map.tryFind $"{folder}byteorder" entries |> Option.iter checkByteOrder

        contents entries[$"{folder}data.pkl"]
        |> Pickle.whole { Allowed = TorchPickle.allowed; Outside = TorchPickle.storage }
        |> TorchTree.ofPickle data.Length (storages folder entries)
