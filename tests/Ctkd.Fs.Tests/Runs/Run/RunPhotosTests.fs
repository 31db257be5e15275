/// Runs on folders of photographs.
module Ctkd.Fs.Tests.RunPhotosTests

open System
open System.IO
open System.Security.Cryptography
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Folders
open Ctkd.Fs.Tests.PhotoFixtures
open Ctkd.Fs.Tests.PhotoRuns

/// Settings of a student of a teacher that was trained on the same photographs.
let private taught (folder: string) (policy: PolicyName) : Settings =
    let own = settings (photos folder)
    let teacher = Runs.finish (Path.Combine(folder, "teacher")) own

    {
        own with
            Teacher = "resnet8"
            TeacherWeights = teacher.Checkpoint
            Policy = policy
    }

let tests =
    testList "RunPhotos" [
        test "threads, kept images, a pack and an interruption in mid-epoch change no bit" {
            inFolder (fun folder ->
                let root = photos folder
                let at name = Path.Combine(folder, name)
                let s = settings root
                Runs.finish (at "one") s |> ignore
                let expected = left (at "one")

                for name, photos in
                    [
                        "three", { s.Photos with DecodeThreads = 3 }
                        "none-kept", { s.Photos with DecodedGb = 0.0; DecodeThreads = 2 }
                    ] do
                    Runs.finish (at name) { s with Photos = photos } |> ignore
                    Must.equal expected (left (at name))

                for batches in [ 1; 4 ] do
                    let out = at $"stopped-{batches}"
                    Must.equal Interrupted (Run.start (Runs.stopAfter batches) out s |> Error.orRaise).Ending
                    Must.equal Finished (Run.resume Hooks.none out |> Error.orRaise).Ending
                    Must.equal expected (left out)

                let pack = at "photos.pack"
                let tree = PhotoFolder.scan root |> Error.orRaise
                PhotoPack.write (fun _ _ -> ()) tree pack |> Error.orRaise
                Runs.finish (at "packed") { s with DataDir = pack } |> ignore
                Must.equal expected (left (at "packed"))
            )
        }

        test "a teacher whose features are remembered teaches the same, within a run and from one to the next" {
            inFolder (fun folder ->
                let at name = Path.Combine(folder, name)
                let s = taught folder PolicyName.CtkdGlobal
                Runs.finish (at "plain") s |> ignore
                let remembering = { s with TeacherCache = at "cache" }

                for name, share in [ "first", "0.0 %"; "second", "100.0 %" ] do
                    let summary, lines = said Hooks.none (at name) remembering
                    Must.equal (Ok Finished) (Result.map _.Ending summary)
                    Must.contain $"teacher cache: {share} of 24 images" (String.concat "\n" lines)
                    Must.equal (left (at "plain")) (left (at name))

                // Another seed has other cuts.
                let _, lines = said Hooks.none (at "other") { remembering with Seed = 2 }
                Must.contain "teacher cache: 0.0 % of 24 images" (String.concat "\n" lines)
            )
        }

        test "a run records its images, its classes and its waiting" {
            inFolder (fun folder ->
                let out = Path.Combine(folder, "run")
                let s = settings (photos folder)
                let summary, lines = said Hooks.none out s
                Must.equal (Ok Finished) (Result.map _.Ending summary)
                Must.contain "photos: 12 training and 6 test images" (String.concat "\n" lines)
                let record = info out
                Must.equal classes record.ClassNames

                Must.equal
                    (16, 16, PhotoSets.imageNetMean)
                    (record.Images.Height, record.Images.Width, record.Images.Mean)

                Must.hold (
                    Runs.lines out |> List.forall (fun line -> line.Waited.Value >= 0.0 && line.Waited.Value <= 100.0)
                )

                for name, count in [ "images-train.txt", 12; "images-val.txt", 6 ] do
                    let path = Path.Combine(out, name)
                    let files = PhotoIndex.parse path s.DataDir (File.ReadAllText path) |> Error.orRaise
                    Must.equal (classes, count) (files.Classes, files.Paths.Length)
            )
        }

        test "a run closes the pack that it opened, and not that of a program's own data" {
            inFolder (fun folder ->
                let at name = Path.Combine(folder, name)
                let pack = at "photos.pack"
                let tree = PhotoFolder.scan (photos folder) |> Error.orRaise
                PhotoPack.write (fun _ _ -> ()) tree pack |> Error.orRaise
                let s = { settings pack with Epochs = 1; Milestones = [] }

                /// Fails while the pack is open elsewhere.
                let lock () =
                    use _ = new FileStream(pack, FileMode.Open, FileAccess.Read, FileShare.None)
                    ()

                let trained = Runs.finish (at "run") s
                lock ()
                let loaded = LoadedModel.load ignore Device.Cpu None trained.Folder |> Error.orRaise
                LoadedModel.accuracy Device.Cpu s loaded |> Error.orRaise |> ignore
                lock ()
                let data = Settings.loadData s |> Error.orRaise
                let own = { Prepare.ofSettings Hooks.none s with Data = Some data }
                Run.startExperiment (at "own") own |> Error.orRaise |> ignore
                Must.throwAny<IOException> lock |> ignore
                GC.KeepAlive data
            )
        }

        test "a run is not resumed with other images" {
            inFolder (fun folder ->
                let out, root = Path.Combine(folder, "run"), photos folder
                Run.start (Runs.stopAfter 4) out (settings root) |> Error.orRaise |> ignore
                let image = Path.Combine(root, "train", classes.Head, "1.jpg")
                File.WriteAllBytes(image, jpeg 99 40 40)
                let error = Run.resume Hooks.none out |> errorOf
                Must.equal Mismatch error.Kind
                Must.contain "the data set is not the one" error.What
            )
        }

        test "a run is not resumed with other test images" {
            inFolder (fun folder ->
                let out, root = Path.Combine(folder, "run"), photos folder
                Run.start (Runs.stopAfter 4) out (settings root) |> Error.orRaise |> ignore
                File.WriteAllBytes(Path.Combine(root, "val", classes.Head, "more.jpg"), jpeg 99 40 40)
                Must.contain "the data set is not the one" (Run.resume Hooks.none out |> errorOf).What
            )
        }

        test "a part of which no image can be read is an error that says what to do" {
            inFolder (fun folder ->
                for part in [ "train"; "val" ] do
                    let place = Path.Combine(folder, part)
                    let root = photos place

                    for file in Directory.GetFiles(Path.Combine(root, part), "*.jpg", SearchOption.AllDirectories) do
                        File.WriteAllText(file, "no image")

                    let error = Run.start Hooks.none (Path.Combine(place, "run")) (settings root) |> errorOf
                    Must.equal Damaged error.Kind
                    Must.contain "the photographs cannot be read" error.What
                    Must.contain "ctkd data check" error.Next
            )
        }

        test "images that cannot be read are named and counted, and training goes on" {
            inFolder (fun folder ->
                let root = photos folder
                let broken name = Path.Combine(root, name)
                File.WriteAllBytes(broken "train/zèbre/2.jpg", (jpeg 5 30 30)[..200])
                File.WriteAllText(broken "val/zèbre/1.jpg", "<html>")
                let out = Path.Combine(folder, "run")
                let summary, lines = said Hooks.none out (settings root)
                Must.equal (Ok Finished) (Result.map _.Ending summary)
                let text = String.concat "\n" lines
                Must.contain "train/zèbre/2.jpg is left out" text
                Must.contain "val/zèbre/1.jpg is left out" text
                // Each once, though there are two epochs.
                Must.equal 2 (lines |> List.filter _.Contains("is left out")).Length
            )
        }

        test "an image that vanishes during training is named, and training goes on" {
            inFolder (fun folder ->
                let root = photos folder

                let vanish = {
                    Hooks.none with
                        OnEpoch =
                            fun m ->
                                if m.Epoch = 1 then
                                    File.Delete(Path.Combine(root, "train", "rouge vif", "3.jpg"))
                }

                let s = settings root

                let summary, lines =
                    said vanish (Path.Combine(folder, "run")) { s with Photos = { s.Photos with DecodedGb = 0.0 } }

                Must.equal (Ok Finished) (Result.map _.Ending summary)
                Must.contain "train/rouge vif/3.jpg is left out" (String.concat "\n" lines)
            )
        }

        test "imagenet is a folder of 1,000 classes named by their numbers" {
            inFolder (fun folder ->
                let root = photos folder
                let error = Datasets.load "imagenet" (Some root) |> errorOf
                Must.equal (Mismatch, root) (error.Kind, error.Where)
                Must.contain "it has 3 classes" error.What
                Must.contain "--data DIR" error.Next
            )
        }

        test "a share is held out by the seed: the test where there is no val folder, a validation where there is one" {
            inFolder (fun folder ->
                let root = photos folder
                let split share = { settings root with ValSplit = share }
                let own = Settings.loadData (split 0.5) |> Error.orRaise

                let paths (set: ImageSet) =
                    match set.Images with
                    | Pixels.InFiles p -> p.Files.Paths
                    | Pixels.InMemory _ -> [||]

                let validation = own.Validation.Value
                Must.equal (6, 6, 6) (ImageSet.count own.Train, ImageSet.count validation, ImageSet.count own.Test)
                Must.equal [| 0; 0; 1; 1; 2; 2 |] validation.Labels
                let all = Settings.loadData (split 0.0) |> Error.orRaise
                Must.equal (paths all.Train) (Array.sort (Array.append (paths own.Train) (paths validation)))
                Must.equal (paths all.Test) (paths own.Test)
                let train = Path.Combine(root, "train")

                let data seed = Settings.loadData { split 0.5 with DataDir = train; SplitSeed = seed } |> Error.orRaise

                Must.equal (6, 6) (ImageSet.count (data 1).Train, ImageSet.count (data 1).Test)

                Must.hold (data 1).Validation.IsNone
                let held seed = paths (data seed).Test
                Must.equal (held 1) (held 1)
                Must.differ (held 1) (held 2)
                let standard = Settings.loadData (settings train) |> errorOf
                Must.contain "too few images" standard.What
            )
        }

        test "a subset is spread evenly over the classes" {
            inFolder (fun folder ->
                let s = { settings (photos folder) with Subset = 7 }
                let data = Settings.loadData s |> Error.orRaise
                Must.equal [| 0; 0; 0; 1; 1; 2; 2 |] (Array.sort data.Train.Labels)
                Must.equal 6 (ImageSet.count data.Test)

                let names =
                    match data.Train.Images with
                    | Pixels.InFiles p -> p.Files.Paths
                    | _ -> [||]

                Must.equal "train/rouge vif/3.jpg" names[2]
            )
        }

        test "an agent mixes no photographs: that is refused, and without the mixing it runs" {
            inFolder (fun folder ->
                let at name = Path.Combine(folder, name)
                let s = taught folder PolicyName.Rlkd
                let error = Run.start Hooks.none (at "mixed") s |> errorOf
                Must.equal Usage error.Kind
                Must.contain "mixes training images in memory" error.What
                Must.contain "--rl-no-mix" error.Next
                let plain = Run.start Hooks.none (at "plain") { s with Rlkd = { s.Rlkd with Mix = false } }
                Must.equal (Ok Finished) (Result.map _.Ending plain)
            )
        }

        test
            "a recipe for ImageNet trains on 1,000 classes from torchvision's names, and resumes in mid-epoch to the bit" {
            inFolder (fun folder ->
                let at name = Path.Combine(folder, name)

                for part in [ "train"; "val" ] do
                    for label in 0..999 do
                        let place = at $"imagenet/{part}/n%08d{1440764 + 1000 * label}"
                        Directory.CreateDirectory place |> ignore
                        File.WriteAllBytes(Path.Combine(place, "0.JPEG"), jpeg label 9 8)

                let weights =
                    Zoo.find "imagenet/ResNet34" 1000
                    |> Error.orRaise
                    |> Model.declarations
                    |> Initialise.tree DType.Float32 Device.Cpu (Rng.ofSeed 3)
                    |> Tree.toList

                for name in
                    [ "conv1.weight"; "bn1.running_var"; "layer2.0.downsample.1.num_batches_tracked"; "fc.bias" ] do
                    Must.have name (List.map fst weights)

                let stored = weights |> List.map (fun (name, x) -> Weights.store name x)
                TorchFile.write (at "resnet34.pth") stored |> Error.orRaise
                let recipe = (Recipes.find "ctkd/ResNet34-ResNet18/kd/ctkd-global" |> Error.orRaise).Settings

                let s = {
                    recipe with
                        DataDir = at "imagenet"
                        TeacherWeights = at "resnet34.pth"
                        Epochs = 1
                        Milestones = []
                        Batch = 3
                        Subset = 6
                        Photos = { recipe.Photos with Size = 32 }
                }

                let left name =
                    let file = Checkpoint.read (at $"{name}/last.safetensors") |> Error.orRaise
                    let hash (t: StoredTensor) = t.Name, Convert.ToHexString(SHA256.HashData t.Bytes.Span)
                    file.Info, List.map hash file.Tensors

                let summary, lines = said Hooks.none (at "whole") s
                Must.equal (Ok Finished) (Result.map _.Ending summary)
                Must.contain "imagenet: 6 training and 6 test images" (String.concat "\n" lines)
                Must.equal Interrupted (Run.start (Runs.stopAfter 1) (at "cut") s |> Error.orRaise).Ending
                Must.differ (left "whole") (left "cut")
                Must.equal Finished (Run.resume Hooks.none (at "cut") |> Error.orRaise).Ending
                Must.equal (left "whole") (left "cut")
            )
        }
    ]
