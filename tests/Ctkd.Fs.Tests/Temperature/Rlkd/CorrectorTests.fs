/// A batch's reward split among its instances (F19, F20).
module Ctkd.Fs.Tests.CorrectorTests

open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Generators
open Ctkd.Fs.Tests.Parts
open Ctkd.Fs.Tests.Reference
open FsCheck.FSharp

let tests =
    testList "Corrector" [
        testProperty "rewards that the LSTM or the set network shares out sum to the batch's"
        <| forAll
            (Gen.zip Inputs.seeds (Gen.choose (1, 20)))
            (fun (seed, n) ->
                Tensor.scoped (fun () ->
                    for kind in [ RlkdCorrector.Lstm; RlkdCorrector.Set ] do
                        let reward = Plain.number (0.1 * float (seed % 7) - 0.3)
                        let shares = Corrector.redistribute kind reward reward (normals seed [ n ])
                        Must.beNear 0.0 1e-12 (Tensor.toFloat reward) (Tensor.toFloat (Tensor.sum shares))
                )
            )

        test "the corrector learns in float32, by the engine's fused LSTM, as in float64" {
            Tensor.scoped (fun () ->
                for batch in [ 1; 5; 64 ] do
                    let learned (dtype: DType) =
                        let of32 = Tensor.toType DType.Float32 >> Tensor.toType dtype
                        let fresh = learner 1 (Option.get (Corrector.pack RlkdCorrector.Lstm 3))

                        let learner = {
                            fresh with
                                Weights = of32 fresh.Weights
                                First = of32 fresh.First
                                Second = of32 fresh.Second
                        }

                        let x =
                            Corrector.inputs RlkdCorrector.Lstm (normals 1 [ batch; 3 ]) (normals 2 [ batch ]) |> of32

                        let reward = of32 (Plain.number -0.4)

                        let struct (loss, g) = Corrector.train RlkdCorrector.Lstm (burst 10) learner reward reward x

                        Tensor.toFloat loss, Tensor.toFloats g, learner

                    let exactLoss, exactG, exact = learned DType.Float64
                    let loss, g, ours = learned DType.Float32
                    Must.beNear 1e-5 0.0 exactLoss loss
                    Must.beClose 1e-5 1e-5 exactG g
                    // Adam turns a rounding in a gradient near 0 into up to a part of the rate.
                    Must.beClose 0.0 1e-4 (Tensor.toFloats exact.Weights) (Tensor.toFloats ours.Weights)
                    Must.beClose 1e-4 1e-6 (Tensor.toFloats exact.First) (Tensor.toFloats ours.First)
            )
        }

        test "extreme gates give finite predictions and gradients" {
            Tensor.scoped (fun () ->
                let pack = Lstm.pack 4

                for dtype in [ DType.Float32; DType.Float64 ] do
                    let large shape = normals 2 shape |> Tensor.scale 1e4 |> Tensor.toType dtype
                    let leaves = large [ Pack.count pack ] |> Pack.views pack |> Array.map Autograd.leaf
                    let g = Lstm.forward leaves (large [ 8; 4 ])
                    let gradient = Autograd.gradients (Tensor.sum g) leaves |> Pack.joined

                    for v in Array.append (Tensor.toFloats g) (Tensor.toFloats gradient) do
                        Must.hold (System.Double.IsFinite v)
            )
        }

        test "each corrector comes to predict a batch's reward" {
            Tensor.scoped (fun () ->
                for kind in [ RlkdCorrector.Lstm; RlkdCorrector.Set; RlkdCorrector.Linear ] do
                    let pack = Option.get (Corrector.pack kind 3)
                    let learner = learner 2 pack
                    let reward = Plain.number 0.5
                    let returns = Tensor.expand [| 8L |] reward

                    let x = Corrector.inputs kind (normals 3 [ 8; 3 ]) (normals 4 [ 8 ] |> Tensor.addNumber 5.0)

                    let steps = burst 400
                    let struct (before, g) = Corrector.train kind steps learner reward returns x
                    let after = Corrector.loss kind reward returns g

                    Expect.isTrue (Tensor.toFloat after < 0.1 * Tensor.toFloat before) $"{kind}: {before} {after}"
            )
        }

        test "the corrector's predictions, losses and shares, as released and in RUDDER's form" {
            reading (fun expected ->
                let kind = RlkdCorrector.Linear
                let pack = Option.get (Corrector.pack kind 3)
                let x = Corrector.inputs kind (trajectory 6) (vector 6 (fun i -> 1.0 + 1.5 * i))
                let g = Corrector.predict kind (Pack.views pack (formulaFromLast pack)) x
                let returns = vector 6 (fun i -> 0.2 * cos (0.3 * i))
                exactly (expected "reward_redistribution.pred") g

                exactly (expected "reward_redistribution.loss_official") (Corrector.loss kind returns returns g)

                exactly
                    (expected "reward_redistribution.corrected_official")
                    (Corrector.redistribute kind returns returns g)

                let total = Tensor.select 0 5 returns
                let rudder = RlkdCorrector.Lstm

                exactly (expected "recommended.rudder_loss_mse.total") (Corrector.loss rudder total returns g)

                let shares = Corrector.redistribute rudder total returns g
                exactly (expected "recommended.rudder_redistribution.corrected") shares
                exactly (expected "recommended.rudder_redistribution.sum") (Tensor.sum shares)
            )
        }
    ]
