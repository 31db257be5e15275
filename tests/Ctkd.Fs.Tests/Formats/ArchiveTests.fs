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

/// The list of an archive of several files of weights; None for one file.
let private archived (path: string) : Result<ArchiveFile list option, Error> =
    WeightsFile.contents (WeightsPath.parse path)
    |> Result.map (
        function
        | Several files -> Some files
        | OneFile _ -> None
    )

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
                        let listed = archived path |> Error.orRaise |> Option.get
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
                        Must.equal (Ok None) (archived path)
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

            for name, bytes, before in
                [
                    "old.pth", old, "if you trust it, write"
                    "old.pth.gz", gzip old, "decompress it (gunzip old.pth.gz), and write"
                ] do
                writing
                    name
                    bytes
                    (fun path ->
                        let error = errorOf (WeightsFile.read path)
                        Must.contain "the tar format of PyTorch before 0.2" error.What
                        Must.contain before error.Next
                        Must.contain "torch.save(torch.load('old.pth'" error.Next
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

        testEach
            "a file that decompresses to more than 32 times its size and 40 MB is refused before memory is taken"
            [
                "one file"
                "a file in a tar archive"
                "deflated storages together"
                "a deflated file in a compressed one"
            ]
            (fun (what: string) ->
                let zeros (millions: int) : byte[] = Array.zeroCreate (1_000_000 * millions)

                let deflated (storages: int) =
                    TorchPickles.zip CompressionLevel.Optimal [
                        let view i =
                            TorchPickles.window (TorchPickles.storage "ByteStorage" i 30_000_000L) 0L [ 1L ] [ 1L ]

                        let keys = List.init storages string

                        "a/data.pkl",
                        TorchPickles.latin (
                            "\x80\002" + TorchPickles.dictionary [ for i in keys -> "w" + i, view i ] + "."
                        )

                        for i in keys do
                            $"a/data/{i}", zeros 30
                    ]

                let bomb =
                    match what with
                    | "one file" -> gzip (zeros 50)
                    | "a file in a tar archive" -> gzip (tarOf [ "w.pth", zeros 50 ])
                    | "deflated storages together" -> deflated 2
                    | _ -> gzip (deflated 2)

                let before = GC.GetAllocatedBytesForCurrentThread()
                let error = errorOf (WeightsFile.parse "a.gz" bomb)
                Must.contain "decompresses to more than 32 times its size" error.What
                Must.hold (GC.GetAllocatedBytesForCurrentThread() - before < 42_000_000L)
            )

        test "contents that are compressed well are read, up to 32 times their size or 40 MB" {
            let tensors = [ tensor "conv1.weight" "U8" [ 30_000_000L ] (Array.zeroCreate 30_000_000) ]
            let file = WeightsFile.parse "a.gz" (gzip (TorchFile.encode tensors)) |> Error.orRaise
            Must.equal 30_000_000 file.Found.Tensors.Head.Bytes.Length
        }

        test "a long name in an archive is refused, and so are many names beyond the budget of memory" {
            let named (length: int) (count: int) =
                gzip (tarIn TarEntryFormat.Gnu [ for i in 1..count -> $"{i}" + String('n', length), [||] ])

            Must.contain "name of an entry is too long" (errorOf (WeightsFile.parse "a.tgz" (named 5_000 1))).What
            Must.contain "40 MB of memory" (errorOf (WeightsFile.parse "a.tgz" (named 4_000 6_000))).What
            Must.contain "without files of weights" (errorOf (WeightsFile.parse "a.tgz" (named 4_000 4_000))).What
        }

        test "of two files with one name in a tar archive the last is read, and one is listed" {
            writing
                "a.tar"
                (tarOf [ "w.pth", weights 1uy; "v.pth", weights 2uy; "w.pth", weights 3uy ])
                (fun path ->
                    Must.equal 3uy (first $"{path}:w.pth")
                    let listed = archived path |> Error.orRaise |> Option.get
                    Must.equal [ "v.pth"; "w.pth" ] (listed |> List.map _.Name)
                )

            writing
                "a.tar"
                (tarOf [ "w.pth", weights 1uy; "w.pth", weights 3uy ])
                (fun path -> Must.equal 3uy (first path))
        }

        test "the size and the path of an extended header come before those of the entry" {
            let data = weights 4uy

            // Of 10 to 99 characters.
            let record (text: string) = $"{text.Length + 4} {text}\n"

            /// A header of 512 bytes with its checksum.
            let header (name: string) (size: int) (kind: char) =
                let block = Array.zeroCreate<byte> 512
                Text.Encoding.ASCII.GetBytes(name).CopyTo(block, 0)
                Text.Encoding.ASCII.GetBytes(Convert.ToString(size, 8).PadLeft(11, '0')).CopyTo(block, 124)
                block[156] <- byte kind
                "ustar\00000"B.CopyTo(block, 257)
                Array.fill block 148 8 32uy
                let sum = Array.sumBy int block
                Text.Encoding.ASCII.GetBytes(Convert.ToString(sum, 8).PadLeft(6, '0') + "\000 ").CopyTo(block, 148)
                block

            let padded (bytes: byte[]) = Array.append bytes (Array.zeroCreate ((512 - bytes.Length % 512) % 512))

            let tar (records: string) =
                let extended = Text.Encoding.UTF8.GetBytes records

                Array.concat [
                    header "x" extended.Length 'x'
                    padded extended
                    header "short" 0 '0'
                    padded data
                    header "next.pth" data.Length '0'
                    padded data
                    Array.zeroCreate 1024
                ]

            let both = record $"size={data.Length}" + record "path=long.pth" + record "mtime=1.5"

            writing
                "a.tar"
                (tar both)
                (fun path ->
                    Must.equal 4uy (first $"{path}:long.pth")
                    Must.equal 4uy (first $"{path}:next.pth")
                )

            for wrong, text in
                [
                    record "size=-1", "no number"
                    record $"size={Int64.MaxValue}", "overflows"
                    "99 size=1\n", "damaged"
                ] do
                for bytes in [ tar wrong; gzip (tar wrong) ] do
                    Must.contain text (errorOf (WeightsFile.parse "a.tar" bytes)).What
        }

        test "every shortened archive is an error, or gives the same file where only its end is missing" {
            let inner = "teachers/vgg13_vanilla/ckpt_epoch_240.pth"
            let mutable read = 0

            for ending, good in kinds do
                for length in [ 1..7 .. good.Length - 1 ] @ [ good.Length - 1; good.Length ] do
                    writing
                        ("a" + ending)
                        good[.. length - 1]
                        (fun path ->
                            match WeightsFile.read $"{path}:{inner}" with
                            | Error error -> Must.hold (error.Kind = Damaged || error.Kind = Usage)
                            | Ok file ->
                                read <- read + 1
                                Must.equal [ "conv1.weight" ] (file.Found.Tensors |> List.map _.Name)
                                Must.equal [| 2uy |] (file.Found.Tensors.Head.Bytes.ToArray())
                        )

            Must.hold (read >= kinds.Length)
        }

        test "a file that opens and cannot be read is an error" {
            // Linux gives it 4,096 bytes, and refuses to read one.
            let path = "/sys/class/net/lo/speed"

            for error in [ errorOf (WeightsFile.read path); errorOf (archived path) ] do
                Must.equal (path, Damaged) (error.Where, error.Kind)
                Must.contain "'speed' cannot be read: " error.What
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
