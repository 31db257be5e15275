/// The command `export`.
module Ctkd.Fs.Tests.ExportTests

open System.IO
open System.Text.Json.Nodes
open Expecto
open Ctkd.Fs.Tests.Child
open Ctkd.Fs.Tests.Folders
open Ctkd.Onnx

let tests =
    testList "Export" [
        test "export writes a network that fits the training data and knows its normalisation" {
            inFolder (fun folder ->
                let path = Path.Combine(folder, "a.onnx")
                let plain = expect 0 folder $"export --weights {Runs.teacher.Value} --onnx a.onnx"
                Must.matchRegex @"^model +parameters +input +opset +bytes +batch norm\nresnet8 +\d" plain.Out
                Must.contain "[batch, 3, " plain.Out
                Must.contain $"written    {path}\n" plain.Out
                let file = ModelProto.Parser.ParseFrom(File.ReadAllBytes path)
                let facts = Map [ for entry in file.MetadataProps -> entry.Key, entry.Value ]
                Must.equal ("10", "0.3078,0.3078,0.3078") (facts["classes"], facts["mean"])

                let flags = "--fold-batch-norm --opset 19 --size 32 --normalise --mean 0.1 0.2 0.3 --std 1 2 3 --json"

                let ended = expect 0 folder $"export --weights {Runs.teacher.Value} --onnx a.onnx {flags}"
                let json = JsonNode.Parse ended.Out |> nonNull
                let field (name: string) : string = string json[name]
                Must.equal (path, "resnet8", "19") (field "path", field "model", field "opset")
                Must.equal ("[batch, 3, 32, 32]", "true") (field "input", field "batchNormFolded")
                Must.equal (string (FileInfo(path).Length)) (field "bytes")
                let file = ModelProto.Parser.ParseFrom(File.ReadAllBytes path)
                Must.equal 19L ((Must.single file.OpsetImport).Version)
                Must.equal "Sub" (file.Graph.Node[0].OpType)
                file.Graph.Node |> Must.haveNone (fun node -> node.OpType = "BatchNormalization")
            )
        }

        test "export says what is wrong and writes nothing" {
            inFolder (fun folder ->
                let weights = $"export --weights {Runs.teacher.Value} --onnx a.onnx"

                for code, arguments, what in
                    [
                        2, $"{weights} --opset 16", "opset must be from 17 to 21, got 16"
                        2, $"{weights} --mean 0.5 0.5 0.5", "mean and std must be given together"
                        1, $"{weights} --model resnet14", "are those of resnet8, not of resnet14"
                    ] do
                    let ended = expect code folder arguments
                    Must.equal "" ended.Out
                    Must.contain what ended.Err
                    Must.contain "\n  next: " ended.Err

                Must.beEmpty (Directory.GetFileSystemEntries folder)
            )
        }
    ]
