module Ctkd.Fs.Tests.SweepRunTests

open System.IO
open System.Threading
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Folders

let private planOf (json: string) : PlannedRun list =
    Sweep.parse "s.json" json |> Result.bind (SweepPlan.create id) |> Error.orRaise

/// A teacher and two students, of four steps an epoch.
let private small: PlannedRun list =
    planOf
        """{ "teacher": "resnet8", "policy": ["fixed", "ctkd-global"], "perClass": 5, "batch": 16, "epochs": 2, "seeds": 1 }"""

let private said (body: Hooks -> 'T) : 'T * string =
    let lines = ResizeArray<string>()
    let result = body { Hooks.none with Say = lines.Add }
    result, String.concat "\n" lines

let tests =
    testList "SweepRun" [
        test "figures are of the students of seed 1, or of the first seed, and of runs from labels where no other are" {
            let ofFigures json = planOf json |> SweepRun.ofFigures |> List.map (fun run -> run.Name, run.Settings.Seed)
            let taught = """"teacher": "resnet8", "policy": ["fixed", "dtkd"], "epochs": 2"""

            for seeds, seed in [ "1", 1; "3", 1; "[4, 2]", 4; "[4, 1]", 1 ] do
                let found = ofFigures $"""{{ {taught}, "seeds": {seeds} }}"""
                Must.equal [ seed; seed ] (List.map snd found)
                Must.hold (found |> List.forall (fun (name, _) -> name.StartsWith "policy="))

            Must.equal [ 1; 1 ] (ofFigures """{ "lr": [0.1, 0.05], "epochs": 2 }""" |> List.map snd)
        }

        test "a run trains its teacher first, which other runs then find, and evaluate no more" {
            inFolder (fun folder ->
                let teacher, first, second = small[0], small[1], small[2]
                Must.equal RunState.Waiting (SweepRun.state folder teacher)
                let summary, text = said (fun hooks -> SweepRun.perform hooks folder small first)
                Must.equal (Ok Finished) (Result.map _.Ending summary)
                Must.contain "its teacher first: teacher-resnet8" text
                Must.equal RunState.Done (SweepRun.state folder teacher)
                Must.equal RunState.Done (SweepRun.state folder first)
                Must.lack "evaluated before" text
                let again, text = said (fun hooks -> SweepRun.perform hooks folder small second)
                Must.contain "evaluated before" text
                Must.contain "images were in the cache" text
                let teacherOf (summary: Result<Summary, Error>) = (Error.orRaise summary).Teacher
                Must.equal (teacherOf summary) (teacherOf again)
            )
        }

        test "a run of a sweep is the run of its settings, to the bit" {
            inFolder (fun folder ->
                let run = small[2]
                SweepRun.perform Hooks.none folder small run |> Error.orRaise |> ignore

                let alone = {
                    run.Settings with
                        TeacherWeights = Path.Combine(folder, run.TeacherRun, "last.safetensors")
                }

                Run.start Hooks.none (Path.Combine(folder, "alone")) alone |> Error.orRaise |> ignore
                let left name = Runs.contents (Path.Combine(folder, name, "last.safetensors"))
                Must.equal (left "alone") (left run.Name)
            )
        }

        test "a run that was stopped goes on to the same end, and one that is done is not trained again" {
            inFolder (fun folder ->
                let at name = Path.Combine(folder, name)
                let run = small[1]
                let sweep = at "cut"
                SweepRun.perform Hooks.none (at "whole") small run |> Error.orRaise |> ignore
                SweepRun.perform Hooks.none sweep small small[0] |> Error.orRaise |> ignore
                let stopped = SweepRun.perform (Runs.stopAfter 3) sweep small run |> Error.orRaise
                Must.equal Interrupted stopped.Ending
                Must.equal (RunState.Begun 0) (SweepRun.state sweep run)
                let ended = SweepRun.perform Hooks.none sweep small run |> Error.orRaise
                Must.equal Finished ended.Ending

                let tensors name = snd (Runs.contents (Path.Combine(at name, run.Name, "last.safetensors")))

                Must.equal (tensors "whole") (tensors "cut")
                let _, text = said (fun hooks -> SweepRun.perform hooks sweep small run)
                Must.contain "nothing was trained" text
            )
        }

        test "the error of a run that failed stays beside it, until it succeeds" {
            inFolder (fun folder ->
                let run = {
                    small[0] with
                        Settings = {
                            small[0].Settings with
                                Data = "cifar100"
                                DataDir = Path.Combine(folder, "nothing")
                        }
                }

                let error = errorOf (SweepRun.perform Hooks.none folder [ run ] run)
                Must.equal Missing error.Kind
                Must.equal (RunState.Failed error) (SweepRun.state folder run)
                Must.equal (Ok Finished) (SweepRun.perform Hooks.none folder small small[0] |> Result.map _.Ending)
                Must.equal RunState.Done (SweepRun.state folder small[0])
            )
        }

        test "a folder whose run has other settings than the planned one is left as it is" {
            inFolder (fun folder ->
                SweepRun.perform Hooks.none folder small small[0] |> Error.orRaise |> ignore
                let other = { small[0] with Settings = { small[0].Settings with Batch = 8 } }
                let error = errorOf (SweepRun.perform Hooks.none folder [ other ] other)
                Must.equal Mismatch error.Kind
                Must.contain "differs from the planned one in: batch" error.What
            )
        }

        test "a run whose teacher fails has failed with its error, and has not begun" {
            inFolder (fun folder ->
                let failing (run: PlannedRun) =
                    if run.TeacherRun = "" then
                        { run with Settings = { run.Settings with Batch = 4000 } }
                    else
                        run

                let runs = List.map failing small
                let error = errorOf (SweepRun.perform Hooks.none folder runs runs[1])
                Must.startWith $"its teacher {runs[0].Name} failed: batch is 4000" error.What
                Must.equal (RunState.Failed error) (SweepRun.state folder runs[1])
                Must.equal RunState.Waiting (SweepRun.state folder runs[2])
            )
        }

        test "where its teacher's training is stopped, a run does not begin with what there is of it" {
            inFolder (fun folder ->
                // Asked before the first steps of the teacher, which has four an epoch.
                let mutable asked = 0

                let hooks = {
                    Hooks.none with
                        Stop =
                            fun () ->
                                asked <- asked + 1
                                asked > 3
                }

                let error = errorOf (SweepRun.perform hooks folder small small[1])
                Must.startWith "the run was stopped before its teacher" error.What
                Must.differ RunState.Done (SweepRun.state folder small[0])
                Must.equal RunState.Waiting (SweepRun.state folder small[1])
                SweepRun.perform Hooks.none folder small small[1] |> Error.orRaise |> ignore
                Must.equal RunState.Done (SweepRun.state folder small[1])
            )
        }

        test "a run waits for the process that trains its teacher" {
            inFolder (fun folder ->
                let held = RunDirectory.create (Path.Combine(folder, small[0].Name)) |> Error.orRaise
                let mutable ended = false

                let waiting =
                    Thread(fun () ->
                        SweepRun.perform Hooks.none folder small small[1] |> Error.orRaise |> ignore
                        ended <- true
                    )

                waiting.Start()
                Thread.Sleep 1500
                Must.notHold ended
                (held :> System.IDisposable).Dispose()
                waiting.Join()
                Must.hold ended
                Must.equal RunState.Done (SweepRun.state folder small[0])
            )
        }
    ]
