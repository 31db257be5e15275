namespace Ctkd.Fs

open System
open System.Collections.Generic

/// Reads PyTorch's format before 1.6: five consecutive pickles, then the storages' bytes. Violations raise
/// `Unpicklable` or `Forbidden`.
[<RequireQualifiedAccess>]
module internal TorchLegacy =
    let private refuse (reason: string) : 'T = PickleInput.refuse reason

    /// The pickle of 0x1950a86a20f9469cfc6c, without the header that depends on the protocol.
    let private magic = [|
        0x8auy
        0x0auy
        0x6cuy
        0xfcuy
        0x9cuy
        0x46uy
        0xf9uy
        0x20uy
        0x6auy
        0xa8uy
        0x50uy
        0x19uy
        byte '.'
    |]

    /// The same in protocol 1.
    let private decimalMagic = "L119547037146038801333356L\n."B

    /// The longest header of a pickle: its protocol and the length of a frame.
    let private maxHeader = 11

    /// Returns the position of the second pickle if the first one is the magic number.
    let private afterMagic (data: byte[]) : int option =
        match ReadOnlySpan(data, 0, min data.Length (maxHeader + magic.Length)).IndexOf(ReadOnlySpan magic) with
        | -1 when ReadOnlySpan(data).StartsWith(ReadOnlySpan decimalMagic) -> Some decimalMagic.Length
        | -1 -> None
        | start -> Some(start + magic.Length)

    /// Whether the bytes have this format.
    let isLegacy (data: byte[]) : bool = (afterMagic data).IsSome

    /// Reads the numbers that describe the writer.
    let private plain (input: PickleInput) : PickleValue = Pickle.next (Pickle.strict Map.empty) input

    let private checkHeader (input: PickleInput) : unit =
        match plain input with
        | PickleValue.Whole 1001L -> ()
        | _ -> refuse "it is of another version than 1001 of PyTorch's old format"

        match plain input |> PickleValue.field "little_endian" with
        | Some(PickleValue.Truth false) -> refuse "it was written on a big-endian machine: save it again on another"
        | _ -> ()

    /// Records the type and size of each storage in the pickle: the bytes after it do not give the type.
    let private noting (known: Dictionary<string, string * int64>) (name: PickleValue) =
        let note (dtype: string) (key: string) (count: int64) (storage: PickleValue) =
            if known.TryAdd(key, (dtype, count)) || known[key] = (dtype, count) then
                Ok storage
            else
                Error "a storage is described in two ways"

        TorchPickle.storage name
        |> Result.bind (fun storage ->
            match storage with
            | PickleValue.Storage found -> note found.DType found.Key found.Count storage
            // A class.
            | _ -> Ok storage
        )

    let private keys (input: PickleInput) (value: PickleValue) : string list =
        let key (name: PickleValue) =
            let key =
                TorchPickle.key name |> Option.defaultWith (fun () -> refuse "the name of a storage is malformed")

            // A list may hold one name many times.
            PickleInput.charge (PickleMachine.scalar + 2L * int64 key.Length) input
            key

        match value with
        | PickleValue.Sequence items -> items |> Seq.map key |> List.ofSeq
        | _ -> refuse "it does not list its storages"

    let private readStorage
        (known: Dictionary<string, string * int64>)
        (input: PickleInput)
        (storages: Map<string, ReadOnlyMemory<byte>>)
        (key: string)
        : Map<string, ReadOnlyMemory<byte>> =
        let dtype, announced =
            match known.TryGetValue key with
            | true, description when not (storages.ContainsKey key) -> description
            | _ -> refuse $"storage '{key}' is listed twice or belongs to no tensor"

        let count = PickleInput.uint64 input

        if count <> announced then
            refuse $"storage '{key}' has {count} elements, and {announced} are announced"

        if count > int64 Array.MaxLength then
            refuse $"storage '{key}' announces {count} elements"

        storages.Add(key, PickleInput.take (count * TorchPickle.itemSize dtype) input)

    /// Returns the contents of a file.
    let parse (data: byte[]) : TorchEntry =
        let input = {
            Data = ReadOnlyMemory data
            Budget = MemoryBudget.create ()
            Position = afterMagic data |> Option.defaultValue 0
        }

        checkHeader input
        let known = Dictionary<string, string * int64>()
        let value = Pickle.next (TorchPickle.rules (noting known)) input
        let storages = plain input |> keys input |> List.fold (readStorage known input) Map.empty

        if input.Position < data.Length then
            refuse $"{data.Length - input.Position} bytes follow its end"

        let storage (named: PickleStorage) =
            storages
            |> Map.tryFind named.Key
            |> Option.defaultWith (fun () -> refuse $"storage '{named.Key}' is not there")

        TorchTree.ofPickle input.Budget data.Length storage value
