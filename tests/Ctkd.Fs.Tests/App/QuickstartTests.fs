module Ctkd.Fs.Tests.QuickstartTests

open Expecto
open Ctkd.Fs
open Ctkd.Fs.App

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

        test "every run of the plan is valid, and the students differ in nothing but their input" {
            let plan = Quickstart.plan Settings.defaults "teacher.safetensors"

            Must.equal [ "teacher"; "alone"; "kd-t4"; "ctkd-global"; "ctkd-instance" ] (List.map fst plan)

            Must.beEmpty (plan |> List.collect (snd >> Settings.mistakes))
            let input s = { s with Teacher = ""; TeacherWeights = ""; Policy = PolicyName.Own "" }
            Must.single (plan.Tail |> List.map (snd >> input) |> List.distinct) |> ignore

            Must.equal [ 4.0 ] [
                for name, s in plan do
                    if name = "kd-t4" then s.T
            ]
        }
    ]
