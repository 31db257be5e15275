/// The F# programs of the documentation, which a test compares with this file. Paths are relative.
module Ctkd.Fs.Tests.Snippets

open Ctkd.Fs
open TorchSharp

/// README.
let readme () : unit =
    let digits = { Settings.defaults with PerClass = 50; Epochs = 5; Milestones = [ 4 ] }
    let labels = { Distil.defaults with Settings = { digits with Student = "resnet14" } }
    let teacher = Distil.run "runs/teacher" labels

    // resnet8, by KD under CTKD's global temperature
    let taught = {
        Distil.defaults with
            Settings = digits
            Teacher = Some(Distil.load teacher.Checkpoint)
    }

    let student = Distil.run "runs/student" taught
    printfn $"best: %.2f{student.Best.Top1} %% in epoch {student.Best.Epoch}, {student.Checkpoint}"

/// docs/guides/own-data.md.
let ownData (pixels: byte[]) (classes: byte[]) : unit =
    let tensor name (shape: int64 list) (bytes: byte[]) : StoredTensor = {
        Name = name
        DType = "U8"
        Shape = shape
        Bytes = System.ReadOnlyMemory bytes
    }

    let images, labels = tensor "images" [ 600; 1; 16; 16 ] pixels, tensor "labels" [ 600 ] classes
    let file = { Metadata = [ "classes", "10" ]; Tensors = [ images; labels ] }
    Safetensors.write "my-set.safetensors" file |> Error.orRaise

/// docs/guides/own-data.md: vertical and horizontal stripes.
let stripes () : Splits =
    let stripe (i: int) (pixel: int) = if (if i % 2 = 0 then pixel % 16 else pixel / 16) % 4 < 2 then 200uy else 50uy

    let images = Array.init 400 (fun i -> Array.init 256 (stripe i))
    let data = OwnSet.ofArrays "stripes" 16 16 images (Array.init 400 (fun i -> i % 2)) |> Error.orRaise
    data

/// docs/guides/own-model.md.
let small: Model =
    let body =
        Sequence [
            Block(Sequence [ Layer.conv "conv1" 3 1 3 16; Layer.batchNorm "bn1" 16; Relu ])
            Tap
            Block(Sequence [ Layer.conv "conv2" 3 2 16 32; Layer.batchNorm "bn2" 32; Relu ])
            Tap
            GlobalPool
        ]

    let small = Model.ofLayers "small" Starts.kaiming body (Layer.dense "fc" 32 10)
    small

/// docs/guides/own-model.md: trains it.
let ownModel () : unit =
    let settings = { Settings.defaults with PerClass = 20; Epochs = 2; Milestones = [] }
    let own = { Distil.defaults with Settings = settings; Student = Some small }
    Distil.run "runs/small" own |> ignore

/// docs/guides/own-teacher.md.
let ownTeacher () : LoadedModel =
    let layers: (string * torch.nn.Module<torch.Tensor, torch.Tensor>)[] = [|
        "conv", torch.nn.Conv2d(3L, 32L, 3L, padding = 1L)
        "relu", torch.nn.ReLU()
        "pool", torch.nn.AdaptiveAvgPool2d 2L
        "flat", torch.nn.Flatten()
        "head", torch.nn.Linear(128L, 10L)
    |]

    let network = torch.nn.Sequential layers // trained elsewhere: network.load "teacher.dat"
    let teacher = Teacher.ofModule "my-network" 10 network
    teacher

/// docs/guides/own-model.md.
let moduleStudent () : Model =
    let make () : ImageModule =
        torch.nn.Sequential(
            [|
                struct ("flat", torch.nn.Flatten() :> ImageModule)
                struct ("head", torch.nn.Linear(192L, 10L))
            |]
        )

    let network = Student.ofModule "linear" 10 make
    network

/// docs/guides/own-policy.md.
let byConfidence: Policy = {
    Scheduled.fixedAt 4.0 with
        Name = "by-confidence"
        Soften =
            fun _ teacher student ->
                let confidence = teacher |> Tensor.softmax -1 |> Tensor.maxOver -1
                let t = confidence |> Tensor.scale 4.0 |> Tensor.addNumber 2.0
                Policy.shared t teacher student
}

/// docs/guides/own-policy.md: what a policy reports of each image.
let reporting: Policy = {
    byConfidence with
        Reports =
            Some {
                Names = [ "confidence/teacher"; "confidence/student" ]
                Values =
                    fun _ teacher student -> [ teacher; student ] |> List.map (Tensor.softmax -1 >> Tensor.maxOver -1)
            }
}

/// docs/guides/own-policy.md.
let falling = Scheduled.by (Schedule.linear 8.0 1.0 5)

/// docs/guides/own-policy.md: trains with a policy, from the teacher of the README.
let ownPolicy () : unit =
    let settings = { Settings.defaults with PerClass = 20; Epochs = 2; Milestones = [] }
    let own = { Distil.defaults with Settings = settings; Policy = Some byConfidence }
    let student = Distil.run "runs/by-confidence" { own with Teacher = Some(Distil.load "runs/teacher") }
    printfn $"T from %.2f{student.Epochs.Head.SmallestT.Value} to %.2f{student.Epochs.Head.LargestT.Value}"

/// docs/rlkd.md.
let agent: Policy =
    let policy = Rlkd.policy { RlkdConfig.paper with WarmUp = 6; Every = 6 } 4.0
    policy
