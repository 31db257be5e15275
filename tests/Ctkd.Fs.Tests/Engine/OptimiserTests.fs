module Ctkd.Fs.Tests.OptimiserTests

open System
open System.Globalization
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Generators
open FsCheck
open FsCheck.FSharp

/// Settings, learning rate, start and 20 gradients for three parameters of 4 numbers.
type private TrainingPlan = { Sgd: Sgd; Rate: float; Start: float[][]; Gradients: float[][][] }

let private plan: Gen<TrainingPlan> =
    gen {
        let! momentum = Gen.elements [ 0.0; 0.5; 0.9 ]
        let! decay = Gen.elements [ 0.0; 5e-4; 0.1 ]
        let! nesterov = Gen.elements [ false; true ]
        let! rate = uniform 1e-3 0.5
        let! start = many 3 (many 4 (uniform -2.0 2.0))
        let! gradients = many 20 (many 3 (many 4 (uniform -2.0 2.0)))

        return {
            Sgd = { Momentum = momentum; WeightDecay = decay; Nesterov = nesterov }
            Rate = rate
            Start = start
            Gradients = gradients
        }
    }

let private tensors (values: float[][]) : Tensor[] = Array.map (Plain.tensor [ 4 ]) values

let private tree (values: float[][]) : Tree = tensors values |> Array.mapi (fun i x -> $"p{i}", x) |> Tree.ofSeq

/// Parameters after all steps of the in-place function.
let private inPlace (plan: TrainingPlan) : float[] =
    Tensor.scoped (fun () ->
        let parameters = tree plan.Start
        let velocities = Sgd.start parameters |> Tree.leaves
        let rate = Plain.number plan.Rate

        for gradients in plan.Gradients do
            Sgd.step plan.Sgd rate (tensors gradients) velocities (Tree.leaves parameters)

        Tree.leaves parameters |> Array.collect Tensor.toFloats
    )

// ---- against PyTorch ----------------------------------------------------------------------------

let private script =
    """
import sys, torch
def numbers(): return [float(x) for x in sys.stdin.readline().split()]
while True:
    settings = numbers()
    if not settings: break
    momentum, decay, nesterov, rate = settings
    p = torch.nn.Parameter(torch.tensor(numbers(), dtype=torch.float64))
    sgd = torch.optim.SGD([p], lr=rate, momentum=momentum, weight_decay=decay, nesterov=bool(nesterov))
    for _ in range(20):
        p.grad = torch.tensor(numbers(), dtype=torch.float64)
        sgd.step()
        print(*[repr(x) for x in p.tolist()])
"""

/// The script's output for the given lines, as numbers.
let private inPyTorch (script: string) (lines: string list) : float[] =
    (PyTorch.run script [] lines).Split([| ' '; '\n' |], StringSplitOptions.RemoveEmptyEntries)
    |> Array.map (fun text -> Double.Parse(text, CultureInfo.InvariantCulture))

// ---- Adam -----------------------------------------------------------------------------------------

/// Parameters after one Adam step per gradient, prepared in two bursts.
let private adam (adam: Adam) (start: float[]) (gradients: float[][]) : float[] =
    Tensor.scoped (fun () ->
        let vector = Plain.tensor [ start.Length ]

        let p, first, second =
            vector start, vector (Array.map (fun _ -> 0.0) start), vector (Array.map (fun _ -> 0.0) start)

        let taken = Plain.number 0.0

        for burst in Array.splitInto 2 gradients do
            let steps = Adam.ahead adam burst.Length taken

            for step, gradient in Array.zip steps burst do
                Adam.step step [| vector gradient |] [| first |] [| second |] [| p |]

            Tensor.addInto taken (Plain.number (float burst.Length))

        Tensor.toFloats p
    )

