module Ctkd.Fs.Tests.ShippedSweepsTests

open System
open System.IO
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Folders

let private plan (change: Settings -> Settings) (name: string) : PlannedRun list =
    ShippedSweeps.find name |> Result.bind (SweepPlan.create change) |> Error.orRaise

let private students (runs: PlannedRun list) : PlannedRun list =
    runs |> List.filter (fun run -> run.Settings.Teacher <> "")

/// Runs without their seeds.
let private distinct (runs: PlannedRun list) : int =
    students runs |> List.distinctBy (fun run -> { run.Settings with Seed = 1 }) |> List.length

/// Sweeps of more rows run whole where the variable CTKD_SWEEPS is "all", else every seventh of their rows.
let private most = 12

/// One seed of a shipped sweep on a few small images, for a share of its epochs that leaves its rows different.
let private tiny (name: string) (data: Settings) : PlannedRun list =
    let share =
        match name with
        | "ctkd-curriculum" -> 0.1
        | "rlkd-ablations" -> 0.02
        | _ -> 0.01

    let change (s: Settings) = {
        Scale.settings share s with
            Data = data.Data
            DataDir = data.DataDir
            PerClass = 0
            Batch = 6
            // Few images and no warm-up: the published rate would be too large.
            LearningRate = 1e-5
    }

    let sweep = ShippedSweeps.find name |> Error.orRaise
    SweepPlan.create change { sweep with Seeds = [ 1 ] } |> Error.orRaise

let tests =
    testList "ShippedSweeps" [
        for name in ShippedSweeps.names do
            test $"{name} runs to its end at a small scale, and its table has the rows of the paper's" {
                inFolder (fun folder ->
                    // All models see images of this size.
                    let data = Runs.ownSet (Path.Combine(folder, "images.safetensors")) 12 32
                    let runs = tiny name data
                    let rows = students runs
                    let isAll = rows.Length <= most || Environment.GetEnvironmentVariable "CTKD_SWEEPS" = "all"
                    let chosen = rows |> List.indexed |> List.filter (fun (i, _) -> isAll || i % 7 = 0) |> List.map snd

                    for run in chosen do
                        let summary = SweepRun.perform Hooks.none folder runs run |> Error.orRaise
                        Must.equal (run.Name, Finished) (run.Name, summary.Ending)

                    let found, problems = RunOutcome.readAll [ folder ] |> Error.orRaise
                    Must.beEmpty problems
                    let table = Comparison.create Comparison.defaults found |> Error.orRaise
                    Must.equal chosen.Length table.Groups.Length
                    Must.hold (table.Groups |> List.forall (fun group -> group.Values.Length = 1))
                )
            }

        test "each table and figure of the papers has its rows" {
            let rows = [
                "ctkd-curriculum", 30
                "ctkd-curves", 4 * 2
                "ctkd-instance", 3 * 3
                "ctkd-pairs", 11 * 2
                "ctkd-plugins", 6 * 7 * 2
                "dtkd-depths", 6 * 2
                "dtkd-target", 2 * 2
                "dtkd-temperatures", 3
                "dtkd-tsne", 2
                "rlkd-ablations", 4
                "rlkd-data", 3
                "rlkd-pairs", 11 * 3
                "rlkd-plugins", 6 * 7 * 3
            ]

            Must.equal (List.map fst rows) ShippedSweeps.names

            for name, count in rows do
                let runs = plan id name
                Must.equal (name, count) (name, distinct runs)
                Must.hold (students runs |> List.forall (fun run -> run.Recipe <> ""))
        }

        test "every shipped sweep is a plan on the digits, at a small share of its epochs" {
            for name in ShippedSweeps.names do
                let sweep = ShippedSweeps.find name |> Result.bind (fun s -> Sweep.set s "data=digits") |> Error.orRaise
                let share = if name = "ctkd-curriculum" then 0.1 else 0.02
                let runs = SweepPlan.create (Scale.settings share) sweep |> Error.orRaise
                Must.hold (runs |> List.forall (fun run -> run.Settings.Epochs <= 24 && run.Settings.Data = "digits"))
        }

        test "an unknown sweep is told with the nearest names" {
            Must.contain "ctkd-pairs" (errorOf (ShippedSweeps.find "ctkd-pair")).Next
        }

        test "a folder of teachers gives their weights, in the layout of the published ones too" {
            inFolder (fun folder ->
                Directory.CreateDirectory(Path.Combine(folder, "resnet110_vanilla")) |> ignore
                let published = Path.Combine(folder, "resnet110_vanilla", "ckpt_epoch_240.pth")
                File.WriteAllText(published, "weights")

                let sweep = {
                    (ShippedSweeps.find "ctkd-curriculum" |> Error.orRaise) with
                        Teachers = folder
                }

                let runs = SweepPlan.create id sweep |> Error.orRaise
                Must.equal 30 runs.Length

                Must.hold (
                    runs |> List.forall (fun run -> run.Settings.TeacherWeights = published && run.TeacherRun = "")
                )

                let other = { (ShippedSweeps.find "rlkd-data" |> Error.orRaise) with Teachers = folder }
                let error = errorOf (SweepPlan.create id other)
                Must.contain "none of the model resnet56" error.What
            )
        }

        test "a scaled run has its share of everything that is counted in epochs, and of the images" {
            let s = (Recipes.find "rlkd/resnet56-resnet20/dkd/rlkd" |> Error.orRaise).Settings
            let small = Scale.settings 0.1 s

            Must.equal
                (24, [ 15; 18; 21 ], 1, 2, 50)
                (small.Epochs, small.Milestones, small.CurriculumEpochs, small.WarmUp, small.PerClass)

            Must.equal (2, 2) (small.Rlkd.WarmUp, small.Rlkd.Every)
            Must.equal { s with PerClass = 500 } (Scale.settings 1.0 s |> fun full -> { full with Rlkd = s.Rlkd })
            Must.equal 20 (Scale.settings 0.1 { s with Subset = 200 }).Subset
            Must.equal 5 (Scale.settings 0.001 { s with PerClass = 100 }).PerClass
            Must.equal 3 (Scale.settings 0.001 { s with PerClass = 3 }).PerClass
            Must.equal [] (Settings.mistakes { small with TeacherWeights = "later" })
        }
    ]
