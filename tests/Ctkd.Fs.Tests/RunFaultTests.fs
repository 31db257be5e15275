module Ctkd.Fs.Tests.RunFaultTests

open System
open System.IO
open Ctkd.Fs
open Ctkd.Fs.Tests.Folders
open Xunit

/// The error of a run that does not begin: nothing may be left of it.
let private refused (settings: Settings) : Error =
    inFolder (fun folder ->
        let error = Run.start Hooks.none (Runs.run folder) settings |> errorOf
        Assert.False(Directory.Exists(Runs.run folder))
        error
    )

// ---- settings that do not fit ----

[<Fact>]
let ``wrong settings are refused together before anything is loaded`` () =
    let error =
        refused {
            Runs.small with
                LearningRate = nan
                Batch = 0
                Data = "cifar100"
                Student = "resnet21"
        }

    Assert.Equal(Usage, error.Kind)

    for part in [ "3 settings are wrong"; "lr must"; "batch must"; "resnet20" ] do
        Assert.Contains(part, error.What)

[<Fact>]
let ``a batch larger than the set is refused with both numbers`` () =
    let error = refused { Runs.small with Batch = 51 }
    Assert.Equal((Usage, "batch is 51, but there are only 50 training images"), (error.Kind, error.What))
    Assert.Contains("--batch 50", error.Next)

    inFolder (fun folder ->
        Assert.Equal(Finished, (Runs.finish (Runs.run folder) { Runs.small with Batch = 50 }).Ending)
    )

[<Fact>]
let ``an agent that would see one batch an epoch is refused`` () =
    inFolder (fun folder ->
        let settings = { Runs.taught "rlkd" Runs.small with Batch = 50 }
        let error = Run.start Hooks.none (Runs.run folder) settings |> errorOf
        Assert.Contains("learns from two batches or more an epoch", error.What)
        Assert.Equal("use --batch 25 or less", error.Next)
        Assert.Equal(Finished, (Runs.finish (Runs.run folder) { settings with Batch = 49 }).Ending)
    )

[<Fact>]
let ``a last batch of one image is refused before training where a normalisation would see one pixel of it``
    ()
    =
    let error = refused { Runs.small with Student = "vgg8"; Batch = 49 }

    Assert.Equal(
        (Usage, "model vgg8 cannot be trained on a batch of one image of 8 x 8"),
        (error.Kind, error.What)
    )

    inFolder (fun folder ->
        Assert.Equal(Finished, (Runs.finish (Runs.run folder) { Runs.small with Batch = 49 }).Ending)
    )

[<Fact>]
let ``images that are smaller than the model's strides are refused with the smallest size`` () =
    inFolder (fun folder ->
        let own = Path.Combine(folder, "own.safetensors")
        let error = refused (Runs.ownSet own 40 3)
        Assert.Equal((Usage, "model resnet8 cannot see images of 3 x 3"), (error.Kind, error.What))
        Assert.Contains("at least 4 x 4", error.Next)
        Assert.Equal(Finished, (Runs.finish (Runs.run folder) (Runs.ownSet own 40 4)).Ending)
    )

[<Fact>]
let ``numbers of channels, devices and folders that do not fit are refused`` () =
    let channels = refused { Runs.small with Mean = [ 0.5 ]; Std = [ 0.5 ] }

    Assert.Equal(
        (Usage, "mean and std have 1 numbers, the images 3 channels"),
        (channels.Kind, channels.What)
    )

    let device = refused { Runs.small with Device = "gpu" }
    Assert.Equal((Usage, "unknown device 'gpu'"), (device.Kind, device.What))
    Assert.Equal(Usage, (refused { Runs.small with Device = "cuda:99" }).Kind)
    Assert.Contains("--data-dir", (refused { Runs.small with Data = "cifar10" }).Next)
    Assert.Equal(Missing, (refused { Runs.small with Data = "cifar10"; DataDir = "/none" }).Kind)

// ---- the folder ----

[<Fact>]
let ``a folder that holds a run, or that another one holds, is refused and left as it is`` () =
    inFolder (fun folder ->
        Runs.finish (Runs.run folder) Runs.small |> ignore
        let before = Runs.files (Runs.run folder)
        Assert.Equal(Usage, (Run.start Hooks.none (Runs.run folder) Runs.small |> errorOf).Kind)
        let holder = RunDirectory.reopen (Runs.run folder) |> Error.orRaise

        for error in
            [
                Run.start Hooks.none (Runs.run folder) Runs.small |> errorOf
                Run.resume Hooks.none (Runs.run folder) |> errorOf
            ] do
            Assert.Equal(
                (Unwritable, "another process is using this run's folder"),
                (error.Kind, error.What)
            )

        (holder :> IDisposable).Dispose()
        Assert.Equal<_ list>(before, Runs.files (Runs.run folder))
        Assert.Equal(Finished, (Run.resume Hooks.none (Runs.run folder) |> Error.orRaise).Ending)
    )

[<Fact>]
let ``a folder that cannot be written is refused`` () =
    inFolder (fun folder ->
        let file = Path.Combine(folder, "file")
        File.WriteAllText(file, "kept")

        for out in [ Path.Combine(file, "run"); "/proc/run" ] do
            let error = Run.start Hooks.none out Runs.small |> errorOf
            Assert.Equal((Unwritable, out), (error.Kind, error.Where))

        Assert.Equal("kept", File.ReadAllText file)
        let error = Run.resume Hooks.none folder |> errorOf
        Assert.Equal((Missing, folder), (error.Kind, error.Where))
    )

