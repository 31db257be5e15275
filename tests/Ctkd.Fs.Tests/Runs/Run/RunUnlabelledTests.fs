/// Teachers and evaluations on folders of photographs: names of classes, and images without labels.
module Ctkd.Fs.Tests.RunUnlabelledTests

open System
open System.IO
open System.Security.Cryptography
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Folders
open Ctkd.Fs.Tests.PhotoFixtures
open Ctkd.Fs.Tests.PhotoRuns

let tests =
    testList "RunUnlabelled" [
        test "an evaluation compares the names of classes, names unreadable images, and needs labels" {
            inFolder (fun folder ->
                let root, out = photos folder, Path.Combine(folder, "run")
                let s = settings root
                Runs.finish out s |> ignore
                let loaded = LoadedModel.load ignore Device.Cpu None out |> Error.orRaise
                let accuracy s = LoadedModel.accuracy Device.Cpu s loaded
                Must.equal 6 (accuracy s |> Error.orRaise).Images
                Directory.Move(Path.Combine(root, "train", "étoile"), Path.Combine(root, "train", "Abend"))
                Directory.Move(Path.Combine(root, "val", "étoile"), Path.Combine(root, "val", "Abend"))
                let error = accuracy s |> errorOf
                Must.equal Mismatch error.Kind
                Must.contain "was trained on the classes rouge vif, zèbre, étoile" error.What
                let raw = Path.Combine(folder, "raw")
                Directory.CreateDirectory raw |> ignore

                for i in 1..4 do
                    File.WriteAllBytes(Path.Combine(raw, $"{i}.jpg"), jpeg i 30 30)

                let unlabelled = { s with DataDir = raw; Photos = { s.Photos with Unlabelled = true } }
                Must.contain "no labels" (accuracy unlabelled |> errorOf).What
            )
        }

        test "unlabelled images of a teacher in another order of classes have its names in that order" {
            inFolder (fun folder ->
                let root, out, raw = photos folder, Path.Combine(folder, "teacher"), Path.Combine(folder, "raw")
                let teacher = Runs.finish out (settings root)
                Directory.CreateDirectory raw |> ignore

                for i in 1..10 do
                    File.WriteAllBytes(Path.Combine(raw, $"{i}.jpg"), jpeg i 30 24)

                for order, expected in
                    [ "2,0,1", [ "étoile"; "rouge vif"; "zèbre" ]; "2,0", [ "étoile"; "rouge vif" ] ] do
                    let s = settings raw

                    let s = {
                        s with
                            Teacher = "resnet8"
                            TeacherWeights = teacher.Checkpoint
                            Epochs = 1
                            Photos = { s.Photos with Unlabelled = true }
                            Teaching = { s.Teaching with Classes = order }
                    }

                    let taught = Path.Combine(folder, $"taught {order}")
                    Must.equal Finished (Runs.finish taught s).Ending
                    Must.equal expected (info taught).ClassNames
            )
        }

        test "a student learns from unlabelled images what its teacher says" {
            inFolder (fun folder ->
                let root = photos folder
                let out, raw = Path.Combine(folder, "teacher"), Path.Combine(folder, "raw")
                let teacher = Runs.finish out (settings root)
                Directory.CreateDirectory raw |> ignore

                for i in 1..12 do
                    File.WriteAllBytes(Path.Combine(raw, $"{i}.jpg"), jpeg i 30 24)

                let s = {
                    settings raw with
                        Teacher = "resnet8"
                        TeacherWeights = teacher.Checkpoint
                        Methods = Map [ "kd", 1.0; "dkd", 1.0 ]
                        Photos = { (settings raw).Photos with Unlabelled = true }
                }

                let taught = Path.Combine(folder, "taught")
                let summary, lines = said Hooks.none taught s
                Must.equal (Ok Finished) (Result.map _.Ending summary)
                let text = String.concat "\n" lines
                Must.contain "top-1 is the share on which the student agrees with its teacher" text
                Must.contain "teacher resnet8: labels 1 test images" text
                Must.equal classes (info taught).ClassNames
                // The labels take no part: the loss is that of the two methods alone.
                for line in Runs.lines taught do
                    Must.beNear 1e-6 1e-6 (line.Terms["kd"] + line.Terms["dkd"]) line.Loss

                // With a labelled validation top-1 is accuracy again.
                Directory.CreateDirectory(Path.Combine(folder, "both")) |> ignore
                let both = Path.Combine(folder, "both")
                Directory.Move(raw, Path.Combine(both, "train"))
                Directory.Move(Path.Combine(root, "val"), Path.Combine(both, "val"))
                let summary, lines = said Hooks.none (Path.Combine(folder, "valid")) { s with DataDir = both }
                Must.equal (Ok Finished) (Result.map _.Ending summary)
                Must.contain "top-1 on 6 test images" (String.concat "\n" lines)
            )
        }

        test "what unlabelled images do not allow is wrong usage" {
            let s = { Runs.taught "fixed" Runs.small with Data = "photos"; DataDir = "photos" }
            let s = { s with Photos = { s.Photos with Unlabelled = true } }

            for wrong, part in
                [
                    { s with Data = "digits" }, "folders of photographs"
                    { s with Teacher = ""; TeacherWeights = "" }, "needs a teacher"
                    { s with Methods = Map [ "crd", 0.8 ] }, "crd draws its negatives by label"
                ] do
                let error = Settings.validate wrong |> errorOf
                Must.equal Usage error.Kind
                Must.contain part error.What
        }

        test "a teacher's classes are put into the data's order by name, and one that lacks a class is refused" {
            inFolder (fun folder ->
                let root, out = photos folder, Path.Combine(folder, "teacher")
                let teacher = Runs.finish out (settings root)
                // The same photographs, one class of which comes first by its new name.
                Directory.Move(Path.Combine(root, "train", "étoile"), Path.Combine(root, "train", "Abend"))
                Directory.Move(Path.Combine(root, "val", "étoile"), Path.Combine(root, "val", "Abend"))
                let s = { settings root with Teacher = "resnet8"; TeacherWeights = teacher.Checkpoint }
                let error = Run.start Hooks.none (Path.Combine(folder, "lacks")) s |> errorOf
                Must.equal Mismatch error.Kind
                Must.contain "does not know 1 of the data's classes: Abend" error.What
                Must.contain "--teacher-classes" error.Next

                let names = Path.Combine(folder, "names.txt")
                File.WriteAllLines(names, [ "rouge vif"; "zèbre"; "Abend" ])
                let named = { s with Teaching = { s.Teaching with Classes = names } }
                let summary, _ = said Hooks.none (Path.Combine(folder, "named")) named
                let summary = Error.orRaise summary
                Must.equal (teacher.Top1) (summary.Teacher |> Option.map _.Top1)
            )
        }
    ]
