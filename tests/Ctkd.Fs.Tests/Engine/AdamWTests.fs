/// AdamW, the optimisers as one, and the shortening of gradients.
module Ctkd.Fs.Tests.AdamWTests

open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Generators
open FsCheck
open FsCheck.FSharp
open TorchSharp

/// Settings, learning rate, start and 12 gradients for three parameters of 4 numbers.
type private Training = { Adam: AdamW; Rate: float; Start: float[][]; Gradients: float[][][] }

let private training: Gen<Training> =
    gen {
        let! beta1 = Gen.elements [ 0.0; 0.5; 0.9 ]
        let! beta2 = Gen.elements [ 0.9; 0.99; 0.999 ]
        let! decay = Gen.elements [ 0.0; 0.01; 0.3 ]
        let! epsilon = Gen.elements [ 1e-8; 1e-3 ]
        let! rate = uniform 1e-4 0.3
        let! start = many 3 (many 4 (uniform -2.0 2.0))
        let! gradients = many 12 (many 3 (many 4 (uniform -2.0 2.0)))

        return {
            Adam = { Beta1 = beta1; Beta2 = beta2; Epsilon = epsilon; WeightDecay = decay }
            Rate = rate
            Start = start
            Gradients = gradients
        }
    }

let private tensors (values: float[][]) : Tensor[] = Array.map (Plain.tensor [ 4 ]) values

let private tree (values: float[][]) : Tree = tensors values |> Array.mapi (fun i x -> $"p{i}", x) |> Tree.ofSeq

let private flat (xs: Tensor[]) : float[] = Array.collect Tensor.toFloats xs

/// Parameters after all steps of an optimiser, of which the first so many have weight decay.
let private inPlace (optimiser: Optimiser) (decayed: int) (x: Training) : float[] =
    Tensor.scoped (fun () ->
        let parameters = tree x.Start
        let state = Optimiser.start optimiser parameters |> Tree.leaves
        let rate = Plain.number x.Rate

        for gradients in x.Gradients do
            Optimiser.step optimiser decayed rate (tensors gradients) state (Tree.leaves parameters)

        flat (Tree.leaves parameters)
    )

/// Parameters after all steps of TorchSharp's own AdamW.
let private inTorchSharp (x: Training) : float[] =
    use _ = torch.NewDisposeScope()
    let parameters = tensors x.Start |> Array.map (fun p -> new Modules.Parameter(p))
    let a = x.Adam
    use adam = torch.optim.AdamW(parameters, x.Rate, a.Beta1, a.Beta2, a.Epsilon, a.WeightDecay)

    for gradients in x.Gradients do
        Array.iter2 (fun (p: Modules.Parameter) (g: Tensor) -> p.grad <- g) parameters (tensors gradients)
        adam.step () |> ignore

    parameters |> Array.collect (fun p -> Tensor.toFloats (p.detach ()))

// ---- gradients ------------------------------------------------------------------------------------

let private gradients: Gen<float[][]> =
    gen {
        let! count = Gen.choose (1, 5)
        let! size = Gen.elements [ 1e-4; 1.0; 100.0 ]
        return! many count (many 4 (uniform -size size))
    }

let private norm (gradients: float[][]) : float = gradients |> Array.collect id |> Array.sumBy (fun g -> g * g) |> sqrt

let private clipped (longest: float) (gradients: float[][]) : float[][] =
    Tensor.scoped (fun () -> Gradients.clipped longest (tensors gradients) |> Array.map Tensor.toFloats)

