/// `ctkd data check` and `ctkd data pack`.
module Ctkd.Fs.Tests.CommandDataTests

open System.IO
open System.Text.Json
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Child
open Ctkd.Fs.Tests.PhotoFixtures
open Ctkd.Fs.Tests.PhotoFolderTests

let private fine: (string * byte[]) list = [
    "photos/train/a/1.jpg", jpeg 1 30 20
    "photos/train/b/2.png", pngOf width pattern
    "photos/val/a/3.gif", find "two frames.gif"
    "photos/val/b/4.webp", find "lossy.webp"
]

let tests =
    testList "CommandData" [
        test "a sound folder is reported with exit code 0, and as JSON" {
            inTree
                fine
                (fun folder ->
                    let said = expect 0 folder "data check photos"
                    Must.contain "photos: 4 images" said.Out
                    Must.contain "2 to train with, 2 to validate with" said.Out
                    Must.contain "validation" said.Out

                    let report =
                        Json.read<PhotoReport> "here" (expect 0 folder "data check photos --json --threads 1").Out

                    Must.equal 4 (Error.orRaise report).Images
                )
        }

        test "what cannot be decoded is named, with exit code 1" {
            inTree
                (fine @ [ "photos/train/a/cut.jpg", (jpeg 1 30 20)[..150] ])
                (fun folder ->
                    let said = expect 1 folder "data check photos"
                    Must.contain "train/a/cut.jpg: it is truncated" said.Out
                    let json = expect 1 folder "data check photos --json"
                    let report = Json.read<PhotoReport> "here" json.Out |> Error.orRaise
                    Must.equal [ { Name = "train/a/cut.jpg"; Reason = "it is truncated" } ] report.Undecodable
                )
        }

        test "a pack is written, and checked like the folder" {
            inTree
                fine
                (fun folder ->
                    let said = expect 0 folder "data pack photos photos.pack --json"
                    Must.equal 4 (JsonDocument.Parse(said.Out).RootElement.GetProperty("images").GetInt32())
                    Must.contain "photos.pack: 4 images" (expect 0 folder "data check photos.pack").Out
                    let again = expect 1 folder "data pack photos photos/train/a/1.jpg"
                    Must.contain "is no pack" again.Err
                    Must.equal (jpeg 1 30 20) (File.ReadAllBytes(Path.Combine(folder, "photos/train/a/1.jpg")))
                )
        }

        test "CTKD_JPEG chooses the decoder, and another word is an error" {
            inTree
                fine
                (fun folder ->
                    Must.equal 0 (ctkdWith [ "CTKD_JPEG", "skia" ] folder "data check photos").Code
                    let wrong = ctkdWith [ "CTKD_JPEG", "fast" ] folder "data check photos"
                    Must.equal 2 wrong.Code
                    Must.contain "CTKD_JPEG is 'fast': it takes skia or turbo" wrong.Err
                )
        }

        test "wrong usage says what to do" {
            inTree
                fine
                (fun folder ->
                    Must.contain "ctkd data check DIR" (expect 2 folder "data").Err
                    Must.contain "ctkd data check DIR" (expect 2 folder "data check").Err
                    Must.contain "ctkd data pack DIR FILE" (expect 2 folder "data pack photos").Err
                    Must.contain "did you mean one of: check" (expect 2 folder "data chek photos").Err
                    Must.contain "from 1 to 1024" (expect 2 folder "data check photos --threads 0").Err
                    Must.contain "data check" (expect 2 folder "data pack photos p --threads 2").Err
                    Must.contain "there is no folder" (expect 1 folder "data check nothing").Err
                )
        }
    ]
