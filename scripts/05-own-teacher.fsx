// A TorchSharp module of your own as the teacher. Run with: dotnet fsi scripts/05-own-teacher.fsx
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
let teacher = Model.ofLogits "my-network" 10 network.forward |> Distil.teacher
let settings = { Settings.defaults with PerClass = 20; Epochs = 2; Milestones = [ 2 ] }

Distil.run (Distil.fresh "runs/own-teacher") { Distil.defaults with Settings = settings; Teacher = Some teacher }