let tests =
    testList "AdamW" [
        testProperty "its steps in place equal those of TorchSharp's optimiser"
        <| forAll
            training
            (fun x -> Must.beClose 1e-12 1e-12 (inTorchSharp x) (inPlace (Optimiser.AdamW x.Adam) x.Start.Length x))

        testProperty "its steps in place equal pure steps"
        <| forAll
            training
            (fun x ->
                let pure' =
                    Tensor.scoped (fun () ->
                        let rate = Plain.number x.Rate

                        let next states (i, gradients) =
                            Array.map2
                                (fun (p, moments) gradient ->
                                    let struct (p, first, second) = AdamW.next x.Adam rate (i + 1) gradient moments p
                                    p, (first, second)
                                )
                                states
                                (tensors gradients)

                        let zero p = Tensor.scale 0.0 p
                        let start = tensors x.Start |> Array.map (fun p -> p, (zero p, zero p))
                        Array.indexed x.Gradients |> Array.fold next start |> Array.collect (fst >> Tensor.toFloats)
                    )

                Must.beClose 1e-11 1e-12 pure' (inPlace (Optimiser.AdamW x.Adam) x.Start.Length x)
            )

        testProperty "tensors beyond those with weight decay are trained as without it, under either optimiser"
        <| forAll
            training
            (fun x ->
                let sgd = { Sgd.defaults with WeightDecay = 0.1 }

                for optimiser in [ Optimiser.AdamW { x.Adam with WeightDecay = 0.1 }; Optimiser.Sgd sgd ] do
                    let all = inPlace optimiser 3 x
                    let none = inPlace (Optimiser.withoutDecay optimiser) 3 x
                    Must.beSame none (inPlace optimiser 0 x)

                    for decayed in 1..2 do
                        let split = inPlace optimiser decayed x
                        Must.beSame all[.. 4 * decayed - 1] split[.. 4 * decayed - 1]
                        Must.beSame none[4 * decayed ..] split[4 * decayed ..]
            )

        testProperty "its first step moves every parameter by the rate against its gradient's sign, whatever its size"
        <| forAll
            (Gen.zip (many 4 (uniform -2.0 2.0)) (Gen.elements [ 1e-3; 1.0; 1e3 ]))
            (fun (gradient, size) ->
                let adam = { AdamW.defaults with WeightDecay = 0.0 }
                let gradient = gradient |> Array.map (fun g -> if abs g < 1e-2 then 0.0 else g * size)

                let x = {
                    Adam = adam
                    Rate = 0.01
                    Start = Array.create 3 (Array.zeroCreate 4)
                    Gradients = [| Array.create 3 gradient |]
                }

                let expected = gradient |> Array.map (fun g -> -0.01 * float (sign g))
                Must.beClose 0.0 1e-4 (Array.replicate 3 expected |> Array.concat) (inPlace (Optimiser.AdamW adam) 3 x)
            )

        test "its state holds two moments by name and the number of steps, on the device" {
            Tensor.scoped (fun () ->
                let parameters = tree [| [| 1.0; 2.0; 3.0; 4.0 |]; [| 5.0; 6.0; 7.0; 8.0 |] |]
                let optimiser = Optimiser.AdamW AdamW.defaults
                let state = Optimiser.start optimiser parameters
                Must.equal [ "first/p0"; "first/p1"; "second/p0"; "second/p1"; "steps" ] (Tree.names state)
                let before = Tensor.live ()

                for _ in 1..3 do
                    Tensor.scoped (fun () ->
                        let gradients = tensors (Array.create 2 [| 1.0; -2.0; 0.0; 4.0 |])
                        let leaves = Tree.leaves parameters
                        Optimiser.step optimiser 2 (Plain.number 0.1) gradients (Tree.leaves state) leaves
                    )

                Must.equal before (Tensor.live ())
                Must.equal 3.0 (Tree.find "steps" state |> Tensor.toFloat)
                Must.beClose 1e-12 0.0 [| 0.271; -0.542; 0.0; 1.084 |] (Tree.find "first/p1" state |> Tensor.toFloats)
                Must.beEmpty (Tree.names (Optimiser.start optimiser Tree.empty))
                Optimiser.step optimiser 0 (Plain.number 0.1) [||] [||] [||]
            )
        }

        test "weights with their channels innermost are trained as others" {
            Tensor.scoped (fun () ->
                let trained (format: Tensor -> Tensor) =
                    let numbers seed = Rng.normals 24 (Rng.ofSeed seed) |> Plain.tensor [ 2; 3; 2; 2 ]
                    let parameters = Tree.ofSeq [ "w", format (numbers 1) ]
                    let optimiser = Optimiser.AdamW AdamW.defaults
                    let state = Optimiser.start optimiser parameters |> Tree.leaves

                    for i in 2..4 do
                        Optimiser.step optimiser 1 (Plain.number 0.1) [| numbers i |] state (Tree.leaves parameters)

                    Tree.find "w" parameters |> Tensor.toFloats

                Must.beSame (trained id) (trained Tensor.channelsLast)
            )
        }

        // ---- gradients ----

        testProperty "gradients are shortened as torch.nn.utils.clip_grad_norm_ does"
        <| forAll
            (Gen.zip gradients (Gen.elements [ 1e-6; 0.1; 1.0; 50.0; 1e6 ]))
            (fun (gradients, longest) ->
                let expected =
                    use _ = torch.NewDisposeScope()
                    let leaves = tensors gradients |> Array.map (fun g -> new Modules.Parameter(Tensor.clone g))
                    Array.iter2 (fun (p: Modules.Parameter) (g: Tensor) -> p.grad <- g) leaves (tensors gradients)
                    torch.nn.utils.clip_grad_norm_ (leaves, longest) |> ignore
                    leaves |> Array.collect (fun p -> Tensor.toFloats (nonNull p.grad))

                Must.beClose 1e-12 0.0 expected (Array.concat (clipped longest gradients))
            )

        testProperty "shortened gradients keep their direction, and short ones their bits"
        <| forAll
            (Gen.zip gradients (uniform 0.01 20.0))
            (fun (gradients, longest) ->
                let result = clipped longest gradients
                Must.hold (norm result <= longest)

                if norm gradients < longest - 1e-5 then
                    Must.beSame (Array.concat gradients) (Array.concat result)
                else
                    let share = norm result / norm gradients
                    let expected = Array.concat gradients |> Array.map (fun g -> share * g)
                    Must.beClose 1e-9 1e-15 expected (Array.concat result)
            )

        test "gradients that share memory are shortened once, and stay as they are" {
            Tensor.scoped (fun () ->
                let one = Plain.tensor [ 1 ] [| 3.0 |] |> Tensor.expand [| 4L |]
                let result = Gradients.clipped 3.0 [| one; one |]
                let share = 3.0 / (sqrt 72.0 + 1e-6)
                Must.beClose 1e-12 0.0 (Array.create 8 (3.0 * share)) (flat result)
                Must.equal [| 3.0; 3.0; 3.0; 3.0 |] (Tensor.toFloats one)
                Must.beEmpty (Gradients.clipped 1.0 [||])
            )
        }
    ]
