module Ctkd.Fs.Tests.CommandPredictTests

open System
open System.IO
open System.Text.Json.Nodes
open Microsoft.ML.OnnxRuntime
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Child
open Ctkd.Fs.Tests.Folders
open Ctkd.Fs.Tests.PhotoFixtures

let private names = [ "rot"; "très bleu" ]

/// A run on photographs of two classes, in `folder/run`, and its settings.
let private trained (folder: string) : Settings =
    for part in [ "train"; "val" ] do
        for label, name in List.indexed names do
            let place = Path.Combine(folder, "photos", part, name)
            Directory.CreateDirectory place |> ignore

            for i in 1..4 do
                File.WriteAllBytes(Path.Combine(place, $"{i}.jpg"), jpeg (20 * label + i) (30 + i) 24)

    let settings = {
        Runs.small with
            Data = "photos"
            DataDir = Path.Combine(folder, "photos")
            Subset = 0
            Batch = 4
            Photos = { Runs.small.Photos with Size = 16 }
    }

    Runs.finish (Path.Combine(folder, "run")) settings |> ignore
    settings

let tests =
    testList "CommandPredict" [
        test "the classes of images are told by their names, with the probabilities of the evaluation's logits" {
            inFolder (fun folder ->
                let settings = trained folder
                let image = "photos/val/rot/2.jpg"
                let ended = expect 0 folder $"predict {image} photos/val --weights run --json"
                let json = (JsonNode.Parse ended.Out |> nonNull).AsObject()
                let images = (nonNull json["images"]).AsArray()
                // One file, and the eight of the folder.
                Must.equal 9 images.Count

                let read (node: JsonNode | null) =
                    Json.read<Prediction> "" ((nonNull node).ToJsonString()) |> Error.orRaise

                let predictions = images |> Seq.map read |> List.ofSeq
                Must.equal image predictions.Head.Image

                for prediction in predictions do
                    Must.equal (List.sort names) (prediction.Classes |> List.map _.Class |> List.sort)
                    Must.beNear 1e-9 0.0 1.0 (prediction.Classes |> List.sumBy _.Probability)

                // The same as in evaluation: the run's test images are the folder's.
                let loaded = LoadedModel.load ignore Device.Cpu None (Path.Combine(folder, "run")) |> Error.orRaise
                let shown, labels = LoadedModel.outputs Device.Cpu settings 8 [ loaded ] |> Error.orRaise
                let struct (logits, _) = shown.Head
                Must.equal [| 0; 0; 0; 0; 1; 1; 1; 1 |] labels

                for row, prediction in List.zip (List.ofArray logits) predictions.Tail do
                    let exps = row |> Array.map exp
                    let expected = exps[0] / Array.sum exps
                    let rot = prediction.Classes |> List.find (fun c -> c.Class = "rot")
                    Must.beNear 1e-5 0.0 expected rot.Probability

                let table = expect 0 folder $"predict {image} --weights run --top 1"
                Must.contain predictions.Head.Classes.Head.Class table.Out
            )
        }

        test "an exported network that takes bytes says of a photograph what predict says" {
            inFolder (fun folder ->
                trained folder |> ignore
                expect 0 folder "export --weights run --onnx net.onnx --preprocess" |> ignore
                use session = new InferenceSession(Path.Combine(folder, "net.onnx"))
                let metadata = session.ModelMetadata.CustomMetadataMap
                Must.equal (Json.write names) metadata["classNames"]
                Must.equal "18" metadata["shortSide"]

                // Wider, higher, and sides whose rest is odd.
                for columns, rows in [ 61, 40; 33, 70; 25, 25; 40, 24 ] do
                    let path = Path.Combine(folder, "one.png")

                    let file =
                        encoded SkiaSharp.SKEncodedImageFormat.Png 100 columns rows (fun x y k -> 3 * x + 5 * y * k)

                    File.WriteAllBytes(path, file)
                    let rgb, _, _ = decode file
                    let input = Microsoft.ML.OnnxRuntime.Tensors.DenseTensor<byte>(rgb, [| 1; rows; columns; 3 |])
                    use results = session.Run [ NamedOnnxValue.CreateFromTensor(session.InputNames[0], input) ]
                    let probabilities = results |> Seq.find (fun r -> r.Name = "probabilities")
                    let found = probabilities.AsEnumerable<float32>() |> Seq.map float |> Array.ofSeq
                    let json = (expect 0 folder "predict one.png --weights run --json").Out
                    let image = (nonNull (nonNull (JsonNode.Parse json)).["images"]).[0]
                    let prediction = Json.read<Prediction> "" ((nonNull image).ToJsonString()) |> Error.orRaise

                    for i, name in List.indexed names do
                        let chance = prediction.Classes |> List.find (fun c -> c.Class = name)
                        // PIL rounds to bytes twice, the network never.
                        Must.beNear 0.01 0.0 chance.Probability found[i]
            )
        }

        test "every image below a folder is classified, and a byte order mark is no part of the first class" {
            inFolder (fun folder ->
                trained folder |> ignore
                let place = Path.Combine(folder, "photos", "test", "deep")
                Directory.CreateDirectory place |> ignore
                File.WriteAllBytes(Path.Combine(place, "1.jpg"), jpeg 3 30 24)
                File.WriteAllBytes(Path.Combine(folder, "photos", "0.jpg"), jpeg 4 30 24)
                File.WriteAllText(Path.Combine(folder, "names.txt"), "eins\nzwei\n", Text.UTF8Encoding true)
                let ended = expect 0 folder "predict photos --weights run --classes names.txt --json"
                let json = (JsonNode.Parse ended.Out |> nonNull).AsObject()

                let predictions = [
                    for node in (nonNull json["images"]).AsArray() ->
                        Json.read<Prediction> "" ((nonNull node).ToJsonString()) |> Error.orRaise
                ]

                Must.equal 18 predictions.Length
                Must.equal "photos/0.jpg" predictions.Head.Image
                Must.haveOne (fun (p: Prediction) -> p.Image = "photos/test/deep/1.jpg") predictions

                for prediction in predictions do
                    Must.equal [ "eins"; "zwei" ] (prediction.Classes |> List.map _.Class |> List.sort)
            )
        }

        test "images that cannot be read are named, the others are told, and the command fails" {
            inFolder (fun folder ->
                trained folder |> ignore
                File.WriteAllText(Path.Combine(folder, "page.jpg"), "<html>")
                let ended = expect 1 folder "predict page.jpg photos/val/rot/1.jpg missing.png --weights run --json"
                Must.contain "page.jpg cannot be read" ended.Err
                Must.contain "missing.png cannot be read" ended.Err
                let json = (JsonNode.Parse ended.Out |> nonNull).AsObject()
                let images = (nonNull json["images"]).AsArray()
                Must.equal 3 images.Count
                Must.equal 2 (Array.length ((nonNull ((nonNull images[1]).["classes"])).AsArray() |> Seq.toArray))

                let none = expect 1 folder "predict page.jpg missing.png --weights run"
                Must.contain "page.jpg cannot be read" none.Err
            )
        }

        test "what predict lacks is wrong usage with what to do" {
            inFolder (fun folder ->
                trained folder |> ignore
                File.WriteAllText(Path.Combine(folder, "names.txt"), "one\ntwo\nthree\n")

                for arguments, part in
                    [
                        "predict photos/val/rot/1.jpg", "predict needs weights"
                        "predict --weights run", "predict needs images"
                        "predict photos/val/rot/1.jpg --weights run --classes names.txt", "3 names of classes"
                        "predict photos/val/rot/1.jpg --weights run --top 0", "top"
                        "predict photos/val/rot/1.jpg --weights run --mean 0,5", "0,5"
                    ] do
                    let ended = expect 2 folder arguments
                    Must.contain part ended.Err
            )
        }
    ]
