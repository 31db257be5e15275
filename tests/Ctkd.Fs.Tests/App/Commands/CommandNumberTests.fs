/// Numbers and lists on the command line.
module Ctkd.Fs.Tests.CommandNumberTests

open System
open System.IO
open System.Text.Json.Nodes
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Child
open Ctkd.Fs.Tests.Folders

let private small = "--subset 50 --batch 16 --epochs 2"

let tests =
    testList "CommandNumber" [
        test "a number has a decimal point, whatever the user's language is" {
            inFolder (fun folder ->
                let german = [ "LC_ALL", "de_DE.UTF-8"; "LANG", "de_DE.UTF-8" ]
                let flags = "--model resnet8 --lr 0.05 --mean 0.5 0.25 0.125 --std 1.5 1.5 1.5"
                let ended = ctkdWith german folder $"teach {small} {flags} --out a"
                Must.equal 0 ended.Code
                let json = File.ReadAllText(Path.Combine(folder, "a", "settings.json"))
                let settings = Ctkd.Fs.Json.read<Settings> "" json |> Error.orRaise
                Must.equal 0.05 settings.LearningRate
                Must.equal [ 0.5; 0.25; 0.125 ] settings.Mean
                Must.matchRegex @"loss \d+\.\d{4}  top-1 \d+\.\d\d %" ended.Out
            )
        }

        test "a comma in a number is refused with both readings, wherever a number can be written" {
            let wrong = [
                "teach --lr 0,05 --dry-run",
                "'0,05' is no value for --lr: 0.05 with a decimal comma, 5 with a thousands"
                "teach --weight-decay=0,0005 --dry-run", "0.0005 with a decimal comma, 5 with a thousands separator"
                "teach --batch 1,000 --dry-run", "1.000 with a decimal comma, 1000 with a thousands separator"
                "teach --set learningRate=0,05 --dry-run", "0.05 with a decimal comma, 5 with a thousands separator"
                "teach --lr 1,000.5 --dry-run", "no thousands separator it is 1000.5"
                "teach --mean 0,5 --std 0,5 --dry-run", "'0,5' is 0.5 with a decimal comma, and two numbers otherwise"
                "distill --t 2,5 --dry-run", "2.5 with a decimal comma, 25 with a thousands separator"
                "distill --set methods=kd:0,9 --dry-run", "'9' is no name with a weight: weights have a decimal point"
                "distill --method kd crd --method-weights 0,9 --dry-run", "'0,9' is 0.9 with a decimal comma"
                "eval --weights x --mean 0,5", "'0,5' is 0.5 with a decimal comma"
                "export --weights x --onnx y --size 1,000", "1000 with a thousands separator"
                "models --size 1,000", "'1,000' is no value for --size: 1.000 with a decimal comma, 1000 with a"
                "plot curriculum --curriculum-stop 0,5", "0.5 with a decimal comma, 5 with a thousands separator"
                "plot curriculum --epochs 1,000", "1000 with a thousands separator"
                "quickstart --seed 1,5", "1.5 with a decimal comma, 15 with a thousands separator"
                "bench --pairs 1,000", "1000 with a thousands separator"
            ]

            isWrongUsage wrong
        }

        test "lists are separated by commas, spaces or both, and a flag's value may follow an equals sign" {
            let settings (flags: string) =
                JsonNode.Parse((expect 0 "/" $"distill --dry-run --json {flags}").Out)
                |> nonNull
                |> fun json -> [
                    for name in [ "mean"; "std"; "milestones"; "methods"; "learningRate" ] -> string json[name]
                ]

            let expected =
                settings
                    "--mean 0.5 0.25 0.125 --std 1 2 3 --milestones 10 20 --method kd crd --method-weights 0.9 0.8 --lr 0.5"

            Must.contain "0.25" expected.Head

            for flags in
                [
                    "--mean 0.5,0.25,0.125 --std 1,2,3 --milestones 10,20 --method kd,crd --method-weights 0.9,0.8 --lr=0.5"
                    "--mean [0.5, 0.25, 0.125] --std=1.0,2 3 --milestones=10, 20 --set methods=kd:0.9,crd:0.8 --lr 0.5"
                    "--set mean=[0.5,0.25,0.125] std=1,2,3 milestones=10,20 methods=crd:0.8,kd:0.9 learningRate=0.5"
                ] do
                let given = settings flags
                // The origin is the flag that was given.
                let value (text: string) = (nonNull (JsonNode.Parse text))["value"] |> string
                Must.equal (List.map value expected) (List.map value given)
        }
    ]
