module Ctkd.Fs.Tests.PhotoFolderTests

open System
open System.IO
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Folders
open Ctkd.Fs.Tests.PhotoFixtures

/// Writes files below a folder.
let writeAll (folder: string) (files: (string * byte[]) list) : unit =
    for path, bytes in files do
        let full = Path.Combine(folder, path)
        Directory.CreateDirectory(string (Path.GetDirectoryName full)) |> ignore
        File.WriteAllBytes(full, bytes)

/// The same small image in every file.
let paths (names: string list) : (string * byte[]) list = names |> List.map (fun name -> name, find "bits.png")

let scanned (folder: string) : PhotoTree = PhotoFolder.scan folder |> Error.orRaise

/// Runs a test on a folder with these files.
let inTree (files: (string * byte[]) list) (body: string -> 'T) : 'T =
    inFolder (fun folder ->
        writeAll folder files
        body folder
    )

/// The labelled images of a folder.
let splitOf (share: float) (seed: int) (folder: string) : PhotoSplits =
    scanned folder |> PhotoFolder.split share seed |> Error.orRaise

/// Paths and labels.
let labelled (files: PhotoFiles) : (string * int) list = Array.zip files.Paths files.Labels |> List.ofArray

let twoClasses = [ "a/1.png"; "a/2.png"; "b/1.png"; "b/2.png" ]

let tests =
    testList "PhotoFolder" [
        test "train and val are read with the classes and files in the order of their bytes" {
            let files = [
                "train/n02/b.JPEG"
                "train/n02/B.jpg"
                "train/n02/a.png"
                "train/Zebra/x.webp"
                "train/apple/x.gif"
                "train/apple/deep/er/y.BMP"
                "val/apple/1.jpeg"
                "val/n02/2.jpeg"
                "val/Zebra/3.jpeg"
            ]

            inTree
                (paths files)
                (fun folder ->
                    let splits = splitOf 0.2 1 folder
                    Must.equal [ "Zebra"; "apple"; "n02" ] splits.Train.Classes
                    Must.equal splits.Train.Classes splits.Val.Classes

                    Must.equal
                        [
                            "train/Zebra/x.webp", 0
                            "train/apple/deep/er/y.BMP", 1
                            "train/apple/x.gif", 1
                            "train/n02/B.jpg", 2
                            "train/n02/a.png", 2
                            "train/n02/b.JPEG", 2
                        ]
                        (labelled splits.Train)

                    Must.equal
                        [ "val/Zebra/3.jpeg", 0; "val/apple/1.jpeg", 1; "val/n02/2.jpeg", 2 ]
                        (labelled splits.Val)

                    Must.beEmpty splits.Warnings
                    Must.hold (splits.Train.Lengths |> Array.forall ((=) (find "bits.png").LongLength))
                )
        }

        test "names with spaces, of other scripts and beyond 16 bits keep the order of UTF-8" {
            let names = [ "a b"; "Ω"; "日本"; "\uFF21"; "𝐀"; "éte" ]

            let expected =
                names |> List.sortBy (fun name -> Text.Encoding.UTF8.GetBytes name |> Convert.ToHexString)

            inTree
                (names |> List.collect (fun name -> paths [ $"{name}/ein bild {name}.png"; $"{name}/2.png" ]))
                (fun folder ->
                    let splits = splitOf 0.0 1 folder
                    Must.equal expected splits.Train.Classes
                    Must.equal 12 splits.Train.Paths.Length

                    for path in splits.Train.Paths do
                        Must.hold (File.Exists(Path.Combine(folder, path)))
                )
        }

        test "valid, validation and test stand for val; val comes first" {
            for name in [ "valid"; "validation"; "test" ] do
                inTree
                    (paths [ "train/a/1.png"; "train/b/1.png"; $"{name}/a/1.png"; $"{name}/b/1.png" ])
                    (fun folder ->
                        Must.equal [ $"{name}/a/1.png", 0; $"{name}/b/1.png", 1 ] (labelled (splitOf 0.5 1 folder).Val)
                    )

            inTree
                (paths [ "train/a/1.png"; "train/b/1.png"; "test/a/1.png"; "val/b/1.png" ])
                (fun folder -> Must.equal [ "val/b/1.png", 1 ] (labelled (splitOf 0.5 1 folder).Val))
        }

        test "a class may be called train" {
            inTree
                (paths [ "train/1.png"; "train/2.png"; "car/1.png"; "car/2.png" ])
                (fun folder ->
                    let splits = splitOf 0.5 1 folder
                    Must.equal [ "car"; "train" ] splits.Train.Classes
                    Must.equal 2 splits.Val.Paths.Length
                )
        }

        test "each file has the CRC-32 of its first and last 4 KiB, so that another of its length is told apart" {
            let zeros (length: int) (changed: int list) =
                Array.init length (fun i -> if List.contains i changed then 1uy else 0uy)

            for length, places, isTold in
                [
                    100, [ 0; 50; 99 ], true
                    5000, [ 0; 4095; 4096; 4999 ], true
                    8192, [ 0; 4095; 4096; 8191 ], true
                    20_000, [ 0; 4095; 15_904; 19_999 ], true
                    20_000, [ 4096; 15_903 ], false
                ] do
                for place in places do
                    inTree
                        [ "a/1.png", zeros length []; "b/1.png", zeros length [ place ] ]
                        (fun folder ->
                            let marks = (scanned folder).Train.Marks
                            Must.equal (length, place, isTold) (length, place, marks[0] <> marks[1])
                            Must.equal marks[1] (PhotoMark.ofBytes (ReadOnlySpan(zeros length [ place ])))
                        )

            Must.equal
                (IO.Hashing.Crc32.HashToUInt32(ReadOnlySpan "123456789"B))
                (PhotoMark.ofBytes (ReadOnlySpan "123456789"B))

            Must.equal 0u (PhotoMark.ofFile "/nothing/here.png")
        }

        test "without a validation a share of each class is held out by the seed, and one image at least stays" {
            let files = [
                for c, n in [ "a", 10; "b", 3; "c", 1 ] do
                    for i in 1..n do
                        $"{c}/{i}.png"
            ]

            inTree
                (paths files)
                (fun folder ->
                    let splits = splitOf 0.2 7 folder
                    let counts (files: PhotoFiles) = files.Labels |> Array.countBy id |> Array.sort |> List.ofArray
                    Must.equal [ 0, 8; 1, 2; 2, 1 ] (counts splits.Train)
                    Must.equal [ 0, 2; 1, 1 ] (counts splits.Val)

                    Must.equal
                        (List.sort files)
                        (Array.append splits.Train.Paths splits.Val.Paths |> List.ofArray |> List.sort)

                    Must.equal splits.Val.Paths (splitOf 0.2 7 folder).Val.Paths

                    Must.hold (
                        [ 8..20 ] |> List.exists (fun seed -> (splitOf 0.2 seed folder).Val.Paths <> splits.Val.Paths)
                    )

                    Must.have "too few images to hold any out are in these classes: 'c'" splits.Warnings
                    Must.equal [ 0, 1; 1, 1; 2, 1 ] (counts (splitOf 0.99 7 folder).Train)
                    Must.beEmpty (splitOf 0.0 7 folder).Val.Paths
                )
        }

        test "shares outside 0 to 1 are refused" {
            inTree
                (paths twoClasses)
                (fun folder ->
                    for share in [ -0.1; 1.0; nan ] do
                        Must.equal Usage (errorOf (PhotoFolder.split share 1 (scanned folder))).Kind
                )
        }

        test
            "hidden files and folders are left out, files that are no images are named, and content counts where the name tells nothing" {
            let files =
                paths (twoClasses @ [ ".hidden/1.png"; "a/._1.png"; "b/no extension"; "b/odd.dat" ])
                @ [ "a/notes.txt", "text"B; "README.md", "#"B; "b/Thumbs.db", [| 1uy |]; "a/empty", [||] ]

            inTree
                files
                (fun folder ->
                    let tree = scanned folder
                    Must.equal [ "a"; "b" ] tree.Train.Classes
                    Must.equal (twoClasses @ [ "b/no extension"; "b/odd.dat" ]) (List.ofArray tree.Train.Paths)
                    Must.equal [ "README.md"; "a/empty"; "a/notes.txt"; "b/Thumbs.db" ] tree.Others

                    Must.haveOne
                        (fun (text: string) -> text.Contains "4 files are no images")
                        (PhotoFolder.warnings tree)
                )
        }

        test "an empty class is an error that names it" {
            inTree
                (paths (twoClasses @ [ "c/notes.txt" ]))
                (fun folder ->
                    File.WriteAllText(Path.Combine(folder, "c/notes.txt"), "nothing")
                    Directory.CreateDirectory(Path.Combine(folder, "d")) |> ignore
                    let error = errorOf (PhotoFolder.split 0.2 1 (scanned folder))
                    Must.contain "in these classes: 'c', 'd'" error.What
                    Must.contain "delete the folders" error.Next
                )
        }

        test "a class in the validation only is an error, and one in train only a warning" {
            let train = [ "train/a/1.png"; "train/b/1.png"; "train/c/1.png" ]

            inTree
                (paths (train @ [ "val/a/1.png"; "val/x/1.png" ]))
                (fun folder ->
                    Must.contain
                        "in the validation only: 'x'"
                        (errorOf (PhotoFolder.split 0.2 1 (scanned folder))).What
                )

            inTree
                (paths (train @ [ "val/c/1.png" ]))
                (fun folder ->
                    let splits = splitOf 0.2 1 folder
                    Must.equal [ "val/c/1.png", 2 ] (labelled splits.Val)
                    Must.equal [ "no image to validate with is in these classes: 'a', 'b'" ] splits.Warnings
                )
        }

        test "one class, no classes, no images, no folder and an empty validation are errors with what to do" {
            let problem (files: string list) =
                inTree (paths files) (fun folder -> errorOf (PhotoFolder.split 0.2 1 (scanned folder)))

            Must.contain "one class only: 'a'" (problem [ "a/1.png" ]).What
            Must.contain "in no folders of classes" (problem [ "1.png"; "2.png" ]).What
            Must.contain "--unlabelled" (problem [ "1.png"; "2.png" ]).Next
            Must.contain "no images in folders" (problem [ "train/a/1.png"; "train/b/1.png"; "val/1.png" ]).What

            inTree
                [ "a/notes.txt", "x"B ]
                (fun folder ->
                    let error = errorOf (PhotoFolder.scan folder)
                    Must.equal Missing error.Kind
                    Must.contain "DIR/train/CLASS" error.Next
                    Must.equal Missing (errorOf (PhotoFolder.scan (Path.Combine(folder, "nothing")))).Kind
                )
        }

        test "images beside the folders of classes are left out with a warning, and are taken without labels" {
            inTree
                (paths (twoClasses @ [ "stray.png" ]))
                (fun folder ->
                    let splits = splitOf 0.0 1 folder
                    Must.equal twoClasses (List.ofArray splits.Train.Paths)
                    Must.equal [ "1 images lie beside the folders of classes and are left out" ] splits.Warnings
                    let all = PhotoFolder.unlabelled (scanned folder)
                    Must.equal ("stray.png" :: twoClasses) (List.ofArray all.Train.Paths)
                    Must.hold (all.Train.Labels |> Array.forall ((=) -1))
                    Must.beEmpty all.Train.Classes
                    Must.beEmpty all.Val.Paths
                )
        }

        test "without labels to train with, a labelled validation keeps its classes" {
            inTree
                (paths [ "train/1.png"; "train/2.png"; "val/b/1.png"; "val/a/1.png" ])
                (fun folder ->
                    let splits = PhotoFolder.unlabelled (scanned folder)
                    Must.equal [ "train/1.png", -1; "train/2.png", -1 ] (labelled splits.Train)
                    Must.equal [ "a"; "b" ] splits.Val.Classes
                    Must.equal [ "val/a/1.png", 0; "val/b/1.png", 1 ] (labelled splits.Val)
                )
        }

        if not (OperatingSystem.IsWindows()) then
            test
                "links to files and folders are followed, loops end, and links to nowhere are images that cannot be read" {
                inTree
                    (paths (twoClasses @ [ "elsewhere/deep/3.png" ]))
                    (fun folder ->
                        inFolder (fun outside ->
                            let link (name: string) (target: string) =
                                File.CreateSymbolicLink(Path.Combine(folder, name), target) |> ignore

                            Directory.Move(Path.Combine(folder, "elsewhere"), Path.Combine(outside, "c"))
                            link "c" (Path.Combine(outside, "c"))
                            link "a/linked.png" (Path.Combine(folder, "b/1.png"))
                            link "a/nowhere.png" "/nothing/here.png"
                            link "a/nowhere.txt" "/nothing/here.txt"
                            link "a/loop" folder
                            link "a/self.png" "self.png"
                            link "b/up" ".."
                            File.CreateSymbolicLink(Path.Combine(outside, "c/round"), "../c") |> ignore

                            let tree = scanned folder
                            Must.equal [ "a"; "b"; "c" ] tree.Train.Classes

                            Must.equal
                                [
                                    "a/1.png"
                                    "a/2.png"
                                    "a/linked.png"
                                    "a/nowhere.png"
                                    "a/self.png"
                                    "b/1.png"
                                    "b/2.png"
                                    "c/deep/3.png"
                                ]
                                (List.ofArray tree.Train.Paths)

                            let length = (find "bits.png").LongLength

                            Must.equal
                                [ length; length; length; 0L; 0L; length; length; length ]
                                (List.ofArray tree.Train.Lengths)

                            Must.equal [ "a/nowhere.txt" ] tree.Others
                        )
                    )
            }

        if OperatingSystem.IsLinux() then
            test "pipes are no images, and are not waited for" {
                inTree
                    (paths twoClasses)
                    (fun folder ->
                        let pipe = Path.Combine(folder, "a", "pipe.png")
                        use made = Diagnostics.Process.Start("mkfifo", [ pipe ])
                        made.WaitForExit()
                        Must.equal [ "a/pipe.png" ] (scanned folder).Others
                    )
            }
    ]
