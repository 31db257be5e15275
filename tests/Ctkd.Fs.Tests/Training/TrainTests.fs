module Ctkd.Fs.Tests.TrainTests

open System
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Plans

/// Every policy in each memory format, in float32, and one plan in each other precision.
let private variants: (unit -> TrainingPlan) list = [
    fun () -> alone
    for policy in policies do
        fun () -> taught policy alone
        fun () -> taught policy { alone with ChannelsLast = true }
    fun () -> taught policies[1] { alone with Precision = F64 }
    fun () -> taught policies[2] { alone with Precision = Bf16; DecayTemperature = false }
]

/// A property of every variant with a set of 20 images: two batches and a half.
let private forEach (property: TrainingPlan -> DeviceSet -> unit) : unit =
    for variant in variants do
        Tensor.scoped (fun () ->
            let plan = variant ()
            property plan (upload 20 plan)
        )

let tests =
    testList "Train" [
        test "two runs of one seed are identical to the bit" {
            forEach (fun plan set ->
                let run () = TrainState.start plan |> finish plan set |> TrainState.toTree
                Must.beSameTree (run ()) (run ())
            )
        }

        test "another seed gives another run" {
            Tensor.scoped (fun () ->
                let weights seed =
                    let plan = { alone with Seed = seed }
                    let state = TrainState.start plan |> finish plan (upload 20 plan)
                    Tree.find "fc.weight" state.Student |> Tensor.toFloats

                Must.differ (weights 1) (weights 2)
            )
        }

        test "a run that stops after any batch and goes on from copies is identical to the bit with one that does not" {
            forEach (fun plan set ->
                let whole = TrainState.start plan |> finish plan set |> TrainState.toTree

                for stop in 1..5 do
                    let pause (state: TrainState) steps = (state.Epoch - 1) * steps + state.Step = stop

                    let rec until (state: TrainState) : TrainState =
                        match Plans.epoch plan 100 pause set state with
                        | Stopped state -> state
                        | Complete state when state.Epoch < plan.Epochs && stop <> 3 ->
                            until (TrainState.nextEpoch state.Best state)
                        | Complete state -> state
                        | Broke(step, term) -> failwith $"{term} broke in step {step}"

                    let stopped = until (TrainState.start plan)
                    Must.equal stop ((stopped.Epoch - 1) * 3 + stopped.Step)
                    let copies = TrainState.toTree stopped |> Tree.map (fun _ x -> Tensor.clone x)
                    let resumed = TrainState.ofTree plan stopped.Epoch stopped.Step stopped.Best copies
                    Must.beSameTree whole (resumed |> finish plan set |> TrainState.toTree)
            )
        }

        test "a state that a step has consumed raises and nothing changes" {
            Tensor.scoped (fun () ->
                let plan = taught policies[1] alone
                let set = upload 20 plan
                let values = EpochValues.create plan 1
                let first = TrainState.start plan
                let second = Plans.step plan values first (Augment.plain 0 8 set)
                let after = TrainState.toTree second |> Tree.copy
                let stale () = Plans.step plan values first (Augment.plain 0 8 set)
                let error = Must.throw<InvalidOperationException>(stale >> ignore)
                Must.contain "consumed" error.Message
                Must.beSameTree after (TrainState.toTree second)
                let third = Plans.step plan values second (Augment.plain 8 16 set)
                Must.equal 2 third.Step

                Must.throw<InvalidOperationException>(fun () ->
                    Plans.step plan values second (Augment.plain 0 8 set) |> ignore
                )
                |> ignore
            )
        }

        test "an epoch sees every image, also those of its short last batch" {
            forEach (fun plan set ->
                let asked = ResizeArray()

                let note (state: TrainState) steps =
                    asked.Add((state.Step, steps))
                    false

                match Plans.epoch plan 1 note set (TrainState.start plan) with
                | Complete state ->
                    Must.equal 20 ((EpochSums.means state.Sums).Images)
                    Must.equal (1, 3) (state.Epoch, state.Step)
                    Must.equal [ 1, 3; 2, 3; 3, 3 ] (List.ofSeq asked)

                    for counter in Model.counters state.Student do
                        Must.equal [| 3L |] (Tensor.toInt64s counter)
                | other -> failtest $"{other}"
            )
        }

        test "the next epoch has seen nothing" {
            Tensor.scoped (fun () ->
                let set = upload 20 alone
                let best: Best = { Epoch = 1; Top1 = 25.0; ValTop1 = None }
                let next = TrainState.start alone |> complete alone set |> TrainState.nextEpoch best

                Must.equal (2, 0, best, 0) (next.Epoch, next.Step, next.Best, (EpochSums.means next.Sums).Images)
            )
        }

        test "the teacher stays as it is, running statistics included" {
            forEach (fun plan set ->
                plan.Distillation
                |> Option.iter (fun teaching ->
                    let before = Tree.copy teaching.Weights
                    TrainState.start plan |> finish plan set |> ignore
                    Must.beSameTree before teaching.Weights

                    for w in Tree.leaves teaching.Weights do
                        Must.notHold w.requires_grad
                )
            )
        }

        test "every trained tensor moves and every state has its names" {
            forEach (fun plan set ->
                let before = TrainState.start plan |> TrainState.toTree |> Tree.copy
                let after = TrainState.start plan |> finish plan set |> TrainState.toTree
                Must.equal (Tree.names before) (Tree.names after)

                // Without a teacher there is no T to record.
                let isOfT name = List.contains name [ "tally/range"; "tally/temperatures" ]

                for name, x in Tree.toList before do
                    let moved = Tensor.toBytes x <> Tensor.toBytes (Tree.find name after)

                    Expect.isTrue
                        (moved || name = "tally/broken" || isOfT name && plan.Distillation.IsNone)
                        $"{name} did not move"
            )
        }

        test "an epoch's report has the policy's T, the accuracy and all terms" {
            Tensor.scoped (fun () ->
                let plan =
                    taught policies[1] {
                        alone with
                            LearningRate = Schedule.constant 1e-9
                            Batch = 20
                            Pad = 0
                            Flip = false
                    }

                let set = upload 20 plan
                let means = (TrainState.start plan |> complete plan set).Sums |> EpochSums.means
                Must.beNear 0.0 1e-4 15.6212 means.T
                Must.equal [ "ce"; "kd"; "loss" ] (TrainingPlan.termNames plan)

                match means.Terms with
                | [ ce; kd; loss ] -> Must.beNear 1e-6 0.0 (0.1 * ce + 0.9 * kd) loss
                | terms -> failtest $"{terms.Length} terms"
            )
        }
    ]