let tests =
    testList "Optimiser" [
        testProperty "twenty steps in place equal twenty pure steps"
        <| forAll
            plan
            (fun plan ->
                let pure' =
                    Tensor.scoped (fun () ->
                        let rate = Plain.number plan.Rate

                        let next (states: (Tensor * Tensor)[]) gradients =
                            Array.map2
                                (fun (p, velocity) gradient ->
                                    let struct (p, velocity) = Sgd.next plan.Sgd rate gradient velocity p
                                    p, velocity
                                )
                                states
                                (tensors gradients)

                        let start = tensors plan.Start |> Array.map (fun p -> p, Tensor.scale 0.0 p)
                        plan.Gradients |> Array.fold next start |> Array.collect (fst >> Tensor.toFloats)
                    )

                Must.beClose 1e-12 1e-13 pure' (inPlace plan)
            )

        testProperty "twenty steps equal the textbook on plain numbers"
        <| forAll
            plan
            (fun plan ->
                let sgd = Oracle.sgd plan.Sgd.Momentum plan.Sgd.WeightDecay plan.Sgd.Nesterov plan.Rate

                let number i j =
                    plan.Gradients
                    |> Array.fold
                        (fun (p, buffer) (gradients: float[][]) ->
                            let p, buffer = sgd (gradients[i][j]) buffer p
                            p, Some buffer
                        )
                        (plan.Start[i][j], None)
                    |> fst

                let expected = Array.init 12 (fun k -> number (k / 4) (k % 4))
                Must.beClose 1e-12 1e-13 expected (inPlace plan)
            )

        test "a pure step leaves its arguments" {
            Tensor.scoped (fun () ->
                let p, velocity, gradient = Plain.number 1.0, Plain.number 2.0, Plain.number 3.0

                let struct (next, moved) =
                    Sgd.next { Sgd.defaults with Nesterov = true } (Plain.number 0.1) gradient velocity p

                Must.equal [ 1.0; 2.0; 3.0 ] (List.map Tensor.toFloat [ p; velocity; gradient ])
                Must.beNear 1e-15 0.0 (0.9 * 2.0 + 3.0005) (Tensor.toFloat moved)
                Must.beNear 1e-15 0.0 (1.0 - 0.1 * (3.0005 + 0.9 * 4.8005)) (Tensor.toFloat next)
            )
        }

        test "a step in place leaves its gradients and frees what it made" {
            Tensor.scoped (fun () ->
                let parameters, gradients =
                    tensors [| [| 1.0; 2.0; 3.0; 4.0 |] |], tensors [| [| 5.0; 6.0; 7.0; 8.0 |] |]

                let velocities = tensors [| Array.zeroCreate 4 |]
                let rate = Plain.number 0.1
                parameters[0].requires_grad <- true
                let before = Tensor.live ()
                Sgd.step { Sgd.defaults with Nesterov = true } rate gradients velocities parameters
                Must.equal before (Tensor.live ())
                Must.equal [| 5.0; 6.0; 7.0; 8.0 |] (Tensor.toFloats gradients[0])
                Must.hold (parameters[0].requires_grad)
            )
        }

        test "velocities start at 0 in the type and the memory format of their parameters" {
            Tensor.scoped (fun () ->
                let weight = Tensor.full DType.Float32 Device.Cpu 3.0 [| 2L; 3L; 2L; 2L |] |> Tensor.channelsLast

                let velocity = Sgd.start (Tree.ofSeq [ "w", Autograd.leaf weight ]) |> Tree.find "w"
                Must.hold (Tensor.isChannelsLast velocity)
                Must.notHold velocity.requires_grad
                Must.equal DType.Float32 (Tensor.dtype velocity)

                for v in Tensor.toFloats velocity do
                    Must.equal 0.0 v
            )
        }

        test "a state that does not lie in memory as its parameter is refused" {
            Tensor.scoped (fun () ->
                let plain = Tensor.full DType.Float32 Device.Cpu 1.0 [| 2L; 3L; 2L; 2L |]
                let weight, rate = Tensor.channelsLast plain, Tensor.scalar DType.Float32 Device.Cpu 1.0
                let alike () = Tensor.clone weight

                let refused (step: unit -> unit) =
                    Must.contain "does not lie in memory as its parameter" (Must.throw<ArgumentException> step).Message

                refused (fun () -> Tensor.sgdInto 0.9 0.0 false rate [| alike () |] [| plain |] [| weight |])

                for first, second in [ plain, alike (); alike (), plain ] do
                    refused (fun () ->
                        Tensor.adamInto 0.9 0.99 1e-8 0.1 rate [| alike () |] [| first |] [| second |] [| weight |]
                    )

                Must.beSame (Array.create 24 1.0) (Tensor.toFloats weight)
            )
        }

        test "the published settings are the defaults" {
            Must.equal { Momentum = 0.9; WeightDecay = 5e-4; Nesterov = false } Sgd.defaults
        }

        test "Adam gives PyTorch's numbers" {
            // torch.optim.Adam([p], lr=0.1) in float64, PyTorch 1.13.
            let gradients = [|
                [| 0.5; -2.0; 0.0 |]
                [| 0.25; 1.0; 1e-6 |]
                [| -1.0; 0.5; 3.0 |]
                [| 0.1; 0.2; -0.3 |]
            |]

            let expected = [| 0.83920026041565; -0.867278011507583; 0.11645989654751591 |]
            Must.beClose 1e-12 0.0 expected (adam (Adam.ofRate 0.1) [| 1.0; -1.0; 0.3 |] gradients)
        }

        testProperty "Adam's first step moves every parameter by the rate against its gradient's sign"
        <| forAll
            (many 4 (uniform -2.0 2.0))
            (fun gradient ->
                let moved = adam (Adam.ofRate 0.01) [| 0.0; 0.0; 0.0; 0.0 |] [| gradient |]

                let expected = gradient |> Array.map (fun g -> if g = 0.0 then 0.0 else -0.01 * float (sign g))

                Must.beClose 0.0 1e-4 expected moved
            )
    ]

/// Comparisons with PyTorch.
let peer =
    testList "Optimiser" [
        test "twenty steps equal PyTorch's, with and without momentum, decay and Nesterov" {
            let text (values: float seq) =
                values |> Seq.map (fun v -> v.ToString("R", CultureInfo.InvariantCulture)) |> String.concat " "

            let start = Rng.normals 4 (Rng.ofSeed 9)
            let gradients = Array.init 20 (fun step -> Rng.normals 4 (Rng.ofSeed 9 |> Rng.at step))
            let settings = [ 0.9, 5e-4, false; 0.9, 5e-4, true; 0.0, 0.0, false; 0.5, 0.1, true ]

            let asked (momentum, decay, nesterov) =
                text [ momentum; decay; (if nesterov then 1.0 else 0.0); 0.1 ]
                :: text start
                :: [ for g in gradients -> text g ]

            let ours (momentum, decay, nesterov) =
                let sgd = { Momentum = momentum; WeightDecay = decay; Nesterov = nesterov }

                Tensor.scoped (fun () ->
                    let parameters, velocities = tensors [| start |], tensors [| Array.zeroCreate 4 |]

                    gradients
                    |> Array.collect (fun gradient ->
                        Sgd.step sgd (Plain.number 0.1) (tensors [| gradient |]) velocities parameters
                        Tensor.toFloats parameters[0]
                    )
                )

            let expected = inPyTorch script (List.collect asked settings)
            Must.equal 320 expected.Length
            Must.beClose 1e-13 1e-14 expected (Array.collect ours (Array.ofList settings))
        }
    ]
