module Ctkd.Fs.Tests.LayersTests

open System
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Generators
open Ctkd.Fs.Tests.Oracle
open FsCheck
open FsCheck.FSharp

let private fresh (layer: Layer) : Tree =
    Layer.declarations Starts.kaiming layer |> Initialise.tree DType.Float64 Device.Cpu (Rng.ofSeed 1)

let private forward (weights: Tree) (training: bool) (layer: Layer) (x: Tensor) : Tensor =
    Layer.forward weights training (ResizeArray()) layer x

let private image (shape: int list) : Dense = {
    Shape = shape
    Values = Rng.normals (List.fold (*) 1 shape) (Rng.ofSeed 2)
}

let private dense (name: string) (weights: Tree) : Dense =
    let x = Tree.find name weights

    {
        Shape = Tensor.shape x |> Array.map int |> List.ofArray
        Values = Tensor.toFloats x
    }

let private convolution kernel stride padding groups : Layer =
    Conv {
        Weight = "weight"
        Bias = Some "bias"
        In = 4
        Out = 6
        Kernel = kernel
        Stride = stride
        Padding = padding
        Groups = groups
    }

/// Pooling windows that fit images with 4 channels of at least 4 x 4.
let private windows: Gen<Layer> =
    gen {
        let! kernel = Gen.choose (1, 4)
        let! stride = Gen.choose (1, 3)
        let! padding = Gen.choose (0, kernel / 2)
        let! groups = Gen.elements [ 1; 2 ]

        return!
            Gen.elements [
                convolution kernel stride padding groups
                MaxPool(kernel, stride, padding)
                AvgPool(kernel, stride, padding)
            ]
    }

