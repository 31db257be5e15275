/// Refused files: bytes, names, views and values. `TorchLayoutFaultTests` has the layouts of files.
module Ctkd.Fs.Tests.TorchFaultTests

open System
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Cases
open Ctkd.Fs.Tests.Folders
open Ctkd.Fs.Tests.Generators
open Ctkd.Fs.Tests.SafetensorsTests
open Ctkd.Fs.Tests.TorchPickles
open FsCheck.FSharp

/// Parses a file that must be refused as damaged; returns the error.
let refusal (bytes: byte[]) : Error =
    let error = errorOf (TorchFile.parse "folder/x.pt" bytes)
    Must.equal (Damaged, "folder/x.pt") (error.Kind, error.Where)
    Must.contain "'x.pt'" error.What
    Must.differ "" error.Next
    error

let reason (bytes: byte[]) : string = (refusal bytes).What

/// Files in both formats with the pickle and a storage of 24 bytes.
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

let floats = storage "FloatStorage" "0" 6L

let tests =
    testList "TorchFault" [
        // ---- missing or wrong bytes ----

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

        test "what is neither format is named" { Must.contain "does not begin" (reason "hello"B) }

        // ---- names ----

        testEach
            "a name that only an attack has is refused by it, with a way out"
            [
                "os", "system"
                "posix", "system"
                "nt", "system"
                "builtins", "eval"
                "builtins", "exec"
                "__builtin__", "apply"
                "subprocess", "Popen"
                "importlib", "import_module"
                "shutil", "rmtree"
            ]
            (fun (owner: string, name: string) ->
                for pickle in [ $"c{owner}\n{name}\n(Vls\ntR"; $"}}Vopt\nc{owner}\n{name}\n)\x81}}bs" ] do
                    for bytes in both pickle do
                        let error = refusal bytes
                        Must.contain $"{owner}.{name}" error.What
                        Must.contain "torch.save(torch.load('x.pt', weights_only=False)['model']" error.Next
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
                    "NQ", "no storage"
                    "(Vstorage\nctorch\nfloat32\nV0\nVcpu\nI1\ntQ", "no type of a storage"
                    "(Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nI-1\ntQ", "malformed"
                    "(Vstorage\nctorch\nFloatStorage\nI0\nVcpu\nI1\ntQ", "malformed"
                    "(Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nI6\n(V1\nI0\nI1\nttQ", "part of another"
                ] do
                for bytes in both pickle do
                    Must.contain text (reason bytes)
        }

        test "an import by the name of a tensor's or storage's class makes neither" {
            let storages = [ "Vtorch\nVstorage\n\x93(VXX\nV0\nI6\ntR"; "ctorch\nstorage\n(VXX\nV0\nI6\ntR" ]

            let tensors = [
                for kind in [ "ctorch\nTensor\n"; "ctorch\nTensor, unread\n"; "Vtorch\nVTensor\n\x93" ] do
                    $"{kind}({floats}I0\n(I1\nt(I1\ntVXX\ntR"
            ]

            for pickle in storages @ tensors do
                for bytes in both (dictionary [ "a", pickle ]) do
                    match TorchFile.parse "x" bytes |> Error.orRaise |> _.Root |> at [ "a" ] with
                    | TorchEntry.Object _ -> ()
                    | other -> failwith $"no inert object: {other}"

            // Nor does a call of one.
            for made in [ window floats 0L [ 6L ] [ 1L ]; floats ] do
                for bytes in both (dictionary [ "a", made + "(VXX\ntR" ]) do
                    Must.contain "no allowed name" (reason bytes)

            for forged in storages do
                for bytes in both (window forged 0L [ 1L ] [ 1L ]) do
                    Must.contain "no storage" (reason bytes)
        }

        test "a name of more than 1,000 characters is not imported" {
            let named (length: int) = $"cmy\n{String('n', length)}\n)R"

            for bytes in both (named 999) do
                Must.contain "1001 characters" (reason bytes)

            for bytes in both (named 998) do
                TorchFile.parse "x" bytes |> Error.orRaise |> ignore
        }

        // ---- views ----

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
    ]
