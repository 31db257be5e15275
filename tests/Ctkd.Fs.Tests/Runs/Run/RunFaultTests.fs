module Ctkd.Fs.Tests.RunFaultTests

open System
open System.IO
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Folders

/// The error of a run that does not begin: nothing may be left of it.
let private refused (settings: Settings) : Error =
    inFolder (fun folder ->
        let error = Run.start Hooks.none (Runs.run folder) settings |> errorOf
        Must.notHold (Directory.Exists(Runs.run folder))
        error
    )

// ---- the teacher ----

/// What a run says of its teacher, after the line on its data.
let private said (settings: Settings) : string list =
    let said = ResizeArray<string>()

    inFolder (fun folder ->
        let hooks = { Runs.stopAfter 0 with Say = said.Add }
        Run.start hooks (Runs.run folder) settings |> Error.orRaise |> ignore
    )

    Must.startWith "digits: " said[0]
    // The last batch of small runs is two images, which is told, too.
    List.tail (List.ofSeq said) |> List.filter (_.Contains("--drop-last") >> not)

/// The teacher's checkpoint with another recorded accuracy.
let private recording (top1: float) (path: string) : unit =
    let file = Safetensors.readSealed Runs.teacher.Value |> Error.orRaise
    let info, _ = Runs.contents Runs.teacher.Value
    let state = Json.write { info with Top1 = top1 }

    let metadata =
        file.Metadata |> List.map (fun (key, value) -> key, (if key = "state" then state else value))

    Safetensors.writeSealed path { file with Metadata = metadata } |> Error.orRaise

