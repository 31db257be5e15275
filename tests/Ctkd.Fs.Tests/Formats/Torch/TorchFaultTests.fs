module Ctkd.Fs.Tests.TorchFaultTests

open System
open System.IO.Compression
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Cases
open Ctkd.Fs.Tests.Folders
open Ctkd.Fs.Tests.Generators
open Ctkd.Fs.Tests.SafetensorsTests
open Ctkd.Fs.Tests.TorchPickles
open FsCheck.FSharp

/// The error of a file that must be refused as damaged.
let private refusal (bytes: byte[]) : Error =
    let error = errorOf (TorchFile.parse "folder/x.pt" bytes)
    Must.equal (Damaged, "folder/x.pt") (error.Kind, error.Where)
    Must.contain "'x.pt'" error.What
    Must.differ "" error.Next
    error

let private reason (bytes: byte[]) : string = (refusal bytes).What

/// A pickle in both formats, with a storage of 24 bytes where it asks for one.
let private both (pickle: string) : byte[] list = [
    zipFile pickle [ "0", Array.zeroCreate 24 ]
    legacyFile pickle (if pickle.Contains "tQ" then [ "0", 6L, Array.zeroCreate 24 ] else [])
]

let private files: byte[] list =
    TorchFile.encode [
        tensor "weight" "F32" [ 2L; 3L ] (Array.init 24 byte)
        tensor "steps" "I64" [] (Array.create 8 7uy)
    ]
    :: List.map snd small

let private floats = storage "FloatStorage" "0" 6L

// ---- zip files ----

let private plainZip = zip CompressionLevel.NoCompression
let private pickle = latin ("\x80\002" + window floats 0L [ 6L ] [ 1L ] + ".")

/// Where the header and the directory's record of an entry begin.
let private places (name: string) (bytes: byte[]) : int * int =
    let name = latin name

    ReadOnlySpan(bytes).IndexOf(ReadOnlySpan name) - 30,
    ReadOnlySpan(bytes).LastIndexOf(ReadOnlySpan name) - 46

