module Ctkd.Fs.Tests.ArchiveTests

open System
open System.Formats.Tar
open System.IO
open System.IO.Compression
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.ArchiveFiles
open Ctkd.Fs.Tests.Cases
open Ctkd.Fs.Tests.Folders
open Ctkd.Fs.Tests.SafetensorsTests

let private weights (value: byte) : byte[] = TorchFile.encode [ tensor "conv1.weight" "U8" [ 1L ] [| value |] ]

let private files: (string * byte[]) list = [
    "teachers/readme.txt", "hello"B
    "teachers/resnet56_vanilla/ckpt_epoch_240.pth", weights 1uy
    "teachers/resnet56_vanilla/._ckpt_epoch_240.pth", "attributes"B
    "teachers/vgg13_vanilla/ckpt_epoch_240.pth", weights 2uy
]

/// The archives, each written to a file, by its ending.
let private kinds: (string * byte[]) list = [
    ".tar", tarOf files
    ".pax.tar", tarIn TarEntryFormat.Pax files
    ".gnu.tar", tarIn TarEntryFormat.Gnu files
    ".tar.gz", gzip (tarOf files)
    ".zip", TorchPickles.zip CompressionLevel.Optimal files
]

let private writing (name: string) (bytes: byte[]) (body: string -> unit) : unit =
    inFolder (fun folder ->
        let path = Path.Combine(folder, name)
        File.WriteAllBytes(path, bytes)
        body path
    )

let private first (path: string) : byte = (WeightsFile.read path |> Error.orRaise).Found.Tensors.Head.Bytes.Span[0]