// ---- the teacher ----

/// What a run says of its teacher, after the line on its data.
let private said (settings: Settings) : string list =
    let said = ResizeArray<string>()

    inFolder (fun folder ->
        let hooks = { Runs.stopAfter 0 with Say = said.Add }
        Run.start hooks (Runs.run folder) settings |> Error.orRaise |> ignore
    )

    Assert.StartsWith("digits: ", said[0])
    List.tail (List.ofSeq said)

[<Fact>]
let ``a teacher near chance warns of the normalisation`` () =
    let settings = Runs.taught "fixed" Runs.small
    let wrong = said { settings with Mean = [ 50.0; 50.0; 50.0 ]; Std = [ 1.0; 1.0; 1.0 ] }
    Assert.Equal(2, wrong.Length)
    Assert.StartsWith("warning: the teacher is near chance (10.0 %): check --mean and --std", wrong[1])
    Assert.Equal(1, (said settings).Length)

/// The teacher's checkpoint with another recorded accuracy.
let private recording (top1: float) (path: string) : unit =
    let file = Safetensors.readSealed Runs.teacher.Value |> Error.orRaise
    let info, _ = Runs.contents Runs.teacher.Value
    let state = Json.write { info with Top1 = top1 }

    let metadata =
        file.Metadata |> List.map (fun (key, value) -> key, (if key = "state" then state else value))

    Safetensors.writeSealed path { file with Metadata = metadata } |> Error.orRaise

[<Fact>]
let ``a teacher far below the accuracy that its checkpoint recorded warns`` () =
    inFolder (fun folder ->
        let settings = Runs.taught "fixed" Runs.small
        let actual = (Runs.contents Runs.teacher.Value |> fst).Top1
        Assert.InRange(actual, 30.0, 97.0)

        let warnings recorded =
            let path = Path.Combine(folder, "teacher.safetensors")
            recording recorded path
            said { settings with TeacherWeights = path } |> List.tail

        let far = warnings (actual + 2.5)

        Assert.StartsWith(
            $"warning: the teacher had %.2f{actual + 2.5} %% when it was trained: check",
            Assert.Single far
        )

        Assert.Empty(warnings (actual + 1.5))
        Assert.Empty(warnings 0.0)
    )

[<Fact>]
let ``a teacher of another name, of other classes or that is absent is refused`` () =
    inFolder (fun folder ->
        let settings = Runs.taught "fixed" Runs.small
        let name = refused { settings with Teacher = "resnet20" }
        Assert.Equal((Mismatch, "the weights are those of resnet8, not of resnet20"), (name.Kind, name.What))
        let own = Runs.ownSet (Path.Combine(folder, "own.safetensors")) 40 8
        let classes = refused { own with Teacher = "resnet8"; TeacherWeights = settings.TeacherWeights }

        Assert.Equal(
            (Mismatch, "resnet8 knows 10 classes, the data set has 3"),
            (classes.Kind, classes.What)
        )

        let none = Path.Combine(folder, "none.safetensors")

        Assert.Equal(
            (Missing, none),
            refused { settings with TeacherWeights = none } |> fun e -> e.Kind, e.Where
        )

        File.WriteAllText(none, "no checkpoint")

        Assert.Equal(
            (Damaged, none),
            refused { settings with TeacherWeights = none } |> fun e -> e.Kind, e.Where
        )
    )

[<Fact>]
let ``a run whose teacher's file was changed or removed meanwhile is not resumed`` () =
    inFolder (fun folder ->
        let weights = Path.Combine(folder, "teacher.safetensors")
        File.Copy(Runs.teacher.Value, weights)
        let settings = { Runs.taught "ctkd-global" Runs.small with TeacherWeights = weights }
        Run.start (Runs.stopAfter 5) (Runs.run folder) settings |> Error.orRaise |> ignore
        let before = Runs.files (Runs.run folder)

        let refused kind =
            let error = Run.resume Hooks.none (Runs.run folder) |> errorOf
            Assert.Equal((kind, weights), (error.Kind, error.Where))
            Assert.Equal<_ list>(before, Runs.files (Runs.run folder))

        let other = Path.Combine(folder, "other")
        File.Copy((Runs.finish other { Runs.small with Seed = 9 }).Checkpoint, weights, true)
        refused Mismatch
        File.Delete weights
        refused Missing
        recording 1.0 weights
        Assert.Equal(Finished, (Run.resume Hooks.none (Runs.run folder) |> Error.orRaise).Ending)
    )

[<Fact>]
let ``a run whose data set was changed meanwhile is not resumed`` () =
    inFolder (fun folder ->
        let own = Path.Combine(folder, "own.safetensors")
        let settings = Runs.ownSet own 60 8
        Run.start (Runs.stopAfter 3) (Runs.run folder) settings |> Error.orRaise |> ignore
        let before = Runs.files (Runs.run folder)

        for count in [ 20; 61 ] do
            Runs.ownSet own count 8 |> ignore
            let error = Run.resume Hooks.none (Runs.run folder) |> errorOf
            Assert.Equal((Mismatch, own), (error.Kind, error.Where))
            Assert.Equal("the data set is not the one that the run began with", error.What)
            Assert.Equal<_ list>(before, Runs.files (Runs.run folder))

        Runs.ownSet own 60 8 |> ignore
        Assert.Equal(Finished, (Run.resume Hooks.none (Runs.run folder) |> Error.orRaise).Ending)
    )
