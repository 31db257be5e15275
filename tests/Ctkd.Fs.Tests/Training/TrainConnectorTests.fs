/// What a plan keeps of its distillers: connectors, their statistics, memories.
module Ctkd.Fs.Tests.TrainConnectorTests

open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Plans
open Ctkd.Fs.Tests.DistillerPlans

let tests =
    testList "TrainConnector" [
        test "connectors are trained with the student, and no part of it" {
            for name in [ "vid"; "crd"; "srrl"; "fitnet" ] do
                Tensor.scoped (fun () ->
                    let plan = plan everyPolicy.Head (made name)
                    let start = TrainState.start plan
                    let before = Tree.copy start.Connectors

                    let after = Plans.step plan (EpochValues.create plan 1) start (Augment.plain 0 8 (upload 8 plan))

                    let trained =
                        (made name).Declares |> List.filter _.Trained |> List.map (fun d -> $"{name}/{d.Name}")

                    for connector in trained do
                        let values = Tree.find connector >> Tensor.toFloats
                        Expect.isTrue (values before <> values after.Connectors) connector
                        Must.have $"connectors/{connector}" (Tree.names after.Trained)

                    Must.equal
                        trained.Length
                        (Tree.names after.Trained |> List.filter (fun n -> n.StartsWith "connectors/") |> List.length)

                    Must.equal (Model.declarations student |> List.map _.Name) (Tree.names after.Student)
                )
        }

        test "the running statistics and counters of connectors advance" {
            Tensor.scoped (fun () ->
                let plan = plan everyPolicy.Head (made "srrl")

                let after =
                    Plans.step
                        plan
                        (EpochValues.create plan 1)
                        (TrainState.start plan)
                        (Augment.plain 0 8 (upload 8 plan))

                let value name = Tree.find $"srrl/bn.{name}" after.Connectors |> Tensor.toFloats
                Must.equal [| 1.0 |] (value "num_batches_tracked")
                Must.differ (Array.zeroCreate 6) (value "running_mean")
            )
        }

        test "a run with CRD's memories that is resumed in its epoch goes on to the bit" {
            Tensor.scoped (fun () ->
                let distiller = Distiller.sum [ 0.8, made "crd"; 1.0, made "srrl"; 0.9, Kd.distiller ]
                let plan = plan (Ctkd.instancePolicy Ctkd.publishedRange 8 curriculum) distiller
                let set = upload 40 plan
                let whole = TrainState.start plan |> complete plan set

                let stopped =
                    match Plans.epoch plan 100 (fun state _ -> state.Step = 2) set (TrainState.start plan) with
                    | Stopped state -> state
                    | other -> failwith $"{other}"

                let resumed =
                    TrainState.ofTree plan 1 stopped.Step stopped.Best (Tree.copy (TrainState.toTree stopped))

                Must.beSameTree (TrainState.toTree whole) (resumed |> complete plan set |> TrainState.toTree)
            )
        }

        test "a checkpoint holds connectors and memories, and the student of a checkpoint has neither" {
            Folders.inFolder (fun folder ->
                Tensor.scoped (fun () ->
                    let distiller = Distiller.sum [ 0.8, made "crd"; 1.0, made "fitnet"; 1.0, made "vid" ]
                    let plan = plan everyPolicy.Head distiller
                    let batch = Augment.plain 0 8 (upload 8 plan)
                    let state = Plans.step plan (EpochValues.create plan 1) (TrainState.start plan) batch
                    let path = System.IO.Path.Combine(folder, "c.safetensors")

                    let info: CheckpointInfo = {
                        Settings = Settings.defaults
                        Classes = 4
                        Images = { Height = 8; Width = 8; Mean = [ 0.5 ]; Std = [ 0.25 ]; ShortSide = 0 }
                        DataHash = ""
                        Epoch = 1
                        Step = 1
                        Best = state.Best
                        Top1 = 0.0
                        ClassNames = []
                        MetricLines = 0
                        TeacherHash = ""
                    }

                    Checkpoint.write path info state |> Error.orRaise
                    let checkpoint = Checkpoint.read path |> Error.orRaise
                    let restored = Checkpoint.restore plan checkpoint |> Error.orRaise
                    Must.beSameTree (TrainState.toTree state) (TrainState.toTree restored)
                    Must.have "crd+fitnet+vid/crd/memory_student" (Tree.names restored.Connectors)

                    let deployed = Checkpoint.student student DType.Float32 Device.Cpu checkpoint |> Error.orRaise

                    Must.beSameTree state.Student deployed
                )
            )
        }

        test "CRD draws other negatives in every step and the same in every run" {
            Tensor.scoped (fun () ->
                let plan = plan everyPolicy.Head (made "crd")
                let set = upload 16 plan
                let batch = Augment.plain 0 8 set

                let key epoch step =
                    let losses =
                        Plans.losses
                            plan
                            (EpochValues.create plan epoch)
                            { TrainState.start plan with Step = step }
                            batch

                    Tensor.toFloat losses.Input.Value.Key.Value

                let keys = [
                    for epoch in 1..3 do
                        for step in 0..3 -> key epoch step
                ]

                Must.equal 12 ((List.distinct keys).Length)
                Must.equal keys.Head (key 1 0)
            )
        }
    ]
