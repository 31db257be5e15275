/// The agent as a whole: what it chooses, and what it learns from in which order.
module Ctkd.Fs.Tests.RlkdTests

open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Oracle

let private classes = 4

/// An agent that learns in every epoch.
let private early (config: RlkdConfig) : RlkdConfig = { config with WarmUp = 1; Every = 1 }

/// A fresh state for batches of a size.
let private fresh (config: RlkdConfig) (batch: int) : Tree =
    RlkdNetworks.start (RlkdNetworks.create config) (4 * batch) batch DType.Float32 Device.Cpu (Rng.ofSeed 7)

/// A batch of the epoch whose first `right` instances the student classifies correctly.
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

let tests =
    testList "Rlkd" [
        // ---- order and reward (B1) --------------------------------------------------------------------------

        test "the paper's reward is the next accuracy less the own one, the released one is one step older" {
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

                    let struct (z, drawn) =
                        RlkdNetworks.policy (RlkdNetworks.create config) tree states |> Rlkd.act config 1 o.Key

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
                    RlkdNetworks.policy
                        (RlkdNetworks.create config)
                        tree
                        (Confidence.seen config.State o.Teacher o.Student).State

                let key = Draws.key Device.Cpu 0 (Rng.ofSeed 1)
                let struct (drawn, _) = Rlkd.act config 1 key policy
                let struct (greedy, _) = Rlkd.act config 2 key policy
                Must.equal (true, false) (RlkdConfig.learns config 1, RlkdConfig.learns config 2)
                Must.beSame (Tensor.toFloats policy.Mean) (Tensor.toFloats greedy)
                Must.differ (Tensor.toFloats greedy) (Tensor.toFloats drawn)
            )
        }
    ]
