/// Runs whose best epoch is chosen on images held out of the training set.
module Ctkd.Fs.Tests.RunValidationTests

open System.IO
open System.Text.Json.Nodes
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Folders

let private validated (settings: Settings) : Settings = { settings with ValSplit = 0.1 }

let private best (folder: string) : string = Path.Combine(Runs.run folder, "best.safetensors")

/// The accuracy of a checkpoint on a set.
let private accuracyOn (set: ImageSet) (data: Splits) (path: string) : Accuracy =
    Tensor.scoped (fun () ->
        let loaded = LoadedModel.load ignore Device.Cpu None path |> Error.orRaise
        let plan = Settings.alone Runs.small loaded.Model data Device.Cpu
        let feed = OnDevice(Augment.upload DType.Float32 Device.Cpu data.Mean data.Std set)
        LoadedModel.accuracyIn 250 plan loaded.Model loaded.Weights feed
    )

/// Settings under which both accuracies move for some epochs.
let private long: Settings =
    validated {
        Runs.small with
            Subset = 200
            Epochs = 8
            Milestones = [ 3 ]
            LearningRate = 0.2
    }

let tests =
    testList "RunValidation" [
        test "the validation chooses the best epoch and its checkpoint, of which the test accuracy is told" {
            inFolder (fun folder ->
                let summary = Runs.finish (Runs.run folder) long
                let data = Settings.loadData long |> Error.orRaise
                let chosen = summary.Epochs |> List.maxBy _.ValTop1

                Must.equal { Epoch = chosen.Epoch; Top1 = chosen.Top1; ValTop1 = chosen.ValTop1 } summary.Best

                Must.equal (summary.Epochs |> List.maxBy _.Top1) summary.BestOnTest.Value
                let validation = data.Validation.Value
                Must.equal chosen.ValTop1.Value (accuracyOn validation data (best folder)).Top1
                Must.equal chosen.Top1 (accuracyOn data.Test data (best folder)).Top1
                let last = List.last summary.Epochs
                let measured = accuracyOn validation data (Runs.last folder)
                Must.equal (Some measured.Top1, Some measured.Loss) (last.ValTop1, last.ValLoss)
                Must.equal summary.Best (fst (Runs.contents (best folder))).Best
            )
        }

        test "the validation is not trained on: the run is that on the other images alone, to the bit" {
            inFolder (fun folder ->
                let at name = Path.Combine(folder, name)
                let data = Settings.loadData long |> Error.orRaise
                let plain = { long with ValSplit = 0.0; Subset = 0 }
                Runs.finish (at "with") long |> ignore

                Prepare.ofSettings Hooks.none plain
                |> fun experiment -> { experiment with Data = Some { data with Validation = None } }
                |> Run.startExperiment (at "without")
                |> Error.orRaise
                |> ignore

                let tensors name = snd (Runs.contents (Path.Combine(at name, "last.safetensors")))
                Must.equal (tensors "without") (tensors "with")
                let bare (line: EpochMetrics) = { line with ValTop1 = None; ValLoss = None }
                Must.equal (Runs.lines (at "without")) (Runs.lines (at "with") |> List.map bare)
            )
        }

        test "patience follows the validation" {
            inFolder (fun folder ->
                let whole = Runs.finish (Path.Combine(folder, "whole")) { long with Epochs = 16 }

                // Some patience that the two accuracies end at different epochs.
                let last (value: EpochMetrics -> float) (patience: int) =
                    let rec go best since (lines: EpochMetrics list) =
                        match lines with
                        | [] -> 16
                        | m :: _ when value m <= best && since + 1 = patience -> m.Epoch
                        | m :: rest -> if value m > best then go (value m) 0 rest else go best (since + 1) rest

                    go 0.0 0 whole.Epochs

                let onValidation, onTest = last _.ValTop1.Value, last _.Top1
                let patience = [ 1..6 ] |> List.find (fun patience -> onValidation patience <> onTest patience)
                let summary = Runs.finish (Runs.run folder) { long with Epochs = 16; Patience = patience }
                Must.equal (onValidation patience) (List.last summary.Epochs).Epoch
            )
        }

        test "a run with a validation resumes to the bit, from a teacher too" {
            inFolder (fun folder ->
                let at name = Path.Combine(folder, name)

                for name, settings in [ "alone", Runs.small; "taught", Runs.taught "ctkd-global" Runs.small ] do
                    let settings = validated settings
                    Runs.finish (at name) settings |> ignore

                    for batches in [ 3; 5 ] do
                        let out = at $"{name}-{batches}"
                        Run.start (Runs.stopAfter batches) out settings |> Error.orRaise |> ignore
                        Run.resume Hooks.none out |> Error.orRaise |> ignore
                        Must.equal (Runs.outcome (at name)) (Runs.outcome out)
            )
        }

        test "a run is not resumed with another validation" {
            inFolder (fun folder ->
                let split seed =
                    let s = { validated Runs.small with SplitSeed = seed; Subset = 0 }
                    Settings.loadData s |> Error.orRaise

                let data, other = split 1, split 2
                // The same training images, and another validation.
                let other = { data with Validation = other.Validation }

                let experiment data = {
                    Prepare.ofSettings (Runs.stopAfter 5) { Runs.small with Subset = 100 } with
                        Data = Some data
                }

                Run.startExperiment (Runs.run folder) (experiment data) |> Error.orRaise |> ignore
                let before = Runs.files (Runs.run folder)
                let error = Run.resumeExperiment (Runs.run folder) (experiment other) |> errorOf
                Must.equal "the data set is not the one that the run began with" error.What
                Must.equal before (Runs.files (Runs.run folder))
                Must.hold (Run.resumeExperiment (Runs.run folder) (experiment data)).IsOk

                let changed = { validated Runs.small with SplitSeed = 2 }
                let out = Path.Combine(folder, "named")
                Run.start (Runs.stopAfter 3) out (validated Runs.small) |> Error.orRaise |> ignore
                let named = Run.resumeChanged out (fun _ -> changed) (Prepare.ofSettings Hooks.none changed)
                Must.contain "splitSeed" (errorOf named).What
            )
        }

        test "images are held out of the data of a program's own, too" {
            Tensor.scoped (fun () ->
                let own = Digits.load ()
                let settings = { Runs.small with Subset = 0; ValSplit = 0.25 }

                let experiment = {
                    Prepare.ofSettings Hooks.none settings with
                        Data = Some { own with Train = ImageSet.firstPerClass 20 own.Train }
                }

                let run = Prepare.load experiment |> Error.orRaise
                use _ = run.Feeds
                Must.equal 150 (ImageFeed.count run.Trainer.Images)
                Must.equal 50 (ImageFeed.count run.Feeds.Validation.Value)
            )
        }

        test "photographs have a validation beside their test, and its list beside theirs" {
            inFolder (fun folder ->
                let root = PhotoRuns.photos folder
                let settings = { PhotoRuns.settings root with ValSplit = 0.5 }
                let summary = Runs.finish (Runs.run folder) settings
                Must.hold (summary.Epochs |> List.forall _.ValTop1.IsSome)
                let list name = File.ReadAllLines(Path.Combine(Runs.run folder, name)).Length
                Must.equal (list "images-val.txt") (list "images-val-split.txt")
                Must.equal (list "images-train.txt") (list "images-val-split.txt")
            )
        }

        test "settings of the split in the records of earlier versions are taken over" {
            inFolder (fun folder ->
                let settings = { Runs.small with ValSplit = 0.2; SplitSeed = 5 }
                Runs.finish (Runs.run folder) settings |> ignore
                let file = Safetensors.readSealed (Runs.last folder) |> Error.orRaise

                let older (key: string, text: string) =
                    if key <> "state" then
                        key, text
                    else
                        let state = (JsonNode.Parse text |> nonNull).AsObject()
                        let s = (nonNull state["settings"]).AsObject()
                        let photos = (nonNull s["photos"]).AsObject()

                        for name in [ "valSplit"; "splitSeed" ] do
                            photos[name] <- (nonNull s[name]).DeepClone()
                            Must.hold (s.Remove name)

                        Must.hold ((nonNull state["best"]).AsObject().Remove "valTop1")
                        key, state.ToJsonString()

                Safetensors.writeSealed (Runs.last folder) { file with Metadata = List.map older file.Metadata }
                |> Error.orRaise

                let info = (Checkpoint.read (Runs.last folder) |> Error.orRaise).Info
                Must.equal (0.2, 5) (info.Settings.ValSplit, info.Settings.SplitSeed)
                Must.equal None info.Best.ValTop1
            )
        }
    ]
