/// Fused operators: they give the same numbers, and overwrite nothing that is still needed.
module Ctkd.Fs.Tests.FusionTests

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

// ---- convolutions with the following sum and ReLU ----

/// A ResNet block: a body and a shortcut, summed, with a ReLU after each convolution or sum.
let private residual (stride: int) (groups: int) : Layer =
    let conv name kernel stride inputs outputs =
        Conv {
            Weight = name + ".weight"
            Bias = Some(name + ".bias")
            In = inputs
            Out = outputs
            Kernel = kernel
            Stride = stride
            Padding = kernel / 2
            Groups = if kernel = 1 then 1 else groups
        }

    let shortcut = if stride = 1 then Layer.identity else conv "c" 1 stride 16 32
    let width = if stride = 1 then 16 else 32
    let body = [ conv "a" 3 stride 16 width; Relu; conv "b" 3 1 width width ]
    Sequence [ Tap; Block(Sequence [ Residual(Sequence body, shortcut); Relu ]); Relu; Tap ]

let private cases: Gen<Layer * int> =
    gen {
        let! stride, groups = Gen.elements [ 1, 1; 2, 1; 1, 4; 2, 2 ]
        let! batch = Gen.choose (1, 3)
        return residual stride groups, batch
    }

/// Weights in the types that a run stores.
let private kept (dtype: DType) (weights: Tree) : Tree =
    weights
    |> Tree.map (fun _ w ->
        let w = Tensor.toType dtype w
        if Tensor.rank w = 4 then Tensor.channelsLast w else w
    )

/// Runs float32 input with channels innermost; returns the input, and the result with the tapped maps.
let private runFast (dtype: DType) (layer: Layer) (weights: Tree) (batch: int) =
    let x = Plain.ofDense (image [ batch; 16; 7; 5 ]) |> Tensor.toType dtype |> Tensor.channelsLast
    let before = Tensor.toFloats x
    let taps = ResizeArray()

    let fast = weights |> Tree.map (fun _ w -> if Tensor.rank w = 4 then Tensor.channelsLast w else w)

    let y = Layer.forward fast false taps layer x
    before, Tensor.toFloats x, [ for tap in taps -> Tensor.toFloats tap ], Tensor.toFloats y

// ---- batch normalisation with the following ReLU ----

/// Returns result, running statistics and gradients (input, scale, shift) of a normalisation in training.
let private normalised (dtype: DType) (relu: bool) (shape: int list) : float[] list =
    let numbers = if dtype = DType.Float64 then dtype else DType.Float32

    let random seed (shape: int list) =
        {
            Shape = shape
            Values = Rng.normals (List.fold (*) 1 shape) (Rng.ofSeed seed)
        }
        |> Plain.ofDense

    let channels = shape[1]
    let vector seed shift = random seed [ channels ] |> Tensor.addNumber shift |> Tensor.toType numbers
    let mean, variance = vector 5 0.0, Tensor.exp (vector 6 0.0)
    let x = random 7 shape |> Tensor.toType dtype |> Tensor.channelsLast |> Autograd.leaf
    let scale, shift = Autograd.leaf (vector 8 1.0), Autograd.leaf (vector 9 0.0)
    let operator = if relu then Tensor.batchNormRelu else Tensor.batchNorm
    let y = operator true 0.1 1e-5 scale shift mean variance x
    let towards = random 10 shape |> Tensor.toType dtype |> Tensor.channelsLast
    let gradients = Autograd.gradients (Tensor.sum (y * towards)) [| x; scale; shift |]
    [ y; mean; variance; yield! gradients ] |> List.map Tensor.toFloats

