module Ctkd.Fs.Tests.OnnxRuntimeTests

open Expecto
open Ctkd.Fs

let private zoo (name: string) : Model = Zoo.find name 10 |> Error.orRaise

/// A network, how it is exported and the numbers of images that it is given.
[<NoComparison; NoEquality>]
type private Case = { Key: string; Model: Model; Options: OnnxOptions; Batches: int list }

let private case (kind: string) (name: string) (batches: int list) (options: OnnxOptions) : Case = {
    Key = $"{kind}-{name}"
    Model = zoo name
    Options = options
    Batches = batches
}

/// An output of ours for so many images, and its largest difference to ONNX Runtime's as a share of its rms.
type private Compared = { Output: string; Images: int; Ours: float[]; Difference: float }

let private outputs (case: Case) (weights: Tree) (images: Tensor) : (string * float[]) list =
    let images =
        match case.Options.Images with
        | OnnxImages.Pixels(mean, std) ->
            let constant values = Tensor.ofFloats DType.Float32 [ 3; 1; 1 ] (Array.ofList values)
            (images - constant mean) / constant std
        | _ -> images

    let outputs = Autograd.noGrad (fun () -> Model.forward case.Model false weights images)

    [
        "logits", Tensor.toFloats outputs.Logits
        if case.Options.Features then
            for i, feature in Seq.indexed outputs.Features do
                $"feature.{i}", Tensor.toFloats feature
    ]

let private compare (case: Case) : Compared list =
    Tensor.scoped (fun () ->
        let { OnnxOptions.Height = height; Width = width } = case.Options
        let weights = Calibrated.weights DType.Float32 height case.Model
        use network = Onnx.encode case.Options case.Model weights |> Error.orRaise |> OnnxRuntime.load

        [
            for batch in case.Batches do
                let images = Calibrated.images DType.Float32 case.Key batch height width
                let ours, theirs = outputs case weights images, OnnxRuntime.run network images
                Must.equal (List.map fst ours |> List.sort) (List.map fst theirs |> List.sort)
                let theirs = Map theirs

                for name, values in ours do
                    {
                        Output = name
                        Images = batch
                        Ours = values
                        Difference = Calibrated.difference values theirs[name]
                    }
        ]
    )

/// The case with its comparisons, which are made once.
let private once (case: Case) : string * Lazy<Compared list> = case.Key, lazy (compare case)

let private plain = OnnxOptions.forSize 32

let private cifar = [
    for model in Zoo.models do
        if model.Size = 32 then
            model.Name,
            [
                once (case "plain" model.Name [ 1; 7 ] plain)
                once (case "folded" model.Name [ 1; 7 ] { plain with FoldBatchNorm = true })
            ]
]

/// The smallest of each family.
let private imageNet =
    [
        "imagenet/ResNet18"
        "imagenet/MobileNetV1"
        "imagenet-ctkd/MobileNetV2_Imagenet"
        "imagenet-ctkd/shufflenet_v2_x0_5"
    ]
    |> List.map (fun name -> once (case "plain" name [ 2 ] (OnnxOptions.forSize 64)))

let private opsets = [
    for opset in 17..21 -> once (case $"opset{opset}" "ShuffleV1" [ 2 ] { plain with Opset = opset })
]

let private oblong = once (case "oblong" "ShuffleV2" [ 2 ] { plain with Height = 24; Width = 40 })
let private features = once (case "features" "MobileNetV2" [ 2 ] { plain with Features = true })

let private pixels =
    once (
        case "pixels" "resnet8" [ 2 ] {
            plain with
                Images = OnnxImages.Pixels([ 0.5; 0.25; -0.5 ], [ 0.25; 2.0; 0.5 ])
        }
    )

/// So many outputs of the cases, each within 1e-4 of its rms.
let private agree (count: int) (cases: (string * Lazy<Compared list>) list) : unit =
    let compared = [
        for key, compared in cases do
            for c in compared.Value -> key, c
    ]

    Must.equal count compared.Length

    for key, c in compared do
        Expect.isTrue
            (c.Difference <= 1e-4)
            $"{key}, {c.Output} of {c.Images} images: {c.Difference:e2} of the rms"

let tests =
    testList "OnnxRuntime" [
        testList "ONNX Runtime's logits equal ours, folded or not, at batch 1 and at batch 7" [
            for name, cases in cifar -> test name { agree 4 cases }
        ]

        test "the networks that are compared tell images apart" {
            for key, compared in List.collect snd cifar @ imageNet @ opsets @ [ oblong; features; pixels ] do
                for c in compared.Value do
                    if c.Images > 1 then
                        let variety = Calibrated.variety c.Images c.Ours
                        Expect.isTrue (variety > 0.01) $"{key}, {c.Output}: {variety:g3} of the rms"
        }

        test "ONNX Runtime agrees on networks for ImageNet" { agree 4 imageNet }
        test "ONNX Runtime agrees in every opset" { agree 5 opsets }
        test "ONNX Runtime agrees on images that are not square" { agree 1 [ oblong ] }
        test "ONNX Runtime agrees on the features" { agree 6 [ features ] }
        test "ONNX Runtime normalises pixels as we do" { agree 1 [ pixels ] }
    ]
