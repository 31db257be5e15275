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

    let private checkByteOrder (inflation: Inflation) (entry: ZipEntry) : unit =
        if entry.Length > 16 || (ZipEntries.contents inflation entry).Span.SequenceEqual(ReadOnlySpan "big"B) then
            refuse "it was written on a big-endian machine: save it again on another"

    /// Reads the bytes of each storage once.
    let private storages
        (inflation: Inflation)
        (folder: string)
        (entries: Map<string, ZipEntry>)
        : PickleStorage -> ReadOnlyMemory<byte> =
        let read = Dictionary<string, ReadOnlyMemory<byte>>()

        let fromEntry (key: string) =
            let name = $"{folder}data/{key}"

            match Map.tryFind name entries with
            | Some entry -> ZipEntries.contents inflation entry
            | None -> refuse $"its entry '{name}' is not there"

        fun (storage: PickleStorage) ->
            let bytes =
                match read.TryGetValue storage.Key with
                | true, bytes -> bytes
                | _ -> fromEntry storage.Key

            read[storage.Key] <- bytes
            let there = int64 bytes.Length / TorchPickle.itemSize storage.DType

            if there <> storage.Count then
                refuse $"storage '{storage.Key}' has {there} elements, and {storage.Count} are announced"

            bytes

    /// Returns the contents of a file.
    let parse (inflation: Inflation) (data: byte[]) : TorchEntry =
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

        Map.tryFind $"{folder}byteorder" entries |> Option.iter (checkByteOrder inflation)

        ZipEntries.contents inflation entries[$"{folder}data.pkl"]
        |> Pickle.whole (TorchPickle.rules TorchPickle.storage) budget
        |> TorchTree.ofPickle budget data.Length (storages inflation folder entries)
