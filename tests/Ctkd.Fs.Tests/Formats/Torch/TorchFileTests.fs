module Ctkd.Fs.Tests.TorchFileTests

open System
open System.IO
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Folders
open Ctkd.Fs.Tests.Generators
open Ctkd.Fs.Tests.SafetensorsTests
open Ctkd.Fs.Tests.TorchPickles
open FsCheck.FSharp

let private parse (bytes: byte[]) : TorchFile = TorchFile.parse "here" bytes |> Error.orRaise

let private tensors (bytes: byte[]) : StoredTensor list = TorchEntry.tensors (parse bytes).Root

let private distinctTensors = Gen.listOf tensorGen |> Gen.map (List.distinctBy _.Name)

/// Lists all indices of a shape with the bytes that the strides give them.
let private gathered (item: int) (storage: byte[]) (offset: int64) (shape: int64 list) (strides: int64 list) =
    Oracle.indices (List.map int shape)
    |> List.collect (fun index ->
        let place = int offset + (List.map2 (fun i stride -> i * int stride) index strides |> List.sum)
        List.ofArray storage[place * item .. place * item + item - 1]
    )

let tests =
    testList "TorchFile" [
        // ---- round trips ----

        testPropertyWithConfig (times 200) "tensors of every type and shape come back to the bit, in their order"
        <| forAll
            distinctTensors
            (fun written ->
                let back = TorchFile.encode written |> tensors

                Must.equal (plainTensors written) (plainTensors back)
            )

        testPropertyWithConfig (times 20) "the same tensors give the same bytes, in memory and in a file"
        <| forAll
            distinctTensors
            (fun written ->
                inFolder (fun folder ->
                    let path = Path.Combine(folder, "x.pt")
                    TorchFile.write path written |> Error.orRaise
                    Must.equal (TorchFile.encode written) (File.ReadAllBytes path)
                    let back = TorchFile.read path |> Error.orRaise

                    Must.equal (TorchFile.encode written) (TorchEntry.tensors back.Root |> TorchFile.encode)
                )
            )

        test "the bytes of every tensor lie at a multiple of 64" {
            let marked = [ for i in 1..5 -> tensor (String('x', i)) "U8" [ 16L ] (Array.create 16 (200uy + byte i)) ]

            let bytes = TorchFile.encode marked

            for t in marked do
                Must.equal 0 (ReadOnlySpan(bytes).IndexOf t.Bytes.Span % 64)
        }

        test "what cannot be written is a mistake of the program" {
            let refused tensors = Must.refuse "tensors" (fun () -> TorchFile.encode tensors)
            refused [ tensor "a" "U8" [ 2L ] [| 1uy |] ]
            refused [ tensor "a" "Q8" [ 1L ] [| 1uy |] ]
            refused [ tensor "a" "U8" [ -1L ] [| 1uy |] ]
            refused [ tensor "a" "U8" [] [| 1uy |]; tensor "a" "U8" [] [| 1uy |] ]
        }

        test "the checksums agree with those of another writer, for any length" {
            // Compared with what .NET's own writer puts into a zip file.
            for length in [ 0..40 ] do
                let data = Array.init length (fun i -> byte (i * 91))

                let pickle =
                    dictionary [ "x", window (storage "ByteStorage" "0" (int64 length)) 0L [ int64 length ] [ 1L ] ]

                Must.equal data ((List.exactlyOne (tensors (zipFile pickle [ "0", data ]))).Bytes.ToArray())
        }

        // ---- reading ----

        test "both formats give tensors, and the numbers beside them" {
            for format, bytes in small do
                let file = parse bytes
                Must.contain (if format = "zip" then "zip" else "before 1.6") file.Format
                Must.equal [ "epoch", "7"; "best", "1.5" ] (TorchEntry.values file.Root)

                let expected = [
                    "a", "F32", [ 2L; 3L ], Array.init 24 byte
                    "b", "F32", [ 2L ], [| 4uy .. 7uy |] |> Array.append <| [| 16uy .. 19uy |]
                ]

                let model = at [ "model" ] file.Root |> TorchEntry.tensors |> plainTensors
                Must.equal expected model
        }

        test "any window on a storage gives its elements in order" {
            let windows =
                gen {
                    let! rank = Gen.choose (0, 4)
                    let! shape = Gen.listOfLength rank (Gen.choose (0, 4) |> Gen.map int64)
                    let! strides = Gen.listOfLength rank (Gen.choose (0, 9) |> Gen.map int64)
                    let! offset = Gen.choose (0, 5)
                    let! kind, item = Gen.elements [ "ByteStorage", 1; "HalfStorage", 2; "DoubleStorage", 8 ]
                    return int64 offset, shape, strides, kind, item
                }

            checkMany
                500
                windows
                (fun (offset, shape, strides, kind, item) ->
                    let data = Array.init (128 * item) (fun i -> byte (i * 7))
                    let pickle = dictionary [ "x", window (storage kind "0" 128L) offset shape strides ]
                    let expected = gathered item data offset shape strides

                    for bytes in [ zipFile pickle [ "0", data ]; legacyFile pickle [ "0", 128L, data ] ] do
                        let x = List.exactlyOne (tensors bytes)
                        Must.equal shape x.Shape
                        Must.equal expected (List.ofArray (x.Bytes.ToArray()))
                )
        }

        test "values of a training's checkpoint are read or named" {
            let float64 = "cnumpy\ndtype\n(Vf8\nI00\nI01\ntR(I3\nV<\nNNNI-1\nI-1\nI0\ntb"

            let pickle =
                dictionary [
                    "none", "N"
                    "seed", "L9223372036854775813L\n"
                    "keys", "}(NK\001(Va\nK\002N(ttK\002\x88K\003L99999999999999999999L\nK\004u"
                    "yes", "\x88"
                    "name", "Vresnet\n"
                    "python2", "U\003abc"
                    "list", "](K\001K\002e"
                    "counter", "ccollections\nCounter\n}K\060K\001s\x85R"
                    "default", "ccollections\ndefaultdict\n(c__builtin__\ndict\ntR"
                    "set", "c__builtin__\nset\n](K\005e\x85R"
                    "device", "ctorch\ndevice\n(Vcuda\nI0\ntR"
                    "dtype", "ctorch\nfloat16\n"
                    "size", "ctorch\nSize\n(I2\nI3\nt\x85R"
                    "numpy", $"cnumpy.core.multiarray\nscalar\n({float64}C\008\000\000\000\000\000\000\xf4\x3ftR"
                    "pairs", "ccollections\nOrderedDict\n](](Vk\nK\001ee\x85R"
                    "attributes", "ccollections\nOrderedDict\n)R}V_metadata\nNsb"
                    "parameter",
                    "ctorch._utils\n_rebuild_parameter\n(" + window (storage "LongStorage" "0" 1L) 0L [] [] + "\x88NtR"
                    "typed",
                    (window (storage "UntypedStorage" "0" 8L) 0L [ 2L ] [ 1L ]).Replace("_v2", "_v3").Replace("NtR", "")
                    |> fun text -> text.Replace("ccollections\nOrderedDict\n)RtR", "Nctorch\nfloat32\ntR")
                ]

            let root = (parse (zipFile pickle [ "0", Array.init 8 byte ])).Root

            let rec plain (entry: TorchEntry) : string =
                match entry with
                | TorchEntry.Whole number -> string number
                | TorchEntry.Number number -> $"{number:R}"
                | TorchEntry.Text text -> $"'{text}'"
                | TorchEntry.Other text -> text
                | TorchEntry.Unread what -> UnreadTensor.describe what
                | TorchEntry.Object(kind, _) -> kind
                | TorchEntry.Tensor t -> $"{t.Name} {t.DType} {t.Shape.Length} {t.Bytes.Length}"
                | TorchEntry.Group entries ->
                    "{" + String.concat " " [ for name, held in entries -> name + "=" + plain held ] + "}"

            let expected = [
                "none=nothing"
                "seed=9223372036854775813"
                "keys={None=1 (a, 2, None, ())=2 True=3 99999999999999999999=4}"
                "yes=true"
                "name='resnet'"
                "python2='abc'"
                "list={0=1 1=2}"
                "counter={60=1}"
                "default={}"
                "set={0=5}"
                "device='cuda'"
                "dtype='torch.float16'"
                "size={0=2 1=3}"
                "numpy=1.25"
                "pairs={k=1}"
                "attributes={}"
                "parameter=parameter I64 0 8"
                "typed=typed F32 1 8"
            ]

            Must.equal ("{" + String.concat " " expected + "}") (plain root)
        }
    ]
