module Ctkd.Fs.Tests.QuickstartTests

open System.IO
open Expecto
open Ctkd.Fs
open Ctkd.Fs.App
open Ctkd.Fs.Tests.Folders

/// Trains as a run of the quickstart's plan under a seed, from a teacher's weights: the student, its weights, its test accuracy.
let private run (teacher: (Model * Tree) option) (seed: int) (name: string) : (Model * Tree) * float =
    let s = Map(Quickstart.plan { Settings.defaults with Seed = seed } "")[name]
    let data = Settings.loadData s |> Error.orRaise
    let student = Zoo.find s.Student 10 |> Error.orRaise

    let plan =
        Settings.plan s student teacher data Device.Cpu |> Error.orRaise |> TrainingPlan.prepareTeacher

    let weights, top1 = Runs.train { TeacherOutputs.simple with Ahead = s.TeacherAhead } plan data
    (student, weights), top1

let tests =
    testList "Quickstart" [
        test "over three seeds the distilled student is at least four points above the student alone in the mean" {
            Tensor.scoped (fun () ->
                let teacher, teachers = run None 1 "teacher"
                let top1 teacher name seed = Tensor.scoped (fun () -> run teacher seed name |> snd)
                let seeds = [ 1..3 ]
                let alone = List.map (top1 None "alone") seeds
                let distilled = List.map (top1 (Some teacher) "ctkd-global") seeds
                let mean = List.average distilled
                Expect.isTrue (teachers > mean) $"the teacher has only %.2f{teachers} %%"

                Expect.isTrue
                    (mean >= List.average alone + 4.0)
                    $"alone %.2f{List.average alone} %%, distilled %.2f{mean} %%: %A{alone}, %A{distilled}"
            )
        }

        test "both learned temperatures move through the curriculum and never saturate" {
            inFolder (fun folder ->
                let start (name: string) (settings: Settings) =
                    Run.start Hooks.none (Path.Combine(folder, name)) settings |> Error.orRaise

                let settings (seed: int) (name: string) (teacher: string) =
                    Map(Quickstart.plan { Settings.defaults with Seed = seed } teacher)[name]

                let teacher = (start "teacher" (settings 1 "teacher" "")).Checkpoint

                for name, seed in [ "ctkd-global", 1; "ctkd-instance", 1; "ctkd-instance", 2; "ctkd-instance", 3 ] do
                    let epochs = (start $"{name}-{seed}" (settings seed name teacher)).Epochs
                    let slopes = epochs |> List.choose _.SlopeT
                    let means = epochs |> List.choose _.T
                    Must.equal [ 60; 60 ] [ slopes.Length; means.Length ]
                    // sigmoid' is 0.25 in the middle of the range and 0.05 a twentieth of it from a bound.
                    Must.lie 0.05 0.25 (List.min slopes)
                    Must.lie 3.0 20.0 (List.max means - List.min means)
                    Must.beEmpty (epochs |> List.choose _.Warning)

                    if name = "ctkd-instance" then
                        for m in List.skip 10 epochs do
                            let spread = m.SpreadT.Value
                            Must.lie 1.5 21.0 (spread.Q95 - spread.Q05)
            )
        }

        test
            "every run of the plan is valid, and the students differ in nothing but their input and the instance-wise curriculum" {
            let plan = Quickstart.plan Settings.defaults "teacher.safetensors"

            Must.equal [ "teacher"; "alone"; "kd-t4"; "ctkd-global"; "ctkd-instance" ] (List.map fst plan)

            Must.beEmpty (plan |> List.collect (snd >> Settings.mistakes))
            let defaults = Settings.defaults

            let input s = {
                s with
                    Teacher = ""
                    TeacherWeights = ""
                    Policy = PolicyName.Own ""
                    CurriculumEpochs = defaults.CurriculumEpochs
                    Hidden = defaults.Hidden
            }

            Must.single (plan.Tail |> List.map (snd >> input) |> List.distinct) |> ignore

            // CTKD's global T keeps the published values.
            Must.equal [ "ctkd-instance" ] [
                for name, s in plan do
                    if (s.CurriculumEpochs, s.Hidden) <> (defaults.CurriculumEpochs, defaults.Hidden) then
                        name
            ]

            Must.equal [ 4.0 ] [
                for name, s in plan do
                    if name = "kd-t4" then s.T
            ]
        }
    ]
