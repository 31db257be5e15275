/// What can go wrong while training: numbers that are not finite, tensors and memory that leak.
module Ctkd.Fs.Tests.TrainFaultTests

open System
open System.IO
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Plans

/// A distiller whose loss is not finite from the given step (from 1) on.
let private breaking (atStep: int) (value: float) : Distiller =
    let mutable step = 0

    {
        Kd.distiller with
            Name = "mine"
            Loss =
                fun connectors input ->
                    step <- step + 1
                    let loss = Kd.distiller.Loss connectors input
                    if step < atStep then loss else Tensor.scale value loss
    }

let private withDistillers (distillers: Distiller list) (plan: TrainingPlan) : TrainingPlan =
    let teaching = plan.Distillation.Value

    {
        plan with
            Distillation =
                Some {
                    teaching with
                        Distillers = [ for d in distillers -> Schedule.constant 0.9, d ]
                }
    }

// ---- leaks --------------------------------------------------------------------------------------

/// Runs so many steps on whole batches of the set.
let private steps (plan: TrainingPlan) (set: DeviceSet) (count: int) (state: TrainState) : TrainState =
    let batches = Augment.count set / plan.Batch

    Tensor.scoped (fun () ->
        let values = EpochValues.create plan 1
        let order = Augment.shuffle (Rng.ofSeed 1) 1 plan.Pad plan.Flip set

        let next (state: TrainState) i =
            Tensor.scoped (fun () ->
                let start = i % batches * plan.Batch

                Plans.step plan values state (Augment.batch plan.Pad order start (start + plan.Batch) set)
            )

        Seq.fold next state (seq { 1..count })
    )

/// Runs the body on one thread of the engine: on a busy machine small operations wait for a second one.
let private onOneThread (body: unit -> unit) : unit =
    let threads = Engine.threads ()
    Engine.setThreads 1

    try
        Tensor.scoped body
    finally
        Engine.setThreads threads

/// Resident memory in bytes once the garbage collector has run.
let private resident () : float =
    Must.live () |> ignore
    let pages = (File.ReadAllText "/proc/self/statm").Split(' ')[1]
    float pages * float Environment.SystemPageSize

let tests =
    testList "TrainFault" [
        test "a loss that is not finite is named with its step, however seldom it is looked at" {
            for readEvery in [ 1; 2; 3; 100 ] do
                for value in [ nan; infinity; -infinity ] do
                    for step in 1..5 do
                        Tensor.scoped (fun () ->
                            let plan = taught policies[1] alone |> withDistillers [ Kd.distiller; breaking step value ]

                            match Plans.epoch plan readEvery never (upload 40 plan) (TrainState.start plan) with
                            | Broke(broken, term) -> Must.equal (step, "mine") (broken, term)
                            | other -> failtest $"{other}"
                        )
        }

        test "weights that are not finite break the cross entropy of the first step" {
            Tensor.scoped (fun () ->
                let state = TrainState.start alone
                Autograd.noGrad (fun () -> Tensor.fillInto (Tree.find "fc.bias" state.Student) nan)

                match Plans.epoch alone 1 never (upload 20 alone) state with
                | Broke(step, term) -> Must.equal (1, "ce") (step, term)
                | other -> failtest $"{other}"
            )
        }

        test "a teacher that is not finite breaks the distillation, not the cross entropy" {
            Tensor.scoped (fun () ->
                let plan = taught policies[0] alone
                Tensor.fillInto (Tree.find "fc.bias" plan.Distillation.Value.Weights) nan

                match Plans.epoch plan 1 never (upload 20 plan) (TrainState.start plan) with
                | Broke(step, term) -> Must.equal (1, "kd") (step, term)
                | other -> failtest $"{other}"
            )
        }

        test "who stops a broken run hears of the break" {
            Tensor.scoped (fun () ->
                let plan = taught policies[1] alone |> withDistillers [ breaking 2 nan ]
                let pause (state: TrainState) _ = state.Step = 3

                match Plans.epoch plan 100 pause (upload 40 plan) (TrainState.start plan) with
                | Broke(step, term) -> Must.equal (2, "mine") (step, term)
                | other -> failtest $"{other}"
            )
        }

        test "the number of tensors after 200 steps is that after 3" {
            for policy in policies do
                onOneThread (fun () ->
                    let plan = taught policy alone
                    let set = upload 32 plan
                    let early = TrainState.start plan |> steps plan set 3
                    let held = Tensor.live ()
                    steps plan set 197 early |> ignore
                    Must.equal held (Tensor.live ())
                )
        }

        test "the number of tensors is the same after every epoch" {
            Tensor.scoped (fun () ->
                let plan = taught policies[2] { alone with ChannelsLast = true }
                let set = upload 20 plan
                let state = TrainState.start plan |> complete plan set
                let held = Tensor.live ()
                let state = TrainState.nextEpoch state.Best state |> complete plan set
                Must.equal (2, held) (state.Epoch, Tensor.live ())
            )
        }

        test "a step that throws leaves no tensors" {
            Tensor.scoped (fun () ->
                let failing = {
                    Kd.distiller with
                        Loss = fun _ input -> Tensor.matmul input.Student.Logits input.Student.Pooled
                }

                let plan = taught policies[1] alone |> withDistillers [ failing ]
                let set = upload 8 plan

                let state, values, batch = TrainState.start plan, EpochValues.create plan 1, Augment.plain 0 8 set

                let held = Tensor.live ()

                Must.throw<ArgumentException>(fun () -> Plans.step plan values state batch |> ignore) |> ignore

                Must.equal held (Tensor.live ())
            )
        }

        test "resident memory over 2,000 steps grows by less than 5 per cent" {
            onOneThread (fun () ->
                let plan = taught policies[2] { alone with Batch = 32 }
                let set = upload 64 plan
                let warm = TrainState.start plan |> steps plan set 200
                let before = resident ()
                let state = steps plan set 2_000 warm
                let growth = resident () / before - 1.0
                Must.equal 2_200 state.Step

                Expect.isTrue
                    (growth < 0.05)
                    $"resident memory grew by {100.0 * growth:F1} %% from {before / 1048576.0:F0} MB"
            )
        }
    ]
