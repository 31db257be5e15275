/// What a policy reports of each image besides T, from the training step to the lines of a run.
module Ctkd.Fs.Tests.ReportedTests

open System
open System.IO
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Folders

let private measured = { Images = 8; Correct = 2; CorrectTop5 = 6; Loss = 1.5 }

/// A policy that reports nothing.
let private silent (policy: Policy) : Policy = { policy with Reports = None }

let private names = [ "sharpness/student"; "sharpness/teacher"; "temperature/student"; "temperature/teacher" ]

let private settings =
    Runs.taught "dtkd" (Settings.withMethods (Settings.methodsOf PolicyName.Dtkd) Runs.small)

/// The checkpoint as a version without reported numbers wrote it.
let private older (path: string) : unit =
    let file = Safetensors.readSealed path |> Error.orRaise
    let tensors = file.Tensors |> List.filter (fun t -> t.Name <> TrainState.reportedSums)
    Must.equal (file.Tensors.Length - 1) tensors.Length
    Safetensors.writeSealed path { file with Tensors = tensors } |> Error.orRaise

let tests =
    testList "Reported" [
        test "an epoch's line has the means over its images, from both sides' logits by the definition" {
            Tensor.scoped (fun () ->
                let plan = {
                    (Plans.taught (Dtkd.policy 4.0) { Plans.alone with Precision = F64 }) with
                        LearningRate = Schedule.constant 1e-9
                        Pad = 0
                        Flip = false
                }

                let set = Plans.upload 8 plan
                let state = TrainState.start plan
                let batch = Augment.plain 0 8 set
                let teacher = plan.Distillation.Value

                let logits model training weights =
                    (TrainingPlan.forward plan model training weights batch.Images).Logits

                let rows x = Tensor.toFloats x |> Array.chunkBySize 4

                // A batch's statistics, and so its logits, do not depend on the order of its images.
                let ofStudent = logits plan.Student true (Tree.copy state.Student) |> rows
                let ofTeacher = logits teacher.Model false teacher.Weights |> rows
                let largest = Array.max >> max 1e-3

                let share (own: float[]) (other: float[]) = 8.0 * largest own / (largest own + largest other)

                let expected =
                    Map [
                        "temperature/student", Array.map2 share ofStudent ofTeacher |> Array.average
                        "temperature/teacher", Array.map2 share ofTeacher ofStudent |> Array.average
                        "sharpness/student", ofStudent |> Array.averageBy Oracle.logSumExp
                        "sharpness/teacher", ofTeacher |> Array.averageBy Oracle.logSumExp
                    ]

                let line = Metrics.ofEpoch plan (Plans.complete plan set state) 0 measured 1.0 None
                Must.equal names (List.ofSeq line.Reported.Keys)

                for name in names do
                    Must.beNear 1e-12 1e-12 expected[name] line.Reported[name]

                Must.beNear 1e-12 0.0 line.T.Value line.Reported["temperature/student"]
                Must.beNear 1e-12 0.0 8.0 (line.Reported["temperature/student"] + line.Reported["temperature/teacher"])
            )
        }

        test "reporting changes no bit of the training, and leaves no tensors" {
            Tensor.scoped (fun () ->
                for precision in [ F32; Bf16 ] do
                    let finish policy =
                        let plan = Plans.taught policy { Plans.alone with Precision = precision }
                        Plans.finish plan (Plans.upload 20 plan) (TrainState.start plan)

                    let reporting, silent = finish (Dtkd.policy 4.0), finish (silent (Dtkd.policy 4.0))
                    Must.beSameTree silent.Trained reporting.Trained
                    Must.equal None (Tree.tryFind TrainState.reportedSums (TrainState.toTree silent))

                    Must.equal (Tree.count (TrainState.toTree silent) + 1) (Tree.count (TrainState.toTree reporting))

                let plan = Plans.taught (Dtkd.policy 4.0) Plans.alone
                let set = Plans.upload 16 plan
                let values = EpochValues.create plan 1
                let batch = Augment.plain 0 8 set
                let first = Plans.step plan values (TrainState.start plan) batch
                let before = Tensor.live ()
                let second = Plans.step plan values first batch
                Must.equal before (Tensor.live ())
                Must.equal 2 second.Step
            )
        }

        test "a learned temperature's policy reports of the T that it learned" {
            Tensor.scoped (fun () ->
                let policy = {
                    Ctkd.instancePolicy Ctkd.publishedRange 8 (Schedule.constant 1.0) with
                        Reports = Some { Names = [ "own/t" ]; Values = fun t _ _ -> [ t ] }
                }

                let plan = Plans.taught policy Plans.alone
                let state = Plans.complete plan (Plans.upload 20 plan) (TrainState.start plan)
                let line = Metrics.ofEpoch plan state 0 measured 1.0 None
                Must.equal (EpochSums.means state.Sums).T line.Reported["own/t"]
            )
        }

        test "a run under dtkd has the numbers in every line, goes on to the bit, and one under a fixed T has none" {
            inFolder (fun folder ->
                let whole = Path.Combine(folder, "whole")
                Runs.finish whole settings |> ignore

                for line in Runs.lines whole do
                    Must.equal names (List.ofSeq line.Reported.Keys)
                    Must.beNear 1e-6 0.0 line.T.Value line.Reported["temperature/student"]

                for stop in [ 2; 4; 5 ] do
                    let out = Path.Combine(folder, $"stop-{stop}")
                    Run.start (Runs.stopAfter stop) out settings |> Error.orRaise |> ignore
                    Must.equal Finished (Run.resume Hooks.none out |> Error.orRaise).Ending
                    Expect.isTrue (Runs.outcome whole = Runs.outcome out) $"stopped after {stop} batches"

                let other = Path.Combine(folder, "fixed")
                Runs.finish other (Runs.taught "fixed" { Runs.small with Epochs = 1; Milestones = [] }) |> ignore
                Must.equal [ Map.empty ] (Runs.lines other |> List.map _.Reported)
            )
        }

        test "a checkpoint of an earlier version resumes: only the epoch in whose middle it was lacks the numbers" {
            inFolder (fun folder ->
                let whole = Path.Combine(folder, "whole")
                Runs.finish whole settings |> ignore

                for stop, lacking in [ 2, [ 1 ]; 4, []; 6, [ 2 ] ] do
                    let out = Path.Combine(folder, $"stop-{stop}")
                    Run.start (Runs.stopAfter stop) out settings |> Error.orRaise |> ignore
                    older (Path.Combine(out, "last.safetensors"))
                    Must.equal Finished (Run.resume Hooks.none out |> Error.orRaise).Ending

                    let expected =
                        Runs.lines whole
                        |> List.map (fun line ->
                            if List.contains line.Epoch lacking then { line with Reported = Map.empty } else line
                        )

                    Must.equal expected (Runs.lines out)

                    let trained folder =
                        Runs.contents (Path.Combine(folder, "last.safetensors"))
                        |> snd
                        |> List.filter (fun (name, _, _, _) -> name <> TrainState.reportedSums)

                    Expect.isTrue (trained whole = trained out) $"stopped after {stop} batches"
            )
        }
    ]
