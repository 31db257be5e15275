/// How the agent learns from a batch, and that it learns (B2 to B5, B7).
module Ctkd.Fs.Tests.RlkdLearningTests

open Expecto
open Ctkd.Fs

let private fresh (nets: RlkdNetworks) (batch: int) : Tree =
    RlkdNetworks.start nets (4 * batch) batch DType.Float32 Device.Cpu (Rng.ofSeed 7)

/// The numbers of an agent's latest updates.
let private reportOf (nets: RlkdNetworks) (tree: Tree) : Map<string, float> = (Rlkd.agent nets.Config).Report tree

/// A batch to learn from, and the first state of the next.
let private experience (nets: RlkdNetworks) (batch: int) : RlkdExperience * Tensor =
    let rng = Rng.ofSeed 11
    let width = Confidence.width nets.Config.State

    let states =
        Rng.uniforms 0.5 (width * batch) rng
        |> Array.map (fun x -> x + 0.5)
        |> Tensor.ofFloats DType.Float32 [ batch; width ]

    let draws = Rng.normals batch (Rng.split "z" rng) |> Tensor.ofFloats DType.Float32 [ batch ]
    { States = states; Draws = draws }, Tensor.slice 0 0 1 states

let private reward (value: float) : Tensor = Tensor.scalar DType.Float32 Device.Cpu value

