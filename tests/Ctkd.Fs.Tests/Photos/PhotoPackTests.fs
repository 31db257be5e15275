module Ctkd.Fs.Tests.PhotoPackTests

open System
open System.IO
open System.Text
open Expecto
open Ctkd.Images
open Ctkd.Fs
open Ctkd.Fs.Tests.Folders
open Ctkd.Fs.Tests.PhotoFixtures
open Ctkd.Fs.Tests.PhotoFolderTests

let private files: PhotoFiles = {
    Root = "/data"
    Classes = [ "a"; "back\\slash"; "tab\there" ]
    Paths = [| "a/1.png"; "a/new\nline.png"; "日本/𝐀 b.png"; "half\uD800.png" |]
    Lengths = [| 1L; 22L; 333L; Int64.MaxValue |]
    Marks = [| 0u; 1u; 0xFFFFFFFFu; 0xCBF43926u |]
    Labels = [| 0; 1; 2; -1 |]
}

let private parse (text: string) : Result<PhotoFiles, Error> = PhotoIndex.parse "index.txt" "/data" text

let private tree: (string * byte[]) list = [
    "train/a/1.jpg", jpeg 1 30 20
    "train/a/2.jpg", jpeg 2 20 30
    "train/b/ü 3.png", find "bits.png"
    "val/a/4.gif", find "two frames.gif"
    "val/b/5.jpg", jpeg 5 33 33
    "train/notes.txt", "text"B
]

let private packed (folder: string) (out: string) : Result<unit, Error> =
    PhotoFolder.scan folder |> Result.bind (fun tree -> PhotoPack.write (fun _ _ -> ()) tree out)

/// All files of a source.
let private contents (set: PhotoSet) : byte[] list = [
    for i in 0 .. set.Source.Count - 1 do
        let mutable buffer = Array.empty<byte>
        let length = set.Source.Read(i, &buffer)
        buffer[.. length - 1]
]

let private close (data: PhotoData) : unit =
    for set in [ data.Train; data.Val ] do
        match set.Source with
        | :? IDisposable as held -> held.Dispose()
        | _ -> ()

/// Runs a test with a folder and its pack.
let private withPack (body: string -> string -> unit) : unit =
    inTree
        tree
        (fun folder ->
            inFolder (fun outside ->
                let pack = Path.Combine(outside, "photos.pack")
                packed folder pack |> Error.orRaise
                body folder pack
            )
        )

let private read (labels: PhotoLabels) (path: string) : PhotoData = Photos.read labels path |> Error.orRaise

