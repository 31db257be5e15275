/// Small runs on the embedded digits, and what they leave behind as comparable values.
module Ctkd.Fs.Tests.Runs

open System
open System.IO
open Ctkd.Fs

/// resnet8 on five images of each digit, tested on five of each: two epochs of four batches, the last of two images.
let small: Settings = {
    Settings.defaults with
        Subset = 50
        Epochs = 2
        Batch = 16
        Milestones = [ 1 ]
        CurriculumEpochs = 2
        Hidden = 16
        Rlkd = { RlkdSettings.defaults with WarmUp = 1; Every = 1; Ramp = 2 }
}

/// The same training images, and all test images: a look at those takes longer than the training.
let onAllTests (settings: Settings) : Settings = { settings with Subset = 0; PerClass = 5 }

/// The number of batches of a small run.
let batches = 8

let private folder =
    lazy
        (let folder = Directory.CreateTempSubdirectory "ctkd-teacher-"
         AppDomain.CurrentDomain.ProcessExit.Add(fun _ -> folder.Delete true)
         folder.FullName)

/// The folder of a test's run, and its latest checkpoint.
let run (folder: string) : string = Path.Combine(folder, "run")

let last (folder: string) : string = Path.Combine(run folder, "last.safetensors")

/// Starts a run that nothing disturbs.
let finish (out: string) (settings: Settings) : Summary = Run.start Hooks.none out settings |> Error.orRaise

/// Weights of a resnet8 that has seen 20 images of each digit; trained once, when the first test asks.
let teacher: Lazy<string> =
    lazy
        (finish (Path.Combine(folder.Value, "teacher")) {
            small with
                Subset = 0
                PerClass = 20
                Epochs = 4
                Milestones = [ 3 ]
                Seed = 7
        })
            .Checkpoint

/// The policy of a name.
let policy (name: string) : PolicyName = Names.find "policy" name |> Error.orRaise

/// The settings with the teacher and a policy.
let taught (policyName: string) (settings: Settings) : Settings = {
    settings with
        Teacher = "resnet8"
        TeacherWeights = teacher.Value
        Policy = policy policyName
}

/// Hooks that ask to stop when so many batches are done.
let stopAfter (count: int) : Hooks =
    let mutable seen = 0

    {
        Hooks.none with
            OnBatch = fun _ _ _ -> seen <- seen + 1
            Stop = fun () -> seen >= count
    }

/// What a checkpoint file holds.
let contents (path: string) =
    let checkpoint = Checkpoint.read path |> Error.orRaise

    checkpoint.Info,
    checkpoint.Tensors |> List.map (fun t -> t.Name, t.DType, t.Shape, Convert.ToHexString t.Bytes.Span)

/// The metric lines of a run without the times.
let lines (folder: string) : EpochMetrics list =
    Metrics.read (Path.Combine(folder, "metrics.jsonl"))
    |> Error.orRaise
    |> List.map (fun line -> { line with Seconds = 0.0; ImagesPerSecond = 0.0 })

/// Everything that a run leaves and that repeats to the bit.
let outcome (folder: string) =
    let file name = Path.Combine(folder, name)
    contents (file "last.safetensors"), contents (file "best.safetensors"), lines folder

/// Every file of a run's folder with its bytes, but for the lock.
let files (folder: string) : (string * string) list =
    Directory.GetFiles folder
    |> Array.filter (fun path -> Path.GetFileName path <> ".lock")
    |> Array.sort
    |> Array.map (fun path -> path, Convert.ToHexString(File.ReadAllBytes path))
    |> List.ofArray

/// A set of one's own: so many random images of 8 x 8 pixels in three classes, as a safetensors file.
let ownSet (path: string) (count: int) (size: int) : Settings =
    let images = Generators.images 3 count 3 size

    let tensor name dtype shape (bytes: byte[]) = {
        Name = name
        DType = dtype
        Shape = shape
        Bytes = ReadOnlyMemory bytes
    }

    let tensors = [
        tensor "images" "U8" [ int64 count; 3L; int64 size; int64 size ] (ImageSet.bytes images)
        tensor "labels" "U8" [ int64 count ] (Array.map byte images.Labels)
    ]

    Safetensors.write path { Metadata = []; Tensors = tensors } |> Error.orRaise
    { small with Data = "file"; DataDir = path; Subset = 0 }

/// Trains a plan to its end without a look at the test set on the way, and classifies that: the student's weights, and
/// per cent right. `seen` is given the state at the end of each epoch.
let trainSeen (seen: TrainState -> unit) (how: TeacherOptions) (plan: TrainingPlan) (data: Splits) : Tree * float =
    let upload = Augment.upload DType.Float32 Device.Cpu data.Mean data.Std
    let train, test = upload data.Train, upload data.Test

    let rec go (state: TrainState) =
        match Plans.epochOf how plan 1000 Plans.never train state with
        | Complete state ->
            seen state
            if state.Epoch = plan.Epochs then state else go (TrainState.nextEpoch state.Best state)
        | ended -> failwith $"{ended}"

    let state = go (TrainState.start plan)
    state.Student, (LoadedModel.accuracyIn 250 plan plan.Student state.Student (OnDevice test)).Top1

/// `trainSeen` without a look at the epochs.
let train (how: TeacherOptions) (plan: TrainingPlan) (data: Splits) : Tree * float = trainSeen ignore how plan data
