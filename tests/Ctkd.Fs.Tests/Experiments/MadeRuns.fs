/// Folders of runs without training: settings, metrics and records as a run writes them.
module Ctkd.Fs.Tests.MadeRuns

open System.IO
open Ctkd.Fs

/// An epoch with a top-1; the other numbers follow from it.
let epoch (number: int) (top1: float) : EpochMetrics = {
    Epoch = number
    LearningRate = 0.05
    Loss = 1.0
    Terms = Map [ "ce", 1.0 ]
    T = Some 4.0
    SmallestT = Some 4.0
    LargestT = Some 4.0
    SpreadT = None
    GradientT = None
    SlopeT = None
    Lambda = Some 0.0
    Reported = Map.empty
    Agent = Map.empty
    TrainTop1 = 50.0
    Top1 = top1
    Top5 = min 100.0 (top1 + 10.0)
    TestLoss = 3.0 - top1 / 50.0
    ValTop1 = None
    ValLoss = None
    ImagesPerSecond = 100.0
    Seconds = 2.0
    Waited = None
    Warning = None
}

/// A run of two epochs under a fixed T.
let settings: Settings = {
    Runs.small with
        Subset = 0
        PerClass = 5
        Teacher = "resnet14"
        TeacherWeights = "/teacher/last.safetensors"
        Policy = PolicyName.Fixed
}

let session: RunSession = {
    Epoch = 1
    Ctkd = "0.1.0"
    Libtorch = "2.10.0"
    Processor = "a processor"
    Cores = 2
    Gpus = []
    Os = "Linux"
    Device = "cpu"
    Threads = 1
}

let record: RunRecord = {
    Recipe = ""
    StudentParameters = 78042L
    Teacher = Some { Top1 = 75.0; Top5 = 95.0; Loss = 1.0; Images = 1797; Hash = "1111111111" }
    DataHash = "2222222222"
    TrainImages = 50
    TestImages = 1797
    Sessions = [ session ]
}

/// Writes a run's folder; returns it.
let writeWith (record: RunRecord option) (folder: string) (s: Settings) (top1s: float list) : string =
    Directory.CreateDirectory folder |> ignore
    let file name = Path.Combine(folder, name)
    File.WriteAllText(file "settings.json", Json.writeIndented s)
    record |> Option.iter (fun record -> File.WriteAllText(file "run.json", Json.writeIndented record))

    top1s
    |> List.iteri (fun i top1 -> Metrics.append (file "metrics.jsonl") (epoch (i + 1) top1) |> Error.orRaise)

    folder

let write (folder: string) (s: Settings) (top1s: float list) : string = writeWith (Some record) folder s top1s

/// The run of a policy and a seed: its folder is named after both.
let ofPolicy (folder: string) (policy: string) (seed: int) (top1s: float list) : string =
    write (Path.Combine(folder, $"{policy}-{seed}")) { settings with Policy = Runs.policy policy; Seed = seed } top1s

/// A run of a recipe, its settings changed, with a top-1 in each of its last epochs.
let ofRecipe (folder: string) (recipe: string) (change: Settings -> Settings) (seed: int) (top1s: float list) : string =
    let recipe = Recipes.find recipe |> Error.orRaise
    let s = change { recipe.Settings with TeacherWeights = "/teacher"; Seed = seed }
    let folder = writeWith (Some { record with Recipe = recipe.Name }) folder s []

    top1s
    |> List.iteri (fun i top1 ->
        epoch (s.Epochs - top1s.Length + i + 1) top1
        |> Metrics.append (Path.Combine(folder, "metrics.jsonl"))
        |> Error.orRaise
    )

    folder

/// The runs of folders.
let read (folders: string list) : RunOutcome list = RunOutcome.readAll folders |> Error.orRaise |> fst
