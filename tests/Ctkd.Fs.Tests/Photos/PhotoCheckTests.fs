module Ctkd.Fs.Tests.PhotoCheckTests

open System.IO
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.PhotoFixtures
open Ctkd.Fs.Tests.PhotoFolderTests

let private check (folder: string) : PhotoReport = PhotoCheck.run 2 (fun _ _ -> ()) folder |> Error.orRaise

let private fine: (string * byte[]) list = [
    "train/a/1.jpg", jpeg 1 30 20
    "train/a/2.jpg", jpeg 2 40 30
    "train/a/3.jpg", jpeg 3 50 40
    "train/b/1.png", pngOf width pattern
    "val/a/1.gif", find "two frames.gif"
    "val/b/1.webp", find "lossy.webp"
]

let tests =
    testList "PhotoCheck" [
        test "classes, counts, sizes, formats and imbalance of a sound folder are reported" {
            inTree
                fine
                (fun folder ->
                    let report = check folder
                    Must.hold (PhotoCheck.isFine report)

                    Must.equal
                        [ { Name = "a"; Train = 3; Val = 1 }; { Name = "b"; Train = 1; Val = 1 } ]
                        report.Classes

                    Must.equal (6, 4, Some 2) (report.Images, report.Train, report.Val)
                    Must.equal (Some 3.0) report.Imbalance
                    Must.equal { Format = "Jpeg"; Images = 3 } report.Formats.Head
                    Must.equal 4 report.Formats.Length
                    Must.equal (Some { Width = 29; Height = 19 }) report.Smallest
                    Must.equal (Some { Width = 30; Height = 20 }) report.Median
                    Must.equal (Some { Width = 50; Height = 40 }) report.Largest
                    Must.equal (fine |> List.sumBy (fun (_, bytes) -> bytes.LongLength)) report.Bytes
                    Must.beEmpty (report.Problems @ report.Warnings @ report.Others @ report.Rotated @ report.Misnamed)
                    Must.beEmpty (report.DuplicatesAcross @ report.DuplicatesWithin)
                )
        }

        test "files that cannot be decoded are named with the reason, and the folder is not fine" {
            let bad = [
                "train/a/cut.jpg", (jpeg 1 30 20)[..200]
                "train/a/empty.jpg", [||]
                "val/b/page.png", "<html>404</html>"B
                "val/b/huge.png", bomb 50_000 50_000
            ]

            inTree
                (fine @ bad)
                (fun folder ->
                    let report = check folder
                    Must.notHold (PhotoCheck.isFine report)

                    Must.equal
                        [
                            { Name = "train/a/cut.jpg"; Reason = "it is truncated" }
                            { Name = "train/a/empty.jpg"; Reason = "it is empty" }
                            {
                                Name = "val/b/huge.png"
                                Reason = "it has 50000 x 50000 pixels, and at most 100000000 are decoded"
                            }
                            { Name = "val/b/page.png"; Reason = "it is HTML or XML, and no image" }
                        ]
                        report.Undecodable
                )
        }

        test "duplicates between train and validation, and within them, are named" {
            let again = jpeg 1 30 20

            inTree
                (fine @ [ "val/a/again.jpg", again; "train/b/2.png", pngOf width pattern ])
                (fun folder ->
                    let report = check folder
                    Must.equal [ [ "train/a/1.jpg"; "val/a/again.jpg" ] ] report.DuplicatesAcross
                    Must.equal [ [ "train/b/1.png"; "train/b/2.png" ] ] report.DuplicatesWithin
                    Must.hold (PhotoCheck.isFine report)
                )
        }

        test "images that EXIF turns, wrong extensions and files that are no images are named" {
            let odd = [
                "train/a/turned.jpg", turned 6 (jpeg 9 30 20)
                "train/b/png.JPEG", pngOf 1 [| 1uy; 2uy; 3uy |]
                "train/b/right.jpeg", jpeg 11 30 20
                "train/notes.txt", "text"B
            ]

            inTree
                (fine @ odd)
                (fun folder ->
                    let report = check folder
                    Must.equal [ "train/a/turned.jpg" ] report.Rotated
                    Must.equal [ "train/b/png.JPEG" ] report.Misnamed
                    Must.equal [ "train/notes.txt" ] report.Others
                    Must.hold (PhotoCheck.isFine report)
                )
        }

        test "problems of the folder are all reported at once" {
            inTree
                (fine @ [ "val/c/1.jpg", jpeg 20 30 20 ])
                (fun folder ->
                    Directory.CreateDirectory(Path.Combine(folder, "train/empty")) |> ignore
                    let report = check folder
                    Must.notHold (PhotoCheck.isFine report)
                    Must.equal 2 report.Problems.Length
                    Must.contain "'empty'" report.Problems[0]
                    Must.contain "'c'" report.Problems[1]
                    Must.have { Name = "c"; Train = 0; Val = 1 } report.Classes
                )
        }

        test "a folder without train, and folders that are not used, are told" {
            inTree
                [ "training/a/1.jpg", jpeg 1 30 20; "training/b/1.jpg", jpeg 2 30 20; "val/a/1.jpg", jpeg 3 30 20 ]
                (fun folder ->
                    let report = check folder
                    Must.notHold (PhotoCheck.isFine report)
                    Must.contain "none called train" (Must.single report.Problems)
                )

            inTree
                (fine @ [ "test/1.jpg", jpeg 4 30 20 ])
                (fun folder ->
                    Must.equal [ "the images in these places are not used: 'test/'" ] (check folder).Warnings
                )
        }

        test "a pack has the report of its folder" {
            inTree
                fine
                (fun folder ->
                    Folders.inFolder (fun outside ->
                        let pack = Path.Combine(outside, "p")
                        PhotoPack.write (fun _ _ -> ()) (scanned folder) pack |> Error.orRaise
                        Must.equal { check folder with Path = "" } { check pack with Path = "" }
                    )
                )
        }

        test "the lines of a report shorten long lists, and the JSON is read back" {
            let many = [ for i in 1..30 -> $"train/a/bad{i}.jpg", [||] ]

            inTree
                (fine @ many)
                (fun folder ->
                    let report = check folder
                    let lines = PhotoCheck.lines 5 report
                    Must.have "no decoding: 30" lines
                    Must.have "  and 25 more; all of them with --json" lines
                    Must.have "pixels: smallest 29 x 19, median 30 x 20, largest 50 x 40" lines
                    Must.equal (Ok report) (Json.read "here" (Json.write report))
                )
        }
    ]
