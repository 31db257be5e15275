module Ctkd.Fs.Tests.SweepPlanTests

open System.IO
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Folders

let private planOf (json: string) : PlannedRun list =
    Sweep.parse "s.json" json |> Result.bind (SweepPlan.create id) |> Error.orRaise

let private refused (json: string) : Error = Sweep.parse "s.json" json |> Result.bind (SweepPlan.create id) |> errorOf

let private names (runs: PlannedRun list) : string list = runs |> List.map _.Name

let tests =
    testList "SweepPlan" [
        test "a plan holds every combination, named by what differs, and the seeds change last" {
            let runs =
                planOf """{ "student": ["resnet8", "resnet14"], "lr": [0.1, 0.05], "epochs": 3, "seeds": 2 }"""

            Must.equal
                [
                    for seed in 1..2 do
                        for student in [ "resnet8"; "resnet14" ] do
                            for rate in [ "0.1"; "0.05" ] -> $"student={student},learningRate={rate},seed={seed}"
                ]
                (names runs)

            let last = List.last runs

            Must.equal
                ("resnet14", 0.05, 3, 2)
                (last.Settings.Student, last.Settings.LearningRate, last.Settings.Epochs, last.Settings.Seed)
        }

        test "cases change together, and are crossed with the other fields" {
            let runs =
                planOf
                    """{ "cases": [{"student": "resnet8", "lr": 0.1}, {"student": "resnet14"}], "batch": [32, 64] }"""

            Must.equal [ "resnet8", 0.1, 32; "resnet8", 0.1, 64; "resnet14", 0.05, 32; "resnet14", 0.05, 64 ] [
                for r in runs -> r.Settings.Student, r.Settings.LearningRate, r.Settings.Batch
            ]
        }

        test "a sweep trains the teachers that no file holds, each once and before its students" {
            let runs =
                planOf
                    """{ "teacher": ["resnet14", "resnet20"], "policy": ["fixed", "ctkd-global"], "perClass": 5, "epochs": 4,
                         "teach": {"epochs": 9, "perClass": 50} }"""

            Must.equal [ "teacher-resnet14"; "teacher-resnet20" ] (names (List.truncate 2 runs))

            for run in List.truncate 2 runs do
                let s = run.Settings
                Must.equal ("", 9, 50, [ 5; 6; 7 ]) (s.Teacher, s.Epochs, s.PerClass, s.Milestones)

            for run in List.skip 2 runs do
                Must.equal $"teacher-{run.Settings.Teacher}" run.TeacherRun
        }

        test "students of one teacher whose trainings differ in what a teacher does not see share its run" {
            let runs =
                planOf
                    """{ "teacher": "resnet14", "student": ["resnet8", "resnet14"], "lr": [0.1, 0.05], "seeds": 3 }"""

            Must.equal [ "teacher-resnet14" ] (runs |> List.filter (fun r -> r.TeacherRun = "") |> names)
            Must.equal 13 runs.Length
        }

        test "a recipe gives a run its settings, and its name to the folder where there are several" {
            let runs =
                planOf
                    """{ "recipe": ["ctkd/resnet56-resnet20/kd/fixed", "ctkd/resnet56-resnet20/kd/ctkd-global"], "epochs": 24, "data": "digits" }"""

            Must.equal
                [ "teacher-resnet56"; "ctkd-resnet56-resnet20-kd-fixed"; "ctkd-resnet56-resnet20-kd-ctkd-global" ]
                (names runs)

            let last = List.last runs
            Must.equal "ctkd/resnet56-resnet20/kd/ctkd-global" last.Recipe
            Must.equal ([ 15; 18; 21 ], PolicyName.CtkdGlobal) (last.Settings.Milestones, last.Settings.Policy)
        }

        test "a loss by its name has its published weight, several are joined by a plus" {
            let runs = planOf """{ "teacher": "resnet14", "method": ["dkd", "kd+crd"] }"""

            Must.equal [ Map [ "dkd", 1.0 ]; Map [ "kd", 0.9; "crd", 0.8 ] ] [
                for run in List.tail runs -> run.Settings.Methods
            ]
        }

        test "what would be no plan is refused by name" {
            for json, what in
                [
                    """{ "policy": ["fixed", "ctkd-global"] }""", "the field 'policy' has no effect without a teacher"
                    """{ "method": "dkd" }""", "the field 'method' has no effect without a teacher"
                    """{ "teacher": "resnet14", "policy": ["fixd"] }""", "unknown policy 'fixd'"
                    """{ "epochs": [0] }""", "epochs must be at least 1"
                    """{ "recipe": "ctkd/nothing" }""", "unknown recipe"
                    """{ "epochs": [3, 3.0] }""", "is no value for the field 'epochs'"
                    """{ "teacher": "resnet14", "t": [4, 4.0] }""", "two runs of the sweep are the same"
                ] do
                Must.contain what (refused json).What
        }

        test "names of folders have no separators, and long ones are cut and told apart" {
            let recipe = "ctkd/resnet56-resnet20/kd/fixed"
            let paths = [ for i in 1..2 -> System.String('x', 200) + string i ]

            let runs =
                planOf
                    $"""{{ "recipe": "{recipe}", "dataDir": ["/a/b", "/a/{paths[0]}", "/a/{paths[1]}"], "epochs": 2 }}"""

            for name in names runs do
                Must.hold (name.Length <= 120 && not (name.Contains '/'))

            Must.equal runs.Length (names runs |> List.distinct |> List.length)
        }

        test "a plan that is written is read again, and a longer sweep adds its runs at the end" {
            inFolder (fun folder ->
                let one = planOf """{ "lr": [0.1, 0.05], "epochs": 3 }"""
                let two = planOf """{ "lr": [0.1, 0.05, 0.02], "epochs": 3 }"""
                Must.equal (Ok []) (SweepPlan.read folder)
                SweepPlan.write folder one |> Error.orRaise
                Must.equal (Ok one) (SweepPlan.read folder)
                let extended = SweepPlan.extend folder one two |> Error.orRaise
                Must.equal (names one @ [ (List.last two).Name ]) (names extended)

                let other = planOf """{ "lr": [0.1, 0.05], "epochs": 3, "batch": 32 }"""
                let error = errorOf (SweepPlan.extend folder one other)
                Must.contain "differs in: batch" error.What

                File.WriteAllText(Path.Combine(folder, SweepPlan.fileName), "{}\n")
                Must.equal Damaged (errorOf (SweepPlan.read folder)).Kind
            )
        }

        test "what a sweep says of itself is read again, also of earlier versions without figures" {
            inFolder (fun folder ->
                Must.equal (Ok None) (SweepPlan.readNote folder)
                let note = { About = "a"; Baseline = "policy=fixed"; Figures = [ SweepFigure.Tsne ] }

                SweepPlan.writeNote folder {
                    Sweep.empty with
                        About = note.About
                        Baseline = note.Baseline
                        Figures = note.Figures
                }
                |> Error.orRaise

                Must.equal (Ok(Some note)) (SweepPlan.readNote folder)
                let file = Path.Combine(folder, "sweep.json")
                File.WriteAllText(file, """{"about": "a", "baseline": "policy=fixed"}""")
                Must.equal (Ok(Some { note with Figures = [] })) (SweepPlan.readNote folder)
                File.WriteAllText(file, """{"about": "a", "baseline": "", "figures": ["pie"]}""")
                Must.equal Damaged (errorOf (SweepPlan.readNote folder)).Kind
            )
        }
    ]
