/// Hand-made PyTorch files, valid and hostile ones.
module Ctkd.Fs.Tests.TorchPickles

open System
open System.IO
open System.IO.Compression
open System.Text
open Ctkd.Fs

/// The bytes of a text with one character per byte.
let latin (text: string) : byte[] = Encoding.Latin1.GetBytes text

let private tuple (values: int64 list) : string = "(" + String.concat "" [ for value in values -> $"I{value}\n" ] + "t"

/// The persistent id of a storage.
let storage (kind: string) (key: string) (count: int64) : string =
    $"(Vstorage\nctorch\n{kind}\nV{key}\nVcpu\nI{count}\ntQ"

/// A view of a storage.
let window (storage: string) (offset: int64) (shape: int64 list) (strides: int64 list) : string =
    $"ctorch._utils\n_rebuild_tensor_v2\n({storage}I{offset}\n{tuple shape}{tuple strides}"
    + "\x89ccollections\nOrderedDict\n)RtR"

/// A dictionary with these names and values.
let dictionary (entries: (string * string) list) : string =
    "}(" + String.concat "" [ for name, value in entries -> $"V{name}\n{value}" ] + "u"

/// A tensor of the first byte of the storage "0" of one.
let one: string = window (storage "ByteStorage" "0" 1L) 0L [ 1L ] [ 1L ]

/// A zip file with these entries.
let zip (level: CompressionLevel) (entries: (string * byte[]) list) : byte[] =
    use stream = new MemoryStream()

    using
        (new ZipArchive(stream, ZipArchiveMode.Create))
        (fun archive ->
            for name, data in entries do
                use entry = archive.CreateEntry(name, level).Open()
                entry.Write(ReadOnlySpan data)
        )

    stream.ToArray()

/// A file in zip format: the pickle's contents without header and end, and the storages.
let zipFile (pickle: string) (storages: (string * byte[]) list) : byte[] =
    zip CompressionLevel.NoCompression [
        yield "any/data.pkl", latin ("\x80\002" + pickle + ".")
        for key, data in storages do
            yield $"any/data/{key}", data
    ]

/// The header of a file in the old format.
let legacyHeader: string =
    "\x80\002\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\002M\xe9\003.\x80\002}V" + "little_endian\n\x88s."

/// A file in the old format: the pickle and the storages, each with its number of elements.
let legacyFile (pickle: string) (storages: (string * int64 * byte[]) list) : byte[] =
    let keys = String.concat "" [ for key, _, _ in storages -> $"V{key}\n" ]

    Array.concat [
        latin (legacyHeader + "\x80\002" + pickle + $".\x80\002](" + keys + "e.")
        for _, count, data in storages do
            BitConverter.GetBytes count
            data
    ]

/// A small file in each format: two views of one storage, and numbers beside them.
let small: (string * byte[]) list =
    let floats = storage "FloatStorage" "0" 6L
    let bytes = Array.init 24 byte

    let pickle =
        dictionary [
            "epoch", "K\007"
            "best", "G\x3f\xf8\000\000\000\000\000\000"
            "model", dictionary [ "a", window floats 0L [ 2L; 3L ] [ 3L; 1L ]; "b", window floats 1L [ 2L ] [ 3L ] ]
        ]

    [ "zip", zipFile pickle [ "0", bytes ]; "legacy", legacyFile pickle [ "0", 6L, bytes ] ]

/// A zip file with a dictionary of state_dicts, and other values by their pickles.
let networks (groups: (string * StoredTensor list) list) (beside: (string * string) list) : byte[] =
    let kinds = Map [ "F32", "FloatStorage"; "I64", "LongStorage"; "U8", "ByteStorage" ]

    let size (tensor: StoredTensor) =
        if tensor.DType = "I64" then 8
        elif tensor.DType = "F32" then 4
        else 1

    let count (tensor: StoredTensor) = int64 (tensor.Bytes.Length / size tensor)

    let strides (shape: int64 list) =
        (shape, [ 1L ]) ||> List.foldBack (fun extent strides -> extent * strides.Head :: strides) |> List.tail

    let stateDict group (tensors: StoredTensor list) =
        dictionary [
            for tensor in tensors do
                let key = $"{group}-{tensor.Name.Replace('.', '_')}"
                let held = storage kinds[tensor.DType] key (count tensor)
                tensor.Name, window held 0L tensor.Shape (strides tensor.Shape)
        ]

    let pickle =
        dictionary [
            for group, tensors in groups do
                group, stateDict group tensors
            yield! beside
        ]

    zipFile pickle [
        for group, tensors in groups do
            for tensor in tensors do
                $"{group}-{tensor.Name.Replace('.', '_')}", tensor.Bytes.ToArray()
    ]

/// Returns the entry at a path.
let rec at (path: string list) (entry: TorchEntry) : TorchEntry =
    match path with
    | [] -> entry
    | name :: rest -> TorchEntry.entries entry |> List.find (fun (key, _) -> key = name) |> snd |> at rest
