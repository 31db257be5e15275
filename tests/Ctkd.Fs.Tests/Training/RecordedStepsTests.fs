/// The step that a CUDA device replays, here done anew each time: all of it but the recording itself.
module Ctkd.Fs.Tests.RecordedStepsTests

open System.IO
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Plans
open Ctkd.Fs.Tests.Folders

/// Two and a half epochs over 37 images in batches of 8, so that each epoch ends with a batch of 5. The run stops and goes on
/// after each of the given numbers of batches.
let private train (stepping: TrainingPlan -> DeviceSet -> TrainState -> Steps) (plan: TrainingPlan) stops =
    Tensor.scopeWith
        (TrainState.toTree >> Tree.leaves >> Seq.ofArray)
        (fun () ->
            let set = upload 37 plan
            let first = TrainState.start plan
            let stepping = stepping plan set first

            let rec go (state: TrainState) =
                let pause (state: TrainState) _ = List.contains (5 * (state.Epoch - 1) + state.Step) stops

                match Train.epoch stepping 1 pause state with
                | Stopped state when state.Epoch = 3 -> state
                | Stopped state -> go state
                | Complete state -> go (TrainState.nextEpoch state.Best state)
                | Broke(step, term) -> failwith $"{term} broke in step {step}"

            go first
        )

let private fromHost options plan set _ : Steps = Train.fromHost { trainer plan set with Teacher = options }

let private replayed options plan set state : Steps =
    match RecordedSteps.record RecordedSteps.direct { trainer plan set with Teacher = options } state with
    | Ok steps -> steps
    | Result.Error why -> failwith why

let private sameBits (expected: TrainState) (actual: TrainState) =
    let hex (state: TrainState) =
        TrainState.toTree state
        |> Tree.toList
        |> List.map (fun (name, x) -> name, System.Convert.ToHexString(Tensor.toBytes x))

    Must.equal (hex expected) (hex actual)

/// Learning rate, weights and lambda all change from epoch to epoch.
let private changing (plan: TrainingPlan) : TrainingPlan =
    let falling = Schedule.multiStep 0.05 0.1 [ 1; 2 ]

    let weighted (teacher: Distillation) =
        let rising (_: Schedule, distiller: Distiller) = Schedule.warmUp 0.9 3, distiller
        { teacher with Distillers = List.map rising teacher.Distillers }

    {
        plan with
            Batch = 8
            LearningRate = falling
            Distillation = Option.map weighted plan.Distillation
    }

let private dtkd (plan: TrainingPlan) : TrainingPlan =
    let plan = taught (Dtkd.policy 4.0) plan
    let kd = [ 3.0, Kd.distiller; 1.0, Distiller.at 4.0 Kd.distiller ]

    let teaching = {
        plan.Distillation.Value with
            Distillers = [ Schedule.constant 1.0, Distiller.sum kd ]
    }

    { plan with Distillation = Some teaching }

let private plans () : (string * TrainingPlan) list = [
    "labels alone", alone
    for policy in policies |> List.filter (fun policy -> (Policy.agent policy).IsNone) do
        policy.Name, taught policy alone
    "dtkd with kd", dtkd alone
    "bf16, channels last", taught policies[1] { alone with Precision = Bf16; ChannelsLast = true }
    for name in [ "dkd"; "crd"; "at"; "vid" ] do
        name, DistillerPlans.plan policies[2] (DistillerPlans.made name)
    "adamw, smoothed labels, short gradients, averaged weights",
    {
        taught policies[2] alone with
            Optimiser = Optimiser.AdamW AdamW.defaults
            DecayTemperature = false
            LabelSmoothing = 0.1
            ClipGradients = Some 0.5
            Average = Some 0.9
    }
]