let tests =
    testList "Fusion" [
        testProperty
            "a network that is run and not trained fuses convolutions, to the same numbers in float32 and bfloat16"
        <| forAll
            cases
            (fun (layer, batch) ->
                Tensor.scoped (fun () ->
                    let exact = fresh layer
                    let x = Plain.ofDense (image [ batch; 16; 7; 5 ])
                    // Training fuses no convolution, and without a batch normalisation nothing else differs.
                    let expected = forward exact true layer x |> Tensor.toFloats
                    let largest = expected |> Array.map abs |> Array.max

                    for dtype, within in [ DType.Float32, 1e-5; DType.BFloat16, 0.05 ] do
                        let weights = kept dtype exact
                        let before, after, taps, y = runFast dtype layer weights batch
                        Must.beClose 0.0 (within * largest) expected y
                        Must.equal before after
                        Must.equal [ before; y ] taps
                )
            )

        test "a residual is overwritten only where nobody reads it any more" {
            let conv name = Layer.convWithBias name 3 1 16 16

            let passing = {
                Name = "passing"
                Declares = []
                Forward = fun _ _ x -> x
                OutputShape = id
            }

            // The layers before the body's last convolution, and their number of taps.
            let bodies = [ []; [ Tap ]; [ Block Layer.identity ]; [ Custom passing ]; [ conv "b"; Relu; Tap ] ]

            for before in bodies do
                Tensor.scoped (fun () ->
                    let block = Residual(Sequence(before @ [ conv "c" ]), Layer.identity)
                    let layer = Sequence [ conv "a"; Relu; block; Relu; Tap ]
                    let exact = fresh layer
                    let x = Plain.ofDense (image [ 2; 16; 7; 5 ])

                    let run training (weights: Tree) x =
                        let taps = ResizeArray()
                        let y = Layer.forward weights training taps layer x
                        [ for tap in taps -> Tensor.toFloats tap ] @ [ Tensor.toFloats y ]

                    let expected = run true exact x

                    let fast =
                        run false (kept DType.Float32 exact) (Tensor.toType DType.Float32 x |> Tensor.channelsLast)

                    for expected, actual in List.zip expected fast do
                        let largest = expected |> Array.map abs |> Array.max
                        Must.beClose 0.0 (1e-5 * largest) expected actual
                )
        }

        test "weights and biases that changed in place are seen by fused convolutions" {
            Tensor.scoped (fun () ->
                let layer = residual 1 1
                let weights = fresh layer |> kept DType.Float32

                let result weights =
                    let _, _, _, y = runFast DType.Float32 layer weights 2
                    y

                let doubled (w: Tensor) = Tensor.copyInto w (Tensor.scale 2.0 w)

                let stepped (w: Tensor) =
                    let rate = Tensor.scalar DType.Float32 Device.Cpu 0.5
                    let gradients, velocities = [| Tensor.clone w |], [| Tensor.scale 0.0 w |]
                    Tensor.sgdInto 0.9 0.0 false rate gradients velocities [| w |]

                for change in [ doubled; stepped ] do
                    for _, w in Tree.toList weights do
                        let before = result weights
                        change w
                        let after = result weights
                        Must.differ before after
                        Must.equal (result (Tree.map (fun _ w -> Tensor.clone w) weights)) after
            )
        }

        test "an evaluated network still has its gradient" {
            Tensor.scoped (fun () ->
                let layer = residual 2 1
                let weights = fresh layer |> kept DType.Float32

                let gradients training =
                    let leaves = Tree.leaves weights

                    for leaf in leaves do
                        leaf.requires_grad <- true

                    let x = Plain.ofDense (image [ 2; 16; 7; 5 ]) |> Tensor.toType DType.Float32 |> Tensor.channelsLast

                    let loss = Layer.forward weights training (ResizeArray()) layer x |> Tensor.sum
                    Autograd.gradients loss leaves |> Array.map Tensor.toFloats

                Array.iter2 (fun (a: float[]) b -> Must.beClose 1e-4 1e-4 a b) (gradients true) (gradients false)
            )
        }

        test "oneDNN fuses on the CPU with Debian's libtorch" {
            if isNull (Environment.GetEnvironmentVariable "LIBTORCH") then
                Must.hold (Engine.fuses ())
        }

        test "normalisation in float32 and bfloat16 has float64's values, statistics and gradients" {
            let shapes =
                gen {
                    let! batch, channels = Gen.zip (Gen.choose (1, 5)) (Gen.elements [ 3; 16; 20; 32 ])
                    let! height, width = Gen.zip (Gen.choose (2, 6)) (Gen.choose (2, 6))
                    return [ batch; channels; height; width ]
                }

            check
                (Gen.zip shapes (Gen.elements [ true; false ]))
                (fun (shape, relu) ->
                    Tensor.scoped (fun () ->
                        let exact = normalised DType.Float64 relu shape

                        for dtype, within in [ DType.Float32, 2e-5; DType.BFloat16, 0.06 ] do
                            for expected, actual in List.zip exact (normalised dtype relu shape) do
                                let largest = expected |> Array.map abs |> Array.max
                                // In bfloat16 a value near the ReLU's kink may fall on the other side.
                                let far = Array.map2 (fun a b -> abs (a - b) > within * largest) expected actual

                                let most = if dtype = DType.BFloat16 then expected.Length / 20 + 1 else 0
                                Must.lie 0 most (far |> Array.filter id |> Array.length)
                    )
                )
        }
    ]
