/// An agent in a plan: it decides, the distillers soften, the student learns; mixed images come and go.
module Ctkd.Fs.Tests.TrainAgentTests

open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Plans

let private agent: Policy = Rlkd.policy eager 4.0

/// The images as the plan's agent shows them in an epoch, from a step on.
let private imagesOf (plan: TrainingPlan) (state: TrainState) (epoch: int) (step: int) (set: DeviceSet) : DeviceSet =
    (Option.get (Option.get (TrainingPlan.agent plan)).Images) state.Agent epoch step set

let tests =
    testList "TrainAgent" [
        test "the loss is the template at the decided temperatures, which carry no gradient" {
            Tensor.scoped (fun () ->
                for name, weight in [ "pkt", 30.0; "sp", 3.0; "vid", 1.0; "srrl", 1.0 ] do
                    let method = DistillerPlans.made name

                    let plan = {
                        DistillerPlans.plan agent method with
                            Precision = F64
                            CrossEntropy = Schedule.constant 0.1
                    }

                    let plan = {
                        plan with
                            Distillation =
                                plan.Distillation
                                |> Option.map (fun teaching -> {
                                    teaching with
                                        Weights = teacherWeights DType.Float64 teaching.Model
                                        Distillers = [
                                            Schedule.constant 0.9, Kd.distiller
                                            Schedule.constant weight, method
                                        ]
                                })
                    }

                    let state = TrainState.start plan
                    let batch = Augment.plain 0 8 (upload 20 plan)
                    let losses = Plans.losses plan (EpochValues.create plan 1) state batch
                    let term name = losses.Terms |> List.find (fst >> (=) name) |> snd |> Tensor.toFloat

                    Must.beNear
                        1e-12
                        0.0
                        (0.1 * term "ce" + 0.9 * term "kd" + weight * term name)
                        (Tensor.toFloat losses.Total)

                    let t = (Option.get losses.Input).Softened.T
                    Must.equal [| 8L |] (Tensor.shape t)
                    Must.notHold t.requires_grad

                    for x in Tree.leaves state.Agent do
                        Must.notHold x.requires_grad

                    for t in Tensor.toFloats t do
                        Must.hold (t > 0.0 && t < 10.0)

                    let input = Option.get losses.Input
                    let teacher, student = input.Teacher.Logits, input.Student.Logits

                    Must.beNear 1e-12 0.0 (Loss.kd t teacher student |> Tensor.mean |> Tensor.toFloat) (term "kd")
            )
        }

        test "before the agent chooses, T is the constant one" {
            Tensor.scoped (fun () ->
                let plan = taught (Rlkd.policy { eager with WarmUp = 2 } 3.0) alone
                let set = upload 20 plan

                let losses =
                    Plans.losses plan (EpochValues.create plan 1) (TrainState.start plan) (Augment.plain 0 8 set)

                Must.equal [| 3.0 |] (Tensor.toFloats (Option.get losses.Input).Softened.T)
            )
        }

        test "the student's steps do not change the agent's networks, and its connectors learn" {
            Tensor.scoped (fun () ->
                let plan = taught agent alone
                let set = upload 20 plan
                let first = TrainState.start plan
                let before = Tree.copy first.Agent
                let after = Plans.step plan (EpochValues.create plan 1) first (Augment.plain 0 8 set)

                for name, x in Tree.toList before do
                    if name.EndsWith("/weights", System.StringComparison.Ordinal) then
                        Expect.isTrue (Tensor.toBytes x = Tensor.toBytes (Tree.find name after.Agent)) name

                for name in [ "vid"; "srrl" ] do
                    let plan = DistillerPlans.plan agent (DistillerPlans.made name)
                    let state = TrainState.start plan
                    let connectors = Tree.copy state.Connectors
                    Must.beNonEmpty (Tree.toList connectors)
                    let batch = Augment.plain 0 8 (upload 20 plan)
                    let moved = Plans.step plan (EpochValues.create plan 1) state batch

                    for name, x in Tree.toList connectors do
                        Expect.isTrue (Tensor.toBytes x <> Tensor.toBytes (Tree.find name moved.Connectors)) name
            )
        }

        test "an epoch of the agent's shows mixed images, and the next one those that were" {
            Tensor.scoped (fun () ->
                let plan = taught (Rlkd.policy { eager with Every = 2 } 4.0) { alone with Epochs = 3 }
                let set = upload 20 plan
                let pixels = Tensor.toBytes set.Images

                let state = TrainState.start plan |> complete plan set |> TrainState.nextEpoch Best.none

                let shown = imagesOf plan state 2 0 set
                Must.equal 20L ((Tensor.shape shown.Images)[0])
                let clean = Tensor.toBytes shown.Mix.Value.Clean
                Must.equal 2 (clean |> Array.filter ((=) 0uy) |> Array.length)
                Must.differ pixels (Tensor.toBytes shown.Images)
                Must.hold ((imagesOf plan state 3 0 set).Mix.IsNone)

                let ended = state |> complete plan set |> TrainState.nextEpoch Best.none |> complete plan set

                Must.equal pixels (Tensor.toBytes set.Images)
                Must.equal 3 ended.Epoch
            )
        }

        test "an epoch that goes on in its middle mixes the images that it began with" {
            Tensor.scoped (fun () ->
                let plan = taught agent alone
                let set = upload 20 plan

                let state = TrainState.start plan |> complete plan set |> TrainState.nextEpoch Best.none

                let begun = imagesOf plan state 2 0 set
                let begun = Tensor.toBytes begun.Images
                // Entropies that would rank the images otherwise.
                let table = Tree.find "entropy" state.Agent
                Tensor.copyInto table (Tensor.neg table)
                Must.equal begun (Tensor.toBytes (imagesOf plan state 2 1 set).Images)

                Must.differ begun (Tensor.toBytes (imagesOf plan state 2 0 set).Images)
            )
        }

        test "the agent's report is that of its epoch, without what did not happen" {
            Tensor.scoped (fun () ->
                let plan = taught (Rlkd.policy { eager with WarmUp = 2; Every = 2 } 4.0) { alone with Epochs = 3 }

                let set = upload 20 plan
                let agent = Option.get (TrainingPlan.agent plan)
                let next = TrainState.nextEpoch Best.none
                let first = TrainState.start plan |> complete plan set
                Must.beEmpty (agent.Report first.Agent)
                let second = first |> next |> complete plan set
                let report = agent.Report second.Agent
                // Three batches: two updates.
                Must.equal 2.0 report["updates"]

                for name in [ "reward"; "advantage"; "policyMean"; "policySpread"; "correlation"; "correctorLoss" ] do
                    Expect.isTrue (report.ContainsKey name) name

                Must.lie (-1.0) 1.0 report["correlation"]
                let third = (second |> next |> complete plan set).Agent |> agent.Report
                Must.hold (third.ContainsKey "policyMean" && not (third.ContainsKey "reward"))
            )
        }
    ]