let tests =
    testList "RecordedSteps" [
        test "a step driven by the device's counter trains as the host's steps do, to the bit" {
            Tensor.scoped (fun () ->
                for name, plan in plans () do
                    let plan = TrainingPlan.prepareTeacher (changing plan)
                    Must.equal None (RecordedSteps.obstacle plan)
                    let expected = train (fromHost TeacherOutputs.simple) plan [ 12 ]
                    Expect.isTrue (Tree.leaves expected.Trained |> Array.forall Weights.isFinite) name
                    sameBits expected (train (replayed TeacherOutputs.simple) plan [ 12 ])
            )
        }

        test "it does so with a teacher that runs ahead or remembers, whole maps too" {
            inFolder (fun folder ->
                Tensor.scoped (fun () ->
                    let looking = DistillerPlans.plan policies[1] (DistillerPlans.made "at")

                    for plan in [ taught policies[1] alone; { looking with ChannelsLast = true } ] do
                        let plan = TrainingPlan.prepareTeacher (changing plan)

                        for ahead in [ 2; 3; 100 ] do
                            let how = { TeacherOutputs.simple with Ahead = ahead }

                            sameBits (train (fromHost how) plan [ 12 ]) (train (replayed how) plan [ 12 ])

                    let plan = TrainingPlan.prepareTeacher (changing (taught policies[2] alone))
                    let width = plan.Distillation.Value.Model.Classifier.In
                    use cache = TeacherCache.openFile folder "key" width 1_000_000L Exact |> Error.orRaise
                    let how = { TeacherOutputs.simple with Cache = Some cache }

                    sameBits (train (fromHost TeacherOutputs.simple) plan [ 12 ]) (train (replayed how) plan [ 12 ])
                )
            )
        }

        test "it goes on in the middle of an epoch" {
            Tensor.scoped (fun () ->
                let plan = TrainingPlan.prepareTeacher (changing (taught policies[2] alone))

                for ahead in [ 1; 3 ] do
                    let how = { TeacherOutputs.simple with Ahead = ahead }
                    let expected = train (fromHost how) plan [ 12 ]
                    sameBits expected (train (replayed how) plan [ 1; 2; 4; 7; 12 ])
                    // As a run that was resumed: recorded anew for the state of a checkpoint.
                    let set = upload 37 plan
                    let first = TrainState.start plan

                    let stopped =
                        match Train.epoch (replayed how plan set first) 1 (fun state _ -> state.Step = 2) first with
                        | Stopped state -> TrainState.ofTree plan 1 2 state.Best (TrainState.toTree state)
                        | _ -> failwith "the epoch did not stop"

                    let resumed = replayed how plan set stopped
                    let whole = Plans.epochOf how plan 1 never set (TrainState.start plan)

                    match Train.epoch resumed 1 never stopped, whole with
                    | Complete actual, Complete expected -> sameBits expected actual
                    | _ -> failwith "the epoch did not end"
            )
        }

        test "the values act: with a rate of 0 from the second epoch on the weights stay" {
            Tensor.scoped (fun () ->
                let plan = taught policies[1] { alone with Batch = 8 } |> TrainingPlan.prepareTeacher
                let plan = { plan with LearningRate = Schedule.multiStep 0.05 0.0 [ 1 ] }
                let set = upload 37 plan
                let state = TrainState.start plan
                let stepping = replayed TeacherOutputs.simple plan set state

                let ended =
                    function
                    | Complete state -> state
                    | _ -> failwith "the epoch did not end"

                let bytes (state: TrainState) = Tree.leaves state.Trained |> Array.collect Tensor.toBytes
                let fresh = bytes state
                let one = Train.epoch stepping 1 never state |> ended
                let trained = bytes one
                Must.differ fresh trained

                let two = Train.epoch stepping 1 never (TrainState.nextEpoch one.Best one) |> ended

                Must.equal trained (bytes two)
            )
        }

        test "what does not fit a recording is refused" {
            Tensor.scoped (fun () ->
                let plan = TrainingPlan.prepareTeacher (taught policies[0] { alone with Batch = 8 })
                let dropping = { plan with Student = { plan.Student with Dropout = 0.5 } }
                Must.contain "dropout" ((RecordedSteps.obstacle dropping).Value)
                let acting = taught (Rlkd.policy eager 4.0) alone
                Must.contain "agent" ((RecordedSteps.obstacle acting).Value)
                Must.contain "mixup" ((RecordedSteps.obstacle { plan with Mixup = Some 0.2 }).Value)
                let set = upload 37 plan
                let state, stranger = TrainState.start plan, TrainState.start plan
                let stepping = replayed TeacherOutputs.simple plan set state

                Must.throw<System.InvalidOperationException>(fun () -> stepping.Begin stranger |> ignore) |> ignore
            )
        }

        test "recording leaves the state as it is, and a refusal is said and trained around" {
            Tensor.scoped (fun () ->
                let plan = TrainingPlan.prepareTeacher (changing (taught policies[1] alone))
                let set = upload 37 plan
                let state = TrainState.start plan

                let before =
                    TrainState.ofTree
                        plan
                        1
                        0
                        state.Best
                        (Tree.map (fun _ x -> Tensor.clone x) (TrainState.toTree state))

                let trainer = trainer plan set
                RecordedSteps.record RecordedSteps.direct trainer state |> ignore
                sameBits before state
                // The CPU refuses to record: only after the rehearsal, where there is CUDA.
                match RecordedSteps.record (RecordedSteps.onDevice plan.Device) trainer state with
                | Ok _ -> failwith "the CPU recorded a graph"
                | Result.Error why -> Must.differ "" why

                sameBits before state
                let said = ResizeArray<string>()
                let chosen = RecordedSteps.choose said.Add trainer state
                Must.beEmpty said
                chosen.Free()
            )
        }

        test "replayed steps leave no tensor behind" {
            Tensor.scoped (fun () ->
                let plan = TrainingPlan.prepareTeacher (changing (taught policies[2] alone))
                let set = upload 37 plan

                for ahead in [ 1; 2 ] do
                    let state = TrainState.start plan
                    let stepping = replayed { TeacherOutputs.simple with Ahead = ahead } plan set state
                    let live = ResizeArray<int64>()

                    let count (_: TrainState) (_: int) =
                        live.Add(Tensor.live ())
                        false

                    Train.epoch stepping 100 count state |> ignore
                    // A short fifth batch follows, from the host.
                    Must.single (live |> Seq.truncate 4 |> Seq.distinct) |> ignore
            )
        }
    ]
