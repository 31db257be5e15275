/// What PyTorch's files hold beside plain tensors: objects, whole modules, numpy arrays, tensors of other kinds.
module Ctkd.Fs.Tests.TorchObjectTests

open System
open System.IO.Compression
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Cases
open Ctkd.Fs.Tests.Folders
open Ctkd.Fs.Tests.SafetensorsTests
open Ctkd.Fs.Tests.TorchPickles

let private floats: string = window (storage "FloatStorage" "0" 6L) 0L [ 2L; 3L ] [ 3L; 1L ]
let private bytes = Array.init 24 byte

/// Both formats with this pickle.
let private both (pickle: string) : byte[] list = [
    zipFile pickle [ "0", bytes ]
    legacyFile pickle (if pickle.Contains "tQ" then [ "0", 6L, bytes ] else [])
]

let private read (bytes: byte[]) : WeightsFile = WeightsFile.parse "x.pt" bytes |> Error.orRaise

/// What is not read, by its name.
let private skipped (file: WeightsFile) : (string * UnreadTensor) list =
    file.Found.Skipped |> List.map (fun tensor -> tensor.Name, tensor.What)

let private plain (file: WeightsFile) = plainTensors file.Found.Tensors

/// A checkpoint with an object beside its model.
let private beside (value: string) : string = dictionary [ "opt", value; "model", dictionary [ "a", floats ] ]

/// The forms in which pickles make an object: of class and arguments, of protocol 0 to 2, with state.
let private objects: (string * string) list = [
    "argparse.Namespace", "cargparse\nNamespace\n)\x81}(Vlr\nK\001Vx\nNub"
    "argparse.Namespace", "ccopy_reg\n_reconstructor\n(cargparse\nNamespace\nc__builtin__\nobject\nNtR}Vlr\nK\001sb"
    "argparse.Namespace", "ccopyreg\n_reconstructor\n(cargparse\nNamespace\nc__builtin__\nobject\nNtR}Vlr\nK\001sb"
    "my.Old", "(K\001imy\nOld\n}Vlr\nK\001sb"
    "my.Old", "(cmy\nOld\nK\001o}Vlr\nK\001sb"
    "my.Class", "\x8c\002my\x8c\005Class\x93)}Vkey\nK\001s\x92"
    "easydict.EasyDict", "ceasydict\nEasyDict\n)\x81(Vlr\nK\001u"
    "collections.deque", "ccollections\ndeque\n)R(K\001K\002e"
    "pathlib.PosixPath", "cpathlib\nPosixPath\n(V/\nVa\ntR"
    "datetime.datetime", "cdatetime\ndatetime\n(C\0100123456789tR"
    "functools.partial", "cfunctools\npartial\n(c__builtin__\nint\ntR(c__builtin__\nint\n)}Ntb"
    "__builtin__.getattr", "c__builtin__\ngetattr\n(cmy\nEnum\nVred\ntR"
    "__builtin__.getattr", "c__builtin__\ngetattr\n(cmy\nEnum\nVred\ntR)R"
    "numpy.random.mtrand.RandomState", "cnumpy.random.mtrand\nRandomState\n)R"
    "numpy.core.multiarray._reconstruct", "cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nmatrix\n(K\000tC\001btR"
    "numpy._core.numeric._frombuffer", "cnumpy._core.numeric\n_frombuffer\n(NNNN(K\000ttR"
    "torch.load", "ctorch\nload\n(Vx\ntR"
]

