/// Students that start from weights.
module Ctkd.Fs.Tests.StudentStartTests

open System.IO
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Child
open Ctkd.Fs.Tests.Folders

let private tensors (folder: string) = Runs.contents (Path.Combine(folder, "last.safetensors")) |> snd

let tests =
    testList "StudentStart" [
        test "a student starts from weights, and its hash is recorded and checked" {
            inFolder (fun folder ->
                let teacher = Runs.teacher.Value
                let small = "--student resnet8 --subset 50 --batch 16 --epochs 1 --lr 1e-30 --weight-decay 0"
                let out = expect 0 folder $"distill --teacher {teacher} {small} --student-weights {teacher} --out run"
                Must.contain "starts from" out.Out

                let weights path =
                    Checkpoint.read path
                    |> Error.orRaise
                    |> Checkpoint.studentTensors
                    |> List.filter (fun t -> t.Name.EndsWith "weight")
                    |> List.map (fun t -> t.Name, System.Convert.ToHexString t.Bytes.Span)

                let last = Path.Combine(folder, "run", "last.safetensors")
                Must.equal (weights teacher) (weights last)
                let settings = (Checkpoint.read last |> Error.orRaise).Info.Settings
                Must.equal 64 settings.StudentHash.Length

                let wrong =
                    $"teach --model resnet8 --subset 50 --batch 16 --student-weights {teacher} --set studentHash=abc"

                Must.contain settings.StudentHash (expect 1 folder $"{wrong} --out x").Err
            )
        }

        test "a student from weights of other classes gets a new classifier, and resumes without the file" {
            inFolder (fun folder ->
                Tensor.scoped (fun () ->
                    let model = Zoo.find "resnet8" 100 |> Error.orRaise

                    let stored =
                        Model.declarations model
                        |> Initialise.tree DType.Float32 Device.Cpu (Rng.ofSeed 5)
                        |> Tree.toList
                        |> List.map (fun (name, x) -> Weights.store name x)

                    let path = Path.Combine(folder, "hundred.safetensors")
                    Safetensors.write path { Metadata = []; Tensors = stored } |> Error.orRaise
                    let settings = { Runs.small with StudentWeights = path }
                    let notes = ResizeArray<string>()
                    let run = Path.Combine(folder, "run")
                    let whole = Path.Combine(folder, "whole")
                    Run.start Hooks.none whole settings |> Error.orRaise |> ignore
                    Run.start { Runs.stopAfter 2 with Say = notes.Add } run settings |> Error.orRaise |> ignore

                    Must.haveOne
                        (fun (note: string) -> note.Contains "new from the seed 1" && note.Contains "fc.weight")
                        notes

                    // The recorded hash is that of what the file gave, whatever the seed of the new classifier.
                    let hash folder =
                        (Checkpoint.read (Path.Combine(folder, "last.safetensors")) |> Error.orRaise)
                            .Info.Settings.StudentHash

                    let other = Path.Combine(folder, "other")

                    Run.start Hooks.none other { settings with Seed = 2; StudentHash = hash whole }
                    |> Error.orRaise
                    |> ignore

                    Must.equal (hash whole) (hash other)

                    File.Delete path
                    Must.equal Finished (Run.resume Hooks.none run |> Error.orRaise).Ending
                    Must.equal (tensors whole) (tensors run)
                )
            )
        }

        test "a student from a run of other classes keeps the run's weights, under a new classifier" {
            inFolder (fun folder ->
                let three = Path.Combine(folder, "three")
                Runs.finish three (Runs.ownSet (Path.Combine(folder, "three.safetensors")) 48 8) |> ignore
                let notes, run = ResizeArray<string>(), Path.Combine(folder, "ten")

                let still = {
                    Runs.small with
                        StudentWeights = three
                        LearningRate = 1e-30
                        WeightDecay = 0.0
                        Epochs = 1
                }

                Run.start { Hooks.none with Say = notes.Add } run still |> Error.orRaise |> ignore

                Must.haveOne
                    (fun (note: string) -> note.Contains "new from the seed 1" && note.Contains "fc.bias")
                    notes

                let weights folder =
                    Checkpoint.read (Path.Combine(folder, "last.safetensors"))
                    |> Error.orRaise
                    |> Checkpoint.studentTensors
                    |> List.filter (fun t -> t.Name.EndsWith "weight")
                    |> List.map (fun t -> t.Name, (t.Shape, System.Convert.ToHexString t.Bytes.Span))

                let isClassifier (name, _) = name = "fc.weight"

                Must.equal
                    (weights three |> List.filter (isClassifier >> not))
                    (weights run |> List.filter (isClassifier >> not))

                Must.equal [ 10L; 64L ] (weights run |> List.find isClassifier |> snd |> fst)
            )
        }

        test "a student that cannot start makes no folder, moves no file and lets the folder and the cache go" {
            inFolder (fun folder ->
                let run, cache = Path.Combine(folder, "run"), Path.Combine(folder, "cache")

                let wrong = {
                    Runs.taught "fixed" Runs.small with
                        StudentWeights = Runs.teacher.Value
                        StudentHash = "abc"
                        TeacherCache = cache
                }

                let failing () = Must.contain "abc" (errorOf (Run.start Hooks.none run wrong)).What
                failing ()
                Must.notHold (Directory.Exists run)
                Directory.CreateDirectory run |> ignore
                File.WriteAllText(Path.Combine(run, "metrics.jsonl"), "someone's")
                let before = Runs.files run
                failing ()
                Must.equal before (Runs.files run)
                Must.equal Finished (Run.start Hooks.none run { wrong with StudentHash = "" } |> Error.orRaise).Ending
            )
        }
    ]