let tests =
    testList "Layers" [
        test "outputShape tells the shape that a layer gives" {
            let around (window: Layer) =
                Gen.elements [
                    window
                    Block window
                    Sequence [ Relu; window; Tap ]
                    Sequence [ window; Residual(Relu, Layer.identity) ]
                    Sequence [ window; GlobalPool ]
                ]

            check
                (Gen.zip3 (Gen.bind around windows) (Gen.choose (4, 9)) (Gen.choose (4, 9)))
                (fun (layer, height, width) ->
                    Tensor.scoped (fun () ->
                        let shape = [ 4; height; width ]

                        let actual =
                            forward (fresh layer) false layer (Plain.ofDense (image (2 :: shape))) |> Tensor.shape

                        Must.equal (2 :: Shapes.behind layer shape) (List.ofArray (Array.map int actual))
                    )
                )
        }

        test "a window asks for an image" { Must.refuse "input" (fun () -> Shapes.behind (convolution 3 1 1 1) [ 4 ]) }

        test "total stride is the product of the strides on the longest way" {
            let layers = [
                Layer.conv "a" 3 2 3 8
                Relu
                Block(Residual(Layer.conv "b" 3 2 8 8, Layer.identity))
                MaxPool(3, 2, 1)
                GlobalPool
            ]

            Must.equal 8 (Shapes.totalStride (Sequence layers))
            Must.equal 1 (Shapes.totalStride (Sequence []))
        }

        test "layers compute what they say" {
            Tensor.scoped (fun () ->
                let x = image [ 2; 4; 5; 5 ]

                let compare (expected: Dense) layer weights =
                    Must.beClose
                        1e-12
                        1e-13
                        expected.Values
                        (Tensor.toFloats (forward weights false layer (Plain.ofDense x)))

                let conv = convolution 3 2 1 2
                let weights = fresh conv
                let convolved = conv2d 2 1 2 (dense "weight" weights) (dense "bias" weights) x
                compare convolved conv weights
                let relu (x: Dense) = { x with Values = Array.map (max 0.0) x.Values }
                compare (relu convolved) (Block(Sequence [ conv; Relu ])) weights

                compare
                    { x with Values = Array.map ((*) 2.0) x.Values }
                    (Residual(Layer.identity, Layer.identity))
                    Tree.empty

                compare (maxPool2d 2 2 0 x) (MaxPool(2, 2, 0)) Tree.empty
                compare (avgPool2d 2 2 0 x) (AvgPool(2, 2, 0)) Tree.empty

                let pooled = tabulate [ 2; 4 ] (fun i -> indices [ 5; 5 ] |> List.averageBy (fun j -> at x (i @ j)))

                compare pooled GlobalPool Tree.empty
            )
        }

        test "batch normalisation of one value a channel is refused in training, and leaves its statistics" {
            Tensor.scoped (fun () ->
                let layer = Layer.batchNorm "bn" 3
                let weights = fresh layer
                let one = Plain.ofDense (image [ 1; 3; 1; 1 ])
                Must.refuse "x" (fun () -> forward weights true layer one)
                Must.equal [| 1.0; 1.0; 1.0 |] ((dense "bn.running_var" weights).Values)

                Must.beClose 1e-4 1e-4 (Tensor.toFloats one) (Tensor.toFloats (forward weights false layer one))
            )
        }

        test "batch normalisation in training uses the batch and moves the running statistics by a tenth" {
            Tensor.scoped (fun () ->
                let layer = Layer.batchNorm "bn" 3
                let weights = fresh layer
                let x = image [ 4; 3; 2; 2 ]
                let one = { Shape = [ 3 ]; Values = [| 1.0; 1.0; 1.0 |] }
                let zero = { Shape = [ 3 ]; Values = [| 0.0; 0.0; 0.0 |] }
                let moments = channelMoments x
                let expected = (batchNorm 1e-5 moments one zero x).Values

                Must.beClose 1e-12 1e-13 expected (Tensor.toFloats (forward weights true layer (Plain.ofDense x)))

                Must.beClose
                    1e-12
                    0.0
                    (Array.map (fun (mean, _) -> 0.1 * mean) moments)
                    (dense "bn.running_mean" weights).Values
                // The running variance is that of a sample of 16 (Bessel's correction).
                let running = Array.map (fun (_, variance) -> 0.9 + 0.1 * variance * 16.0 / 15.0) moments
                Must.beClose 1e-12 0.0 running (dense "bn.running_var" weights).Values
                Must.equal [| 0.0 |] ((dense "bn.num_batches_tracked" weights).Values)
            )
        }

        test "batch normalisation in evaluation uses the running statistics and leaves them" {
            Tensor.scoped (fun () ->
                let layer = Layer.batchNorm "bn" 3
                let weights = fresh layer
                let x = image [ 4; 3; 2; 2 ]

                Tensor.copyInto (Tree.find "bn.running_mean" weights) (Plain.tensor [ 3 ] [| 0.1; 0.2; 0.3 |])

                Tensor.copyInto (Tree.find "bn.running_var" weights) (Plain.tensor [ 3 ] [| 1.0; 2.0; 3.0 |])
                let before = Tree.copy weights

                let expected =
                    batchNorm
                        1e-5
                        [| 0.1, 1.0; 0.2, 2.0; 0.3, 3.0 |]
                        (dense "bn.weight" weights)
                        (dense "bn.bias" weights)
                        x

                Must.beClose
                    1e-12
                    1e-13
                    expected.Values
                    (Tensor.toFloats (forward weights false layer (Plain.ofDense x)))

                Must.beSameTree before weights
            )
        }

        test "taps record what passes them in their order, also inside blocks" {
            Tensor.scoped (fun () ->
                let taps = ResizeArray()

                let layer = Sequence [ Tap; Block(Sequence [ AvgPool(2, 2, 0); Tap; Relu ]); Tap; GlobalPool ]

                let x = Plain.ofDense (image [ 1; 2; 4; 4 ])
                Layer.forward Tree.empty false taps layer x |> ignore
                Must.beTheSame x taps[0]
                Must.equal [| 1L; 2L; 2L; 2L |] (Tensor.shape taps[1])
                Must.beSame (Tensor.toFloats (Tensor.relu taps[1])) (Tensor.toFloats taps[2])
            )
        }

        test "a block leaves its result and its features and nothing else" {
            let x = Plain.ofDense (image [ 1; 4; 4; 4 ])
            let layer = Block(Sequence [ Relu; Relu; Tap; Relu; Relu ])
            let taps = ResizeArray()

            Must.leaveNothing (fun () ->
                let before = Tensor.live ()
                let result = Layer.forward Tree.empty false taps layer x
                Must.equal 2L (Tensor.live () - before)
                Seq.iter Tensor.free (Seq.append [ result ] taps)
            )

            Tensor.free x
        }

        test "a block has the gradients of its body" {
            Tensor.scoped (fun () ->
                let body = Sequence [ convolution 3 1 1 1; Relu; AvgPool(2, 2, 0) ]
                let weights = fresh body
                let names = Tree.names weights
                let points = image [ 1; 4; 4; 4 ] :: List.map (fun name -> dense name weights) names

                let loss layer (xs: Tensor list) =
                    forward (Tree.ofSeq (List.zip names xs.Tail)) true layer xs.Head |> Tensor.exp |> Tensor.sum

                List.iter2
                    Must.beSame
                    (Plain.gradients (loss body) points)
                    (Plain.gradients (loss (Block body)) points)
            )
        }

        test "the declarations of a layer are those of its parts in order" {
            let layers = [
                Layer.conv "a" 3 1 3 8
                Layer.batchNorm "b" 8
                Residual(Layer.conv "c" 1 1 8 8, Layer.conv "d" 1 1 8 8)
            ]

            let declared =
                Layer.declarations Starts.kaiming (Block(Sequence(layers @ [ Linear(Layer.dense "fc" 8 2) ])))

            let expected = [
                "a.weight", [ 8; 3; 3; 3 ], true
                "b.weight", [ 8 ], true
                "b.bias", [ 8 ], true
                "b.running_mean", [ 8 ], false
                "b.running_var", [ 8 ], false
                "b.num_batches_tracked", [], false
                "c.weight", [ 8; 8; 1; 1 ], true
                "d.weight", [ 8; 8; 1; 1 ], true
                "fc.weight", [ 2; 8 ], true
                "fc.bias", [ 2 ], true
            ]

            Must.equal expected (declared |> List.map (fun d -> d.Name, d.Shape, d.Trained))
        }

        test "convolutions start as their family wants, biases and linear layers within 1 over the root of the fan-in" {
            let initials layer = Layer.declarations Starts.kaiming layer |> List.map _.Initial
            Must.equal [ KaimingNormalFanOut; UniformFanIn 18 ] (initials (convolution 3 1 1 2))
            Must.equal [ UniformFanIn 8; UniformFanIn 8 ] (initials (Linear(Layer.dense "fc" 8 2)))
            let normalisation = [ Fill 1.0; Fill 0.0; Fill 0.0; Fill 1.0; Fill 0.0 ]
            Must.equal normalisation (initials (Layer.batchNorm "bn" 4))
        }

        test "branches see the same input and their channels are joined in order" {
            Tensor.scoped (fun () ->
                let x = image [ 2; 4; 3; 3 ] |> Plain.ofDense
                let run layer = forward (fresh layer) false layer x |> Tensor.toFloats
                let halves = Concat [ Channels(2, 2); Channels(0, 2) ]
                Must.equal (run Layer.identity) (run (Sequence [ halves; halves ]))
                let mixed = Sequence [ Shuffle 2; Shuffle 2 ]
                Must.equal (run Layer.identity) (run mixed)
                let clipped = Sequence [ Residual(Residual(Relu, Relu), Relu); Relu6 ]
                let expected = run Layer.identity |> Array.map (fun v -> min 6.0 (3.0 * max 0.0 v))
                Must.beClose 1e-12 0.0 expected (run clipped)
            )
        }

        test "a ReLU behind joined branches leaves their inputs as they were" {
            Tensor.scoped (fun () ->
                let x = image [ 2; 4; 3; 3 ] |> Plain.ofDense
                let before = Tensor.toFloats x
                let layer = Sequence [ Concat [ Layer.identity ]; Relu ]
                let after = forward (fresh layer) false layer x |> Tensor.toFloats
                Must.equal before (Tensor.toFloats x)
                Must.equal (before |> Array.map (max 0.0)) after
            )
        }

        test "shapes that do not fit are refused by name" {
            for layer, shape in
                [
                    Layer.conv "conv" 3 1 3 8, [ 4; 8; 8 ]
                    Layer.conv "conv" 3 1 4 8, [ 4; 0; 8 ]
                    MaxPool(3, 1, 0), [ 4; 2; 8 ]
                    Layer.batchNorm "bn" 3, [ 4; 8; 8 ]
                    Linear(Layer.dense "fc" 3 2), [ 4 ]
                    Channels(2, 3), [ 4; 8; 8 ]
                    Shuffle 3, [ 4; 8; 8 ]
                    Residual(Layer.conv "conv" 3 2 4 4, Layer.identity), [ 4; 8; 8 ]
                    Concat [ Layer.conv "conv" 3 2 4 4; Layer.identity ], [ 4; 8; 8 ]
                ] do
                Must.refuse "input" (fun () -> Shapes.behind layer shape)
        }
    ]
