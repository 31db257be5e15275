/// What a course keeps of its distillers: connectors, their statistics, memories.
module Ctkd.Fs.Tests.TrainConnectorTests

open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Courses
open Ctkd.Fs.Tests.DistillerCourses

let tests =
    testList "TrainConnector" [
        test "connectors are trained with the student, and no part of it" {
            for name in [ "vid"; "crd"; "srrl"; "fitnet" ] do
                Tensor.scoped (fun () ->
                    let course = course everyPolicy.Head (made name)
                    let start = Train.start course
                    let before = Tree.copy start.Connectors

                    let after =
                        Train.step course (Train.dials course 1) start (Augment.plain 0 8 (upload 8 course))

                    let trained =
                        (made name).Declares
                        |> List.filter _.Trained
                        |> List.map (fun d -> $"{name}/{d.Name}")

                    for connector in trained do
                        let values = Tree.find connector >> Tensor.toFloats
                        Expect.isTrue (values before <> values after.Connectors) connector
                        Must.have $"connectors/{connector}" (Tree.names after.Trained)

                    Must.equal
                        trained.Length
                        (Tree.names after.Trained
                         |> List.filter (fun n -> n.StartsWith "connectors/")
                         |> List.length)

                    Must.equal (Model.declarations student |> List.map _.Name) (Tree.names after.Student)
                )
        }

        test "the running statistics and counters of connectors advance" {
            Tensor.scoped (fun () ->
                let course = course everyPolicy.Head (made "srrl")

                let after =
                    Train.step
                        course
                        (Train.dials course 1)
                        (Train.start course)
                        (Augment.plain 0 8 (upload 8 course))

                let value name = Tree.find $"srrl/bn.{name}" after.Connectors |> Tensor.toFloats
                Must.equal [| 1.0 |] (value "num_batches_tracked")
                Must.differ (Array.zeroCreate 6) (value "running_mean")
            )
        }

        test "a run with CRD's memories that is resumed in its epoch goes on to the bit" {
            Tensor.scoped (fun () ->
                let distiller = Distiller.sum [ 0.8, made "crd"; 1.0, made "srrl"; 0.9, Distiller.kd ]
                let course = course (Temperature.ctkdInstance Temperature.published 8 curriculum) distiller
                let set = upload 40 course
                let whole = Train.start course |> complete course set

                let stopped =
                    match
                        Train.epoch course 100 (fun state _ -> state.Step = 2) set (Train.start course)
                    with
                    | Train.Stopped state -> state
                    | other -> failwith $"{other}"

                let resumed =
                    Train.ofTree course 1 stopped.Step stopped.Best (Tree.copy (Train.toTree stopped))

                Must.beSameTree (Train.toTree whole) (resumed |> complete course set |> Train.toTree)
            )
        }

        test "a checkpoint holds connectors and memories, and the student of a checkpoint has neither" {
            Folders.inFolder (fun folder ->
                Tensor.scoped (fun () ->
                    let distiller = Distiller.sum [ 0.8, made "crd"; 1.0, made "fitnet"; 1.0, made "vid" ]
                    let course = course everyPolicy.Head distiller
                    let batch = Augment.plain 0 8 (upload 8 course)
                    let state = Train.step course (Train.dials course 1) (Train.start course) batch
                    let path = System.IO.Path.Combine(folder, "c.safetensors")

                    let info: CheckpointInfo = {
                        Settings = Settings.defaults
                        Classes = 4
                        Images = { Height = 8; Width = 8; Mean = [ 0.5 ]; Std = [ 0.25 ] }
                        DataHash = ""
                        Epoch = 1
                        Step = 1
                        Best = state.Best
                        Top1 = 0.0
                        MetricLines = 0
                        TeacherHash = ""
                    }

                    Checkpoint.write path info state |> Error.orRaise
                    let checkpoint = Checkpoint.read path |> Error.orRaise
                    let restored = Checkpoint.restore course checkpoint |> Error.orRaise
                    Must.beSameTree (Train.toTree state) (Train.toTree restored)
                    Must.have "crd+fitnet+vid/crd/memory_student" (Tree.names restored.Connectors)

                    let deployed =
                        Checkpoint.student student DType.Float32 Device.Cpu checkpoint |> Error.orRaise

                    Must.beSameTree state.Student deployed
                )
            )
        }

        test "CRD draws other negatives in every step and the same in every run" {
            Tensor.scoped (fun () ->
                let course = course everyPolicy.Head (made "crd")
                let set = upload 16 course
                let batch = Augment.plain 0 8 set

                let key epoch step =
                    let losses =
                        Train.losses
                            course
                            (Train.dials course epoch)
                            { Train.start course with Step = step }
                            batch

                    Tensor.toFloat losses.Lesson.Value.Key.Value

                let keys = [
                    for epoch in 1..3 do
                        for step in 0..3 -> key epoch step
                ]

                Must.equal 12 ((List.distinct keys).Length)
                Must.equal keys.Head (key 1 0)
            )
        }
    ]
