/// The step that a CUDA device replays, here done anew each time: all of it but the recording itself.
module Ctkd.Fs.Tests.ReplayTests

open System.IO
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Courses
open Ctkd.Fs.Tests.Folders

/// Two and a half epochs over 37 images in batches of 8, so that each epoch ends with a batch of 5. The run stops and goes on
/// after each of the given numbers of batches.
let private train (stepping: Course -> DeviceSet -> TrainState -> Train.Stepping) (course: Course) stops =
    Tensor.scopeWith
        (Train.toTree >> Tree.leaves >> Seq.ofArray)
        (fun () ->
            let set = upload 37 course
            let first = Train.start course
            let stepping = stepping course set first

            let rec go (state: TrainState) =
                let pause (state: TrainState) _ = List.contains (5 * (state.Epoch - 1) + state.Step) stops

                match Train.epochBy stepping course 1 pause set state with
                | Train.Stopped state when state.Epoch = 3 -> state
                | Train.Stopped state -> go state
                | Train.Complete state -> go (Train.nextEpoch state.Best state)
                | Train.Broke(step, term) -> failwith $"{term} broke in step {step}"

            go first
        )

let private fromHost how course _ _ : Train.Stepping = Train.stepping how course

let private replayed how course set state : Train.Stepping =
    match Replay.create Replay.direct how course set state with
    | Ok replay -> replay.Stepping
    | Result.Error why -> failwith why

let private sameBits (expected: TrainState) (actual: TrainState) =
    let hex (state: TrainState) =
        Train.toTree state
        |> Tree.toList
        |> List.map (fun (name, x) -> name, System.Convert.ToHexString(Tensor.toBytes x))

    Must.equal (hex expected) (hex actual)

/// Learning rate, weights and lambda all change from epoch to epoch.
let private changing (course: Course) : Course =
    let falling = Schedule.multiStep 0.05 0.1 [ 1; 2 ]

    let weighted (teaching: Teaching) =
        let rising (_: Schedule, distiller: Distiller) = Schedule.warmUp 0.9 3, distiller
        { teaching with Distillers = List.map rising teaching.Distillers }

    {
        course with
            Batch = 8
            LearningRate = falling
            Teaching = Option.map weighted course.Teaching
    }

let private dtkd (course: Course) : Course =
    let course = taught (Temperature.dtkd 4.0) course
    let kd = [ 3.0, Distiller.kd; 1.0, Distiller.at 4.0 Distiller.kd ]

    let teaching = {
        course.Teaching.Value with
            Distillers = [ Schedule.constant 1.0, Distiller.sum kd ]
    }

    { course with Teaching = Some teaching }

let private courses () : (string * Course) list = [
    "labels alone", alone
    for policy in policies |> List.filter _.Agent.IsNone do
        policy.Name, taught policy alone
    "dtkd with kd", dtkd alone
    "bf16, channels last", taught policies[1] { alone with Precision = Bf16; ChannelsLast = true }
    for name in [ "dkd"; "crd"; "at"; "vid" ] do
        name, DistillerCourses.course policies[2] (DistillerCourses.made name)
]

