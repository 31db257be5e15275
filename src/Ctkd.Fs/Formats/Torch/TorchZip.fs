namespace Ctkd.Fs

open System
open System.Collections.Generic

/// Reads PyTorch's zip format, used since version 1.6: a pickle, and one entry per storage. Violations raise
/// `Unpicklable` or `Forbidden`.
[<RequireQualifiedAccess>]
module internal TorchZip =
    let private refuse (reason: string) : 'T = PickleInput.refuse reason

    /// The first bytes of a zip file.
    let signature = [| byte 'P'; byte 'K'; 3uy; 4uy |]

    /// The top-level folder in the zip; the writer chooses its name.
    let private folder (entries: Map<string, ZipEntry>) : string =
        let ending = "/data.pkl"

        match entries.Keys |> Seq.filter _.EndsWith(ending, StringComparison.Ordinal) |> List.ofSeq with
        | [ name ] -> name.Substring(0, name.Length - ending.Length + 1)
        | [] -> refuse "it is a zip file without the entry data.pkl, which PyTorch's have"
        | _ -> refuse "it has several entries data.pkl"

    let private checkByteOrder (entry: ZipEntry) : unit =
        if entry.Data.Length > 16 || (ZipEntries.contents entry).Span.SequenceEqual(ReadOnlySpan "big"B) then
            refuse "it was written on a big-endian machine: save it again on another"

    /// Reads the bytes of each storage once.
    let private storages (folder: string) (entries: Map<string, ZipEntry>) : TorchTree.Storage =
        let read = Dictionary<string, ReadOnlyMemory<byte>>()

        fun dtype key count ->
            let name = $"{folder}data/{key}"

            let bytes =
                match read.TryGetValue name, Map.tryFind name entries with
                | (true, bytes), _ -> bytes
                | _, Some entry -> ZipEntries.contents entry
                | _, None -> refuse $"its entry '{name}' is not there"

            read[name] <- bytes
            let there = int64 bytes.Length / TorchPickle.itemSizes[dtype]

            if there <> count then
                refuse $"storage '{key}' has {there} elements, and {count} are announced"

            bytes

    /// Returns the contents of a file.
    let parse (data: byte[]) : TorchEntry =
        let budget = MemoryBudget.create ()
        let entries = ZipEntries.parse budget data
        let folder = folder entries

        if entries.ContainsKey $"{folder}constants.pkl" then
            raise (
                Convertible(
                    "it is a TorchScript program",
                    "torch.save(torch.jit.load(FILE).state_dict(), 'weights.pt')"
                )
            )

        Map.tryFind $"{folder}byteorder" entries |> Option.iter checkByteOrder

        ZipEntries.contents entries[$"{folder}data.pkl"]
        |> Pickle.whole (TorchPickle.rules TorchPickle.storage) budget
        |> TorchTree.ofPickle budget data.Length (storages folder entries)
