/// The agent as a whole: what it learns from, in which order, and that it learns.
module Ctkd.Fs.Tests.RlkdTests

open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Oracle

let private classes = 4

/// An agent that learns in every epoch, and a fresh state for batches of so many.
let private early (config: RlkdConfig) : RlkdConfig = { config with WarmUp = 1; Every = 1 }

let private fresh (config: RlkdConfig) (batch: int) : Tree =
    RlkdNetworks.start config (4 * batch) batch DType.Float32 Device.Cpu (Rng.ofSeed 7)

/// A batch of the epoch whose first instances, as many as `right`, the student classifies correctly.
let private observation (epoch: int) (step: int) (batch: int) (right: int) : Observation =
    let tensor seed =
        Inputs.normal (100 * epoch + 10 * step + seed) [ batch; classes ]
        |> Plain.ofDense
        |> Tensor.toType DType.Float32

    let student = tensor 1
    let best = Tensor.toInt64s (Tensor.argMax -1 student)
    let labels = best |> Array.mapi (fun i c -> if i < right then c else (c + 1L) % int64 classes)

    {
        Epoch = epoch
        Step = step
        Teacher = tensor 2
        Student = student
        Batch = {
            Images = Tensor.zeros DType.Float32 Device.Cpu [| int64 batch; 3L; 2L; 2L |]
            Labels = Tensor.ofInt64s [ batch ] labels
            Index = Tensor.arange Device.Cpu batch
            Mix = None
        }
        Key = Rng.ofSeed 3 |> Rng.at epoch |> Draws.key Device.Cpu step
    }

let private rewardOf (agent: Agent) (tree: Tree) : float = (agent.Report tree)["reward"]

let private modes = [ RlkdConfig.paper; RlkdConfig.official ]

// ---- learning (B2, B3, B7) ------------------------------------------------------------------------------

/// A batch to learn from, and the first state of the next.
let private experience (config: RlkdConfig) (batch: int) : RlkdExperience * Tensor =
    let rng = Rng.ofSeed 11
    let width = Confidence.width config.State

    let states =
        Rng.uniforms 0.5 (width * batch) rng
        |> Array.map (fun x -> x + 0.5)
        |> Tensor.ofFloats DType.Float32 [ batch; width ]

    let draws = Rng.normals batch (Rng.split "z" rng) |> Tensor.ofFloats DType.Float32 [ batch ]
    { States = states; Draws = draws }, Tensor.slice 0 0 1 states

let private reward (value: float) : Tensor = Tensor.scalar DType.Float32 Device.Cpu value