let tests =
    testList "Replay" [
        test "a step driven by the device's counter trains as the host's steps do, to the bit" {
            Tensor.scoped (fun () ->
                for name, course in courses () do
                    let course = Course.prepareTeacher (changing course)
                    Must.equal None (Replay.obstacle course)
                    let expected = train (fromHost Teach.simple) course [ 12 ]
                    Expect.isTrue (Tree.leaves expected.Trained |> Array.forall Weights.isFinite) name
                    sameBits expected (train (replayed Teach.simple) course [ 12 ])
            )
        }

        test "it does so with a teacher that runs ahead or remembers, whole maps too" {
            inFolder (fun folder ->
                Tensor.scoped (fun () ->
                    let looking = DistillerCourses.course policies[1] (DistillerCourses.made "at")

                    for course in [ taught policies[1] alone; { looking with ChannelsLast = true } ] do
                        let course = Course.prepareTeacher (changing course)

                        for ahead in [ 2; 3; 100 ] do
                            let how = { Teach.simple with Ahead = ahead }

                            sameBits
                                (train (fromHost how) course [ 12 ])
                                (train (replayed how) course [ 12 ])

                    let course = Course.prepareTeacher (changing (taught policies[2] alone))
                    let width = course.Teaching.Value.Model.Classifier.In
                    use cache = TeacherCache.openFile folder "key" width 1_000_000L Exact |> Error.orRaise
                    let how = { Teach.simple with Cache = Some cache }

                    sameBits
                        (train (fromHost Teach.simple) course [ 12 ])
                        (train (replayed how) course [ 12 ])
                )
            )
        }

        test "it goes on in the middle of an epoch" {
            Tensor.scoped (fun () ->
                let course = Course.prepareTeacher (changing (taught policies[2] alone))

                for ahead in [ 1; 3 ] do
                    let how = { Teach.simple with Ahead = ahead }
                    let expected = train (fromHost how) course [ 12 ]
                    sameBits expected (train (replayed how) course [ 1; 2; 4; 7; 12 ])
                    // As a run that was resumed: recorded anew for the state of a checkpoint.
                    let set = upload 37 course
                    let first = Train.start course

                    let stopped =
                        match
                            Train.epochBy
                                (replayed how course set first)
                                course
                                1
                                (fun state _ -> state.Step = 2)
                                set
                                first
                        with
                        | Train.Stopped state -> Train.ofTree course 1 2 state.Best (Train.toTree state)
                        | _ -> failwith "the epoch did not stop"

                    let resumed = replayed how course set stopped
                    let whole = Train.epochOf how course 1 never set (Train.start course)

                    match Train.epochBy resumed course 1 never set stopped, whole with
                    | Train.Complete actual, Train.Complete expected -> sameBits expected actual
                    | _ -> failwith "the epoch did not end"
            )
        }

        test "the dials act: with a rate of 0 from the second epoch on the weights stay" {
            Tensor.scoped (fun () ->
                let course = taught policies[1] { alone with Batch = 8 } |> Course.prepareTeacher
                let course = { course with LearningRate = Schedule.multiStep 0.05 0.0 [ 1 ] }
                let set = upload 37 course
                let state = Train.start course
                let stepping = replayed Teach.simple course set state

                let ended =
                    function
                    | Train.Complete state -> state
                    | _ -> failwith "the epoch did not end"

                let bytes (state: TrainState) = Tree.leaves state.Trained |> Array.collect Tensor.toBytes
                let fresh = bytes state
                let one = Train.epochBy stepping course 1 never set state |> ended
                let trained = bytes one
                Must.differ fresh trained
                let two = Train.epochBy stepping course 1 never set (Train.nextEpoch one.Best one) |> ended
                Must.equal trained (bytes two)
            )
        }

        test "what does not fit a recording is refused" {
            Tensor.scoped (fun () ->
                let course = Course.prepareTeacher (taught policies[0] { alone with Batch = 8 })
                let dropping = { course with Student = { course.Student with Dropout = 0.5 } }
                Must.contain "dropout" ((Replay.obstacle dropping).Value)
                let acting = taught (Rlkd.policy eager 4.0) alone
                Must.contain "agent" ((Replay.obstacle acting).Value)
                let set, other = upload 37 course, upload 37 course
                let state, stranger = Train.start course, Train.start course
                let stepping = replayed Teach.simple course set state

                Must.throw<System.InvalidOperationException>(fun () -> stepping set stranger |> ignore)
                |> ignore

                Must.throw<System.InvalidOperationException>(fun () -> stepping other state |> ignore)
                |> ignore
            )
        }

        test "recording leaves the state as it is, and a refusal is said and trained around" {
            Tensor.scoped (fun () ->
                let course = Course.prepareTeacher (changing (taught policies[1] alone))
                let set = upload 37 course
                let state = Train.start course

                let before =
                    Train.ofTree
                        course
                        1
                        0
                        state.Best
                        (Tree.map (fun _ x -> Tensor.clone x) (Train.toTree state))

                Replay.create Replay.direct Teach.simple course set state |> ignore
                sameBits before state
                // The CPU refuses to record: only after the rehearsal, where there is CUDA.
                match Replay.create (Replay.onDevice course) Teach.simple course set state with
                | Ok _ -> failwith "the CPU recorded a graph"
                | Result.Error why -> Must.differ "" why

                sameBits before state
                let said = ResizeArray<string>()
                let chosen = Replay.choose said.Add Teach.simple course set state
                Must.beEmpty said
                chosen.Free()
            )
        }

        test "replayed steps leave no tensor behind" {
            Tensor.scoped (fun () ->
                let course = Course.prepareTeacher (changing (taught policies[2] alone))
                let set = upload 37 course

                for ahead in [ 1; 2 ] do
                    let state = Train.start course
                    let stepping = replayed { Teach.simple with Ahead = ahead } course set state
                    let live = ResizeArray<int64>()

                    let count (_: TrainState) (_: int) =
                        live.Add(Tensor.live ())
                        false

                    Train.epochBy stepping course 100 count set state |> ignore
                    // A short fifth batch follows, from the host.
                    Must.single (live |> Seq.truncate 4 |> Seq.distinct) |> ignore
            )
        }
    ]
