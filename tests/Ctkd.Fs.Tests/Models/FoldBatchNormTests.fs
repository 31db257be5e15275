module Ctkd.Fs.Tests.FoldBatchNormTests

open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Generators
open FsCheck
open FsCheck.FSharp

let private logits (model: Model) (weights: Tree) (images: Tensor) : float[] =
    Autograd.noGrad (fun () -> (Model.forward model false weights images).Logits |> Tensor.toFloats)

let private normalisations (model: Model) : string list =
    Layer.leaves model.Body
    |> List.choose (
        function
        | BatchNorm n -> Some n.Scale
        | _ -> None
    )

let private net (body: Layer) : Model = {
    Name = "net"
    Classes = 3
    Body = Sequence [ body; GlobalPool ]
    Classifier = Layer.dense "fc" 4 3
    Dropout = 0.0
    Starts = Starts.pyTorch
}

/// Returns the folded network and the largest difference of its logits relative to their rms.
let private fold (weights: Model -> Tree) (images: Tensor) (model: Model) : Model * float =
    Tensor.scoped (fun () ->
        let weights = weights model
        let folded, merged = FoldBatchNorm.model model weights
        Must.equal (Model.declarations folded |> List.map _.Name) (Tree.names merged)
        folded, Calibrated.difference (logits model weights images) (logits folded merged images)
    )

let private cifar: string list = Zoo.models |> List.filter (fun m -> m.Size = 32) |> List.map _.Name

// ---- any network ----

/// Layers of four channels in any order, with names made from their numbers.
let rec private anyLayer (depth: int) : Gen<(int -> string) -> Layer> =
    let conv =
        gen {
            let! kernel = Gen.elements [ 1; 3 ]
            let! groups = Gen.elements [ 1; 2; 4 ]
            let! biased = Gen.elements [ true; false ]

            return
                fun (name: int -> string) ->
                    let name = name 0
                    let bias = if biased then Some(name + ".bias") else None

                    Conv { Layer.convolution name kernel 1 4 4 with Groups = groups; Bias = bias }
        }

    let norm = Gen.constant (fun (name: int -> string) -> Layer.batchNorm (name 0) 4)
    let plain = Gen.elements [ Relu; Relu6; Tap; Shuffle 2; MaxPool(3, 1, 1) ] |> Gen.map (fun l _ -> l)
    let flat = Gen.frequency [ 4, conv; 4, norm; 2, plain ]

    if depth = 0 then
        flat
    else
        let branch = anySequence (depth - 1)

        let residual =
            Gen.map2
                (fun a b (name: int -> string) ->
                    Residual(a (fun i -> name 1 + $".{i}"), b (fun i -> name 2 + $".{i}"))
                )
                branch
                branch

        Gen.frequency [ 5, flat; 1, residual; 1, branch |> Gen.map (fun a name -> Block(a name)) ]

and private anySequence (depth: int) : Gen<(int -> string) -> Layer> =
    gen {
        let! count = Gen.choose (0, 6)
        let! layers = Gen.listOfLength count (anyLayer depth)
        return fun name -> layers |> List.mapi (fun i layer -> layer (fun j -> $"{name i}.{j}")) |> Sequence
    }

let tests =
    testList "FoldBatchNorm" [
        testList "a folded network gives the same logits and normalises only before convolutions" [
            for name in cifar ->
                test name {
                    Tensor.scoped (fun () ->
                        let model = Zoo.find name 10 |> Error.orRaise
                        let images = Calibrated.images DType.Float32 "images" 2 32 32
                        let folded, difference = fold (Calibrated.weights DType.Float32 32) images model
                        Must.lie 0.0 1e-5 difference

                        let isFirst (scale: string) = scale.EndsWith "bn1.weight"
                        // Only wide ResNets normalise before they convolve.
                        let left = if name.StartsWith "wrn" then normalisations model |> List.filter isFirst else []

                        Must.equal left (normalisations folded)
                    )
                }
        ]

        test "folding changes no network's logits, and leaves no normalisation behind a convolution" {
            let nets =
                anySequence 2
                |> Gen.map (fun body -> net (Sequence [ Layer.conv "stem" 3 1 3 4; body (fun i -> $"l{i}") ]))

            let rec foldable (layer: Layer) : bool =
                match layer with
                | Sequence layers ->
                    let pairs = List.pairwise layers

                    List.exists foldable layers || pairs |> List.exists (fun (a, b) -> a.IsConv && b.IsBatchNorm)
                | Residual(a, b) -> foldable a || foldable b
                | Block body -> foldable body
                | _ -> false

            Tensor.scoped (fun () ->
                let images = Golden.probe DType.Float64 "images" [ 2; 3; 6; 6 ] 2.0 0.0

                check
                    nets
                    (fun model ->
                        let folded, difference = fold (Golden.weights DType.Float64 "") images model
                        Must.lie 0.0 (1e-10) difference
                        Must.notHold (foldable folded.Body)
                    )
            )
        }

        test "tensors that two layers share are left alone" {
            let conv = Layer.conv "same" 3 1 4 4

            let shared = [
                Sequence [ conv; Layer.batchNorm "a" 4; Relu; conv; Layer.batchNorm "b" 4 ]
                Sequence [
                    Layer.conv "c" 3 1 4 4
                    Layer.batchNorm "same" 4
                    Layer.conv "d" 3 1 4 4
                    Layer.batchNorm "same" 4
                ]
            ]

            for body in shared do
                let model = net (Sequence [ Layer.conv "stem" 3 1 3 4; body ])
                let names = Model.declarations model |> List.distinctBy _.Name

                Tensor.scoped (fun () ->
                    let weights = Initialise.tree DType.Float32 Device.Cpu (Rng.ofSeed 1) names
                    let folded, _ = FoldBatchNorm.model model weights
                    Must.equal (normalisations model) (normalisations folded)
                )
        }

        test "folding keeps the element type, leaves what it was given as it was and no tensors behind" {
            let model = Zoo.find "resnet8" 10 |> Error.orRaise
            let weights, before = Golden.weights DType.Float32 "" model, Golden.weights DType.Float32 "" model

            Must.leaveNothing (fun () ->
                Tensor.scoped (fun () ->
                    let _, merged = FoldBatchNorm.model model weights

                    for x in Tree.leaves merged do
                        Must.equal DType.Float32 (Tensor.dtype x)
                )
            )

            Must.beSameTree before weights
            Tree.free weights
            Tree.free before
        }
    ]
