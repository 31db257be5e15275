/// Runs of recipes beside the published numbers, without training.
module Ctkd.Fs.Tests.ReproductionsTests

open System.IO
open System.Text.Json.Nodes
open Expecto
open Ctkd.Fs
open Ctkd.Fs.App
open Ctkd.Fs.Tests.Folders

let private fixedT, private ctkd =
    "ctkd/resnet56-resnet20/kd/fixed", "ctkd/resnet56-resnet20/kd/ctkd-global"

let private ofRecipe (folder: string) (name: string) recipe change seed top1s : string =
    MadeRuns.ofRecipe (Path.Combine(folder, $"{name}-{seed}")) recipe change seed top1s

let private made (folders: string list) : Reproductions =
    Reproductions.create Metric.Last 0.95 (MadeRuns.read folders) |> Error.orRaise

let private rows (r: Reproductions) : Reproduction list = r.Sources |> List.collect snd

let tests =
    testList "Reproductions" [
        test "runs of the whole recipe have mean, spread, interval and their difference to the published number" {
            inFolder (fun folder ->
                let r =
                    made [
                        for seed, top1 in [ 1, 71.0; 2, 71.6; 3, 71.9 ] do
                            ofRecipe folder "a" ctkd id seed [ 72.5; top1 ]
                    ]

                let row = rows r |> List.exactlyOne
                Must.equal (ctkd, Some 71.19, [], []) (row.Recipe.Name, row.Published, row.Short, row.Changed)
                Must.equal [ 1, 71.0; 2, 71.6; 3, 71.9 ] row.Values
                Must.beNear 1e-9 0.0 71.5 row.Sample.Mean
                Must.beNear 1e-9 0.0 (sqrt 0.21) row.Sample.Deviation.Value
                // t of two degrees of freedom at 95 % is 4.302653.
                Must.beNear 1e-5 0.0 (71.5 + 4.302653 * sqrt (0.21 / 3.0)) row.Sample.Interval.Value.High
                Must.beNear 1e-9 0.0 0.31 row.Difference.Value
                Must.equal ([], []) (r.LeftOut, r.Warnings)
            )
        }

        test "one run has no interval" {
            inFolder (fun folder ->
                let row = made [ ofRecipe folder "a" ctkd id 1 [ 71.0 ] ] |> rows |> List.exactlyOne
                Must.equal (1, None, None) (row.Sample.Count, row.Sample.Deviation, row.Sample.Interval)
                Must.beNear 1e-9 0.0 -0.19 row.Difference.Value
            )
        }

        test "a run at a scale is short, says by what, and has no difference" {
            inFolder (fun folder ->
                for share, short in [ 0.01, [ "2 of 240 epochs"; "5 of 500 images a class" ]; 1.0, [] ] do
                    let name = $"a{share}"

                    let row =
                        made [ ofRecipe folder name ctkd (Scale.settings share) 1 [ 9.0 ] ] |> rows |> List.exactlyOne

                    Must.equal (short, []) (row.Short, row.Changed)
                    Must.equal short.IsEmpty row.Difference.IsSome
            )
        }

        test "every recipe at a scale is short, and nothing of it is taken for changed" {
            inFolder (fun folder ->
                for recipe in Recipes.all do
                    let name = recipe.Name.Replace('/', '-')

                    let row =
                        made [ ofRecipe folder name recipe.Name (Scale.settings 0.1) 1 [ 9.0 ] ]
                        |> rows
                        |> List.exactlyOne

                    Must.equal (recipe.Name, []) (recipe.Name, row.Changed)
                    Must.startWith $"{row.Runs.Head.Settings.Epochs} of {recipe.Settings.Epochs} epochs" row.Short.Head
            )
        }

        test "a run with other settings than the recipe's says which, and has no difference" {
            inFolder (fun folder ->
                let changes: ((Settings -> Settings) * string) list = [
                    (fun s -> { s with CurriculumEpochs = 40 }), "curriculumEpochs 40, not 10"
                    (fun s -> { s with Data = "digits" }), "data digits, not cifar100"
                    (fun s -> { s with Epochs = 480 }), "epochs 480, not 240"
                    (fun s -> { s with StudentHash = "00" }), "studentHash given, not none"
                ]

                for i, (change, changed) in List.indexed changes do
                    let row = made [ ofRecipe folder $"a{i}" ctkd change 1 [ 71.0 ] ] |> rows |> List.exactlyOne
                    Must.equal ([ changed ], None) (row.Changed, row.Difference)

                let held = made [ ofRecipe folder "held" ctkd (fun s -> { s with ValSplit = 0.1 }) 1 [ 71.0 ] ] |> rows

                Must.equal
                    ([ "10 % of the images held out for validation" ], None)
                    (held.Head.Short, held.Head.Difference)
            )
        }

        test "runs of two recipes with the same settings, and of one recipe with others, are not mixed" {
            inFolder (fun folder ->
                let r =
                    made [
                        ofRecipe folder "m" "mdistiller/resnet56-resnet20/kd/fixed" id 1 [ 70.0 ]
                        ofRecipe folder "c" fixedT id 1 [ 71.0 ]
                        ofRecipe folder "h" fixedT (fun s -> { s with Precision = Bf16 }) 1 [ 72.0 ]
                        ofRecipe folder "s" fixedT (Scale.settings 0.1) 1 [ 40.0 ]
                    ]

                Must.equal [ "ctkd", 3; "mdistiller", 1 ] [ for source, rows in r.Sources -> source.Name, rows.Length ]
                Must.equal [ 71.0; 72.0; 40.0; 70.0 ] (rows r |> List.map _.Sample.Mean)
                Must.equal [ Some 70.66; Some 70.66; Some 70.66; None ] (rows r |> List.map _.Published)
                Must.equal [ "f32"; "bf16" ] (rows r |> List.truncate 2 |> List.map (fun row -> snd row.Variant.Head))
                Must.equal [ true; true; false; false ] (rows r |> List.map _.Difference.IsSome)
            )
        }

        test "runs without a known recipe, with epochs left, and teachers are left out with the reason" {
            inFolder (fun folder ->
                let record recipe = Some { MadeRuns.record with Recipe = recipe }
                let place name = Path.Combine(folder, name)

                let r =
                    made [
                        ofRecipe folder "a" ctkd id 1 [ 71.0 ]
                        MadeRuns.write (place "none") MadeRuns.settings [ 1.0; 2.0 ]
                        MadeRuns.writeWith (record "ctkd/odd") (place "odd") MadeRuns.settings [ 1.0; 2.0 ]
                        MadeRuns.writeWith None (place "old") MadeRuns.settings [ 1.0; 2.0 ]
                        MadeRuns.writeWith (record ctkd) (place "begun") MadeRuns.settings [ 1.0 ]
                    ]

                let reasons = r.LeftOut |> List.map (fun (run, reason) -> string (Path.GetFileName run.Name), reason)

                Must.equal
                    [
                        "none", "no recipe"
                        "odd", "'ctkd/odd' is no recipe of this version"
                        "old", "no run.json, as of earlier versions: its recipe is not known"
                        "begun", "unfinished, 1 of 2 epochs"
                    ]
                    reasons

                let error = errorOf (Reproductions.create Metric.Last 0.95 (MadeRuns.read [ place "none" ]))
                Must.contain "none of 1 runs is an ended run of a recipe: no recipe" error.What
            )
        }

        test "runs of a row with different teachers, and of one seed, are told" {
            inFolder (fun folder ->
                let first = ofRecipe folder "a" ctkd id 1 [ 71.0 ]
                let again = ofRecipe folder "b" ctkd id 1 [ 75.0 ]
                let other = ofRecipe folder "a" ctkd id 2 [ 71.2 ]
                let file = Path.Combine(other, "run.json")
                File.WriteAllText(file, (File.ReadAllText file).Replace("1111111111", "3333333333"))
                let r = made [ first; again; other ]
                Must.equal [ 1, 71.0; 2, 71.2 ] (rows r).Head.Values
                Must.haveOne (fun (warning: string) -> warning.StartsWith "different teachers") r.Warnings
                Must.haveOne (fun (warning: string) -> warning.Contains "has seed 1 2 times") r.Warnings
            )
        }

        test "the command of a row makes the settings of its runs" {
            inFolder (fun folder ->
                let changes: (string * (Settings -> Settings)) list = [
                    ctkd, id
                    ctkd, Scale.settings 0.05
                    "rlkd/resnet56-resnet20/dkd/rlkd", Scale.settings 0.05
                    "dtkd/resnet56-resnet20/kd/dtkd", (fun s -> { s with Milestones = []; Precision = Bf16 })
                    "ctkd/resnet56-resnet20/crd/fixed",
                    (fun s -> {
                        Scale.settings 0.02 s with
                            Data = "digits"
                            Methods = Map [ "kd", 0.5; "crd", 0.75 ]
                    })
                ]

                for i, (recipe, change) in List.indexed changes do
                    let row = made [ ofRecipe folder $"a{i}" recipe change 3 [ 71.0 ] ] |> rows |> List.exactlyOne
                    let command = ReproductionPage.command row
                    Must.startWith $"ctkd distill --recipe {recipe} --weights TEACHER" command
                    Must.equal (row.Runs.Head.Settings.Data <> "digits") (command.Contains "--data-dir DIR")
                    Must.contain " --seed 3" command
                    // A dry run needs no weights, and where they are named it looks for them.
                    let rest = command.Substring(13).Replace(" --weights TEACHER", "")
                    let shown = (Child.expect 0 folder $"distill {rest} --dry-run --json").Out
                    let settings = row.Runs.Head.Settings
                    let json = JsonNode.Parse shown |> nonNull
                    let origins = SettingsTable.all |> List.map (fun field -> field.Name, "") |> Map

                    for name, value, _ in Resolve.rows { Settings = settings; Origins = origins } do
                        let field = SettingsTable.find name |> Error.orRaise
                        let concerns = field.For <> Audience.WithAgent || settings.Policy = PolicyName.Rlkd

                        if concerns && not field.OfMachine && name <> "studentHash" then
                            let entry = json[name] |> nonNull
                            let found = entry["value"] |> nonNull
                            Must.equal (name, value) (name, found.ToJsonString())
            )
        }
    ]