let tests =
    testList "RlkdLearning" [
        test "the corrector decides what the paper's policy learns, and the released one learns without it" {
            let learned (config: RlkdConfig) (scale: float) =
                Tensor.scoped (fun () ->
                    let nets = RlkdNetworks.create config
                    let tree = fresh nets 16
                    let corrector = Tree.find "corrector/weights" tree
                    Tensor.copyInto corrector (Tensor.scale scale corrector)
                    let batch, next = experience nets 16
                    RlkdLearning.learn nets tree batch next (reward 0.1)

                    Tensor.toFloats (Tree.find "actor/weights" tree), Tensor.toFloats (Tree.find "critic/weights" tree)
                )

            Must.differ (learned RlkdConfig.paper 1.0) (learned RlkdConfig.paper 3.0)
            Must.equal (learned RlkdConfig.official 1.0) (learned RlkdConfig.official 3.0)
            let corrected = { RlkdConfig.official with Corrects = true }
            Must.differ (learned corrected 1.0) (learned corrected 3.0)
        }

        test "the paper's ratio is 1 before the first pass, and corrected rewards sum to the batch's" {
            Tensor.scoped (fun () ->
                let nets = RlkdNetworks.create RlkdConfig.paper
                let tree = fresh nets 16
                let batch, next = experience nets 16
                let struct (rewards, _) as credit = RlkdLearning.credit nets tree batch next (reward 0.1)
                Must.beNear 0.0 1e-6 0.1 (Tensor.toFloat (Tensor.sum rewards))
                RlkdLearning.improve nets tree batch next (reward 0.1) credit
                let report = reportOf nets tree
                // At the ratio 1 the surrogate is minus the mean of the advantages, which the first batch scales by its own size.
                Must.beNear 1e-4 0.0 (-report["advantage"] / report["advantageSize"]) report["actorLoss"]
            )
        }

        test "a ratio of the released kind does not begin at 1" {
            Tensor.scoped (fun () ->
                let nets = RlkdNetworks.create RlkdConfig.official
                let tree = fresh nets 16
                let batch, next = experience nets 16
                RlkdLearning.learn nets tree batch next (reward 0.1)
                // z-scored advantages have the mean 0: a ratio of 1 would give the loss 0.
                let report = reportOf nets tree
                Must.hold (abs report["actorLoss"] > 1e-3)
            )
        }

        test "batches of any size are learned from, in both modes and under every ablation" {
            let variants = [
                RlkdConfig.paper
                RlkdConfig.official
                { RlkdConfig.paper with State = RlkdState.Confidences }
                {
                    RlkdConfig.paper with
                        Corrector = RlkdCorrector.Off
                        Updater = RlkdUpdater.Off
                }
                {
                    RlkdConfig.paper with
                        Corrector = RlkdCorrector.Set
                        Spread = RlkdSpread.Shared 1
                }
                {
                    RlkdConfig.paper with
                        Corrector = RlkdCorrector.Linear
                        Scaling = RlkdScaling.ZScore
                }
            ]

            for nets in List.map RlkdNetworks.create variants do
                for batch in [ 1; 16; 32; 64; 128 ] do
                    Must.leaveNothing (fun () ->
                        Tensor.scoped (fun () ->
                            let tree = fresh nets batch
                            let experience, next = experience nets batch

                            for value in [ 0.1; -0.2; 0.0 ] do
                                RlkdLearning.learn nets tree experience next (reward value)

                            for name, x in Tree.toList tree do
                                Expect.isTrue
                                    (Array.forall System.Double.IsFinite (Tensor.toFloats x))
                                    $"{name} at {batch}"

                            Must.equal 3.0 (Tensor.toFloat (Tree.find "updates" tree))
                        )
                    )
        }

        test "the critic does not run after its own predictions" {
            // Rewards as those of training: of either sign, and small.
            Tensor.scoped (fun () ->
                let nets, rng = RlkdNetworks.create RlkdConfig.paper, Rng.ofSeed 5
                let tree = fresh nets 16

                let states step =
                    Rng.uniforms 0.5 48 (Rng.at step rng)
                    |> Array.map (fun x -> x + 0.5)
                    |> Tensor.ofFloats DType.Float32 [ 16; 3 ]

                for step in 0..149 do
                    Tensor.scoped (fun () ->
                        let draws =
                            Rng.normals 16 (rng |> Rng.split "z" |> Rng.at step)
                            |> Tensor.ofFloats DType.Float32 [ 16 ]

                        let next = Tensor.slice 0 0 1 (states (step + 1))
                        let value = if step % 2 = 0 then 0.1 else -0.1

                        RlkdLearning.learn nets tree { States = states step; Draws = draws } next (reward value)
                    )

                let report = reportOf nets tree
                Must.lie 0.0 0.1 report["criticLoss"]
                Must.lie 0.0 0.5 report["advantageSize"]
            )
        }

        test "told each instance's reward, the policy comes to follow the uncertainty and beats every constant T" {
            let first, last =
                let parts = Toy.run RlkdConfig.paper Toy.OfInstances 1 250 5
                List.head parts, List.last parts

            Expect.isTrue (last.Correlation > 0.5) $"correlation {first.Correlation} -> {last.Correlation}"
            Expect.isTrue (last.Reward > -3.0) $"mean reward {first.Reward} -> {last.Reward}"
        }

        test "a mask that has gone to 0 does not keep the policy from learning" {
            // The last parameter of the mask is its bias: so low, it has no slope either.
            let shut (tree: Tree) =
                let weights = Tree.find "mask/weights" tree
                let last = Tensor.size 0 weights - 1
                Tensor.fillInto (Tensor.slice 0 last (last + 1) weights) -1000.0

            let follows (masked: RlkdMasked) =
                let parts = Toy.runFrom shut { RlkdConfig.paper with Masked = masked } Toy.OfInstances 1 250 5
                (List.last parts).Correlation > 0.5

            Must.hold (follows RlkdMasked.Values)
            // A policy that learns from masked states has nothing to learn from.
            Must.notHold (follows RlkdMasked.States)
        }

        test "the released agent does not" {
            let last = Toy.run RlkdConfig.official Toy.OfBatch 1 100 2 |> List.last
            Expect.isTrue (abs last.Correlation < 0.4) $"correlation {last.Correlation}"
            Expect.isTrue (last.Reward < -3.5) $"mean reward {last.Reward}"
        }
    ]
