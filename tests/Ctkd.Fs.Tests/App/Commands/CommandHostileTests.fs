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

/// A pickle's text of so many bytes, as those of Python 3.
let private longBytes (length: int) : string =
    "B" + Text.Encoding.Latin1.GetString(BitConverter.GetBytes length) + String('k', length)

/// An object with these attributes.
let private withState (state: string) : string = $"cmy\nNet\n)\x81{state}b"

let private modul (own: string) (buffers: string) (modules: string) : string =
    withState ($"}}(V_parameters\n{own}V_buffers\n{buffers}V_modules\n{modules}u")

/// A list of the same instructions again and again, behind what they recall.
let private again (start: string) (count: int) (text: string) : string =
    start + "](" + String.replicate count text + "e"

/// Recalls of values by short numbers: a name or key of a megabyte, a call of it, an object: hundreds of gigabytes where
/// each recall copies something.
let private recalled () : (string * string) list =
    let shape = "(" + String.replicate 100_000 "K\001" + "tq\001"
    let dtype code = $"cnumpy\ndtype\n({code}\x89\x88tRq\002"

    let array =
        "cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\000tC\001btR(K\001h\001h\002\x89C\000tbq\003"

    let parameters = "ctorch._utils\n_rebuild_parameter\nq\004(h\003\x89NtRh\004h\003\x89N\x87q\0050"
    let attributes = "}(" + String.replicate 100_000 "K\001N" + "u"

    [
        // The class of a tensor.
        "classes",
        again
            ("cmy\n"
             + String('n', 1_000_000)
             + "\nq\001ctorch._tensor\n_rebuild_from_type_v2\nq\002(cmy\nmake\nh\001)Ntq\003")
            100_000
            "h\002h\003R"
        // The keys of buffers that are no tensors.
        "buffers", modul "}" ($"}}({longBytes 1_000_000}q\001N" + String.replicate 200_000 "h\001N" + "u") "}"
        // An object as a part of a module that is none itself.
        "parts", modul "}" "}" ("}(" + $"N{withState attributes}q\001" + String.replicate 100_000 "Nh\001" + "u")
        // A module as a part of one, again and again.
        "modules",
        modul "}" "}" ("}(V0\n" + modul attributes "}" "}" + "q\001" + String.replicate 100_000 "Nh\001" + "u")
        // An array's extents, and the code of its type.
        "extents", again (shape + dtype "Vf4\n" + array + parameters) 100_000 "h\004h\005R"
        "codes", again ("(K\001tq\001" + dtype (longBytes 1_000_000) + array + parameters) 100_000 "h\004h\005R"
        // The bytes of a number.
        "numbers",
        again
            (dtype "Vf8\n"
             + "X\x40\x42\x0f\000"
             + String('x', 1_000_000)
             + "q\001cnumpy.core.multiarray\nscalar\nq\003h\002h\001\x86q\004")
            60_000
            "h\003h\004R"
    ]

/// An old file that lists one key of a megabyte again and again.
let private legacyKeys () : byte[] =
    latin (legacyHeader + "\x80\002N.\x80\002" + again (longBytes 1_000_000 + "q\001") 300_000 "h\001" + ".")

/// A tar archive of empty files with long names, by GNU's headers.
let private manyNames (length: int) (count: int) : byte[] =
    let one = ArchiveFiles.tarIn Formats.Tar.TarEntryFormat.Gnu [ String('n', length), [||] ]
    Array.concat (List.replicate count one[.. one.Length - 1025])

/// A file of zeros in deflated storages.
let private inflated (storages: int) (length: int) : byte[] =
    let keys = List.init storages string
    let view key = window (storage "ByteStorage" key (int64 length)) 0L [ int64 length ] [ 1L ]

    zip Compression.CompressionLevel.Optimal [
        "a/data.pkl", latin ("\x80\002" + dictionary [ for key in keys -> "w" + key, view key ] + ".")
        for key in keys do
            $"a/data/{key}", Array.zeroCreate length
    ]

/// Each in about the size at which it took the most before there was a limit.
let private hostile () : (string * byte[]) list =
    let most = 3_999_000
    let pickled (text: string) = zipFile text []
    let values = "](" + String.replicate 999 "K\001" + "eq\001"

    [
        "lists", pickled (String(']', most))
        "dictionaries", pickled (String('}', most))
        "memo", pickled ("N" + String('\x94', most))
        "marks", pickled (String('(', most))
        "tuples", pickled (")" + String('\x85', 1_000_000))
        "deep", pickled (String(']', 100_000) + String('a', 99_999))
        "recalled", pickled ("](" + values + String.replicate 999 "h\001" + "e")
        "expanded", zipFile (dictionary [ "w", floats "0" 1L 14_700_000L 0L ]) [ "0", Array.zeroCreate 4 ]
        "tensors",
        zipFile (dictionary [ for i in 1..60_000 -> $"w{i}", floats "0" 1L 1L 1L ]) [ "0", Array.zeroCreate 4 ]
        "damaged", damaged ()
        "truncated", (damaged ())[..80_000_000]
        "header", header 17_000
        "legacy", legacyFile (String(']', most)) []
        for name, pickle in recalled () do
            name, pickled pickle
        "keys", legacyKeys ()
        "names", ArchiveFiles.gzip (manyNames 65_000 2_000)
        "many-names", ArchiveFiles.gzip (manyNames 4_000 40_000)
        "compressed", ArchiveFiles.gzip (Array.zeroCreate 400_000_000)
        "inflated", inflated 20 20_000_000
    ]

let tests =
    testList "CommandHostile" [
        test "a hostile file is refused with at most 64 MB of memory beyond its size, in little time" {
            inFolder (fun folder ->
                let hostile = hostile ()

                for name, bytes in ("first", "no weights"B) :: hostile do
                    File.WriteAllBytes(Path.Combine(folder, name), bytes)

                let peak name =
                    let watch = Diagnostics.Stopwatch.StartNew()
                    Child.peak 1 $"inspect {Path.Combine(folder, name)}", watch.Elapsed.TotalSeconds

                let alone, _ = peak "first"

                for (name, bytes), (peak, seconds) in List.zip hostile (Child.twoAtATime (fst >> peak) hostile) do
                    let beyond = peak - alone - int64 bytes.Length
                    Expect.isTrue (seconds <= 30.0) $"'{name}' took {seconds} seconds"

                    Expect.isTrue (beyond <= 64_000_000L) $"'{name}' took {beyond / 1_000_000L} MB beyond its size"
            )
        }
    ]
