module Ctkd.Fs.Tests.QuickstartTests

open System.IO
open Ctkd.Fs
open Ctkd.Fs.App
open Ctkd.Fs.Tests.Folders
open Xunit

/// Runs of the quickstart's plan under a seed, by name, in a folder of their own: their last test accuracies.
let private run (folder: string) (teacher: string) (seed: int) (names: string list) : float list =
    let plan = Map(Quickstart.plan { Settings.defaults with Seed = seed } teacher)

    names
    |> List.map (fun name ->
        let summary = Runs.finish (Path.Combine(folder, $"{name}-{seed}")) plan[name]
        (List.last summary.Epochs).Top1
    )

[<Fact>]
let ``over three seeds the distilled student is at least four points above the student alone in the mean``
    ()
    =
    inFolder (fun folder ->
        let teacher = run folder "" 1 [ "teacher" ] |> List.head
        let weights = Path.Combine(folder, "teacher-1", "last.safetensors")

        let accuracies =
            [ 1..3 ] |> List.map (fun seed -> run folder weights seed [ "alone"; "ctkd-global" ])

        let alone, distilled = accuracies |> List.averageBy List.head, accuracies |> List.averageBy List.last

        Assert.True(teacher > distilled, $"the teacher has only %.2f{teacher} %%")

        Assert.True(
            distilled >= alone + 4.0,
            $"alone %.2f{alone} %%, distilled %.2f{distilled} %%: %A{accuracies}"
        )
    )

[<Fact>]
let ``every run of the plan is valid, and the students differ in nothing but their lesson`` () =
    let plan = Quickstart.plan Settings.defaults "teacher.safetensors"

    Assert.Equal<string list>(
        [ "teacher"; "alone"; "kd-t4"; "ctkd-global"; "ctkd-instance" ],
        List.map fst plan
    )

    Assert.Empty(plan |> List.collect (snd >> Settings.mistakes))
    let lesson s = { s with Teacher = ""; TeacherWeights = ""; Policy = "" }
    Assert.Single(plan.Tail |> List.map (snd >> lesson) |> List.distinct) |> ignore

    Assert.Equal<float list>(
        [ 4.0 ],
        [
            for name, s in plan do
                if name = "kd-t4" then s.T
        ]
    )