let tests =
    testList "TorchFault" [
        // ---- bytes that are not there, or not right ----

        test "every shortened file is an error" {
            for good in files do
                for length in 0 .. good.Length - 1 do
                    refusal good[.. length - 1] |> ignore
        }

        test "every changed byte gives a value or an error, never an exception" {
            for good in files do
                for i in 0 .. good.Length - 1 do
                    for change in [ 1uy; 2uy; 8uy; 0x20uy; 0x80uy; 0xFFuy ] do
                        let bad = Array.copy good
                        bad[i] <- bad[i] ^^^ change
                        TorchFile.parse "x" bad |> ignore
        }

        test "many changed bytes at once never throw" {
            let changes = Gen.listOf (Gen.zip (Gen.choose (0, 100_000)) (Gen.choose (0, 255)))

            checkMany
                1_000
                changes
                (fun changes ->
                    for good in files do
                        let bad = Array.copy good

                        for place, value in changes do
                            bad[place % bad.Length] <- byte value

                        TorchFile.parse "x" bad |> ignore
                )
        }

        test "a changed byte of a tensor in a zip file is seen by its checksum" {
            let data = Array.create 64 77uy
            let good = TorchFile.encode [ tensor "a" "U8" [ 64L ] data ]
            let start = ReadOnlySpan(good).IndexOf(ReadOnlySpan data)

            for i in start .. start + 63 do
                let bad = Array.copy good
                bad[i] <- 78uy
                Must.contain "checksum" (reason bad)
        }

        test "what is neither format, or very old, is named" {
            Must.contain "does not begin" (reason "hello"B)
            let tar = Array.zeroCreate 1024
            "ustar"B.CopyTo(tar, 257)
            Must.contain "tar" (reason tar)
        }

        // ---- names ----

        testEach
            "a name that is not allowed is refused by it, with a way out"
            [
                "os", "system"
                "posix", "system"
                "nt", "system"
                "builtins", "eval"
                "builtins", "exec"
                "builtins", "getattr"
                "__builtin__", "apply"
                "subprocess", "Popen"
                "torch", "load"
                "torch.storage", "_load_from_bytes"
                "torch._utils", "_rebuild_sparse_tensor"
                "torch.nn.modules.conv", "Conv2d"
                "__main__", "Net"
                "argparse", "Namespace"
            ]
            (fun (owner: string, name: string) ->
                for pickle in [ $"c{owner}\n{name}\n(Vls\ntR"; $"}}Vopt\nc{owner}\n{name}\n)\x81}}bs" ] do
                    for bytes in both pickle do
                        let error = refusal bytes
                        Must.contain $"{owner}.{name}" error.What
                        Must.contain "torch.save(torch.load('x.pt')['model']" error.Next
            )

        test "allowed names are called with nothing but what they are for" {
            for pickle, text in
                [
                    "c__builtin__\ndict\n)R", "builtin__.dict"
                    "ctorch\nFloatStorage\n)R", "FloatStorage"
                    "ctorch\nfloat32\n)R", "float32"
                    "ctorch._utils\n_rebuild_tensor_v2\n)R", "_rebuild_tensor_v2"
                    "ctorch._utils\n_rebuild_parameter\n(NtR", "_rebuild_parameter"
                    "ccollections\nOrderedDict\n(I3\ntR", "OrderedDict"
                    "ccollections\nCounter\n(I3\ntR", "Counter"
                    "c__builtin__\nset\n(I3\ntR", "set"
                    "ctorch\nSize\n(I3\ntR", "Size"
                    "(Vmodule\nNtQ", "module"
                    (window floats 0L [] []).Replace("RtR", "R}V\nNstR"), "notes"
                    "NQ", "no storage"
                    "(Vstorage\nctorch\nfloat32\nV0\nVcpu\nI1\ntQ", "no type of a storage"
                    "(Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nI-1\ntQ", "malformed"
                    "(Vstorage\nctorch\nFloatStorage\nI0\nVcpu\nI1\ntQ", "malformed"
                    "(Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nI6\n(V1\nI0\nI1\nttQ", "part of another"
                ] do
                for bytes in both pickle do
                    Must.contain text (reason bytes)
        }

        // ---- windows ----

        test "a window that its storage does not hold is refused" {
            let huge = Int64.MaxValue

            for offset, shape, strides, text in
                [
                    0L, [ 7L ], [ 1L ], "reaches"
                    0L, [ 2L; 4L ], [ 3L; 1L ], "reaches"
                    6L, [ 1L ], [ 1L ], "reaches"
                    huge, [], [], "reaches"
                    -1L, [ 1L ], [ 1L ], "negative"
                    0L, [ -1L ], [ 1L ], "negative"
                    0L, [ 1L ], [ -1L ], "negative"
                    0L, [ 2L ], [], "strides"
                    0L, [ huge; huge ], [ 0L; 0L ], "overflows"
                    0L, [ 3L ], [ huge ], "overflows"
                    huge, [ 2L ], [ 1L ], "overflows"
                    0L, List.replicate 65 1L, List.replicate 65 1L, "64 dimensions"
                ] do
                for bytes in both (window floats offset shape strides) do
                    Must.contain text (reason bytes)
        }

        test "a few bytes that are shown a billion times are refused before anything is allocated" {
            let views = [ [ 1_000_000_000L ], [ 0L ]; [ 1_000_000L; 1_000_000L ], [ 0L; 0L ] ]

            for shape, strides in views do
                for bytes in both (window floats 0L shape strides) do
                    let before = GC.GetAllocatedBytesForCurrentThread()
                    reason bytes |> ignore
                    Must.hold (GC.GetAllocatedBytesForCurrentThread() - before < 1_000_000L)
        }

        test "many modest copies of the same bytes are refused together" {
            let one = window floats 0L [ 1_000_000L ] [ 0L ]
            let many = dictionary [ for i in 1..200 -> string i, one ]

            for bytes in both many do
                Must.contain "too often" (reason bytes)
        }

        test "a tensor of something else than a storage and integers is refused" {
            let build arguments = $"ctorch._utils\n_rebuild_tensor_v2\n({arguments}tR"

            for arguments, text in
                [
                    "NI0\n))", "no storage"
                    floats + "N))", "no integer"
                    floats + "I0\nN)", "no tuple"
                    floats + "I0\n(NtI1\n", "no integers"
                ] do
                for bytes in both (build arguments) do
                    Must.contain text (reason bytes)
        }

        // ---- containers ----

        test "values in themselves, too deep, or too many are refused in little time" {
            let doubling = "]q\001" + String.replicate 60 "(h\001h\001lq\0010h\001"

            for pickle, text in
                [
                    "]q\001h\001a", "deep"
                    "}q\001Va\nh\001s", "deep"
                    String.replicate 100_000 "]" + String('a', 99_999), "deep"
                    doubling, "deep"
                    "](" + String('N', 1_000_001) + "e", "memory"
                    "](" + String.replicate 2_000 ("](" + String('N', 1_000) + "e") + "e", "memory"
                    "}(Va\nNVa\nNu", "twice"
                    "}(]Nu", "a list or a dictionary as its key"
                    "}(NNVNone\nNu", "'None' twice"
                    "ccollections\nOrderedDict\n](Ne\x85R", "no pair"
                ] do
                for bytes in both pickle do
                    Must.contain text (reason bytes)
        }

        test "one list doubled thirty times is refused by its memory" {
            let doubling = "](NNeq\001" + String.replicate 25 "0](h\001h\001eq\001"

            for bytes in both doubling do
                Must.contain "memory" (reason bytes)
        }

        test "one long name in a thousand dictionaries is refused" {
            let name = "V" + String('n', 100_000) + "\nq\001"
            let many = "](" + name + String.replicate 2_000 "}h\001Ns" + "e"

            for bytes in both many do
                Must.contain "memory" (reason bytes)
        }

        test "a zip file that PyTorch would not write is refused with its reason" {
            let data = "a/data/0", Array.zeroCreate<byte> 24

            for bytes, text in
                [
                    plainZip [ "a/other", pickle ], "without the entry data.pkl"
                    plainZip [ "data.pkl", pickle ], "without the entry data.pkl"
                    plainZip [ "a/data.pkl", pickle ], "'a/data/0' is not there"
                    plainZip [ "a/data.pkl", pickle; "b/data.pkl", pickle ], "several"
                    plainZip [ "a/data.pkl", pickle; data; data ], "twice"
                    plainZip [ "a/data.pkl", pickle; "a/data/0", Array.zeroCreate 20 ], "5 elements, and 6"
                    plainZip [ "a/data.pkl", pickle; "a/data/0", Array.zeroCreate 28 ], "7 elements, and 6"
                    plainZip [ "a/data.pkl", pickle; data; "a/byteorder", "big"B ], "big-endian"
                    plainZip [ "a/data.pkl", pickle; data; "a/constants.pkl", "x"B ], "TorchScript"
                    plainZip [ "a/data.pkl", Array.append pickle "."B; data ], "follow its end"
                    plainZip [], ""
                    zip CompressionLevel.Optimal [
                        "a/data.pkl", pickle
                        "a/data/0", Array.zeroCreate 100_000
                    ],
                    "compressed"
                ] do
                Must.contain text (reason bytes)

            plainZip [ "a/data.pkl", pickle; data; "a/byteorder", "little"B; "a/version", "3\n"B ]
            |> TorchFile.parse "x"
            |> Error.orRaise
            |> ignore
        }

        test "a zip file that announces gigabytes is refused before anything is allocated" {
            let good = plainZip [ "a/data.pkl", pickle; "a/data/0", Array.create 24 9uy ]
            let sizes = BitConverter.GetBytes 24
            let announced = BitConverter.GetBytes 2_000_000_000
            let bad = Array.copy good

            for i in 0 .. good.Length - 4 do
                if ReadOnlySpan(good, i, 4).SequenceEqual(ReadOnlySpan sizes) then
                    announced.CopyTo(bad, i)

            let before = GC.GetAllocatedBytesForCurrentThread()
            Must.contain "announce" (reason bad)
            Must.hold (GC.GetAllocatedBytesForCurrentThread() - before < 1_000_000L)
        }

        test "lengths of 64 bits are refused by their name" {
            let good = plainZip [ "a/data.pkl", pickle; "a/data/0", Array.create 24 9uy ]

            /// The directory entry at a place, with sizes in an extra field.
            let widened (bytes: byte[]) (place: int) =
                let name = int (BitConverter.ToUInt16(bytes, place + 28))
                let behind = place + 46 + name
                let start = Array.copy bytes[.. behind - 1]
                Array.fill start (place + 20) 8 0xFFuy
                start[place + 30] <- 20uy
                let size = BitConverter.GetBytes(Int64.MaxValue - 8L)
                Array.concat [ start; [| 1uy; 0uy; 16uy; 0uy |]; size; size; bytes[behind..] ]

            let place (from: int) (bytes: byte[]) =
                from + ReadOnlySpan(bytes, from, bytes.Length - from).IndexOf(ReadOnlySpan "PK\001\002"B)

            let one = widened good (place 0 good)
            let two = widened one (place (place 0 one + 4) one)

            for bytes in [ one; two ] do
                let directory = bytes.Length - 22
                BitConverter.GetBytes(directory - place 0 bytes).CopyTo(bytes, directory + 12)
                Must.contain "zip64" (reason bytes)
        }

        testEach
            "an entry whose name leads out of its folder is refused, also where nothing asks for it"
            [ "/etc/passwd"; "../x"; "a/../../x"; "a/./x"; "a//x"; "a\\x"; "..\\x"; "C:/x"; "c:x"; "a/\n" ]
            (fun (name: string) ->
                let data = "a/data/0", Array.zeroCreate<byte> 24
                Must.contain "leads out" (reason (plainZip [ "a/data.pkl", pickle; data; name, "x"B ]))
            )

        testEach
            "a storage whose key is no plain name is refused"
            [ "../../secret"; "/0"; "a/b"; "."; "a.b"; ""; "a\\b"; "c:0"; "0 "; "\u00e9" ]
            (fun (key: string) ->
                let named =
                    window
                        ((storage "FloatStorage" "KEY" 6L).Replace("KEY", key.Replace("\\", "\\u005c")))
                        0L [] []

                for bytes in [ zipFile named []; legacyFile named [] ] do
                    Must.contain "malformed" (reason bytes)
            )

        test "what a header and the directory say of an entry must agree" {
            let data = Array.create 24 9uy
            let good = plainZip [ "a/data.pkl", pickle; "a/data/0", data ]
            TorchFile.parse "x" good |> Error.orRaise |> ignore
            let header, directory = places "a/data/0" good

            // Flags, method, checksum, both sizes, name; there is no field of the same meaning in another place.
            for inHeader, inDirectory in [ 6, 8; 8, 10; 14, 16; 18, 20; 22, 24; 26, 28; 30, 46 ] do
                for i in [ header + inHeader; directory + inDirectory ] do
                    let bad = Array.copy good
                    bad[i] <- bad[i] ^^^ 4uy
                    refusal bad |> ignore
        }

        test "a checksum of zero counts as none only where the file says so twice" {
            let data = Array.create 24 9uy
            let good = plainZip [ "a/data.pkl", pickle; "a/data/0", data ]
            let header, directory = places "a/data/0" good

            let without (places: int list) =
                let bytes = Array.copy good
                places |> List.iter (fun i -> Array.fill bytes i 4 0uy)
                bytes

            for place in [ header + 14; directory + 16 ] do
                Must.contain "differs" (reason (without [ place ]))

            TorchFile.parse "x" (without [ header + 14; directory + 16 ]) |> Error.orRaise |> ignore
        }

        test "entries that overlap are refused" {
            let good =
                plainZip [
                    "a/data.pkl", pickle
                    "a/data/0", Array.zeroCreate 24
                    "a/data/0", Array.zeroCreate 24
                ]

            let directory (from: int) =
                from + ReadOnlySpan(good, from, good.Length - from).IndexOf(ReadOnlySpan "PK\001\002"B)

            let second = directory (directory 0 + 4)
            let third = directory (second + 4)
            Array.Copy(good, second + 42, good, third + 42, 4)
            Must.contain "overlap" (reason good)
        }

        // ---- the old format ----

        test "an old file that contradicts itself is refused with its reason" {
            let pickle = window floats 0L [ 6L ] [ 1L ]
            let data = Array.zeroCreate<byte> 24
            let good = legacyFile pickle [ "0", 6L, data ]

            let replaced (oldText: string) (newText: string) =
                latin ((Text.Encoding.Latin1.GetString good).Replace(oldText, newText))

            let announcing count =
                legacyFile (window (storage "FloatStorage" "0" count) 0L [] []) [ "0", count, data ]

            for bytes, text in
                [
                    legacyFile pickle [], "'0' is not there"
                    legacyFile pickle [ "1", 6L, data ], "belongs to no tensor"
                    legacyFile pickle [ "0", 6L, data; "0", 6L, data ], "listed twice"
                    legacyFile pickle [ "0", 5L, data ], "5 elements, and 6"
                    legacyFile pickle [ "0", -6L, data ], "-6 elements, and 6"
                    announcing Int64.MaxValue, "announces"
                    announcing 500_000_000L, "truncated"
                    legacyFile ("](" + pickle + pickle.Replace("Float", "Int") + "e") [ "0", 6L, data ],
                    "in two ways"
                    Array.append good [| 0uy |], "1 bytes follow"
                    replaced "\x88s." "\x89s.", "big-endian"
                    replaced "M\xe9\003." "M\xea\003.", "1001"
                ] do
                Must.contain text (reason bytes)
        }
    ]
