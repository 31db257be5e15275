/// An agent in a course: it decides, the distillers soften, the student learns; mixed images come and go.
module Ctkd.Fs.Tests.TrainAgentTests

open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Courses

let private agent: Policy = Rlkd.policy eager 4.0

let tests =
    testList "TrainAgent" [
        test "the loss is the template at the decided temperatures, which carry no gradient" {
            Tensor.scoped (fun () ->
                for name, weight in [ "pkt", 30.0; "sp", 3.0; "vid", 1.0; "srrl", 1.0 ] do
                    let method = DistillerCourses.made name

                    let course = {
                        DistillerCourses.course agent method with
                            Precision = F64
                            CrossEntropy = Schedule.constant 0.1
                    }

                    let course = {
                        course with
                            Teaching =
                                course.Teaching
                                |> Option.map (fun teaching -> {
                                    teaching with
                                        Weights = teacherWeights DType.Float64 teaching.Model
                                        Distillers = [
                                            Schedule.constant 0.9, Distiller.kd
                                            Schedule.constant weight, method
                                        ]
                                })
                    }

                    let state = Train.start course
                    let batch = Augment.plain 0 8 (upload 20 course)
                    let losses = Train.losses course (Train.dials course 1) state batch
                    let term name = losses.Terms |> List.find (fst >> (=) name) |> snd |> Tensor.toFloat

                    Must.beNear
                        1e-12
                        0.0
                        (0.1 * term "ce" + 0.9 * term "kd" + weight * term name)
                        (Tensor.toFloat losses.Total)

                    let t = Option.get losses.T
                    Must.equal [| 8L |] (Tensor.shape t)
                    Must.notHold t.requires_grad

                    for x in Tree.leaves state.Agent do
                        Must.notHold x.requires_grad

                    for t in Tensor.toFloats t do
                        Must.hold (t > 0.0 && t < 10.0)

                    let lesson = Option.get losses.Lesson
                    let teacher, student = lesson.Teacher.Logits, lesson.Student.Logits

                    Must.beNear
                        1e-12
                        0.0
                        (Loss.kd t teacher student |> Tensor.mean |> Tensor.toFloat)
                        (term "kd")
            )
        }

        test "before the agent chooses, T is the constant one" {
            Tensor.scoped (fun () ->
                let course = taught (Rlkd.policy { eager with WarmUp = 2 } 3.0) alone
                let set = upload 20 course

                let losses =
                    Train.losses course (Train.dials course 1) (Train.start course) (Augment.plain 0 8 set)

                Must.equal [| 3.0 |] (losses.T |> Option.get |> Tensor.toFloats)
            )
        }

        test "the student's steps do not change the agent's networks, and its connectors learn" {
            Tensor.scoped (fun () ->
                let course = taught agent alone
                let set = upload 20 course
                let first = Train.start course
                let before = Tree.copy first.Agent
                let after = Train.step course (Train.dials course 1) first (Augment.plain 0 8 set)

                for name, x in Tree.toList before do
                    if name.EndsWith("/weights", System.StringComparison.Ordinal) then
                        Expect.isTrue (Tensor.toBytes x = Tensor.toBytes (Tree.find name after.Agent)) name

                for name in [ "vid"; "srrl" ] do
                    let course = DistillerCourses.course agent (DistillerCourses.made name)
                    let state = Train.start course
                    let connectors = Tree.copy state.Connectors
                    Must.beNonEmpty (Tree.toList connectors)
                    let batch = Augment.plain 0 8 (upload 20 course)
                    let moved = Train.step course (Train.dials course 1) state batch

                    for name, x in Tree.toList connectors do
                        Expect.isTrue
                            (Tensor.toBytes x <> Tensor.toBytes (Tree.find name moved.Connectors))
                            name
            )
        }

        test "an epoch of the agent's shows mixed images, and the next one those that were" {
            Tensor.scoped (fun () ->
                let course = taught (Rlkd.policy { eager with Every = 2 } 4.0) { alone with Epochs = 3 }
                let set = upload 20 course
                let pixels = Tensor.toBytes set.Images

                let state =
                    Train.start course |> complete course set |> Train.nextEpoch { Epoch = 0; Top1 = 0.0 }

                let shown, blend = Acting.blended course state.Agent 2 0 set
                Must.equal 20L ((Tensor.shape shown.Images)[0])
                let clean = Tensor.toBytes blend.Value.Clean
                Must.equal 2 (clean |> Array.filter ((=) 0uy) |> Array.length)
                Must.differ pixels (Tensor.toBytes shown.Images)
                Must.hold ((Acting.blended course state.Agent 3 0 set |> snd).IsNone)

                let ended =
                    state
                    |> complete course set
                    |> Train.nextEpoch { Epoch = 0; Top1 = 0.0 }
                    |> complete course set

                Must.equal pixels (Tensor.toBytes set.Images)
                Must.equal 3 ended.Epoch
            )
        }

        test "an epoch that goes on in its middle mixes the images that it began with" {
            Tensor.scoped (fun () ->
                let course = taught agent alone
                let set = upload 20 course

                let state =
                    Train.start course |> complete course set |> Train.nextEpoch { Epoch = 0; Top1 = 0.0 }

                let begun, _ = Acting.blended course state.Agent 2 0 set
                let begun = Tensor.toBytes begun.Images
                // Entropies that would rank the images otherwise.
                let table = Tree.find "entropy" state.Agent
                Tensor.copyInto table (Tensor.neg table)
                Must.equal begun (Tensor.toBytes (fst (Acting.blended course state.Agent 2 1 set)).Images)

                Must.differ begun (Tensor.toBytes (fst (Acting.blended course state.Agent 2 0 set)).Images)
            )
        }

        test "the agent's report is that of its epoch, without what did not happen" {
            Tensor.scoped (fun () ->
                let course =
                    taught (Rlkd.policy { eager with WarmUp = 2; Every = 2 } 4.0) { alone with Epochs = 3 }

                let set = upload 20 course
                let agent = Option.get (Acting.agent course)
                let next = Train.nextEpoch { Epoch = 0; Top1 = 0.0 }
                let first = Train.start course |> complete course set
                Must.beEmpty (agent.Report first.Agent)
                let second = first |> next |> complete course set
                let report = agent.Report second.Agent
                // Three batches: two updates.
                Must.equal 2.0 report["updates"]

                for name in
                    [ "reward"; "advantage"; "policyMean"; "policySpread"; "correlation"; "correctorLoss" ] do
                    Expect.isTrue (report.ContainsKey name) name

                Must.lie (-1.0) 1.0 report["correlation"]
                let third = (second |> next |> complete course set).Agent |> agent.Report
                Must.hold (third.ContainsKey "policyMean" && not (third.ContainsKey "reward"))
            )
        }
    ]
