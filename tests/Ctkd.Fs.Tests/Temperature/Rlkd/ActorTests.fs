/// From states to draws and temperatures (F10 to F13, B9).
module Ctkd.Fs.Tests.ActorTests

open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Generators
open Ctkd.Fs.Tests.Parts
open Ctkd.Fs.Tests.Reference

let private shared = RlkdSpread.Shared 10

let tests =
    testList "Actor" [
        test "an untrained policy has the deviation of the released one for every state" {
            Tensor.scoped (fun () ->
                for spread in [ RlkdSpread.Head; RlkdSpread.Shared 10 ] do
                    let pack = Actor.pack spread 3
                    let p = Pack.start DType.Float64 Device.Cpu (Rng.ofSeed 3) pack |> Pack.views pack
                    let policy = Actor.forward spread p (normals 1 [ 5; 3 ])

                    for s in Tensor.toFloats policy.LogDeviation do
                        Must.beNear 0.0 1e-12 -0.5 s

                    for m in Tensor.toFloats policy.Mean do
                        Must.lie (-1.0) 1.0 m
            )
        }

        testProperty "the draws of a batch equal those of each instance alone for the same noise"
        <| forAll
            Inputs.seeds
            (fun seed ->
                Tensor.scoped (fun () ->
                    let pack = Actor.pack RlkdSpread.Head 3
                    let p = Pack.start DType.Float64 Device.Cpu (Rng.ofSeed seed) pack |> Pack.views pack
                    let states = normals seed [ 6; 3 ]
                    let noise = normals (seed + 1) [ 6 ]

                    let draw noise states =
                        Actor.forward RlkdSpread.Head p states |> Actor.draw noise |> Actor.squash 0.1

                    let one i =
                        draw (Tensor.slice 0 i (i + 1) noise) (Tensor.slice 0 i (i + 1) states) |> Tensor.toFloat

                    Must.beClose 1e-12 0.0 (Array.init 6 one) (Tensor.toFloats (draw noise states))
                )
            )

        testProperty "the noise of a draw gives the draw again"
        <| forAll
            Inputs.seeds
            (fun seed ->
                Tensor.scoped (fun () ->
                    let policy = { Mean = normals seed [ 5 ]; LogDeviation = normals (seed + 1) [ 5 ] }
                    let noise = normals (seed + 2) [ 5 ]

                    Actor.draw noise policy
                    |> Actor.noiseOf policy
                    |> Tensor.toFloats
                    |> Must.beClose 1e-9 1e-9 (Tensor.toFloats noise)
                )
            )

        test "noise is standard normal and a function of its key" {
            Tensor.scoped (fun () ->
                let noise index = Actor.noise (Draws.key Device.Cpu index (Rng.ofSeed 5)) 20_000 |> Tensor.toFloats

                let values = noise 1
                Must.lie (-0.03) 0.03 (Array.average values)
                Must.lie 0.96 1.04 (values |> Array.averageBy (fun v -> v * v))
                // A normal distribution has 4.55 % beyond two deviations.
                Must.lie 0.040 0.051 (values |> Array.averageBy (fun v -> if abs v > 2.0 then 1.0 else 0.0))
                Must.beSame values (noise 1)
                Must.differ values (noise 2)
            )
        }

        test "temperatures stay within their range however far the draw" {
            Tensor.scoped (fun () ->
                for dtype in [ DType.Float32; DType.Float64 ] do
                    let z = Tensor.ofFloats dtype [ 6 ] [| -1e6; -20.0; 0.0; 20.0; 40.0; 1e6 |]

                    for t in Tensor.toFloats (Actor.squash 0.1 z) do
                        Expect.isTrue (t >= 0.0999 && t < 10.0) (string t)
            )
        }

        test "the ratio's gradient is the same before and after the squashing" {
            // log N(z) + log |dz/dT| differs from log N(z) by what does not depend on the policy.
            Tensor.scoped (fun () ->
                let mean = Autograd.leaf (row [| 0.3; -0.2 |])
                let policy = { Mean = mean; LogDeviation = Plain.number -0.5 }
                let z = row [| 0.7; 0.1 |]
                let density = Actor.logLikelihood RlkdLikelihood.Draw z (Actor.squash 0.1 z) policy

                let slope = Autograd.gradients (Tensor.sum density) [| mean |] |> Array.head |> Tensor.toFloats

                let variance = exp -1.0
                Must.beClose 1e-12 0.0 [| (0.7 - 0.3) / variance; (0.1 + 0.2) / variance |] slope
            )
        }

        test "draws become temperatures" {
            reading (fun expected ->
                let z = expected "squash.z"
                exactly (expected "squash.T") (Actor.squash 0.0 (Plain.tensor [ z.Length ] z))
            )
        }

        test "log-likelihoods at the draw and, as released, at the temperature" {
            reading (fun expected ->
                let policy mean = { Mean = Plain.tensor [ 3 ] mean; LogDeviation = Plain.number -0.5 }
                let none = Plain.tensor [ 3 ] [| nan; nan; nan |]
                let x = Plain.tensor [ 3 ] (expected "gaussian_logp.x")

                let released =
                    Actor.logLikelihood RlkdLikelihood.Temperature none x (policy (expected "gaussian_logp.mu"))

                exactly (expected "gaussian_logp.logp") released
                let z = Plain.tensor [ 3 ] (expected "recommended.logp_pre_squash.z")
                let mean = expected "recommended.logp_pre_squash.mu"

                exactly
                    (expected "recommended.logp_pre_squash.logp")
                    (Actor.logLikelihood RlkdLikelihood.Draw z none (policy mean))

                exactly (expected "recommended.logp_pre_squash.T") (Actor.squash 0.1 z)
            )
        }

        test "actor and critic" {
            reading (fun expected ->
                let actor, critic = Actor.pack shared 3, Critic.pack 3
                let policy = Actor.forward shared (Pack.views actor (formula actor)) (states ())
                exactly (expected "actor_forward.mu") policy.Mean
                exactly (expected "actor_forward.std") (Tensor.exp policy.LogDeviation)

                exactly (expected "critic_forward.v") (Critic.forward (Pack.views critic (formula critic)) (states ()))
            )
        }
    ]
