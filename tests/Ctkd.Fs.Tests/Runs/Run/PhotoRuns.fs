/// Small folders of photographs, and runs on them.
module Ctkd.Fs.Tests.PhotoRuns

open System
open System.IO
open System.Security.Cryptography
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Folders
open Ctkd.Fs.Tests.PhotoFixtures

let classes = [ "rouge vif"; "zèbre"; "étoile" ]

/// Twelve images of three classes to train with, and six to test with, each of its own size.
let photos (folder: string) : string =
    let root = Path.Combine(folder, "photos")

    for part, count in [ "train", 4; "val", 2 ] do
        for label, name in List.indexed classes do
            let place = Path.Combine(root, part, name)
            Directory.CreateDirectory place |> ignore

            for i in 1..count do
                File.WriteAllBytes(Path.Combine(place, $"{i}.jpg"), jpeg (10 * label + i) (20 + 3 * i) (18 + 5 * label))

    root

/// resnet8 at 16 x 16 pixels: two epochs of three batches, the last of two images.
let settings (root: string) : Settings = {
    Runs.small with
        Data = "photos"
        DataDir = root
        Subset = 0
        Batch = 5
        Photos = { Runs.small.Photos with Size = 16; DecodeThreads = 1 }
}

/// Runs with what it said.
let said (hooks: Hooks) (out: string) (s: Settings) : Result<Summary, Error> * string list =
    let lines = ResizeArray<string>()
    let summary = Run.start { hooks with Say = lines.Add } out s
    summary, List.ofSeq lines

/// What a run leaves but the settings, which name its threads, and the share of waiting.
let left (folder: string) =
    let (last, tensors), (best, bestTensors), lines = Runs.outcome folder
    let bare (info: CheckpointInfo) = { info with Settings = Runs.small }
    (bare last, tensors), (bare best, bestTensors), lines |> List.map (fun line -> { line with Waited = None })

let info (folder: string) : CheckpointInfo = fst (Runs.contents (Path.Combine(folder, "last.safetensors")))
