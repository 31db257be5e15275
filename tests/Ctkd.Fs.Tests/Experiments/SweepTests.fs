module Ctkd.Fs.Tests.SweepTests

open Expecto
open FsCheck
open FsCheck.FSharp
open Ctkd.Fs
open Ctkd.Fs.Tests.Folders

let private parse (json: string) : Sweep = Sweep.parse "s.json" json |> Error.orRaise

let private refused (json: string) : Error = errorOf (Sweep.parse "s.json" json)

let private axes (sweep: Sweep) : (string * string list) list = sweep.Axes |> List.map (fun a -> a.Field, a.Values)

let tests =
    testList "Sweep" [
        test "every field of a run can be a list, by its name or its flag's" {
            let sweep =
                parse
                    """{ "policy": ["fixed", "ctkd-global"], "lr": [0.1, 0.05], "epochs": 30, "rlkd.every": [2, 3], "nesterov": true,
                         "methods": {"kd": 0.9}, "seeds": 3 } // a note"""

            Must.equal
                [
                    "policy", [ "fixed"; "ctkd-global" ]
                    "learningRate", [ "0.1"; "0.05" ]
                    "epochs", [ "30" ]
                    "rlkd.every", [ "2"; "3" ]
                    "nesterov", [ "true" ]
                    "methods", [ """{"kd":0.9}""" ]
                ]
                (axes sweep)

            Must.equal [ 1; 2; 3 ] sweep.Seeds
        }

        test "a field that is a list itself takes one list, or several" {
            Must.equal [ "milestones", [ "5 8" ] ] (parse """{ "milestones": [5, 8] }""" |> axes)

            Must.equal [ "milestones", [ "5 8"; "9" ] ] (parse """{ "milestones": [[5, 8], [9]] }""" |> axes)

            Must.equal
                [ "methods", [ """{"kd":1}"""; """{"dkd":2}""" ] ]
                (parse """{ "methods": [{"kd": 1}, {"dkd": 2}] }""" |> axes)
        }

        test "how a file is laid out does not matter: an object over several lines is one value" {
            let sweep = parse "{ \"teacher\": \"resnet14\", \"methods\": {\n  \"kd\": 3,\n  \"kd-fixed\": 1.5\n } }"

            let settings = (SweepPlan.create id sweep |> Error.orRaise |> List.last).Settings
            Must.equal (Map [ "kd", 3.0; "kd-fixed", 1.5 ]) settings.Methods
        }

        test "seeds are a number of them or a list, recipes and cases are listed, teachers have fields of their own" {
            let sweep =
                parse
                    """{ "seeds": [7, 3], "recipe": "ctkd/resnet56-resnet20/kd/fixed", "teach": {"epochs": 5}, "baseline": "policy=fixed",
                         "about": "a try", "figures": ["tsne"], "cases": [{"student": "resnet8"}, {"student": "resnet14", "lr": 0.1}] }"""

            Must.equal [ 7; 3 ] sweep.Seeds
            Must.equal [ "ctkd/resnet56-resnet20/kd/fixed" ] sweep.Recipes
            Must.equal [ "epochs", "5" ] sweep.Teach
            Must.equal ("policy=fixed", "a try") (sweep.Baseline, sweep.About)
            Must.equal [ SweepFigure.Tsne ] sweep.Figures

            Must.equal [ [ "student", "resnet8" ]; [ "student", "resnet14"; "learningRate", "0.1" ] ] sweep.Cases
        }

        test "what is wrong in a file is named, with the file" {
            for json, what in
                [
                    "[1]", "a sweep is an object of JSON"
                    "{", "this is no JSON"
                    """{ "polcy": "fixed" }""", "unknown field of a sweep 'polcy'"
                    """{ "policy": [] }""", "the field 'policy' has an empty list of values"
                    """{ "policy": ["fixed", "fixed"] }""", "the field 'policy' has a value twice"
                    """{ "policy": null }""", "the field 'policy' has no value"
                    """{ "epochs": 3, "epochs": 4 }""", "this is no JSON"
                    """{ "lr": 1, "learningRate": 2 }""", "the field 'learningRate' is given twice"
                    """{ "epochs": 3, "cases": [{"epochs": 4}] }""", "the field 'epochs' is given twice"
                    """{ "cases": [{"epochs": [3, 4]}] }""", "the field 'epochs' in 'cases' has several values"
                    """{ "cases": {"epochs": 4} }""", "'cases' is to be a list of objects"
                    """{ "teach": [3] }""", "'teach' is to hold objects of fields"
                    """{ "seeds": 0 }""", "'seeds' must be from 1 to 10000, got 0"
                    """{ "seeds": [1, 1] }""", "'seeds' is empty or has a seed twice"
                    """{ "seeds": [0.5] }""", "'0.5' is no value for 'seeds'"
                    """{ "about": 3 }""", "'about' is to be a text"
                    """{ "figures": "tsne" }""", "'figures' is to be a list of names"
                    """{ "figures": ["tnse"] }""", "unknown figure of a sweep 'tnse'"
                    """{ "figures": [1] }""", "'figures' is to be a text"
                    """{ "figures": ["tsne", "tsne"] }""", "'figures' names a figure twice"
                    """{ "figures": {} }""", "'figures' is to be a list of names"
                ] do
                let error = refused json
                Must.contain what error.What
                Must.equal ("s.json", Usage) (error.Where, error.Kind)
        }

        test "whatever bytes a file holds, reading it ends with a sweep or an error" {
            let pieces = [
                "{"
                "}"
                "["
                "]"
                "\"policy\""
                ":"
                ","
                "\"fixed\""
                "1"
                "null"
                "\"seeds\""
                "\"cases\""
            ]

            Gen.elements pieces
            |> Gen.listOf
            |> Gen.sample 300
            |> Seq.iter (String.concat " " >> Sweep.parse "s.json" >> ignore)
        }

        test "a grid gives a field its values, and a set one value: the last word of a field counts" {
            let sweep =
                [ "policy=fixed,ctkd-global"; "t=2,4"; "t=8" ]
                |> List.fold (fun sweep text -> Sweep.grid sweep text |> Error.orRaise) Sweep.empty

            Must.equal [ "policy", [ "fixed"; "ctkd-global" ]; "t", [ "8" ] ] (axes sweep)
            let sweep = Sweep.set sweep "epochs=3" |> Error.orRaise
            Must.equal [ "policy"; "t"; "epochs" ] (sweep.Axes |> List.map _.Field)
            Must.equal [ 4; 2 ] (Sweep.grid sweep "seed=4,2" |> Error.orRaise).Seeds
            Must.contain "sets no field" (errorOf (Sweep.grid sweep "policy")).What
            Must.contain "one value of 'milestones' is a list" (errorOf (Sweep.grid sweep "milestones=1,2")).What
            Must.contain "has no values" (errorOf (Sweep.grid sweep "t=")).What
        }
    ]
