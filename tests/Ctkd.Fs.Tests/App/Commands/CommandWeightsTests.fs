module Ctkd.Fs.Tests.CommandWeightsTests

open System
open System.IO
open System.Text.Json.Nodes
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Child
open Ctkd.Fs.Tests.Folders

let private json (ended: Ended) : JsonNode = JsonNode.Parse ended.Out |> nonNull
let private field (node: JsonNode) (name: string) : JsonNode = nonNull node[name]
let private text (node: JsonNode) (name: string) : string = string node[name]

let private bytes (folder: string) (name: string) : string =
    Convert.ToHexString(File.ReadAllBytes(Path.Combine(folder, name)))

let tests =
    testList "CommandWeights" [
        test "convert goes to PyTorch and back, and what comes back is the same to the bit" {
            inFolder (fun folder ->
                let convert input output = expect 0 folder $"convert --weights {input} --out {output}"
                let said = convert Runs.teacher.Value "a.safetensors"
                Must.contain "checkpoint of ctkd" said.Out
                Must.contain "56 tensors, resnet8, 10 classes" said.Out
                convert "a.safetensors" "b.pt" |> ignore
                convert "b.pt" "c.safetensors" |> ignore
                convert "c.safetensors" "d.th" |> ignore
                Must.equal (bytes folder "a.safetensors") (bytes folder "c.safetensors")
                Must.equal (bytes folder "b.pt") (bytes folder "d.th")
                let file = Safetensors.read (Path.Combine(folder, "a.safetensors")) |> Error.orRaise

                Must.equal [ "format", "pt"; "model", "resnet8"; "classes", "10" ] file.Metadata
            )
        }

        test "what convert refuses leaves no file" {
            inFolder (fun folder ->
                let refused (arguments: string) (code: int) (message: string) =
                    Must.contain message ((expect code folder $"convert {arguments}").Err)

                refused "" 2 "convert needs two files"

                refused
                    $"--weights {Runs.teacher.Value} --out x.bin"
                    2
                    "the ending '.bin' of the new file tells no format"

                refused $"--weights {Runs.teacher.Value} --out x.pt --format onnx" 2 "unknown format 'onnx'"
                refused "--weights none.pt --out x.pt" 1 "there is no such file"

                refused $"--weights {Runs.teacher.Value} --out x.pt --model resnet20" 1 "do not fit model resnet20"

                refused $"--weights {Runs.teacher.Value} --out no/x.pt" 1 "x.pt"
                File.WriteAllText(Path.Combine(folder, "page.pt"), "<!DOCTYPE html>")
                refused "--weights page.pt --out x.pt" 1 "is a web page"

                Must.equal
                    [| "page.pt" |]
                    (Directory.GetFileSystemEntries folder |> Array.map (fun p -> string (Path.GetFileName p)))
            )
        }

        test "convert and export refuse to replace what they read, and neither reads nor replaces a pipe" {
            inFolder (fun folder ->
                let run = Path.Combine(folder, "run")
                Directory.CreateDirectory run |> ignore
                let last = Path.Combine(run, "last.safetensors")
                File.Copy(Runs.teacher.Value, last)
                let before = File.ReadAllBytes last

                for arguments in
                    [
                        $"convert --weights {run} --out {last}"
                        $"export --weights {run} --onnx run/../run/last.safetensors"
                    ] do
                    Must.contain "this would replace the weights that are read" ((expect 2 folder arguments).Err)

                Must.equal before (File.ReadAllBytes last)
                runCommand folder [] [ "mkfifo"; "pipe" ] |> ignore

                for arguments, what in
                    [
                        "inspect pipe", "it is a pipe or a device, and no file"
                        "teach --data file --data-dir pipe", "it is a pipe or a device, and no file"
                        $"export --weights {run} --onnx pipe", "cannot be written: it is a pipe or a device"
                        $"convert --weights {run} --out pipe --format safetensors",
                        "cannot be written: it is a pipe or a device"
                    ] do
                    let ended = ctkd folder arguments
                    Must.notHold (ended.Code = 0)
                    Must.contain what ended.Err

                // What a link leads to is replaced, and the link stays.
                File.WriteAllText(Path.Combine(folder, "real.onnx"), "older")
                File.CreateSymbolicLink(Path.Combine(folder, "link.onnx"), Path.Combine(folder, "real.onnx")) |> ignore
                expect 0 folder $"export --weights {run} --onnx link.onnx" |> ignore
                Must.hold (FileInfo(Path.Combine(folder, "real.onnx")).Length > 1000L)
                Must.differ null (FileInfo(Path.Combine(folder, "link.onnx")).LinkTarget)
            )
        }

        test "inspect says what a file holds and which model it fits" {
            inFolder (fun folder ->
                let checkpoint = json (expect 0 folder $"inspect {Runs.teacher.Value} --json")
                Must.equal "checkpoint of ctkd (safetensors)" (text checkpoint "format")
                Must.equal "resnet8" (field checkpoint "fits" |> fun fits -> string (fits.AsArray()[0]))
                Must.equal "10" (text checkpoint "classes")
                Must.equal "4" (text (field checkpoint "metadata") "epochs done")
                Must.equal 56 ((nonNull checkpoint["tensors"]).AsArray().Count)

                expect 0 folder $"convert --weights {Runs.teacher.Value} --out w.pt" |> ignore
                let printed = expect 0 folder "inspect w.pt"
                Must.contain "PyTorch (zip)" printed.Out
                Must.contain "fits        resnet8, 10 classes" printed.Out
                Must.matchRegex @"layer3\.0\.downsample\.0\.weight +F32 +64 x 32 x 1 x 1" printed.Out
                Must.contain "give one: ctkd inspect FILE" ((expect 2 folder "inspect").Err)
            )
        }

        test "eval takes a PyTorch file and asks for its data" {
            inFolder (fun folder ->
                expect 0 folder $"convert --weights {Runs.teacher.Value} --out w.pt" |> ignore
                Must.contain "name the data set with --data" ((expect 2 folder "eval --weights w.pt").Err)
                let own = json (expect 0 folder $"eval --weights {Runs.teacher.Value} --json")
                let other = json (expect 0 folder "eval --weights w.pt --data digits --json")
                Must.equal (own.ToJsonString()) (other.ToJsonString())
            )
        }

        test "eval beside a teacher says how often both agree and how far apart they are" {
            inFolder (fun folder ->
                let weights = Runs.teacher.Value
                let alone = json (expect 0 folder $"eval --weights {weights} --json")
                Must.beNull alone["agreement"]
                Must.beNull alone["teacherKl"]
                Must.lie 0.0 100.0 (float (text alone "ece"))
                let same = $"eval --weights {weights} --teacher-weights {weights} --teacher resnet8"
                let beside = json (expect 0 folder $"{same} --json")
                Must.equal ("100", "0") (text beside "agreement", text beside "teacherKl")
                Must.equal ("resnet8", text alone "nll") (text beside "teacher", text beside "nll")
                Must.matchRegex @"ece % +agreement % +kl to teacher\n" ((expect 0 folder same).Out)
                let error = expect 2 folder $"eval --weights {weights} --teacher resnet8"
                Must.contain "--teacher-weights FILE" error.Err
            )
        }
    ]
