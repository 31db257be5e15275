/// Exported networks that take decoded images by themselves.
module Ctkd.Fs.Tests.OnnxPreprocessTests

open System.IO
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Child
open Ctkd.Fs.Tests.Folders
open Ctkd.Onnx
open Microsoft.ML.OnnxRuntime
open Microsoft.ML.OnnxRuntime.Tensors

let private scale = [ 0.5; 0.4; 0.3 ], [ 0.2; 0.25; 0.3 ]

let private pixels (count: int) (height: int) (width: int) : byte[] =
    Rng.uniforms 0.5 (count * height * width * 3) (Rng.ofSeed 6) |> Array.map (fun x -> byte (255.0 * (x + 0.5)))

/// What the network says of bytes: probabilities and logits.
let private run (file: byte[]) (count: int) (height: int) (width: int) (bytes: byte[]) : float[] * float[] =
    use session = new InferenceSession(file)
    let input = DenseTensor<byte>(bytes, [| count; height; width; 3 |])
    use outputs = session.Run [| NamedOnnxValue.CreateFromTensor("images", input) |]
    let values = [ for output in outputs -> output.Name, output.AsTensor<float32>() |> Seq.map float |> Array.ofSeq ]
    Must.equal [ "probabilities"; "logits" ] (List.map fst values)
    snd values[0], snd values[1]

let private facts (file: byte[]) : Map<string, string> =
    Map [ for entry in ModelProto.Parser.ParseFrom(file).MetadataProps -> entry.Key, entry.Value ]

let tests =
    testList "OnnxPreprocess" [
        test "bytes of any size are resized, scaled and normalised in the graph as by the library" {
            Tensor.scoped (fun () ->
                let model = Zoo.find "resnet8" 10 |> Error.orRaise
                let weights = Calibrated.weights DType.Float32 16 model
                let constant (values: float list) = Tensor.ofFloats DType.Float32 [ 1; 3; 1; 1 ] (Array.ofList values)

                for opset, sizes in [ 17, [ 16, 16 ]; 18, [ 16, 16; 37, 24; 9, 50 ]; 21, [ 30, 31 ] ] do
                    let options = { OnnxOptions.forSize 16 with Opset = opset; Images = OnnxImages.Bytes scale }

                    let file = Onnx.encode options model weights |> Error.orRaise

                    for height, width in sizes do
                        let bytes = pixels 2 height width
                        let probabilities, logits = run file 2 height width bytes

                        let images =
                            Tensor.ofFloats DType.Float32 [ 2; height; width; 3 ] (Array.map float bytes)
                            |> Tensor.permute [| 0L; 3L; 1L; 2L |]
                            |> Tensor.scale (1.0 / 255.0)

                        let sized = if (height, width) = (16, 16) then images else Tensor.resizeImage 16 16 images
                        let seen = (sized - constant (fst scale)) / constant (snd scale)
                        let expected = (Autograd.noGrad (fun () -> Model.forward model false weights seen)).Logits
                        Must.beClose 1e-3 1e-3 (Tensor.toFloats expected) logits
                        Must.beClose 1e-3 1e-4 (Tensor.softmax 1 expected |> Tensor.toFloats) probabilities
            )
        }

        test "class names, normalisation and sizes are in the file's metadata, whatever the names hold" {
            Tensor.scoped (fun () ->
                let model = Zoo.find "resnet8" 3 |> Error.orRaise
                let weights = Calibrated.weights DType.Float32 16 model
                let names = [ "a, b"; "c \"d\""; "e\u00e9" ]

                let options = {
                    OnnxOptions.forSize 16 with
                        Images = OnnxImages.Bytes scale
                        ClassNames = names
                        ShortSide = 20
                }

                let facts = Onnx.encode options model weights |> Error.orRaise |> facts
                Must.equal names (Json.read<string list> "" facts["classNames"] |> Error.orRaise)
                Must.equal ("0.5,0.4,0.3", "0.2,0.25,0.3") (facts["mean"], facts["std"])
                Must.equal ("16", "16", "20") (facts["height"], facts["width"], facts["shortSide"])
                let few = { options with ClassNames = [ "one" ] }
                Must.contain "1 are named" (Onnx.encode few model weights |> errorOf).What
            )
        }

        test "the command writes a network for bytes, with the data's class names" {
            inFolder (fun folder ->
                let ended = expect 0 folder $"export --weights {Runs.teacher.Value} --onnx a.onnx --preprocess"
                Must.contain "[batch, height, width, 3]" ended.Out
                let file = File.ReadAllBytes(Path.Combine(folder, "a.onnx"))
                let facts = facts file
                let names = Json.read<string list> "" facts["classNames"] |> Error.orRaise
                Must.equal [ for digit in 0..9 -> string digit ] names
                let probabilities, _ = run file 1 40 30 (pixels 1 40 30)
                Must.beNear 1e-4 1e-4 1.0 (Array.sum probabilities)
            )
        }
    ]
