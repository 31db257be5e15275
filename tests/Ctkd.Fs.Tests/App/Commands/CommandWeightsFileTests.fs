/// Files of weights that others wrote, at the command line.
module Ctkd.Fs.Tests.CommandWeightsFileTests

open System
open System.IO
open System.Text.Json.Nodes
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Child
open Ctkd.Fs.Tests.Folders
open Ctkd.Fs.Tests.SafetensorsTests

let private student: Lazy<StoredTensor list> =
    lazy (Checkpoint.read Runs.teacher.Value |> Error.orRaise |> Checkpoint.studentTensors)

/// Other weights of the same shapes: zeros.
let private other: Lazy<StoredTensor list> =
    lazy (student.Value |> List.map (fun t -> { t with Bytes = ReadOnlyMemory(Array.zeroCreate<byte> t.Bytes.Length) }))

let private json (ended: Ended) : JsonNode = JsonNode.Parse ended.Out |> nonNull
let private field (name: string) (node: JsonNode) : JsonNode = nonNull node[name]

let private write (folder: string) (name: string) (bytes: byte[]) : unit =
    File.WriteAllBytes(Path.Combine(folder, name), bytes)

let private extra = tensor "head2.weight" "F32" [ 1L; 2L ] (Array.zeroCreate 8)