let tests =
    testList "Archive" [
        testEach
            "an archive of weights lists them, and gives one by FILE:INNER"
            (List.map fst kinds)
            (fun (ending: string) ->
                writing
                    ("teachers" + ending)
                    (Map.find ending (Map kinds))
                    (fun path ->
                        let error = errorOf (WeightsFile.read path)
                        Must.contain "is an archive of 2 files of weights" error.What
                        Must.contain "\n  - teachers/resnet56_vanilla/ckpt_epoch_240.pth" error.What
                        Must.lack "readme" error.What

                        Must.contain
                            $"{Path.GetFileName path}:teachers/resnet56_vanilla/ckpt_epoch_240.pth"
                            error.Next

                        Must.equal 1uy (first $"{path}:teachers/resnet56_vanilla/ckpt_epoch_240.pth")
                        Must.equal 2uy (first $"{path}:teachers/vgg13_vanilla/ckpt_epoch_240.pth")
                        let wrong = errorOf (WeightsFile.read $"{path}:teachers/vgg13/ckpt_epoch_240.pth")
                        Must.equal Usage wrong.Kind
                        Must.contain ":teachers/vgg13_vanilla/ckpt_epoch_240.pth" wrong.Next
                        let listed = WeightsFile.archived path |> Error.orRaise |> Option.get
                        Must.equal (files |> List.map fst |> Set.ofList) (listed |> List.map _.Name |> Set.ofList)
                    )
            )

        test "the only file of weights in an archive is taken, and a compressed file is read" {
            for name, bytes in
                [
                    "a.tar", tarOf [ files[0]; files[1] ]
                    "a.tgz", gzip (tarOf [ files[1]; files[2] ])
                    "a.pth.gz", gzip (weights 1uy)
                ] do
                writing
                    name
                    bytes
                    (fun path ->
                        Must.equal 1uy (first path)
                        Must.contain " in a " (WeightsFile.read path |> Error.orRaise).Format
                        Must.equal (Ok None) (WeightsFile.archived path)
                    )
        }

        test "a key chooses within a file of an archive, and names of files may hold '#'" {
            let inner = "a#b/w.pth"

            let bytes =
                Safetensors.encode {
                    Metadata = []
                    Tensors = [ tensor "net.a" "U8" [ 1L ] [| 9uy |]; tensor "b" "U8" [ 1L ] [| 8uy |] ]
                }

            writing
                "a.tar"
                (tarOf [ inner, bytes; files[1] ])
                (fun path ->
                    Must.equal 9uy (first $"{path}:{inner}#net")
                    Must.equal 2 (WeightsFile.read $"{path}:{inner}" |> Error.orRaise).Found.Tensors.Length
                )
        }

        test "a long name in an archive is read in every dialect" {
            let name = String.replicate 9 "a-long-folder/" + "w.pth"

            for format in [ TarEntryFormat.Pax; TarEntryFormat.Gnu; TarEntryFormat.Ustar ] do
                writing
                    "a.tar"
                    (tarIn format [ name, weights 3uy; files[1] ])
                    (fun path -> Must.equal 3uy (first $"{path}:{name}"))
        }

        test "the tar format of PyTorch before 0.2 is refused as itself, with code that converts it" {
            let old = tarOf [ "sys_info", "x"B; "pickle", "x"B; "storages", "x"B; "tensors", "x"B ]

            for name, bytes in [ "old.pth", old; "old.pth.gz", gzip old ] do
                writing
                    name
                    bytes
                    (fun path ->
                        let error = errorOf (WeightsFile.read path)
                        Must.contain "the tar format of PyTorch before 0.2" error.What
                        Must.contain $"torch.save(torch.load('{name}'" error.Next
                    )
        }

        test "an archive without weights, and a file inside a file that is none, are refused" {
            writing
                "a.tar"
                (tarOf [ files[0] ])
                (fun path -> Must.contain "without files of weights" (errorOf (WeightsFile.read path)).What)

            writing
                "w.pth"
                (weights 1uy)
                (fun path -> Must.contain "is no archive" (errorOf (WeightsFile.read $"{path}:x.pth")).What)
        }

        test "names in an archive cannot write into the terminal, and a long list is cut" {
            let many = [ for i in 1..50 -> $"\027[31m{i}.pth", weights 1uy ]
            let error = errorOf (WeightsFile.parse "a.tar" (tarOf many))
            Must.lack "\027" error.What
            Must.lack "\027" error.Next
            Must.contain "and 42 more" error.What
        }

        test "what an archive announces is checked before memory is taken" {
            let good = tarOf [ files[1]; files[2] ]

            /// Sets the size of the first file, and the checksum of its header.
            let announcing (octal: string) =
                let bad = Array.copy good
                Text.Encoding.ASCII.GetBytes(octal).CopyTo(bad, 124)
                Array.fill bad 148 8 32uy
                let sum = Array.sumBy int bad[..511]
                Text.Encoding.ASCII.GetBytes(Convert.ToString(sum, 8).PadLeft(6, '0') + "\000 ").CopyTo(bad, 148)
                bad

            for bytes in [ announcing "77777777777\000"; gzip (announcing "17777777777\000") ] do
                let before = GC.GetAllocatedBytesForCurrentThread()
                let error = errorOf (WeightsFile.parse "a.tar:x" bytes)
                Must.contain "is no whole archive" error.What
                Must.hold (GC.GetAllocatedBytesForCurrentThread() - before < 2_000_000L)
        }

        test "a small file that decompresses to gigabytes is refused" {
            // Fifty megabytes of zeros: a thousand times their size.
            let bomb = gzip (Array.zeroCreate 50_000_000)
            let error = errorOf (WeightsFile.parse "a.gz" bomb)
            Must.equal Damaged error.Kind
        }

        test "every shortened archive is an error or gives the same files" {
            for _, good in kinds do
                for length in 1..7 .. good.Length - 1 do
                    match WeightsFile.parse "a:teachers/vgg13_vanilla/ckpt_epoch_240.pth" good[.. length - 1] with
                    | Error error -> Must.hold (error.Kind = Damaged || error.Kind = Usage)
                    | Ok file -> Must.hold (file.Found.Tensors.Length = 1)
        }

        test "a path that exists comes before a key or a file in an archive" {
            inFolder (fun folder ->
                for name in [ "a#teacher.pth"; "a:b.pth"; "a" ] do
                    File.WriteAllBytes(Path.Combine(folder, name), weights (if name = "a" then 5uy else 6uy))

                Must.equal 6uy (first (Path.Combine(folder, "a#teacher.pth")))
                Must.equal 6uy (first (Path.Combine(folder, "a:b.pth")))
                let parsed = WeightsPath.parse (Path.Combine(folder, "a#teacher"))
                Must.equal "teacher" parsed.Key
                Must.equal (Path.Combine(folder, "none#x")) (WeightsPath.parse (Path.Combine(folder, "none#x"))).File
            )
        }
    ]
