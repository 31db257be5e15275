/// Twenty thousand corrupted files of each format, the same in every run.
module Ctkd.Fs.Tests.TorchFuzzTests

open System
open System.Diagnostics
open System.IO.Compression
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.ArchiveFiles
open Ctkd.Fs.Tests.SafetensorsTests
open Ctkd.Fs.Tests.TorchPickles

let private tensors: StoredTensor list = [
    tensor "conv.weight" "F32" [ 2L; 3L ] (Array.init 24 (fun i -> byte (i * 7 + 1)))
    tensor "steps" "I64" [] (Array.init 8 (fun i -> byte (200 - i)))
]

let private stored: SafetensorsFile = { Metadata = [ "model", "resnet8" ]; Tensors = tensors }
let private sealedFile = Safetensors.encodeSealed stored

/// The zip file of another writer, compressed.
let private deflated: byte[] =
    let pickle = dictionary [ "a", window (storage "FloatStorage" "0" 6L) 0L [ 2L; 3L ] [ 3L; 1L ] ]
    let bytes = [ "any/data.pkl", latin ("\x80\002" + pickle + "."); "any/data/0", Array.init 24 byte ]
    zip CompressionLevel.Optimal bytes

/// A numpy array, an object and a set in protocol 5.
let private protocol5: byte[] =
    let array =
        "cnumpy._core.numeric\n_frombuffer\n(\x96\020\000\000\000\000\000\000\000"
        + String('z', 20)
        + "cnumpy\ndtype\n(Vf4\n\x89\x88tR(I3\nV<\nNNNI-1\nI-1\nI0\ntb(I5\ntVC\ntR"

    zipFile ("}(Va\n" + array + "Vopt\ncargparse\nNamespace\n)\x81}Vlr\nK\001sbVs\n\x8f(K\001\x90u") []

/// Each format's tensor reader, a valid file, and whether a checksum protects it.
let private formats: Map<string, (byte[] -> Result<StoredTensor list, Error>) * byte[] * bool> =
    let rec all (entry: TorchEntry) =
        match entry with
        | TorchEntry.Tensor tensor -> [ tensor ]
        | other -> TorchEntry.entries other |> List.collect (snd >> all)

    let torch = TorchFile.parse "x" >> Result.map (fun file -> all file.Root)
    let small = Map small
    let read bytes = WeightsFile.parse "x" bytes |> Result.map (fun file -> all file.Root)
    let tar = tarOf [ "models/a.pth", TorchFile.encode tensors ]

    Map [
        "zip", (torch, TorchFile.encode tensors, true)
        "zip of another writer", (torch, small["zip"], true)
        "legacy", (torch, small["legacy"], false)
        "safetensors", (Safetensors.parse "x" >> Result.map _.Tensors, Safetensors.encode stored, false)
        "deflated", (torch, deflated, true)
        "protocol 5", (torch, protocol5, false)
        "tar", (read, tar, false)
        "tar.gz", (read, gzip tar, false)
        "sealed", (Safetensors.parseSealed "x" >> Result.map _.Tensors, sealedFile, true)
    ]

let private goods = [| for _, good, _ in formats.Values -> good |]

/// Corrupts a file: changes up to four bytes or bits, cuts it, or joins it with itself or a file of any format.
let private broken (rng: Random) (good: byte[]) : byte[] =
    let place (bytes: byte[]) = rng.Next bytes.Length

    match rng.Next 5 with
    | 0
    | 1 ->
        let bytes = Array.copy good

        for _ in 0 .. rng.Next 4 do
            let i = place bytes
            bytes[i] <- if rng.Next 2 = 0 then byte (rng.Next 256) else bytes[i] ^^^ (1uy <<< rng.Next 8)

        bytes
    | 2 -> good[.. place good - 1]
    | 3 -> Array.append good[.. place good] good[place good ..]
    | _ ->
        let other = goods[rng.Next goods.Length]
        Array.append good[.. place good] other[place other ..]

let tests =
    testList "TorchFuzz" [
        testList "of 20,000 broken files none crashes, hangs, or passes a wrong tensor past a checksum" [
            for name in formats.Keys ->
                test name {
                    let read, good, guarded = formats[name]

                    let plain = List.map (fun (t: StoredTensor) -> t.DType, t.Shape, Convert.ToHexString t.Bytes.Span)

                    let truth = read good |> Error.orRaise |> plain
                    let rng = Random 7
                    let clock = Stopwatch()

                    for i in 1..20_000 do
                        let bytes = broken rng good
                        clock.Restart()

                        match read bytes with
                        | Error error -> Must.equal Damaged error.Kind
                        | Ok found when guarded ->
                            Expect.isTrue (plain found |> List.forall (fun t -> List.contains t truth)) $"file {i}"
                        | Ok _ -> ()

                        Expect.isTrue (clock.Elapsed.TotalSeconds < 2.0) $"file {i} took {clock.Elapsed}"
                }
        ]
    ]
