/// What can go wrong while training: numbers that are not finite, tensors and memory that leak.
module Ctkd.Fs.Tests.TrainFaultTests

open System
open System.IO
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Courses

/// A distiller whose loss is not finite from the given step (from 1) on.
let private breaking (atStep: int) (value: float) : Distiller =
    let mutable step = 0

    {
        Distiller.kd with
            Name = "mine"
            Loss =
                fun connectors lesson ->
                    step <- step + 1
                    let loss = Distiller.kd.Loss connectors lesson
                    if step < atStep then loss else Tensor.scale value loss
    }

let private withDistillers (distillers: Distiller list) (course: Course) : Course =
    let teaching = course.Teaching.Value

    {
        course with
            Teaching =
                Some {
                    teaching with
                        Distillers = [ for d in distillers -> Schedule.constant 0.9, d ]
                }
    }

// ---- leaks --------------------------------------------------------------------------------------

/// Runs so many steps on whole batches of the set.
let private steps (course: Course) (set: DeviceSet) (count: int) (state: TrainState) : TrainState =
    let batches = Augment.count set / course.Batch

    Tensor.scoped (fun () ->
        let dials = Train.dials course 1
        let plan = Augment.plan (Rng.ofSeed 1) 1 course.Pad course.Flip set

        let next (state: TrainState) i =
            Tensor.scoped (fun () ->
                let start = i % batches * course.Batch

                Train.step
                    course
                    dials
                    state
                    (Augment.batch course.Pad plan start (start + course.Batch) set)
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
                            let course =
                                taught policies[1] alone
                                |> withDistillers [ Distiller.kd; breaking step value ]

                            match
                                Train.epoch course readEvery never (upload 40 course) (Train.start course)
                            with
                            | Train.Broke(broken, term) -> Must.equal (step, "mine") (broken, term)
                            | other -> failtest $"{other}"
                        )
        }

        test "weights that are not finite break the cross entropy of the first step" {
            Tensor.scoped (fun () ->
                let state = Train.start alone
                Autograd.noGrad (fun () -> Tensor.fillInto (Tree.find "fc.bias" state.Student) nan)

                match Train.epoch alone 1 never (upload 20 alone) state with
                | Train.Broke(step, term) -> Must.equal (1, "ce") (step, term)
                | other -> failtest $"{other}"
            )
        }

        test "a teacher that is not finite breaks the distillation, not the cross entropy" {
            Tensor.scoped (fun () ->
                let course = taught policies[0] alone
                Tensor.fillInto (Tree.find "fc.bias" course.Teaching.Value.Weights) nan

                match Train.epoch course 1 never (upload 20 course) (Train.start course) with
                | Train.Broke(step, term) -> Must.equal (1, "kd") (step, term)
                | other -> failtest $"{other}"
            )
        }

        test "who stops a broken run hears of the break" {
            Tensor.scoped (fun () ->
                let course = taught policies[1] alone |> withDistillers [ breaking 2 nan ]
                let pause (state: TrainState) _ = state.Step = 3

                match Train.epoch course 100 pause (upload 40 course) (Train.start course) with
                | Train.Broke(step, term) -> Must.equal (2, "mine") (step, term)
                | other -> failtest $"{other}"
            )
        }

        test "the number of tensors after 200 steps is that after 3" {
            for policy in policies do
                onOneThread (fun () ->
                    let course = taught policy alone
                    let set = upload 32 course
                    let early = Train.start course |> steps course set 3
                    let held = Tensor.live ()
                    steps course set 197 early |> ignore
                    Must.equal held (Tensor.live ())
                )
        }

        test "the number of tensors is the same after every epoch" {
            Tensor.scoped (fun () ->
                let course = taught policies[2] { alone with ChannelsLast = true }
                let set = upload 20 course
                let state = Train.start course |> complete course set
                let held = Tensor.live ()
                let state = Train.nextEpoch state.Best state |> complete course set
                Must.equal (2, held) (state.Epoch, Tensor.live ())
            )
        }

        test "a step that throws leaves no tensors" {
            Tensor.scoped (fun () ->
                let failing = {
                    Distiller.kd with
                        Loss = fun _ lesson -> Tensor.matmul lesson.Student.Logits lesson.Student.Pooled
                }

                let course = taught policies[1] alone |> withDistillers [ failing ]
                let set = upload 8 course
                let state, dials, batch = Train.start course, Train.dials course 1, Augment.plain 0 8 set
                let held = Tensor.live ()

                Must.throw<ArgumentException>(fun () -> Train.step course dials state batch |> ignore)
                |> ignore

                Must.equal held (Tensor.live ())
            )
        }

        test "resident memory over 2,000 steps grows by less than 5 per cent" {
            onOneThread (fun () ->
                let course = taught policies[2] { alone with Batch = 32 }
                let set = upload 64 course
                let warm = Train.start course |> steps course set 200
                let before = resident ()
                let state = steps course set 2_000 warm
                let growth = resident () / before - 1.0
                Must.equal 2_200 state.Step

                Expect.isTrue
                    (growth < 0.05)
                    $"resident memory grew by {100.0 * growth:F1} %% from {before / 1048576.0:F0} MB"
            )
        }
    ]