let tests =
    testList "RunFault" [
        // ---- settings that do not fit ----

        test "wrong settings are refused together before anything is loaded" {
            let error =
                refused {
                    Runs.small with
                        LearningRate = nan
                        Batch = 0
                        Data = "cifar100"
                        Student = "resnet21"
                }

            Must.equal Usage error.Kind

            for part in [ "3 settings are wrong"; "lr must"; "batch must"; "resnet20" ] do
                Must.contain part error.What
        }

        test "a batch larger than the set is refused with both numbers" {
            let error = refused { Runs.small with Batch = 51 }
            Must.equal (Usage, "batch is 51, but there are only 50 training images") (error.Kind, error.What)
            Must.contain "--batch 50" error.Next

            inFolder (fun folder ->
                Must.equal Finished ((Runs.finish (Runs.run folder) { Runs.small with Batch = 50 }).Ending)
            )
        }

        test "an agent that would see one batch an epoch is refused" {
            inFolder (fun folder ->
                let settings = { Runs.taught "rlkd" Runs.small with Batch = 50 }
                let error = Run.start Hooks.none (Runs.run folder) settings |> errorOf
                Must.contain "learns from two batches or more an epoch" error.What
                Must.equal "use --batch 25 or less" error.Next
                Must.equal Finished ((Runs.finish (Runs.run folder) { settings with Batch = 49 }).Ending)
            )
        }

        test "a last batch of one image is refused before training where a normalisation would see one pixel of it" {
            let error = refused { Runs.small with Student = "vgg8"; Batch = 49 }

            Must.equal (Usage, "model vgg8 cannot be trained on a batch of one image of 8 x 8") (error.Kind, error.What)

            inFolder (fun folder ->
                Must.equal Finished ((Runs.finish (Runs.run folder) { Runs.small with Batch = 49 }).Ending)
            )
        }

        test "images that are smaller than the model's strides are refused with the smallest size" {
            inFolder (fun folder ->
                let own = Path.Combine(folder, "own.safetensors")
                let error = refused (Runs.ownSet own 40 3)
                Must.equal (Usage, "model resnet8 cannot see images of 3 x 3") (error.Kind, error.What)
                Must.contain "at least 4 x 4" error.Next
                Must.equal Finished ((Runs.finish (Runs.run folder) (Runs.ownSet own 40 4)).Ending)
            )
        }

        test "numbers of channels, devices and folders that do not fit are refused" {
            let channels = refused { Runs.small with Mean = [ 0.5 ]; Std = [ 0.5 ] }

            Must.equal (Usage, "mean and std have 1 numbers, the images 3 channels") (channels.Kind, channels.What)

            let device = refused { Runs.small with Device = "gpu" }
            Must.equal (Usage, "unknown device 'gpu'") (device.Kind, device.What)
            Must.equal Usage ((refused { Runs.small with Device = "cuda:99" }).Kind)
            Must.contain "--data-dir" ((refused { Runs.small with Data = "cifar10" }).Next)
            Must.equal Missing ((refused { Runs.small with Data = "cifar10"; DataDir = "/none" }).Kind)
        }

        // ---- the folder ----

        test "a folder that holds a run, or that another one holds, is refused and left as it is" {
            inFolder (fun folder ->
                Runs.finish (Runs.run folder) Runs.small |> ignore
                let before = Runs.files (Runs.run folder)
                Must.equal Usage ((Run.start Hooks.none (Runs.run folder) Runs.small |> errorOf).Kind)
                let holder = RunDirectory.reopen (Runs.run folder) |> Error.orRaise

                for error in
                    [
                        Run.start Hooks.none (Runs.run folder) Runs.small |> errorOf
                        Run.resume Hooks.none (Runs.run folder) |> errorOf
                    ] do
                    Must.equal (Unwritable, "another process is using this run's folder") (error.Kind, error.What)

                (holder :> IDisposable).Dispose()
                Must.equal before (Runs.files (Runs.run folder))
                Must.equal Finished ((Run.resume Hooks.none (Runs.run folder) |> Error.orRaise).Ending)
            )
        }

        test "a folder that cannot be written is refused" {
            inFolder (fun folder ->
                let file = Path.Combine(folder, "file")
                File.WriteAllText(file, "kept")

                for out in [ Path.Combine(file, "run"); "/proc/run" ] do
                    let error = Run.start Hooks.none out Runs.small |> errorOf
                    Must.equal (Unwritable, out) (error.Kind, error.Where)

                Must.equal "kept" (File.ReadAllText file)
                let error = Run.resume Hooks.none folder |> errorOf
                Must.equal (Missing, folder) (error.Kind, error.Where)
            )
        }

        test "a teacher near chance warns of the normalisation" {
            let settings = Runs.small |> Runs.onAllTests |> Runs.taught "fixed"
            let wrong = said { settings with Mean = [ 50.0; 50.0; 50.0 ]; Std = [ 1.0; 1.0; 1.0 ] }
            Must.equal 2 wrong.Length
            Must.startWith "warning: the teacher is near chance (10.0 %): check --mean and --std" wrong[1]
            Must.equal 1 ((said settings).Length)
        }

        test "a teacher far below the accuracy that its checkpoint recorded warns" {
            inFolder (fun folder ->
                let settings = Runs.small |> Runs.onAllTests |> Runs.taught "fixed"
                let actual = (Runs.contents Runs.teacher.Value |> fst).Top1
                Must.lie 30.0 97.0 actual

                let warnings recorded =
                    let path = Path.Combine(folder, "teacher.safetensors")
                    recording recorded path
                    said { settings with TeacherWeights = path } |> List.tail

                let far = warnings (actual + 2.5)

                Must.startWith
                    $"warning: the teacher had %.2f{actual + 2.5} %% when it was trained: check"
                    (Must.single far)

                Must.beEmpty (warnings (actual + 1.5))
                Must.beEmpty (warnings 0.0)
            )
        }

        test "a teacher of another name, of other classes or that is absent is refused" {
            inFolder (fun folder ->
                let settings = Runs.taught "fixed" Runs.small
                let name = refused { settings with Teacher = "resnet20" }

                Must.equal (Mismatch, "the weights are those of resnet8, not of resnet20") (name.Kind, name.What)

                let own = Runs.ownSet (Path.Combine(folder, "own.safetensors")) 40 8

                let classes = refused { own with Teacher = "resnet8"; TeacherWeights = settings.TeacherWeights }

                Must.equal (Mismatch, "resnet8 knows 10 classes, the data set has 3") (classes.Kind, classes.What)

                let none = Path.Combine(folder, "none.safetensors")

                Must.equal
                    (Missing, none)
                    (refused { settings with TeacherWeights = none } |> fun e -> e.Kind, e.Where)

                File.WriteAllText(none, "no checkpoint")

                Must.equal
                    (Damaged, none)
                    (refused { settings with TeacherWeights = none } |> fun e -> e.Kind, e.Where)
            )
        }

        test "a run whose teacher's file was changed or removed meanwhile is not resumed" {
            inFolder (fun folder ->
                let weights = Path.Combine(folder, "teacher.safetensors")
                File.Copy(Runs.teacher.Value, weights)
                let settings = { Runs.taught "ctkd-global" Runs.small with TeacherWeights = weights }
                Run.start (Runs.stopAfter 5) (Runs.run folder) settings |> Error.orRaise |> ignore
                let before = Runs.files (Runs.run folder)

                let refused kind =
                    let error = Run.resume Hooks.none (Runs.run folder) |> errorOf
                    Must.equal (kind, weights) (error.Kind, error.Where)
                    Must.equal before (Runs.files (Runs.run folder))

                let other = Path.Combine(folder, "other")
                File.Copy((Runs.finish other { Runs.small with Seed = 9 }).Checkpoint, weights, true)
                refused Mismatch
                File.Delete weights
                refused Missing
                recording 1.0 weights
                Must.equal Finished ((Run.resume Hooks.none (Runs.run folder) |> Error.orRaise).Ending)
            )
        }

        test "a run whose data set was changed meanwhile is not resumed" {
            inFolder (fun folder ->
                let own = Path.Combine(folder, "own.safetensors")
                let settings = Runs.ownSet own 60 8
                Run.start (Runs.stopAfter 3) (Runs.run folder) settings |> Error.orRaise |> ignore
                let before = Runs.files (Runs.run folder)

                for count in [ 20; 61 ] do
                    Runs.ownSet own count 8 |> ignore
                    let error = Run.resume Hooks.none (Runs.run folder) |> errorOf
                    Must.equal (Mismatch, own) (error.Kind, error.Where)
                    Must.equal "the data set is not the one that the run began with" error.What
                    Must.equal before (Runs.files (Runs.run folder))

                Runs.ownSet own 60 8 |> ignore
                Must.equal Finished ((Run.resume Hooks.none (Runs.run folder) |> Error.orRaise).Ending)
            )
        }
    ]
