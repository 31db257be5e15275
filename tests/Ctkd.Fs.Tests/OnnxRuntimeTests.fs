namespace Ctkd.Fs.Tests

open System
open System.IO
open Ctkd.Fs
open Ctkd.Fs.Tests.Golden
open Ctkd.Fs.Tests.OnnxRuntime
open Ctkd.Onnx
open Google.Protobuf
open Xunit
open Xunit.Abstractions

/// What both sides are asked: every network once for all tests, because node and ONNX Runtime start slowly.
module OnnxCases =
    let zoo (name: string) : Model = Zoo.find name 10 |> Error.orRaise

    let encode (options: OnnxOptions) (model: Model) (weights: Tree) : byte[] =
        Onnx.encode options model weights |> Error.orRaise

    /// A network, how it is exported and the numbers of images that it is given.
    [<NoComparison; NoEquality>]
    type Case = { Key: string; Model: Model; Options: OnnxOptions; Batches: int list }

    let private case (kind: string) (name: string) (batches: int list) (options: OnnxOptions) : Case = {
        Key = $"{kind}-{name.Replace('/', '-')}"
        Model = zoo name
        Options = options
        Batches = batches
    }

    let cifar: string list = Zoo.models |> List.filter (fun m -> m.Size = 32) |> List.map _.Name

    /// The smallest of each family.
    let imageNet: string list = [
        "imagenet/ResNet18"
        "imagenet/MobileNetV1"
        "imagenet-ctkd/MobileNetV2_Imagenet"
        "imagenet-ctkd/shufflenet_v2_x0_5"
    ]

    let opsets: int list = [ 17..21 ]
    let mean, std = [ 0.5; 0.25; -0.5 ], [ 0.25; 2.0; 0.5 ]

    let cases: Case list =
        let plain = OnnxOptions.forSize 32

        [
            for name in cifar do
                case "plain" name [ 1; 7 ] plain
                case "folded" name [ 1; 7 ] { plain with FoldBatchNorm = true }
            for name in imageNet do
                case "plain" name [ 2 ] (OnnxOptions.forSize 64)
            for opset in opsets do
                case $"opset{opset}" "ShuffleV1" [ 2 ] { plain with Opset = opset }
            case "oblong" "ShuffleV2" [ 2 ] { plain with Height = 24; Width = 40 }
            case "features" "MobileNetV2" [ 2 ] { plain with Features = true }
            case "pixels" "resnet8" [ 2 ] { plain with Images = OnnxImages.Pixels(mean, std) }
        ]

    let private images (case: Case) (batch: int) : Tensor =
        Calibrated.images DType.Float32 case.Key batch case.Options.Height case.Options.Width

    let private key (case: Case) (batch: int) (output: string) =
        case.Key, $"{batch}x{case.Options.Height}x{case.Options.Width}", output

    let private ours (case: Case) (weights: Tree) (batch: int) =
        Tensor.scoped (fun () ->
            let images = images case batch

            let images =
                match case.Options.Images with
                | OnnxImages.Pixels(mean, std) ->
                    let constant values = Tensor.ofFloats DType.Float32 [ 3; 1; 1 ] (Array.ofList values)
                    (images - constant mean) / constant std
                | _ -> images

            let outputs = Autograd.noGrad (fun () -> Model.forward case.Model false weights images)

            [
                key case batch "logits", Tensor.toFloats outputs.Logits
                if case.Options.Features then
                    for i, feature in Seq.indexed outputs.Features do
                        key case batch $"feature.{i}", Tensor.toFloats feature
            ]
        )

    /// Our output, and its largest difference to ONNX Runtime's as a share of the rms of ours.
    type Compared = { Ours: float[]; Difference: float }

    /// Every output, by the keys of `OnnxRuntime.ask`.
    let compared: Lazy<Map<string * string * string, Compared>> =
        lazy
            (let expected = ResizeArray()

             let question (case: Case) : Question =
                 Tensor.scoped (fun () ->
                     let weights = Calibrated.weights DType.Float32 case.Options.Height case.Model
                     case.Batches |> List.iter (ours case weights >> expected.AddRange)

                     { Name = case.Key; File = encode case.Options case.Model weights; Images = [] }
                 )

             let answers =
                 Tensor.scoped (fun () ->
                     cases
                     |> Seq.map (fun case -> {
                         question case with
                             Images = List.map (images case) case.Batches
                     })
                     |> ask
                 )

             Assert.Equal(expected.Count, answers.Count)

             Map [
                 for key, ours in expected ->
                     key, { Ours = ours; Difference = Calibrated.difference ours answers[key] }
             ])

open OnnxCases

type OnnxRuntimeTests(output: ITestOutputHelper) =
    static member Cifar: objnull[] seq = [ for name in cifar -> [| box name |] ]

    member private _.Within (tolerance: float) (count: int) (keys: string -> bool) : unit =
        let found = compared.Value |> Map.filter (fun (key, _, _) _ -> keys key)
        Assert.Equal(count, found.Count)

        for KeyValue(key, c) in found do
            output.WriteLine $"{key}: {c.Difference:e2} of the rms"
            Assert.True(c.Difference <= tolerance, $"{key}: {c.Difference:e2} of the rms")

    [<Theory; MemberData("Cifar")>]
    member this.``ONNX Runtime's logits equal ours, folded or not, at batch 1 and at batch 7``(name: string) =
        this.Within 1e-4 4 (fun key -> key = $"plain-{name}" || key = $"folded-{name}")

    [<Fact>]
    member _.``the networks that are compared tell images apart``() =
        for KeyValue((key, shape, _), c) in compared.Value do
            let images = shape.Split 'x' |> Array.head |> int

            if images > 1 then
                let variety = Calibrated.variety images c.Ours
                output.WriteLine $"{key} {shape}: {variety:g3} of the rms"
                Assert.True(variety > 0.01, $"{key}: {variety}")

    [<Fact>]
    member this.``ONNX Runtime agrees on networks for ImageNet``() =
        this.Within 1e-4 imageNet.Length (fun key -> key.StartsWith "plain-imagenet")

    [<Fact>]
    member this.``ONNX Runtime agrees in every opset``() =
        this.Within 1e-4 opsets.Length (fun key -> key.StartsWith "opset")

    [<Fact>]
    member this.``ONNX Runtime agrees on images that are not square``() =
        this.Within 1e-4 1 (fun key -> key.StartsWith "oblong")

    [<Fact>]
    member this.``ONNX Runtime agrees on the features``() =
        this.Within 1e-4 6 (fun key -> key.StartsWith "features")

    [<Fact>]
    member this.``ONNX Runtime normalises pixels as we do``() =
        this.Within 1e-4 1 (fun key -> key.StartsWith "pixels")
