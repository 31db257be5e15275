/// The F# programs of the documentation, which a test compares with this file. Paths are relative.
module Ctkd.Fs.Tests.Snippets

open Ctkd.Fs
open TorchSharp

/// README.
let readme () : unit =
    let run folder settings = Run.start Hooks.none folder settings |> Error.orRaise
    let epochs n (s: Settings) = { s with Epochs = n; Milestones = Settings.milestones n }

    let digits = { Settings.defaults with PerClass = 100; Student = "resnet8" }
    let teacher = { digits with Student = "resnet14" } |> epochs 5 |> run "runs/teacher"

    let taught = { digits with Teacher = "resnet14"; TeacherWeights = teacher.Checkpoint }
    let student = taught |> epochs 6 |> run "runs/student" // under CTKD's global temperature

    for epoch in student.Epochs do
        printfn $"{epoch.Epoch}: T %.2f{epoch.T.Value}, %.2f{epoch.Top1} %%"

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

/// docs/guides/own-model.md.
let small (classes: int) : Model = {
    Name = "small"
    Classes = classes
    Body =
        Sequence [
            Block(Sequence [ Layer.conv "conv1" 3 1 3 16; Layer.batchNorm "bn1" 16; Relu ])
            Tap
            Block(Sequence [ Layer.conv "conv2" 3 2 16 32; Layer.batchNorm "bn2" 32; Relu ])
            Tap
            GlobalPool
        ]
    Classifier = Layer.dense "fc" 32 classes
    Dropout = 0.0
    Starts = Starts.kaiming
}

/// docs/guides/own-teacher.md.
let ownTeacher () : Model * Tree =
    let layers: (string * torch.nn.Module<torch.Tensor, torch.Tensor>)[] = [|
        "conv", torch.nn.Conv2d(3L, 32L, 3L, padding = 1L)
        "relu", torch.nn.ReLU()
        "pool", torch.nn.AdaptiveAvgPool2d 2L
        "flat", torch.nn.Flatten()
        "head", torch.nn.Linear(128L, 10L)
    |]

    let network = torch.nn.Sequential layers // trained elsewhere: network.load "teacher.dat"
    network.eval ()
    let teacher = Model.ofLogits "my-network" 10 network.forward
    teacher

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

/// docs/guides/own-policy.md.
let falling = Scheduled.by (Schedule.linear 8.0 1.0 5)

/// docs/guides/own-policy.md: trains with a policy, from the teacher of the README.
let ownPolicy () : unit =
    let settings = { Settings.defaults with PerClass = 20 }
    let data = Settings.loadData settings |> Error.orRaise
    let student = Zoo.find "resnet8" data.Train.Classes |> Error.orRaise
    let teacher = LoadedModel.load Device.Cpu None "runs/teacher" |> Error.orRaise
    let pair = Some(teacher.Model, teacher.Weights)
    let plan = Settings.plan settings student pair data Device.Cpu |> Error.orRaise
    let distillation = plan.Distillation |> Option.map (fun d -> { d with Policy = byConfidence })
    let ready = TrainingPlan.prepareTeacher { plan with Distillation = distillation }

    let images = Augment.upload DType.Float32 Device.Cpu data.Mean data.Std data.Train
    let trainer = { Plan = ready; Teacher = TeacherOutputs.simple; Images = images }

    match Train.epoch trainer (Train.fromHost trainer) 50 (fun _ _ -> false) (TrainState.start ready) with
    | Complete state -> printfn $"mean T %.2f{(EpochSums.means state.Sums).T}"
    | Stopped _ -> printfn "stopped, as the last function asked"
    | Broke(step, term) -> printfn $"{term} was not finite in step {step}"
