module Ctkd.Fs.Tests.TorchAgreementTests

open System
open System.IO
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Folders
open Ctkd.Fs.Tests.SafetensorsTests
open Ctkd.Fs.Tests.TorchPickles

/// Prints a line per tensor: name, type, shape, bytes.
let private describing =
    """
import sys, torch, collections
names = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
         torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
         torch.uint8: "U8", torch.bool: "BOOL"}
def raw(x):
    x = x.detach().contiguous().reshape(-1)
    return (x.view(torch.int16) if x.dtype == torch.bfloat16 else x).numpy().tobytes().hex()
def tell(tensors):
    for name, x in tensors.items():
        print(name, names[x.dtype], ",".join(map(str, x.shape)) or "-", raw(x) or "-")
"""

let private saving =
    describing
    + """
torch.manual_seed(1)
tensors = collections.OrderedDict()
for dtype, name in names.items():
    tensors["any." + name] = (torch.randn(3, 4) * 50).to(dtype)
tensors["scalar"] = torch.tensor(3.5)
tensors["empty"] = torch.zeros(0, 4)
tensors["special"] = torch.tensor([float("nan"), float("inf"), -0.0, 1e-45])
tensors["transposed"] = torch.randn(4, 5).t()
tensors["sliced"] = torch.arange(40)[3:30:4]
tensors["expanded"] = torch.randn(1, 3).expand(4, 3)
tensors["innermost"] = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
tensors["shared"] = torch.randn(6)
tensors["sharedToo"] = tensors["shared"][1:].view(5, 1)
tensors["parameter"] = torch.nn.Parameter(torch.randn(3, 2).t())
layer = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
layer(torch.randn(2, 3, 5, 5)).sum().backward()
optimizer.step()
import numpy
checkpoint = {
    "epoch": 240, "best_acc": 0.725, "acc": numpy.float64(1.25), "arch": "resnet20",
    "net": tensors, "optimizer": optimizer.state_dict(), "half": torch.float16, "device": torch.device("cpu"),
    "scheduler": torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 3]).state_dict(),
    "size": torch.Size([2, 3])}
for zipped in (True, False):
    def save(x, name):
        torch.save(x, f"{sys.argv[1]}/{name}-{zipped}", _use_new_zipfile_serialization=zipped)
    save(tensors, "plain")
    save(checkpoint, "checkpoint")
    save(collections.OrderedDict(("module." + k, v) for k, v in tensors.items()), "parallel")
    save(layer.state_dict(), "layer")
    save(layer, "whole")
tell(tensors)
print("layer")
tell(layer.state_dict())
"""

let private tensorOf (line: string) : StoredTensor =
    match line.Split ' ' with
    | [| name; dtype; shape; bytes |] ->
        let shape = if shape = "-" then [] else shape.Split ',' |> Array.map int64 |> List.ofArray
        tensor name dtype shape (if bytes = "-" then [||] else Convert.FromHexString bytes)
    | _ -> failwith $"not a line of the script: {line}"

let private lines (output: string) : string list =
    output.Split('\n', StringSplitOptions.RemoveEmptyEntries) |> List.ofArray

let private same (expected: StoredTensor list) (actual: StoredTensor list) : unit =
    Must.equal (plainTensors expected) (plainTensors actual)

let private loading =
    describing
    + """
for options in ({}, {"weights_only": True}):
    tensors = torch.load(sys.argv[1], **options)
    assert type(tensors) is collections.OrderedDict
    tell(tensors)
"""

let peer =
    testList "TorchAgreement" [
        test "files of PyTorch in both formats give the same bytes, wrapped or not" {
            inFolder (fun folder ->
                let output = PyTorch.run saving [ folder ] [] |> lines
                let place = List.findIndex ((=) "layer") output
                let tensors = output |> List.take place |> List.map tensorOf
                let layer = output |> List.skip (place + 1) |> List.map tensorOf
                let path name = Path.Combine(folder, name)
                let read name = WeightsFile.read (path name) |> Error.orRaise

                for zipped in [ "True"; "False" ] do
                    same tensors (read $"plain-{zipped}").Found.Tensors
                    same tensors (read $"parallel-{zipped}").Found.Tensors
                    same layer (read $"layer-{zipped}").Found.Tensors
                    let checkpoint = read $"checkpoint-{zipped}"
                    same tensors checkpoint.Found.Tensors
                    Must.equal "under 'net'" (StateDict.describe checkpoint.Found)

                    Must.equal
                        [
                            "epoch", "240"
                            "best_acc", "0.725"
                            "acc", "1.25"
                            "arch", "resnet20"
                            "half", "torch.float16"
                            "device", "cpu"
                        ]
                        checkpoint.Metadata

                    let momentum = at [ "optimizer"; "state"; "0"; "momentum_buffer" ] checkpoint.Root
                    Must.hold momentum.IsTensor
                    let milestones = at [ "scheduler"; "milestones" ] checkpoint.Root |> TorchEntry.values
                    Must.equal [ "2", "1"; "3", "1" ] milestones

                    let whole = read $"whole-{zipped}"
                    same layer whole.Found.Tensors
                    Must.equal "torch.nn.modules.container.Sequential" whole.Found.Of
            )
        }

        test "PyTorch reads what is written here, also when it allows weights only" {
            let dtypes =
                [ "F64"; "F32"; "F16"; "BF16"; "I64"; "I32"; "I16"; "I8"; "U8"; "BOOL" ]
                |> List.map (fun dtype ->
                    let size = itemSizes[dtype]
                    let value i = if dtype = "BOOL" then byte (i % 2) else byte (i * 37)
                    tensor $"any.{dtype}" dtype [ 2L; 3L; 1L ] (Array.init (6 * size) value)
                )

            let written =
                dtypes
                @ [
                    tensor "scalar" "F32" [] [| 0uy; 0uy; 0xC0uy; 0x7Fuy |]
                    tensor "none" "F32" [ 0L; 4L ] [||]
                    tensor "wide" "U8" [ 0L; 5_000_000_000L ] [||]
                    tensor "é漢" "U8" [ 1L ] [| 1uy |]
                ]

            inFolder (fun folder ->
                let path = Path.Combine(folder, "x.pt")
                TorchFile.write path written |> Error.orRaise
                let read = PyTorch.run loading [ path ] [] |> lines |> List.map tensorOf
                same (written @ written) read
            )
        }
    ]
