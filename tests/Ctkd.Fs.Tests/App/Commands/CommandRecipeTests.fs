/// Recipes, methods and origins on the command line.
module Ctkd.Fs.Tests.CommandRecipeTests

open System
open System.IO
open System.Text.Json.Nodes
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Child
open Ctkd.Fs.Tests.Folders

let private json (ended: Ended) : JsonNode = JsonNode.Parse ended.Out |> nonNull

/// A field of `distill --dry-run --json`: its value as JSON and its origin.
let private field (dry: JsonNode) (name: string) : string * string =
    let entry = nonNull dry[name]
    (nonNull entry["value"]).ToJsonString(), string entry["origin"]

let private dry (arguments: string) : JsonNode = json (expect 0 "/" $"distill {arguments} --dry-run --json")

let tests =
    testList "CommandRecipe" [
        test "recipes lists them, filters them, and prints one as JSON that distill reads" {
            let name (line: JsonNode | null) : string = string ((nonNull line)["name"])
            let all = (json (expect 0 "/" "recipes --json")).AsArray() |> Seq.map name |> List.ofSeq

            Must.equal (Recipes.all |> List.map _.Name) all

            let few =
                expect 0 "/" "recipes --source ctkd --teacher resnet56 --student resnet20 --method crd --data cifar100"

            let lines = few.Out.Split('\n', StringSplitOptions.RemoveEmptyEntries)
            Must.equal 5 lines.Length
            Must.matchRegex "^ctkd/resnet56-resnet20/crd/ctkd-global +cifar100 +72.11 +72.34 +69.06$" lines[2]
            Must.contain "ctkd distill --recipe NAME" lines[4]
            Must.contain "no recipe" ((expect 0 "/" "recipes --source dtkd --policy rlkd").Out)
            Must.contain "unknown method of a recipe 'crdd'" ((expect 2 "/" "recipes --method crdd").Err)
            Must.contain "did you mean one of: crd" ((expect 2 "/" "recipes --method crdd").Err)
            Must.contain "ctkd/vgg13-vgg8/kd/fixed" ((expect 2 "/" "recipes ctkd/vgg13-vgg8/kd/fixe").Err)

            inFolder (fun folder ->
                let name = "dtkd/wrn_40_2-ShuffleV1/kd/dtkd"
                let printed = expect 0 folder $"recipes {name}"
                Must.equal (Recipes.find name) (Json.read<Recipe> "" printed.Out)

                File.WriteAllText(
                    Path.Combine(folder, "mine.json"),
                    printed.Out.Replace("\"batch\": 64", "\"batch\": 32")
                )

                let mine = json (expect 0 folder "distill --recipe mine.json --dry-run --json")
                Must.equal ("32", "recipe") (field mine "batch")

                File.WriteAllText(Path.Combine(folder, "mine.json"), printed.Out.Replace("\"batch\"", "\"batches\""))

                let wrong = expect 1 folder "distill --recipe mine.json --dry-run"
                Must.contain "unknown field 'batches', did you mean one of: batch, " wrong.Err
                Must.contain "the field 'batch' is missing" wrong.Err
            )
        }

        test "a dry run shows each value with its origin, and leaves nothing behind" {
            inFolder (fun folder ->
                let recipe = "--recipe mdistiller/resnet32x4-ShuffleV1/dkd/fixed"
                let ended = expect 0 folder $"distill {recipe} --set dkdBeta=4 epochs=24 --lr 0.02 --dry-run"
                Must.matchRegex @"\ndkdBeta +4 +--set\n" ended.Out
                Must.matchRegex @"\nlearningRate +0\.02 +--lr\n" ended.Out
                Must.matchRegex @"\nmilestones +\[15,18,21\] +recipe, scaled\n" ended.Out
                Must.matchRegex @"\nwarmUp +20 +recipe\n" ended.Out
                Must.matchRegex @"\ndevice +""cpu"" +default\n" ended.Out
                Must.contain "published: 76.45 % top-1" ended.Out
                Must.contain "to run: the weights of resnet32x4 with --weights FILE" ended.Out
                Must.contain "to run: the folder of cifar100 with --data-dir DIR" ended.Out

                let given =
                    dry $"{recipe} --batch 32 --set batch=16 --method kd crd --method-weights 0.5 0.25 --kd 0.75"

                Must.equal ("16", "--set") (field given "batch")
                Must.equal ("{\"crd\":0.25,\"kd\":0.75}", "--kd") (field given "methods")

                let agent = expect 0 folder "distill --recipe rlkd/resnet56-resnet20/kd/rlkd --set epochs=24 --dry-run"

                Must.matchRegex @"\nrlkd\.warmUp +2 +recipe, scaled\n" agent.Out

                Must.beEmpty (Directory.GetFileSystemEntries folder)
            )
        }

        test "methods, weights and policies of the flags arrive in the settings" {
            let given =
                dry
                    "--policy dtkd --standardise --t 3 --method kd dkd --warm-up 5 --ce 0.5 --dkd-alpha 2 \
                     --dkd-beta 8 --kd 0.25 --no-temperature-decay"

            let expected = [
                "policy", "\"dtkd\""
                "standardise", "true"
                "t", "3"
                "methods", "{\"dkd\":1,\"kd\":0.25}"
                "warmUp", "5"
                "crossEntropy", "0.5"
                "dkdAlpha", "2"
                "dkdBeta", "8"
                "decayTemperature", "false"
            ]

            for name, value in expected do
                let actual, origin = field given name
                Must.equal (name, value) (name, actual)
                Must.startWith "--" origin

            let alone = dry "--kd 0.3"
            Must.equal ("{\"kd\":0.3}", "0.1") (fst (field alone "methods"), fst (field alone "crossEntropy"))
        }

        test "what a dry run or a run cannot be is wrong usage with what to do" {
            let wrong = [
                "distill --dry-run --set learningrate=1", "unknown field 'learningrate'"
                "distill --dry-run --set learningRate", "sets no field"
                "distill --dry-run --set learningRate=0 batch=0", "2 settings are wrong"
                "distill --dry-run --method kdd", "unknown method 'kdd'"
                "distill --dry-run --method kd crd --method-weights 1", "there are 2 methods and 1 weights"
                "distill --dry-run --method-weights 1", "--method-weights is for --method, which is missing"
                "distill --dry-run --recipe ctkd", "unknown recipe 'ctkd'"
                "distill --recipe ctkd/vgg13-vgg8/kd/fixed", "distill needs a teacher's weights"
                "distill --recipe ctkd/ResNet34-ResNet18/kd/fixed", "distill needs a teacher's weights"
                "distill --recipe rlkd/vgg13-vgg8/kd/rlkd", "distill needs a teacher's weights"
                "distill --dry-run --rl-every 2", "--rl-every is for the policy rlkd, and the policy is ctkd-global"
                "distill --dry-run --set rlkd.state=confidences", "--set rlkd.state is for the policy rlkd"
                "teach --rl-mode official", "teach has no teacher"
                "teach --recipe ctkd/vgg13-vgg8/kd/fixed", "teach has no teacher"
                "teach --method crd", "teach has no teacher"
                "teach --set teacher=resnet8", "teach has no teacher"
            ]

            isWrongUsage wrong

            let imagenet = expect 0 "/" "distill --recipe ctkd/ResNet34-ResNet18/kd/fixed --dry-run"
            Must.contain "to run: the folder of imagenet with --data-dir DIR" imagenet.Out
        }

        test "a recipe with another teacher, student and data trains on the digits" {
            inFolder (fun folder ->
                let changes = "teacher=resnet8 student=resnet8 data=digits epochs=2 subset=50 batch=16"
                let recipe = "--recipe ctkd/resnet56-resnet20/crd/ctkd-global"

                let ended = expect 0 folder $"distill {recipe} --set {changes} --weights {Runs.teacher.Value}"

                let out = Path.Combine(folder, "runs", "ctkd-resnet56-resnet20-crd-ctkd-global-1")
                Must.contain $"checkpoint {out}/last.safetensors" ended.Out
                let info, _ = Runs.contents (Path.Combine(out, "last.safetensors"))
                Must.equal [ "crd", 0.8; "kd", 0.9 ] (Map.toList info.Settings.Methods)
                Must.equal [ 1 ] info.Settings.Milestones
            )
        }
    ]