let tests =
    testList "CommandWeightsFile" [
        test "commands say which of several weights they took, and #KEY chooses others" {
            inFolder (fun folder ->
                write
                    folder
                    "both.pth"
                    (TorchPickles.networks [ "state_dict_ema", other.Value; "state_dict", student.Value ] [])

                let said = expect 0 folder "eval --weights both.pth --data digits"
                Must.contain "weights taken under 'state_dict'" said.Out
                Must.contain "'state_dict_ema' (56 tensors)" said.Out
                Must.contain "both.pth#state_dict_ema" said.Out
                let top1 (flags: string) = string (expect 0 folder $"eval {flags} --json" |> json |> field "top1")
                let own = top1 $"--weights {Runs.teacher.Value}"
                Must.equal own (top1 "--weights both.pth --data digits")
                Must.differ own (top1 "--weights both.pth#state_dict_ema --data digits")
                let wrong = expect 2 folder "eval --weights both.pth#state_dictema --data digits"
                Must.contain "both.pth#state_dict_ema" wrong.Err
                let converted = expect 0 folder "convert --weights both.pth#state_dict_ema --out ema.safetensors"
                Must.contain "under 'state_dict_ema'" converted.Out
                Must.contain "both.pth#state_dict_ema" (expect 0 folder "inspect both.pth").Out
            )
        }

        test "distill takes the teacher's weights of a file with both, and says so" {
            inFolder (fun folder ->
                write folder "both.pth" (TorchPickles.networks [ "student", other.Value; "teacher", student.Value ] [])

                let flags = "--data digits --student resnet8 --subset 100 --batch 50 --epochs 1 --method kd"
                let said = expect 0 folder $"distill --weights both.pth {flags} --out a"
                Must.contain "under 'teacher'" said.Out
                let plain = expect 0 folder $"distill --weights {Runs.teacher.Value} {flags} --out b --json" |> json
                let again = expect 0 folder $"distill --weights both.pth#teacher {flags} --out c --json" |> json
                Must.equal (string (field "teacherTop1" plain)) (string (field "teacherTop1" again))
            )
        }

        test "inspect tells what a file is, what was taken and what else is there" {
            inFolder (fun folder ->
                let unread = "ctorch._utils\n_rebuild_sparse_tensor\n(NNtR"
                let options = "cargparse\nNamespace\n)\x81}Vlr\nK\001sb"

                let beside = [ "mask", unread; "opt", options; "epoch", "K\003" ]
                let networks = [ "optimizer", [ extra ]; "model", student.Value ]
                write folder "w.pth" (TorchPickles.networks networks beside)
                let said = (expect 0 folder "inspect w.pth").Out
                Must.contain "weights     under 'model'" said
                Must.contain "also there  'optimizer', 1 tensors" said
                Must.contain "not read    'mask', a sparse tensor" said
                Must.contain "inert data  'opt', argparse.Namespace" said
                let found = json (expect 0 folder "inspect w.pth --json")
                let first (name: string) = (field name found).AsArray()[0] |> nonNull
                Must.equal "optimizer" (first "others" |> field "key" |> string)
                Must.equal "mask" (first "skipped" |> field "name" |> string)
                Must.equal "argparse.Namespace" (first "objects" |> field "class" |> string)
            )
        }

        test "inspect lists each tensor that is not read once, by its whole key" {
            inFolder (fun folder ->
                let sparse = "ctorch._utils\n_rebuild_sparse_tensor\n(NNtR"
                let beside name = TorchPickles.dictionary [ name, sparse ]
                let model = [ "model", student.Value ]
                write folder "w.pth" (TorchPickles.networks model [ "mask", sparse; "buffers", beside "xmask" ])

                let names flags =
                    (expect 0 folder $"inspect {flags} --json" |> json |> field "skipped").AsArray()
                    |> Seq.map (fun row -> string (field "name" (nonNull row)))
                    |> List.ofSeq

                Must.equal [ "mask"; "buffers.xmask" ] (names "w.pth")

                // One of the weights' own group, and one whose name ends so.
                let weights = TorchPickles.dictionary [ "mask", sparse; "a", TorchPickles.one ]
                let file = TorchPickles.dictionary [ "model", weights; "buffers", beside "xmask" ]
                write folder "own.pth" (TorchPickles.zipFile file [ "0", [| 1uy |] ])
                Must.equal [ "mask"; "buffers.xmask" ] (names "own.pth")
                Must.equal [ "mask"; "buffers.xmask" ] (names "own.pth#model")
            )
        }

        test "every advice on a file in an archive names the archive and the file, and works" {
            inFolder (fun folder ->
                let both = TorchPickles.networks [ "teacher", other.Value; "student", student.Value ] []
                let evil = TorchPickles.zipFile "cos\nsystem\n(Vls\ntR" []
                let nothing = TorchPickles.zipFile "}Vepoch\nK\001s" []

                let files = [
                    "d/a.pth", both
                    "d/evil.pth", evil
                    "d/none.pth", nothing
                    "d/x.pth", TorchPickles.latin "\x80\003}."
                ]

                write folder "t.tar" (ArchiveFiles.tarOf files)
                let archive = Path.Combine(folder, "t.tar")

                /// The path behind a text.
                let advised (before: string) (text: string) =
                    let start = text.IndexOf(before, StringComparison.Ordinal) + before.Length
                    Must.contain before text
                    text.Substring(start).Split([| ' '; '\n'; ','; ')' |])[0]

                let works (advice: string) = expect 0 folder $"inspect {advice}" |> ignore

                // From any folder.
                let inspect code path = expect code "/" $"inspect {path}"
                let also = (inspect 0 $"{archive}:d/a.pth").Out
                works (advised "'teacher', 56 tensors: " also)
                let wrong = (inspect 2 $"{archive}:d/a.pth#techer").Err
                Must.contain "'a.pth' has no 'techer'" wrong
                works (advised "such as " wrong)
                works (advised "read one of them: " (inspect 2 $"{archive}:d/b.pth").Err)
                let convert = expect 0 folder $"convert --weights {archive}:d/a.pth --out a.pt"
                works (advised "choose with " convert.Out)

                // Python's code is for the file itself, unpacked.
                for name, code in
                    [ "evil", "torch.load('evil.pth'"; "none", "torch.load('none.pth'"; "x", "open('x.pth'" ] do
                    for key in [ ""; "#model" ] do
                        let said = (inspect 1 $"{archive}:d/{name}.pth{key}").Err

                        if not (name = "none" && key <> "") then
                            Must.contain code said
                            Must.contain $"unpack '{name}.pth' from 't.tar'; " said
            )
        }

        test "convert says that the new file cannot be written before it reads the weights, and bounds the classes" {
            inFolder (fun folder ->
                write folder "w.pt" "no weights"B
                let error = (expect 1 folder "convert --weights w.pt --out none/a.pt").Err
                Must.contain "there is no folder" error
                write folder "w.pt" (TorchFile.encode student.Value)

                let classes count =
                    $"convert --weights w.pt --out a.pt --model resnet8 --fresh-classifier --classes {count}"

                for wrong in [ 2_000_000_000; 1_000_001; 1 ] do
                    Must.contain "2 to 1000000 classes" (expect 2 folder (classes wrong)).Err

                expect 0 folder (classes 2) |> ignore
            )
        }

        test "an archive is listed, and one of its files is read wherever weights are" {
            inFolder (fun folder ->
                let good, bad = TorchFile.encode student.Value, TorchFile.encode other.Value
                write folder "t.tar" (ArchiveFiles.tarOf [ "t/bad.pth", bad; "t/good.pth", good ])
                let listed = expect 0 folder "inspect t.tar"
                Must.contain "t/good.pth" listed.Out
                Must.contain "t.tar:FILE" listed.Out
                let files = (expect 0 folder "inspect t.tar --json" |> json |> field "files").AsArray()
                Must.equal 2 files.Count
                Must.contain "t.tar:t/bad.pth" (expect 1 folder "eval --weights t.tar --data digits").Err
                expect 0 folder "eval --weights t.tar:t/good.pth --data digits" |> ignore
                expect 0 folder "convert --weights t.tar:t/good.pth --out a.pt" |> ignore
                expect 0 folder "export --weights t.tar:t/good.pth --onnx a.onnx" |> ignore
                Must.contain "t.tar:t/good.pth" (expect 0 folder "inspect t.tar:t/good.pth").Out

                let flags = "--student resnet8 --subset 100 --batch 50 --epochs 1"
                expect 0 folder $"distill --weights t.tar:t/good.pth {flags} --out run" |> ignore
            )
        }

        test "--ignore-extra leaves an extra head aside in every command, and a run with it resumes" {
            inFolder (fun folder ->
                write folder "w.pt" (TorchFile.encode (student.Value @ [ extra ]))

                for command in [ "eval --data digits"; "convert --model resnet8 --out a.pt"; "export --onnx a.onnx" ] do
                    Must.contain "--ignore-extra" (expect 1 folder $"{command} --weights w.pt").Err
                    let said = expect 0 folder $"{command} --weights w.pt --ignore-extra"
                    Must.contain "left aside: 1 tensors that resnet8 lacks: head2.weight" said.Out

                let flags = "--weights w.pt --student resnet8 --subset 100 --batch 50 --epochs 1"
                Must.contain "--ignore-extra" (expect 1 folder $"distill {flags} --out none").Err
                let said = expect 0 folder $"distill {flags} --ignore-extra --out run"
                Must.contain "head2.weight" said.Out
                expect 0 folder "distill --resume run" |> ignore
            )
        }

        test "--fresh-classifier starts a new classifier in convert, and a teacher must be trained" {
            inFolder (fun folder ->
                let body = student.Value |> List.filter (fun t -> not (t.Name.StartsWith "fc."))
                write folder "body.pt" (TorchFile.encode body)
                let convert flags = $"convert --weights body.pt --out a.safetensors {flags}"
                Must.contain "--fresh-classifier" (expect 1 folder (convert "--model resnet8")).Err
                Must.contain "name it with --model" (expect 2 folder (convert "--fresh-classifier")).Err
                Must.contain "add --fresh-classifier" (expect 2 folder (convert "--model resnet8 --classes 7")).Err
                let said = expect 0 folder (convert "--model resnet8 --fresh-classifier --classes 7 --seed 3")
                Must.contain "new from the seed 3, and to be trained: fc.weight, fc.bias" said.Out
                Must.contain "resnet8, 7 classes" (expect 0 folder "inspect a.safetensors").Out
                let refused = expect 2 folder "distill --weights body.pt --student resnet8 --fresh-classifier"
                Must.contain "teaches nothing" refused.Err
            )
        }
    ]
