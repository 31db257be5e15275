// A TorchSharp module of your own as the teacher. Run with: dotnet fsi scripts/04-own-teacher.fsx
#load "_load.fsx"

open Ctkd.Fs
open TorchSharp

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
let settings = { Settings.defaults with PerClass = 20; Epochs = 2; Milestones = [ 2 ] }
let data = Settings.loadData settings |> Error.orRaise
let student = Zoo.find "resnet8" 10 |> Error.orRaise
let plan = Settings.plan settings student (Some teacher) data Device.Cpu |> Error.orRaise
let train = Augment.upload DType.Float32 Device.Cpu data.Mean data.Std data.Train

match Train.epoch plan 10 (fun _ _ -> false) train (TrainState.start plan) with
| Complete ended -> printfn $"loss %.4f{List.last (EpochSums.means ended.Sums).Terms}"
| Stopped _
| Broke _ -> failwith "the epoch did not end well"