let tests =
    testList "Rlkd" [
        // ---- order and reward (B1) --------------------------------------------------------------------------

        test "the paper's reward is the next accuracy less the own one, the released one is a step older" {
            let rewards config =
                Tensor.scoped (fun () ->
                    let config = early config
                    let agent, tree = Rlkd.agent config, fresh config 8
                    let decide step right = agent.Choose tree (observation 1 step 8 right) |> ignore
                    decide 0 2
                    decide 1 6
                    let first = rewardOf agent tree
                    decide 2 3
                    // The report holds the mean of both updates.
                    first, 2.0 * rewardOf agent tree - first
                )

            let micro config = { config with Accuracy = RlkdAccuracy.Micro; Factor = RlkdFactor.Ramp 4 }
            let first, second = rewards (micro RlkdConfig.paper)
            Must.beNear 1e-6 0.0 (0.25 * (6.0 - 2.0) / 8.0) first
            Must.beNear 1e-6 0.0 (0.25 * (3.0 - 6.0) / 8.0) second
            let first, second = rewards (micro RlkdConfig.official)
            Must.beNear 1e-6 0.0 (0.25 * 2.0 / 8.0) first
            Must.beNear 1e-6 0.0 (0.25 * (6.0 - 2.0) / 8.0) second
        }

        test "a batch's temperatures are drawn after the update from the batch before" {
            for mode in modes do
                Tensor.scoped (fun () ->
                    let config = early mode
                    let agent, tree = Rlkd.agent config, fresh config 8
                    agent.Choose tree (observation 1 0 8 2) |> ignore
                    let before = Tensor.toFloats (Tree.find "actor/weights" tree)
                    let o = observation 1 1 8 5
                    let t = agent.Choose tree o |> Option.get
                    Must.differ before (Tensor.toFloats (Tree.find "actor/weights" tree))
                    // What the updated policy draws for these states with this key.
                    let states = (Confidence.seen config.State o.Teacher o.Student).State
                    let struct (z, drawn) = Rlkd.policyOf config tree states |> Rlkd.act config 1 o.Key
                    Must.beSame (Tensor.toFloats drawn) (Tensor.toFloats t)
                    Must.beSame (Tensor.toFloats z) (Tensor.toFloats (Tree.find "pending/draws" tree))
                    Must.beSame (Tensor.toFloats states) (Tensor.toFloats (Tree.find "pending/states" tree))
                )
        }

        test "the agent chooses from the warm-up's end on and learns in its epochs from the second batch on" {
            Tensor.scoped (fun () ->
                let config = { RlkdConfig.paper with WarmUp = 2; Every = 2 }
                let agent, tree = Rlkd.agent config, fresh config 8

                let run epoch step =
                    let t = agent.Choose tree (observation epoch step 8 (2 + step))
                    t.IsSome, Tensor.toFloat (Tree.find "updates" tree)

                let expected = [
                    (1, 0), (false, 0.0)
                    (1, 1), (false, 0.0)
                    (2, 0), (true, 0.0)
                    (2, 1), (true, 1.0)
                    (2, 2), (true, 2.0)
                    (3, 0), (true, 2.0)
                    (3, 1), (true, 2.0)
                    // What was left of epoch 2 is not learned from.
                    (4, 0), (true, 2.0)
                    (4, 1), (true, 3.0)
                ]

                for (epoch, step), outcome in expected do
                    Must.equal ((epoch, step), outcome) ((epoch, step), run epoch step)
            )
        }

        test "numbers with which an agent could not learn are refused" {
            let paper = RlkdConfig.paper

            for config in
                [
                    { paper with Every = 0 }
                    { paper with CorrectorSteps = 0 }
                    { paper with UpdaterSteps = 0 }
                    { paper with CoolestT = 10.0 }
                    { paper with Ppo.Passes = 0 }
                    { paper with Ppo.Lambda = 0.0 }
                    { paper with Ppo.Discount = 1.5 }
                    { paper with Ppo.Clip = nan }
                    { paper with Factor = RlkdFactor.Ramp 0 }
                ] do
                Must.throwAny<System.ArgumentException>(fun () -> Rlkd.agent config |> ignore) |> ignore
        }

        test "a greedy agent takes the mean and learns no more" {
            Tensor.scoped (fun () ->
                let config = { early RlkdConfig.paper with GreedyAfter = Some 1 }
                let tree = fresh config 8
                let o = observation 1 0 8 1

                let policy =
                    Rlkd.policyOf config tree (Confidence.seen config.State o.Teacher o.Student).State

                let key = Draws.key Device.Cpu 0 (Rng.ofSeed 1)
                let struct (drawn, _) = Rlkd.act config 1 key policy
                let struct (greedy, _) = Rlkd.act config 2 key policy
                Must.equal (true, false) (RlkdConfig.learns config 1, RlkdConfig.learns config 2)
                Must.beSame (Tensor.toFloats policy.Mean) (Tensor.toFloats greedy)
                Must.differ (Tensor.toFloats greedy) (Tensor.toFloats drawn)
            )
        }

        test "the corrector decides what the paper's policy learns, and the released one learns without it" {
            let learned (config: RlkdConfig) (scale: float) =
                Tensor.scoped (fun () ->
                    let tree = fresh config 16
                    let corrector = Tree.find "corrector/weights" tree
                    Tensor.copyInto corrector (Tensor.scale scale corrector)
                    let batch, next = experience config 16
                    RlkdLearning.learn config tree batch next (reward 0.1)

                    Tensor.toFloats (Tree.find "actor/weights" tree),
                    Tensor.toFloats (Tree.find "critic/weights" tree)
                )

            Must.differ (learned RlkdConfig.paper 1.0) (learned RlkdConfig.paper 3.0)
            Must.equal (learned RlkdConfig.official 1.0) (learned RlkdConfig.official 3.0)
            let corrected = { RlkdConfig.official with Corrects = true }
            Must.differ (learned corrected 1.0) (learned corrected 3.0)
        }

        test "the paper's ratio is 1 before the first pass, and corrected rewards sum to the batch's" {
            Tensor.scoped (fun () ->
                let config = RlkdConfig.paper
                let tree = fresh config 16
                let batch, next = experience config 16
                let struct (rewards, _) as credit = RlkdLearning.credit config tree batch next (reward 0.1)
                Must.beNear 0.0 1e-6 0.1 (Tensor.toFloat (Tensor.sum rewards))
                RlkdLearning.improve config tree batch next (reward 0.1) credit
                let report = (Rlkd.agent config).Report tree
                // At the ratio 1 the surrogate is minus the mean of the advantages, which the first batch scales by its own size.
                Must.beNear 1e-4 0.0 (-report["advantage"] / report["advantageSize"]) report["actorLoss"]
            )
        }

        test "a ratio of the released kind does not begin at 1" {
            Tensor.scoped (fun () ->
                let config = RlkdConfig.official
                let tree = fresh config 16
                let batch, next = experience config 16
                RlkdLearning.learn config tree batch next (reward 0.1)
                // z-scored advantages have the mean 0: a ratio of 1 would give the loss 0.
                let report = (Rlkd.agent config).Report tree
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

            for config in variants do
                for batch in [ 1; 16; 32; 64; 128 ] do
                    Must.leaveNothing (fun () ->
                        Tensor.scoped (fun () ->
                            let tree = fresh config batch
                            let experience, next = experience config batch

                            for value in [ 0.1; -0.2; 0.0 ] do
                                RlkdLearning.learn config tree experience next (reward value)

                            for name, x in Tree.toList tree do
                                Expect.isTrue
                                    (Array.forall System.Double.IsFinite (Tensor.toFloats x))
                                    $"{name} at {batch}"

                            Must.equal 3.0 (Tensor.toFloat (Tree.find "updates" tree))
                        )
                    )
        }

        test "logits of 30 at T = 0.1 give finite losses and gradients" {
            Tensor.scoped (fun () ->
                let logits seed =
                    (Inputs.normal seed [ 4; 5 ]).Values
                    |> Array.map (fun v -> 30.0 * float (sign v))
                    |> Tensor.ofFloats DType.Float32 [ 4; 5 ]

                let t = Tensor.full DType.Float32 Device.Cpu 0.1 [| 4L |]
                let student = Autograd.leaf (logits 1)
                let softened = Policy.shared t (logits 2) student
                let labels = Inputs.ofLabels [| 0; 1; 2; 3 |]

                for loss in [ Loss.kd t (logits 2) student; Dkd.loss 1.0 2.0 labels softened ] do
                    let gradient = Autograd.gradients (Tensor.mean loss) [| student |] |> Array.head

                    for v in Tensor.toFloats loss do
                        Must.hold (System.Double.IsFinite v)

                    for v in Tensor.toFloats gradient do
                        Must.hold (System.Double.IsFinite v)
            )
        }

        test "the critic does not run after its own predictions" {
            // Rewards as those of training: of either sign, and small.
            Tensor.scoped (fun () ->
                let config, rng = RlkdConfig.paper, Rng.ofSeed 5
                let tree = fresh config 16

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

                        RlkdLearning.learn
                            config
                            tree
                            { States = states step; Draws = draws }
                            next
                            (reward value)
                    )

                let report = (Rlkd.agent config).Report tree
                Must.lie 0.0 0.1 report["criticLoss"]
                Must.lie 0.0 0.5 report["advantageSize"]
            )
        }

        // ---- that it learns (B5) -----------------------------------------------------------------------------------

        test
            "told each instance's reward, the policy comes to follow the uncertainty and beats every constant T" {
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
