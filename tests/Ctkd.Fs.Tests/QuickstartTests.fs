module Ctkd.Fs.Tests.QuickstartTests

open System.IO
open Expecto
open Ctkd.Fs
open Ctkd.Fs.App
open Ctkd.Fs.Tests.Folders

/// A run of the quickstart's plan under a seed, from a teacher's weights: its test accuracy at the end.
let private accuracy (teacher: (Model * Tree) option) (seed: int) (name: string) : float =
    let s = Map(Quickstart.plan { Settings.defaults with Seed = seed } "")[name]
    let data = if s.PerClass = 0 then Digits.load () else Runs.digits s.PerClass
    let student = Zoo.find s.Student 10 |> Error.orRaise

    Tensor.scoped (fun () ->
        let course = Settings.course s student teacher data Device.Cpu |> Error.orRaise |> Course.prepareTeacher
        Runs.accuracy { Teach.simple with Ahead = s.TeacherAhead } course data
    )

let tests =
    testList "Quickstart" [
        test
            "over three seeds the distilled student is at least four points above the student alone in the mean" {
            inFolder (fun folder ->
                let plan = Map(Quickstart.plan Settings.defaults "")
                let teacher = Runs.finish (Path.Combine(folder, "teacher")) plan["teacher"]
                let weights = (Trained.load Device.Cpu None teacher.Checkpoint |> Error.orRaise).Weights
                let model = Zoo.find plan["teacher"].Student 10 |> Error.orRaise

                let accuracies = [
                    for seed in 1..3 -> accuracy None seed "alone", accuracy (Some(model, weights)) seed "ctkd-global"
                ]

                let alone, distilled =
                    accuracies |> List.averageBy fst, accuracies |> List.averageBy snd

                Expect.isTrue (teacher.Best.Top1 > distilled) $"the teacher has only %.2f{teacher.Best.Top1} %%"

                Expect.isTrue
                    (distilled >= alone + 4.0)
                    $"alone %.2f{alone} %%, distilled %.2f{distilled} %%: %A{accuracies}"
            )
        }

        test "every run of the plan is valid, and the students differ in nothing but their lesson" {
            let plan = Quickstart.plan Settings.defaults "teacher.safetensors"

            Must.equal [ "teacher"; "alone"; "kd-t4"; "ctkd-global"; "ctkd-instance" ] (List.map fst plan)

            Must.beEmpty (plan |> List.collect (snd >> Settings.mistakes))
            let lesson s = { s with Teacher = ""; TeacherWeights = ""; Policy = "" }
            Must.single (plan.Tail |> List.map (snd >> lesson) |> List.distinct) |> ignore

            Must.equal [ 4.0 ] [
                for name, s in plan do
                    if name = "kd-t4" then s.T
            ]
        }
    ]
