module Ctkd.Fs.Tests.LoadedModelTests

open System
open System.IO
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Folders

let private student (path: string) : StoredTensor list =
    Checkpoint.read path |> Error.orRaise |> Checkpoint.studentTensors

let private hex (tree: Tree) =
    Tree.toList tree |> List.map (fun (name, x) -> name, Convert.ToHexString(Tensor.toBytes x))

let private load (path: string) : LoadedModel = LoadedModel.load ignore Device.Cpu None path |> Error.orRaise

/// resnet8 written out in PyTorch's functions over a state_dict.
let private resnet8 =
    """
import sys, torch, numpy
from torch.nn import functional as F
w = torch.load(sys.argv[1], weights_only=True)
def bn(name, x):
    p = lambda part: w[f"{name}.{part}"]
    return F.batch_norm(x, p("running_mean"), p("running_var"), p("weight"), p("bias"))
def conv(name, x, stride):
    k = w[name + ".weight"]
    return F.conv2d(x, k, stride=stride, padding=k.shape[2] // 2)
def block(name, x, stride):
    out = F.relu(bn(name + ".bn1", conv(name + ".conv1", x, stride)))
    out = bn(name + ".bn2", conv(name + ".conv2", out, 1))
    if name + ".downsample.0.weight" in w:
        x = bn(name + ".downsample.1", conv(name + ".downsample.0", x, stride))
    return F.relu(out + x)
x = torch.from_numpy(numpy.fromfile(sys.argv[2], dtype=numpy.float32)).reshape(-1, 3, 32, 32)
x = F.relu(bn("bn1", conv("conv1", x, 1)))
for stage, stride in (1, 1), (2, 2), (3, 2):
    x = block(f"layer{stage}.0", x, stride)
for value in F.linear(x.mean((2, 3)), w["fc.weight"], w["fc.bias"]).reshape(-1):
    print(value.item())
"""

let tests =
    testList "LoadedModel" [
        test "a run's folder, its checkpoint, a safetensors and a PyTorch file of it are the same model" {
            inFolder (fun folder ->
                Tensor.scoped (fun () ->
                    let checkpoint = Runs.teacher.Value

                    let safetensors, torch = Path.Combine(folder, "w.safetensors"), Path.Combine(folder, "w.pt")

                    let tensors = student checkpoint
                    Safetensors.write safetensors { Metadata = []; Tensors = tensors } |> Error.orRaise
                    TorchFile.write torch tensors |> Error.orRaise
                    let expected = load checkpoint
                    Must.hold expected.Info.IsSome

                    for path in [ string (Path.GetDirectoryName checkpoint); safetensors; torch ] do
                        let trained = load path
                        Must.equal ("resnet8", 10) (trained.Model.Name, trained.Model.Classes)
                        Must.equal (hex expected.Weights) (hex trained.Weights)
                        Must.equal (path <> safetensors && path <> torch) trained.Info.IsSome
                        Must.equal (Ok "resnet8") (LoadedModel.nameOf path)
                )
            )
        }

        test "a PyTorch file of resnet110 is loaded in less than a second" {
            inFolder (fun folder ->
                Tensor.scoped (fun () ->
                    let path = Path.Combine(folder, "w.pt")
                    let model = Zoo.find "resnet110" 100 |> Error.orRaise

                    Model.declarations model
                    |> Initialise.tree DType.Float32 Device.Cpu (Rng.ofSeed 1)
                    |> Tree.toList
                    |> List.map (fun (name, x) -> Weights.store name x)
                    |> TorchFile.write path
                    |> Error.orRaise

                    let seconds () =
                        let clock = Diagnostics.Stopwatch.StartNew()
                        Must.equal "resnet110" ((load path).Model.Name)
                        clock.Elapsed.TotalSeconds

                    Must.hold (Seq.min [ for _ in 1..3 -> seconds () ] < 1.0)
                )
            )
        }

        test "weights of another model than the user named are refused with the one that they fit" {
            inFolder (fun folder ->
                let path = Path.Combine(folder, "w.pt")
                TorchFile.write path (student Runs.teacher.Value) |> Error.orRaise
                let before = Tensor.live ()
                let error = errorOf (LoadedModel.load ignore Device.Cpu (Some "resnet14") path)
                Must.equal (Mismatch, path) (error.Kind, error.Where)
                Must.contain "do not fit model resnet14 for 10 classes" error.What
                Must.contain "these weights fit resnet8" error.Next
                Must.equal before (Tensor.live ())
                let checkpoint = errorOf (LoadedModel.load ignore Device.Cpu (Some "resnet14") Runs.teacher.Value)
                Must.contain "those of resnet8, not of resnet14" checkpoint.What
            )
        }

        test "a PyTorch file teaches as the checkpoint does, to the bit" {
            inFolder (fun folder ->
                let path = Path.Combine(folder, "w.pt")
                TorchFile.write path (student Runs.teacher.Value) |> Error.orRaise
                let settings = Runs.small |> Runs.taught "ctkd-instance"
                let own, other = Path.Combine(folder, "own"), Path.Combine(folder, "other")
                Runs.finish own settings |> ignore
                Runs.finish other { settings with TeacherWeights = path } |> ignore
                let (_, ownTensors), _, ownLines = Runs.outcome own
                let (_, otherTensors), _, otherLines = Runs.outcome other
                Must.hold (ownTensors = otherTensors)
                Must.equal ownLines otherLines
            )
        }
    ]

/// Comparisons with PyTorch itself.
let peer =
    testList "LoadedModel" [
        test "a file written here gives the same logits in PyTorch" {
            inFolder (fun folder ->
                Tensor.scoped (fun () ->
                    let path, images = Path.Combine(folder, "w.pt"), Path.Combine(folder, "images.bin")
                    TorchFile.write path (student Runs.teacher.Value) |> Error.orRaise
                    let trained = load path
                    let pixels = Golden.probe DType.Float32 "images" [ 5; 3; 32; 32 ] 2.0 0.0
                    File.WriteAllBytes(images, Tensor.toBytes pixels)
                    let ours = Model.forward trained.Model false trained.Weights pixels
                    let expected = PyTorch.run resnet8 [ path; images ] []

                    let theirs = expected.Split('\n', StringSplitOptions.RemoveEmptyEntries) |> Array.map float

                    let scale = Golden.rms theirs

                    for (theirs, ours) in Array.zip theirs (Tensor.toFloats ours.Logits) do
                        Must.lie 0.0 (1e-5 * scale) (abs (theirs - ours))
                )
            )
        }
    ]