let tests =
    testList "TorchObject" [
        testEach
            "an object of any class is inert data, and the weights beside it are read"
            objects
            (fun (kind: string, pickle: string) ->
                for bytes in both (beside pickle) do
                    let file = read bytes
                    Must.equal [ "a", "F32", [ 2L; 3L ], Array.init 24 byte ] (plain file)

                    match at [ "opt" ] file.Root with
                    | TorchEntry.Object(found, _) -> Must.equal kind found
                    | other -> failwith $"no object: {other}"
            )

        test "attributes, entries and items of objects are there" {
            let names pickle =
                TorchEntry.entries (at [ "opt" ] (read (zipFile (beside pickle) [ "0", bytes ])).Root) |> List.map fst

            Must.equal [ "lr"; "x" ] (names (snd objects[0]))
            Must.equal [ "lr" ] (names (snd objects[1]))
            Must.equal [ "0"; "1" ] (names "ccollections\ndeque\n)R(K\001K\002e")
        }

        test "an object alone holds no weights, and the advice is for PyTorch" {
            for bytes in both "cargparse\nNamespace\n)\x81}Vlr\nK\001sb" do
                let error = errorOf (WeightsFile.parse "x.pt" bytes)
                Must.contain "argparse.Namespace" error.What
                Must.contain "torch.save(torch.load('x.pt'" error.Next
        }

        test "objects that hold each other, and one another a thousand times, take little time and memory" {
            let ring = "cmy\nA\n)\x81q\001}Vother\ncmy\nB\n)\x81}Vback\nh\001sbsb"

            let shared =
                "](" + "cmy\nA\n)\x81q\001}Vx\n]q\002(K\001K\002esb" + String.replicate 1_000 "h\001h\002" + "e"

            let doubling = "cmy\nA\n)\x81}Vx\n]q\001" + String.replicate 60 "0(h\001h\001lq\001" + "sb"

            let deep = String.replicate 100 "cmy\nA\n)\x81}Vx\n" + "N" + String.replicate 100 "sb"

            for pickle in [ ring; shared; doubling; deep ] do
                for bytes in both (beside pickle) do
                    let watch = Diagnostics.Stopwatch.StartNew()
                    Must.equal 1 (read bytes).Found.Tensors.Length
                    Must.lie 0.0 2.0 watch.Elapsed.TotalSeconds
        }

        test "a whole module gives its state_dict: parameters, buffers that persist, and those of its parts" {
            let modul (parameters: string) (buffers: string) (parts: string) (passing: string) =
                "c__main__\nNet\n)\x81}(V_parameters\n"
                + dictionary []
                + parameters
                + $"V_buffers\n}}{buffers}V_non_persistent_buffers_set\nc__builtin__\nset\n({passing}tRV_modules\n"
                + $"ccollections\nOrderedDict\n)R{parts}Vtraining\n\x88ub"

            let inner = modul $"Vweight\n{floats}sVbias\nNs" "" "" "]"
            let outer = modul "" $"(Vmean\n{floats}Vscratch\n{floats}u" $"Vlayer\n{inner}sVnone\nNs" "](Vscratch\ne"

            for bytes in both outer @ both (dictionary [ "model", outer ]) do
                let file = read bytes
                Must.equal [ "mean"; "layer.weight" ] (file.Found.Tensors |> List.map _.Name)
                Must.equal "__main__.Net" file.Found.Of
        }

        test "the class of a module that was saved with its source is only a name" {
            let pickle = beside "(Vmodule\nc__main__\nNet\nVnet.py\nVclass Net: ...\ntQ)\x81}Vx\nK\001sb"

            for bytes in both pickle do
                Must.equal 1 (read bytes).Found.Tensors.Length
        }

        test "numpy arrays are weights, in either order and of every protocol" {
            let dtype name order = $"cnumpy\ndtype\n(V{name}\n\x89\x88tR(I3\nV{order}\nNNNI-1\nI-1\nI0\ntb"
            let raw = String.init 24 (fun i -> string (char i))
            let length = "\024\000\000\000\000\000\000\000"

            let reconstructed (order: string) (name: string) (endian: string) =
                "cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\000tC\001btR(K\001(K\002K\003t"
                + dtype name endian
                + order
                + "C\024"
                + raw
                + "tb"

            let buffer (order: string) =
                "cnumpy._core.numeric\n_frombuffer\n(\x96" + length + raw + dtype "f4" "<" + $"(K\002K\003tV{order}\ntR"

            let tensor pickle = plain (read (zipFile (dictionary [ "a", pickle ]) []))
            let expected = [ "a", "F32", [ 2L; 3L ], bytes ]

            let columns = [
                "a", "F32", [ 2L; 3L ], Array.concat [ for i in [ 0; 2; 4; 1; 3; 5 ] -> bytes[4 * i .. 4 * i + 3] ]
            ]

            Must.equal expected (tensor (reconstructed "\x89" "f4" "<"))
            Must.equal columns (tensor (reconstructed "\x88" "f4" "<"))
            Must.equal expected (tensor (buffer "C"))
            Must.equal columns (tensor (buffer "F"))

            // What is no weight is named.
            let file =
                read (zipFile (dictionary [ "a", floats; "b", reconstructed "\x89" "f4" ">" ]) [ "0", bytes ])

            Must.equal [ "b", UnreadTensor.BigEndianArray ] (skipped file)

            let file =
                read (zipFile (dictionary [ "a", floats; "b", reconstructed "\x89" "S5" "|" ]) [ "0", bytes ])

            Must.equal [ "b", UnreadTensor.ArrayOfUnknownType ] (skipped file)
            let short = dictionary [ "a", (reconstructed "\x89" "f4" "<").Replace("(K\002K\003t", "(K\002K\004t") ]
            Must.contain "its shape needs 32" (errorOf (WeightsFile.parse "x" (zipFile short []))).What
        }

        test "a large numpy array of protocol 2 is read from its text, without a copy of that" {
            let count = 3_000_000
            let raw = Array.init (4 * count) (fun i -> byte (i * 7))
            let utf8 = Text.Encoding.UTF8.GetBytes(Text.Encoding.Latin1.GetString raw)

            let head =
                "\x80\002}Va\ncnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\000tC\001btR(K\001(J"
                + Text.Encoding.Latin1.GetString(BitConverter.GetBytes count)
                + "tcnumpy\ndtype\n(Vf4\n\x89\x88tR(I3\nV<\nNNNI-1\nI-1\nI0\ntb\x89c_codecs\nencode\n(X"
                + Text.Encoding.Latin1.GetString(BitConverter.GetBytes utf8.Length)

            let pickle = Array.concat [ latin head; utf8; latin "Vlatin1\ntRtbs." ]
            let file = zip CompressionLevel.NoCompression [ "a/data.pkl", pickle ]
            let before = GC.GetAllocatedBytesForCurrentThread()
            let tensors = (read file).Found.Tensors
            Must.hold (GC.GetAllocatedBytesForCurrentThread() - before < 3L * int64 utf8.Length)
            Must.hold (raw = tensors.Head.Bytes.ToArray())
        }

        test "tensors of other kinds are named, and those beside them read" {
            let rebuild name = $"ctorch._utils\n_rebuild_{name}\n"

            let typed =
                floats.Replace("_v2", "_v3").Replace("ccollections\nOrderedDict\n)RtR", "Nctorch\nDTYPE\ntR")

            let conjugated = floats.Replace("RtR", "R}Vconj\n\x88stR")

            let unread = [
                rebuild "sparse_tensor" + "(NNtR", UnreadTensor.Sparse
                rebuild "qtensor" + "(NK\000NNNNNtR", UnreadTensor.Quantised
                rebuild "meta_tensor_no_storage" + "(NtR", UnreadTensor.Meta
                rebuild "parameter" + "(" + rebuild "sparse_tensor" + "(NNtR\x89NtR", UnreadTensor.Sparse
                conjugated, UnreadTensor.Unresolved
                typed.Replace("DTYPE", "bits8"), UnreadTensor.OfUnknownType "torch.bits8"
                "ctorch._tensor\n_rebuild_from_type_v2\n(cmy\nmake\ncmy\nSub\n)NtR", UnreadTensor.OfClass "my.Sub"
            ]

            for pickle, what in unread do
                let model = dictionary [ "a", floats; "b", pickle ]
                Must.equal [ "b", what ] (skipped (read (zipFile model [ "0", bytes ])))

            for dtype, name in [ "float8_e4m3fn", "F8_E4M3"; "uint16", "U16"; "complex64", "C64" ] do
                let one = typed.Replace("DTYPE", dtype).Replace("I2\nI3\n", "I1\nI2\n")
                let file = read (zipFile (dictionary [ "a", floats; "b", one ]) [ "0", bytes ])
                Must.equal [ "b", UnreadTensor.OfType name ] (skipped file)

                match at [ "b" ] file.Root with
                | TorchEntry.Tensor t -> Must.equal [ 1L; 2L ] t.Shape
                | other -> failwith $"no tensor: {other}"

            // A subclass of Tensor is as good as one.
            let arguments = floats.Substring(floats.IndexOf '(')
            let subclass = "ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._utils\n_rebuild_tensor_v2\ncmy\nSub\n"

            let file =
                zipFile (dictionary [ "a", subclass + arguments.Substring(0, arguments.Length - 1) + "}tR" ]) [
                    "0", bytes
                ]

            Must.equal [ "a", "F32", [ 2L; 3L ], bytes ] (plain (read file))
        }

        test "quantised and complex storages of old files are passed over" {
            let other kind count = window (storage kind "1" count) 0L [ 2L ] [ 1L ]

            for kind, size in [ "ComplexFloatStorage", 8; "QInt32Storage", 4; "QUInt8Storage", 1 ] do
                let file =
                    legacyFile (dictionary [ "model", dictionary [ "a", floats ]; "b", other kind 2L ]) [
                        "0", 6L, bytes
                        "1", 2L, Array.zeroCreate (2 * size)
                    ]

                Must.equal [ "a", "F32", [ 2L; 3L ], bytes ] (plain (read file))
        }

        test "a deflated file is read, and one that lies about its size is refused" {
            let pickle = latin ("\x80\002" + dictionary [ "a", floats ] + ".")
            let good = zip CompressionLevel.Optimal [ "a/data.pkl", pickle; "a/data/0", bytes ]
            Must.equal [ "a", "F32", [ 2L; 3L ], bytes ] (plain (read good))

            // Zeros compress a thousandfold; no stream can give more than that.
            let zeros = zip CompressionLevel.Optimal [ "a/data.pkl", pickle; "a/data/0", Array.zeroCreate 100_000 ]
            let full = BitConverter.GetBytes 100_000

            for announced in [ 99_999; 100_001; 2_000_000_000 ] do
                let bad = Array.copy zeros

                for i in 0 .. zeros.Length - 4 do
                    if ReadOnlySpan(zeros, i, 4).SequenceEqual(ReadOnlySpan full) then
                        BitConverter.GetBytes(announced).CopyTo(bad, i)

                let before = GC.GetAllocatedBytesForCurrentThread()
                Must.equal Damaged (errorOf (WeightsFile.parse "x" bad)).Kind
                Must.hold (GC.GetAllocatedBytesForCurrentThread() - before < 1_000_000L)
        }

        test "a TorchScript program and a plain pickle name the code that converts them" {
            let script =
                zip CompressionLevel.NoCompression [ "a/data.pkl", latin "N."; "a/constants.pkl", latin "N." ]

            let error = errorOf (WeightsFile.parse "x.pt" script)
            Must.contain "TorchScript" error.What
            Must.contain "torch.save(torch.jit.load('x.pt').state_dict(), 'weights.pt')" error.Next
            let pickle = errorOf (WeightsFile.parse "x.pkl" (latin "\x80\004}."))
            Must.contain "torch.save(pickle.load(open('x.pkl', 'rb')), 'weights.pt')" pickle.Next
        }
    ]