let tests =
    testList "PhotoPack" [
        test "an index is read back, with every character that a name may have" {
            Must.equal (Ok files) (parse (PhotoIndex.write files))

            let none = {
                files with
                    Classes = []
                    Paths = [||]
                    Lengths = [||]
                    Marks = [||]
                    Labels = [||]
            }

            Must.equal (Ok none) (parse (PhotoIndex.write none))
        }

        test "an index has one line for an image, the classes first" {
            let lines = (PhotoIndex.write files).Split '\n'
            Must.equal "ctkd index of photographs 2" lines[0]

            Must.equal
                [|
                    "classes\t3"
                    "a"
                    "back\\u005cslash"
                    "tab\\u0009here"
                    "images\t4"
                    "a/1.png\t1\t0\t00000000"
                |]
                lines[1..6]

            Must.equal "日本/𝐀 b.png\t333\t2\tffffffff" lines[8]
        }

        test "the hash of an index tells its contents, and not where the folder is" {
            let hash = PhotoIndex.hash files
            Must.equal 64 hash.Length
            Must.equal hash (PhotoIndex.hash { files with Root = "/elsewhere" })
            Must.differ hash (PhotoIndex.hash { files with Labels = [| 0; 1; 2; 0 |] })
            Must.differ hash (PhotoIndex.hash { files with Lengths = [| 2L; 22L; 333L; 4L |] })
            Must.differ hash (PhotoIndex.hash { files with Marks = [| 0u; 1u; 2u; 3u |] })
            Must.differ hash (PhotoIndex.hash { files with Classes = [ "a"; "b"; "c" ] })
        }

        test "hostile indexes are errors with the line" {
            let head = "ctkd index of photographs 2\nclasses\t1\na\nimages\t1\n"
            Must.hold (Result.isOk (parse (head + "a/1.png\t3\t0\t00000000\n")))

            for text, part in
                [
                    "", "line 1"
                    "something else\n", "line 1"
                    "ctkd index of photographs 2\nclasses\t-1\n", "line 2"
                    "ctkd index of photographs 2\nclasses\t99999999999999999999\n", "line 2"
                    "ctkd index of photographs 2\nclasses\t100000000\na\n", "line 4"
                    "ctkd index of photographs 2\nclasses\t2\na\na\nimages\t0\n", "twice"
                    "ctkd index of photographs 2\nclasses\t1\n\nimages\t0\n", "line 3"
                    head, "line 5"
                    head + "a/1.png\t3\t0\t00000000", "line 5"
                    head + "a/1.png\t3\t1\t00000000\n", "line 5"
                    head + "a/1.png\t3\t-2\t00000000\n", "line 5"
                    head + "a/1.png\t-3\t0\t00000000\n", "line 5"
                    head + "a/1.png\t3\n", "line 5"
                    head + "a/1.png\t3\t0\n", "line 5"
                    head + "a/1.png\t3\t0\t0000000\n", "line 5"
                    head + "a/1.png\t3\t0\t0000000g\n", "line 5"
                    head + "a/1.png\t3\t0\t-0000001\n", "line 5"
                    head + "../1.png\t3\t0\t00000000\n", "line 5"
                    head + "a/../../1.png\t3\t0\t00000000\n", "line 5"
                    head + "/etc/passwd\t3\t0\t00000000\n", "line 5"
                    head + "a//1.png\t3\t0\t00000000\n", "line 5"
                    head + "a/\\u00.png\t3\t0\t00000000\n", "line 5"
                    head + "a/\\u0000.png\t3\t0\t00000000\n", "line 5"
                    head + "a/1.png\\\t3\t0\t00000000\n", "line 5"
                    head + "a/1.png\t3\t0\t00000000\nmore\n", "more lines"
                ] do
                let error = errorOf (parse text)
                Must.equal Damaged error.Kind
                Must.contain part error.What
        }

        test "a pack gives the images of its folder, in the same order, with the same labels, hash and bytes" {
            withPack (fun folder pack ->
                for labels in [ PhotoLabels.Labelled(0.2, 3); PhotoLabels.Unlabelled ] do
                    let one, other = read labels folder, read labels pack

                    for a, b in [ one.Train, other.Train; one.Val, other.Val ] do
                        Must.equal { a.Files with Root = "" } { b.Files with Root = "" }
                        Must.equal (PhotoIndex.hash a.Files) (PhotoIndex.hash b.Files)
                        Must.equal (contents a) (contents b)

                        Must.equal [ for i in 0 .. a.Source.Count - 1 -> a.Source.Name i ] [
                            for i in 0 .. b.Source.Count - 1 -> b.Source.Name i
                        ]

                    close other
            )
        }

        test "a file that another of its length replaced changes the hash of the set, in a folder as in a pack" {
            withPack (fun folder pack ->
                let path = Path.Combine(folder, "train/a/1.jpg")

                let hashes () = [
                    for place in [ folder; pack ] -> (read PhotoLabels.Unlabelled place).Train.Files |> PhotoIndex.hash
                ]

                let before = hashes ()
                let bytes = File.ReadAllBytes path
                bytes[bytes.Length - 20] <- bytes[bytes.Length - 20] ^^^ 1uy
                File.WriteAllBytes(path, bytes)
                let tree = scanned folder
                packed folder pack |> Error.orRaise
                let after = hashes ()
                Must.equal after[0] after[1]
                Must.differ before[0] after[0]

                // The pack's index tells what was packed, not what was found before.
                bytes[bytes.Length - 20] <- bytes[bytes.Length - 20] ^^^ 1uy
                File.WriteAllBytes(path, bytes)
                PhotoPack.write (fun _ _ -> ()) tree pack |> Error.orRaise
                Must.equal before (hashes ())
            )
        }

        test "a file that cannot be read is an error, and no crash" {
            withPack (fun folder pack ->
                use held = new FileStream(pack, FileMode.Open, FileAccess.ReadWrite, FileShare.None)
                let error = errorOf (Photos.read PhotoLabels.Unlabelled pack)
                Must.equal Damaged error.Kind
                Must.contain "cannot be read" error.What
                Must.hold (Result.isError (packed folder pack))
            )
        }

        test "a pack of a folder without train is the error that the folder is" {
            inTree
                (paths [ "training/a/1.png"; "training/b/1.png"; "val/a/1.png"; "val/b/1.png" ])
                (fun folder ->
                    inFolder (fun outside ->
                        let pack = Path.Combine(outside, "p")
                        packed folder pack |> Error.orRaise
                        let what path = (errorOf (Photos.read (PhotoLabels.Labelled(0.2, 1)) path)).What
                        Must.contain "none called train" (what folder)
                        Must.equal (what folder) (what pack)
                    )
                )
        }

        test "a pack of a folder without a validation is split as the folder is" {
            inTree
                (paths [
                    for c in [ "a"; "b" ] do
                        for i in 1..9 do
                            $"{c}/{i}.png"
                ])
                (fun folder ->
                    inFolder (fun outside ->
                        let pack = Path.Combine(outside, "p")
                        packed folder pack |> Error.orRaise

                        let one, other =
                            read (PhotoLabels.Labelled(0.3, 5)) folder, read (PhotoLabels.Labelled(0.3, 5)) pack

                        Must.equal one.Val.Files.Paths other.Val.Files.Paths
                        Must.equal 6 other.Val.Files.Paths.Length
                        close other
                    )
                )
        }

        test "damaged bytes of an image in a pack are told by their CRC-32" {
            withPack (fun _ pack ->
                let bytes = File.ReadAllBytes pack
                bytes[200] <- bytes[200] ^^^ 1uy
                File.WriteAllBytes(pack, bytes)
                let data = read (PhotoLabels.Labelled(0.2, 3)) pack
                Must.contain "CRC-32" (Must.throw<PhotoException>(fun () -> contents data.Train |> ignore)).Message
                close data
            )
        }

        test "a pack that becomes shorter while it is open gives errors and does not end the process" {
            withPack (fun _ pack ->
                let data = read (PhotoLabels.Labelled(0.2, 3)) pack
                use file = new FileStream(pack, FileMode.Open, FileAccess.Write, FileShare.ReadWrite)
                file.SetLength 100L
                Must.contain "shorter" (Must.throw<PhotoException>(fun () -> contents data.Train |> ignore)).Message
                close data
            )
        }

        test "a pack cut at any place or with any damaged byte of header and index is an error" {
            withPack (fun _ pack ->
                let whole = File.ReadAllBytes pack
                let index = int (BitConverter.ToInt64(whole, 16))

                let refused (bytes: byte[]) =
                    File.WriteAllBytes(pack, bytes)
                    Must.hold (Result.isError (Photos.read PhotoLabels.Unlabelled pack))

                for length in 0..37 .. whole.Length - 1 do
                    refused whole[.. length - 1]

                refused whole[.. whole.Length - 2]

                // Bytes 12 to 15 have no meaning.
                for at in [ 0..11 ] @ [ 16..63 ] @ [ index..5 .. whole.Length - 1 ] do
                    let bytes = Array.copy whole
                    bytes[at] <- bytes[at] ^^^ 0x81uy
                    refused bytes
            )
        }

        test "a hostile pack with a true hash is still checked" {
            withPack (fun _ pack ->
                let whole = File.ReadAllBytes pack
                let index = int (BitConverter.ToInt64(whole, 16))

                let forged (change: string -> string) =
                    let text = Encoding.UTF8.GetBytes(change (Encoding.UTF8.GetString whole[index..]))
                    let bytes = Array.append whole[.. index - 1] text
                    BitConverter.GetBytes(text.LongLength).CopyTo(bytes, 24)
                    Security.Cryptography.SHA256.HashData(text: byte[]).CopyTo(bytes, 32)
                    File.WriteAllBytes(pack, bytes)
                    Photos.read PhotoLabels.Unlabelled pack

                let same = forged id |> Error.orRaise
                close same

                let changes: (string -> string) list = [
                    (fun text -> text.Replace("train/a/1.jpg", "../../etc/passwd"))
                    (fun text -> text.Replace("\n64\t", "\n63\t"))
                    (fun text -> text.Replace("\n64\t", "\n9223372036854775807\t"))
                    (fun text -> text.Replace("\n64\t", "\n64\t9"))
                    (fun text -> text.Replace("sets\t2", "sets\t1"))
                    (fun text -> text.Replace("sets\t2", "sets\t3"))
                    (fun text -> text.Substring(0, text.Length - 4))
                    (fun text -> text + "more\n")
                    (fun _ -> "")
                ]

                for change in changes do
                    Must.equal Damaged (errorOf (forged change)).Kind
            )
        }

        test "a pack replaces a pack, and no other file" {
            withPack (fun folder pack ->
                let before = File.ReadAllBytes pack
                packed folder pack |> Error.orRaise
                Must.equal before (File.ReadAllBytes pack)
                let photo = Path.Combine(folder, "train/a/1.jpg")
                Must.equal Unwritable (errorOf (packed folder photo)).Kind
                Must.equal (jpeg 1 30 20) (File.ReadAllBytes photo)
                Must.equal Unwritable (errorOf (packed folder folder)).Kind
            )
        }

        test "a failure leaves no half pack behind" {
            inTree
                tree
                (fun folder ->
                    inFolder (fun outside ->
                        let tree = scanned folder
                        File.Delete(Path.Combine(folder, "train/b/ü 3.png"))
                        let out = Path.Combine(outside, "p")
                        let error = errorOf (PhotoPack.write (fun _ _ -> ()) tree out)
                        Must.contain "ü 3.png' cannot be packed: it is not there any more" error.What
                        Must.beEmpty (Directory.GetFileSystemEntries outside)
                    )
                )
        }

        test "progress counts every image" {
            inTree
                tree
                (fun folder ->
                    let seen = ResizeArray()
                    let out = Path.Combine(folder, "p")
                    PhotoPack.write (fun count total -> seen.Add(count, total)) (scanned folder) out |> Error.orRaise
                    Must.equal [ for i in 1..5 -> i, 5 ] (List.ofSeq seen)
                )
        }

        test "a file that is neither a folder nor a pack is an error" {
            inFolder (fun folder ->
                let path = Path.Combine(folder, "x")
                File.WriteAllBytes(path, "hello"B)
                Must.equal Mismatch (errorOf (Photos.read PhotoLabels.Unlabelled path)).Kind
                Must.equal Missing (errorOf (Photos.read PhotoLabels.Unlabelled (path + "y"))).Kind
            )
        }

        test "a loader reads a pack as it reads the folder" {
            withPack (fun folder pack ->
                let bytes (path: string) =
                    let data = read (PhotoLabels.Labelled(0.2, 3)) path
                    use loader = new PhotoLoader(data.Train.Source, 2, 9, 9, 1, 0L)
                    use request = loader.Request([| 2; 0; 1 |], [| 0; 1; 2 |], Crop.training (Rng.ofSeed 1) 0.08 9)
                    request.Wait()
                    close data
                    request.Bytes.ToArray()

                Must.equal (bytes folder) (bytes pack)
            )
        }
    ]
