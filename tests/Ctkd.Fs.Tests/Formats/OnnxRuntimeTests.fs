module Ctkd.Fs.Tests.OnnxRuntimeTests

open Expecto
open Ctkd.Fs

let private zoo (name: string) : Model = Zoo.find name 10 |> Error.orRaise

/// A network for one input size, its export options by name, and the batch sizes to run.
[<NoComparison; NoEquality>]
type private Case = { Model: Model; Exports: (string * OnnxOptions) list; Batches: int list }

/// One of our outputs for a batch size, and its largest difference from ONNX Runtime's relative to its rms.
type private Compared = { Case: string; Output: string; Images: int; Ours: float[]; Difference: float }

let private outputs (model: Model) (options: OnnxOptions) (weights: Tree) (images: Tensor) : (string * float[]) list =
    let images =
        match options.Images with
        | OnnxImages.Pixels(mean, std) ->
            let constant values = Tensor.ofFloats DType.Float32 [ 3; 1; 1 ] (Array.ofList values)
            (images - constant mean) / constant std
        | _ -> images

    let outputs = Autograd.noGrad (fun () -> Model.forward model false weights images)

    [
        "logits", Tensor.toFloats outputs.Logits
        if options.Features then
            for i, feature in Seq.indexed outputs.Features do
                $"feature.{i}", Tensor.toFloats feature
    ]

let private compare (case: Case) : Compared list =
    Tensor.scoped (fun () ->
        let weights = Calibrated.weights DType.Float32 (snd case.Exports.Head).Height case.Model

        [
            for name, options in case.Exports do
                let key = $"{name}-{case.Model.Name}"
                use network = Onnx.encode options case.Model weights |> Error.orRaise |> OnnxRuntime.load

                for batch in case.Batches do
                    let images = Calibrated.images DType.Float32 key batch options.Height options.Width

                    let ours, theirs = outputs case.Model options weights images, OnnxRuntime.run network images

                    Must.equal (List.map fst ours |> List.sort) (List.map fst theirs |> List.sort)
                    let theirs = Map theirs

                    for name, values in ours do
                        {
                            Case = key
                            Output = name
                            Images = batch
                            Ours = values
                            Difference = Calibrated.difference values theirs[name]
                        }
        ]
    )

/// Compares a network once.
let private once (name: string) (batches: int list) (exports: (string * OnnxOptions) list) : Lazy<Compared list> =
    lazy (compare { Model = zoo name; Exports = exports; Batches = batches })

let private plain = OnnxOptions.forSize 32

let private cifar = [
    for model in Zoo.models do
        if model.Size = 32 then
            model.Name, once model.Name [ 1; 7 ] [ "plain", plain; "folded", { plain with FoldBatchNorm = true } ]
]

/// The smallest network of each family.
let private imageNet =
    [
        "imagenet/ResNet18"
        "imagenet/MobileNetV1"
        "imagenet-ctkd/MobileNetV2_Imagenet"
        "imagenet-ctkd/shufflenet_v2_x0_5"
    ]
    |> List.map (fun name -> once name [ 2 ] [ "plain", OnnxOptions.forSize 64 ])

let private opsets =
    once "ShuffleV1" [ 2 ] [ for opset in 17..21 -> $"opset{opset}", { plain with Opset = opset } ]

let private oblong = once "ShuffleV2" [ 2 ] [ "oblong", { plain with Height = 24; Width = 40 } ]
let private features = once "MobileNetV2" [ 2 ] [ "features", { plain with Features = true } ]

let private pixels =
    once "resnet8" [ 2 ] [
        "pixels",
        {
            plain with
                Images = OnnxImages.Pixels([ 0.5; 0.25; -0.5 ], [ 0.25; 2.0; 0.5 ])
        }
    ]

/// Checks that there are `count` outputs of the cases, each within 1e-4 of its rms.
let private agree (count: int) (cases: Lazy<Compared list> list) : unit =
    let compared = cases |> List.collect _.Value
    Must.equal count compared.Length

    for c in compared do
        Expect.isTrue (c.Difference <= 1e-4) $"{c.Case}, {c.Output} of {c.Images} images: {c.Difference:e2} of the rms"

let tests =
    testList "OnnxRuntime" [
        testList "ONNX Runtime's logits equal ours, folded or not, at batch 1 and at batch 7" [
            for name, compared in cifar -> test name { agree 4 [ compared ] }
        ]

        test "the networks that are compared tell images apart" {
            for compared in List.map snd cifar @ imageNet @ [ opsets; oblong; features; pixels ] do
                for c in compared.Value do
                    if c.Images > 1 then
                        let variety = Calibrated.variety c.Images c.Ours
                        Expect.isTrue (variety > 0.01) $"{c.Case}, {c.Output}: {variety:g3} of the rms"
        }

        test "ONNX Runtime agrees on networks for ImageNet" { agree 4 imageNet }
        test "ONNX Runtime agrees in every opset" { agree 5 [ opsets ] }
        test "ONNX Runtime agrees on images that are not square" { agree 1 [ oblong ] }
        test "ONNX Runtime agrees on the features" { agree 6 [ features ] }
        test "ONNX Runtime normalises pixels as we do" { agree 1 [ pixels ] }
    ]
