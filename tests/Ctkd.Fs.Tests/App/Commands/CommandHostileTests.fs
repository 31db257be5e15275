/// Hostile files in a process of their own: how much memory it takes to refuse them.
module Ctkd.Fs.Tests.CommandHostileTests

open System
open System.IO
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Folders
open Ctkd.Fs.Tests.TorchPickles

let private floats (key: string) (count: int64) (extent: int64) (stride: int64) : string =
    window (storage "FloatStorage" key count) 0L [ extent ] [ stride ]

/// A file of 100 MB whose last storage has one wrong byte.
let private damaged () : byte[] =
    let keys = [ for key in 0..3 -> string key ]
    let pickle = dictionary [ for key in keys -> "w" + key, floats key 6_250_000L 6_250_000L 1L ]
    let bytes = zipFile pickle [ for key in keys -> key, Array.zeroCreate 25_000_000 ]
    bytes[bytes.Length - 2_000] <- 1uy
    bytes

/// A safetensors file of nothing but a header of so many tensors.
let private header (tensors: int) : byte[] =
    let entries = [ for i in 1..tensors -> $"\"{i}\":{{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}}" ]

    let text = latin ("{" + String.concat "," entries + ",\"x\":1}")
    Array.append (BitConverter.GetBytes(int64 text.Length)) text

/// Each in about the size at which it took the most before there was a limit.
let private hostile () : (string * byte[]) list =
    let again = 3_999_000
    let pickled (text: string) = zipFile text []
    let values = "](" + String.replicate 999 "K\001" + "eq\001"

    [
        "lists", pickled (String(']', again))
        "dictionaries", pickled (String('}', again))
        "memo", pickled ("N" + String('\x94', again))
        "marks", pickled (String('(', again))
        "tuples", pickled (")" + String('\x85', 1_000_000))
        "deep", pickled (String(']', 100_000) + String('a', 99_999))
        "recalled", pickled ("](" + values + String.replicate 999 "h\001" + "e")
        "expanded", zipFile (dictionary [ "w", floats "0" 1L 14_700_000L 0L ]) [ "0", Array.zeroCreate 4 ]
        "tensors",
        zipFile (dictionary [ for i in 1..60_000 -> $"w{i}", floats "0" 1L 1L 1L ]) [ "0", Array.zeroCreate 4 ]
        "damaged", damaged ()
        "truncated", (damaged ())[..80_000_000]
        "header", header 17_000
        "legacy", legacyFile (String(']', again)) []
    ]

let tests =
    testList "CommandHostile" [
        test "a hostile file is refused with at most 64 MB of memory beyond its size" {
            inFolder (fun folder ->
                let hostile = hostile ()

                for name, bytes in ("first", "no weights"B) :: hostile do
                    File.WriteAllBytes(Path.Combine(folder, name), bytes)

                let peak name = Child.peak 1 $"inspect {Path.Combine(folder, name)}"
                let alone = peak "first"

                for (name, bytes), peak in List.zip hostile (Child.twoAtATime (fst >> peak) hostile) do
                    let beyond = peak - alone - int64 bytes.Length

                    Expect.isTrue (beyond <= 64_000_000L) $"'{name}' took {beyond / 1_000_000L} MB beyond its size"
            )
        }
    ]
