module Ctkd.Fs.Tests.QuickstartTests

open System.IO
open Expecto
open Ctkd.Fs
open Ctkd.Fs.App
open Ctkd.Fs.Tests.Folders

/// Runs of the quickstart's plan under a seed, by name, in a folder of their own: their last test accuracies.
let private run (folder: string) (teacher: string) (seed: int) (names: string list) : float list =
    let plan = Map(Quickstart.plan { Settings.defaults with Seed = seed } teacher)

    names
    |> List.map (fun name ->
        let summary = Runs.finish (Path.Combine(folder, $"{name}-{seed}")) plan[name]
        (List.last summary.Epochs).Top1
    )

let tests =
    testList "Quickstart" [
        test
            "over three seeds the distilled student is at least four points above the student alone in the mean" {
            inFolder (fun folder ->
                let teacher = run folder "" 1 [ "teacher" ] |> List.head
                let weights = Path.Combine(folder, "teacher-1", "last.safetensors")

                let accuracies =
                    [ 1..3 ] |> List.map (fun seed -> run folder weights seed [ "alone"; "ctkd-global" ])

                let alone, distilled =
                    accuracies |> List.averageBy List.head, accuracies |> List.averageBy List.last

                Expect.isTrue (teacher > distilled) $"the teacher has only %.2f{teacher} %%"

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
