/// What the folders of a folder of photographs mean.
module Ctkd.Fs.Tests.PhotoLayoutTests

open System.IO
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Folders
open Ctkd.Fs.Tests.PhotoFixtures
open Ctkd.Fs.Tests.PhotoFolderTests

let tests =
    testList "PhotoLayout" [
        test "a validation without a folder called train is an error for labelled images, which says how to call it" {
            for name in [ "val"; "valid"; "validation"; "test" ] do
                inTree
                    (paths [ "training/a/1.png"; "training/b/1.png"; $"{name}/a/1.png"; $"{name}/b/1.png" ])
                    (fun folder ->
                        let problem = Must.single (PhotoFolder.problems (scanned folder))
                        Must.contain "none called train beside it but 'training'" problem.What
                        Must.contain "DIR/train/CLASS/" problem.Next
                        Must.equal problem (errorOf (PhotoFolder.split 0.2 1 (scanned folder)))

                        let splits = PhotoFolder.unlabelled (scanned folder)
                        Must.equal [ "training/a/1.png", -1; "training/b/1.png", -1 ] (labelled splits.Train)
                        Must.equal [ "a"; "b" ] splits.Val.Classes
                        Must.equal [ $"{name}/a/1.png", 0; $"{name}/b/1.png", 1 ] (labelled splits.Val)
                    )
        }

        test
            "a class may be called val where its images lie right in it, or test where its folders have names of their own" {
            for own in [ "val/1.png"; "test/1.png"; "test/deep/1.png" ] do
                inTree
                    (paths [ "car/red/1.png"; "car/2.png"; own ])
                    (fun folder ->
                        let splits = splitOf 0.0 1 folder
                        Must.equal [ "car"; own.Substring(0, own.IndexOf '/') ] splits.Train.Classes
                        Must.equal 3 splits.Train.Paths.Length
                        Must.beEmpty splits.Warnings
                    )
        }

        test
            "folders and images beside train and val that are not used are named, and a second validation is not trained with" {
            inTree
                (paths [
                    "train/a/1.png"
                    "train/b/1.png"
                    "val/a/1.png"
                    "val/b/1.png"
                    "test/9.png"
                    "more/a/1.png"
                    "0.png"
                 ]
                 @ [ "texts/1.txt", "text"B ])
                (fun folder ->
                    let splits = splitOf 0.2 1 folder
                    Must.equal 2 splits.Train.Paths.Length

                    Must.equal [ "the images in these places are not used: '0.png', 'more/', 'test/'" ] splits.Warnings

                    Must.equal splits.Warnings (PhotoFolder.unlabelled (scanned folder)).Warnings
                )

            inTree
                (paths [ "images/1.png"; "0.png"; "val/a/1.png"; "val/b/1.png"; "test/a/1.png"; "test/b/1.png" ])
                (fun folder ->
                    let splits = PhotoFolder.unlabelled (scanned folder)
                    Must.equal [ "0.png", -1; "images/1.png", -1 ] (labelled splits.Train)
                    Must.equal [ "the images in these places are not used: 'test/'" ] splits.Warnings
                )
        }

        test "all images below a folder are listed, whatever its folders mean" {
            inTree
                (paths [ "train/a/1.png"; "val/b/1.png"; "test/deep/er/1.png"; "0.png"; "B/1.png"; ".hidden/1.png" ]
                 @ [ "notes.txt", "text"B ])
                (fun folder ->
                    Must.equal
                        (Ok([| "0.png"; "B/1.png"; "test/deep/er/1.png"; "train/a/1.png"; "val/b/1.png" |], []))
                        (PhotoFolder.images folder)

                    Must.equal Missing (errorOf (PhotoFolder.images (Path.Combine(folder, ".hidden/none")))).Kind
                )

            inTree
                [ "notes.txt", "text"B ]
                (fun folder -> Must.equal Missing (errorOf (PhotoFolder.images folder)).Kind)
        }

        test "folders that lie too deep are named" {
            let deep (count: int) = String.replicate count "d/"

            inTree
                (paths (twoClasses @ [ $"a/{deep 62}1.png"; $"a/{deep 63}1.png" ]))
                (fun folder ->
                    let splits = splitOf 0.0 1 folder
                    Must.equal 5 splits.Train.Paths.Length

                    Must.contain
                        "1 folders lie more than 64 deep and are not read: 'a/d/d/"
                        (Must.single splits.Warnings)

                    let images, warnings = PhotoFolder.images folder |> Error.orRaise
                    Must.equal (5, splits.Warnings) (images.Length, warnings)
                )
        }
    ]
