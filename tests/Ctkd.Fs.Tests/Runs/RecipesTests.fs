/// The published experiments as data.
module Ctkd.Fs.Tests.RecipesTests

open System
open System.IO
open System.Text.Json.Nodes
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Folders

let private settings (name: string) : Settings = (Recipes.find name |> Error.orRaise).Settings

let private numbers (name: string) =
    let recipe = Recipes.find name |> Error.orRaise
    recipe.Top1, recipe.Top5, recipe.TeacherTop1, recipe.AloneTop1

let private ofSource (source: string) : Recipe list = Recipes.all |> List.filter (fun recipe -> recipe.Source = source)

let tests =
    testList "Recipes" [
        test "every recipe is valid once its teacher's file is named" {
            for recipe in Recipes.all do
                let s = { recipe.Settings with TeacherWeights = "teacher.pth" }
                Must.beEmpty (Settings.mistakes s)
        }

        test "names are different, and say the source, the pair, the method and the policy" {
            let names = Recipes.all |> List.map _.Name
            Must.equal (List.distinct names) names

            for r in Recipes.all do
                let models = $"{r.Settings.Teacher}-{r.Settings.Student}".Replace("imagenet/", "")
                Must.equal $"{r.Source}/{models}/{r.Method}/{r.Policy}" r.Name
                Must.equal (Ok r) (Recipes.find r.Name)

                Must.equal (r.Policy.EndsWith("-standardised", StringComparison.Ordinal)) r.Settings.Standardise

                let plain = if r.Policy.StartsWith("rlkd-no-", StringComparison.Ordinal) then "rlkd" else r.Policy

                Must.equal (plain.Replace("-standardised", "")) (Names.name r.Settings.Policy)
                Must.have r.Method r.Settings.Methods.Keys

            Must.contain
                "ctkd/resnet56-resnet20/kd/fixed"
                ((errorOf (Recipes.find "ctkd/resnet56-resnet20/kd/fixd")).Next)
        }

        test "the methods of every recipe can be made for its models and the batches of its data" {
            let pair =
                let memory = Collections.Generic.Dictionary<_, _>()

                fun (s: Settings) ->
                    let key = s.Teacher, s.Student, s.Batch

                    if not (memory.ContainsKey key) then
                        let model name = Zoo.find name 100 |> Error.orRaise
                        let size = if s.Data = "imagenet" then 224 else 32
                        let labels = Array.init 50000 (fun i -> i % 100)

                        let smallest = ImageSet.smallestBatch s.DropLast s.Batch labels.Length
                        memory[key] <- ModelPair.create size size labels smallest (model s.Teacher) (model s.Student)

                    memory[key]

            let refused = [
                for recipe in Recipes.all do
                    match Settings.distillers recipe.Settings (pair recipe.Settings) with
                    | Ok _ -> ()
                    | Result.Error error -> $"{recipe.Name}: {error.What}"
            ]

            Must.beEmpty refused
        }

        test "every pair of the tables has every method and policy of its source" {
            let count source = ofSource source |> List.length
            // 11 pairs x 7 methods and ImageNet's pair x 8, under three policies.
            Must.equal (3 * (11 * 7 + 8)) (count "ctkd")
            // And three ablations.
            Must.equal (3 * (11 * 7 + 8) + 3) (count "rlkd")
            Must.equal (11 * 9 + 4) (count "mdistiller")
            Must.equal (11 + 2 + 6 * 2) (count "dtkd")
            Must.equal (14 * 3 + 8) (count "ls")
        }

        // ---- published numbers ----

        test "published accuracies are those of the sources" {
            let expected = [
                "ctkd/resnet56-resnet20/kd/fixed", (Some 70.66, None, Some 72.34, Some 69.06)
                "ctkd/resnet56-resnet20/kd/ctkd-global", (Some 71.19, None, Some 72.34, Some 69.06)
                "ctkd/wrn_40_2-wrn_40_1/kd/ctkd-instance", (Some 74.10, None, Some 75.61, Some 71.98)
                "ctkd/resnet32x4-ShuffleV2/kd/ctkd-global", (Some 75.31, None, Some 79.42, Some 71.82)
                "ctkd/resnet110-resnet20/kd/ctkd-instance", (None, None, Some 74.31, Some 69.06)
                "ctkd/wrn_40_2-wrn_16_2/crd/fixed", (Some 75.53, None, Some 75.61, Some 73.26)
                "ctkd/wrn_40_2-wrn_40_1/crd/ctkd-global", (Some 74.69, None, Some 75.61, Some 71.98)
                "ctkd/resnet32x4-ShuffleV2/dkd/ctkd-global", (Some 76.94, None, Some 79.42, Some 71.82)
                "ctkd/vgg13-vgg8/srrl/ctkd-global", (None, None, Some 74.64, Some 70.36)
                "ctkd/ResNet34-ResNet18/kd/ctkd-global", (Some 71.32, Some 90.27, Some 73.96, Some 70.26)
                "ctkd/ResNet34-ResNet18/rkd/fixed", (Some 70.94, None, Some 73.96, Some 70.26)
                "rlkd/resnet110-resnet32/kd/rlkd", (Some 73.81, None, Some 74.31, Some 71.14)
                "rlkd/resnet110-resnet32/kd/ctkd-global", (Some 73.47, None, Some 74.31, Some 71.14)
                "rlkd/resnet32x4-ShuffleV1/sp/rlkd", (Some 75.31, None, Some 79.42, Some 70.50)
                "rlkd/resnet56-resnet20/kd/rlkd-no-uncertainty", (Some 71.16, None, Some 72.34, Some 69.06)
                "rlkd/resnet56-resnet20/kd/rlkd-no-calibration", (Some 70.91, None, Some 72.34, Some 69.06)
                "rlkd/resnet56-resnet20/kd/rlkd-no-exploration", (Some 71.03, None, Some 72.34, Some 69.06)
                "rlkd/ResNet34-ResNet18/dkd/rlkd", (Some 71.62, Some 90.56, Some 73.96, Some 70.26)
                "mdistiller/resnet32x4-resnet8x4/dkd/fixed", (Some 76.32, None, None, None)
                "mdistiller/resnet32x4-ShuffleV2/dkd/fixed", (Some 77.07, None, Some 79.42, Some 71.82)
                "mdistiller/ResNet50-MobileNetV1/dkd/fixed", (Some 72.05, None, None, None)
                "dtkd/resnet110-resnet8/kd/dtkd", (Some 62.0, None, None, None)
                "dtkd/resnet14-resnet8/kd/fixed", (Some 59.1, None, None, None)
                "ls/wrn_40_2-wrn_16_2/kd/fixed-standardised", (Some 76.11, None, Some 75.61, Some 73.26)
                "ls/resnet110-resnet20/kd/ctkd-global-standardised", (Some 71.39, None, Some 74.31, Some 69.06)
                "ls/resnet32x4-resnet8x4/dkd/fixed-standardised", (Some 77.01, None, None, None)
                "ls/resnet32x4-wrn_40_2/kd/ctkd-global", (Some 77.66, None, None, None)
                "ls/resnet32x4-ShuffleV2/dkd/fixed-standardised", (Some 77.37, None, Some 79.42, Some 71.82)
            ]

            for name, accuracies in expected do
                Must.equal (name, accuracies) (name, numbers name)
        }

        test "every published accuracy is one: a little above that of the student alone" {
            for recipe in Recipes.all do
                for top1 in Option.toList recipe.Top1 do
                    Must.lie 59.0 80.0 top1
                    recipe.AloneTop1 |> Option.iter (fun alone -> Must.lie 0.5 6.5 (top1 - alone))

                recipe.Top5 |> Option.iter (fun top5 -> Must.lie 90.0 91.0 top5)
        }

        // ---- values by source ----

        test "DKD has its source's beta and warm-up" {
            let dkd name =
                let s = settings name
                s.CrossEntropy, Map.toList s.Methods, s.DkdAlpha, s.DkdBeta, s.WarmUp

            let values beta warmUp = 1.0, [ "dkd", 1.0 ], 1.0, beta, warmUp

            let expected = [
                "ctkd/resnet32x4-ShuffleV1/dkd/ctkd-global", values 2.0 0
                "ctkd/ResNet34-ResNet18/dkd/fixed", values 1.0 0
                "mdistiller/resnet56-resnet20/dkd/fixed", values 2.0 20
                "mdistiller/resnet32x4-resnet8x4/dkd/fixed", values 8.0 20
                "mdistiller/vgg13-MobileNetV2/dkd/fixed", values 6.0 20
                "mdistiller/wrn_40_2-wrn_40_1/dkd/fixed", values 6.0 20
                "mdistiller/ResNet50-MobileNetV2/dkd/fixed", values 8.0 20
                "mdistiller/ResNet34-ResNet18/dkd/fixed", values 0.5 1
                "mdistiller/ResNet50-MobileNetV1/dkd/fixed", values 2.0 1
                "rlkd/resnet110-resnet32/dkd/rlkd", values 2.0 20
                "rlkd/resnet32x4-ShuffleV2/dkd/rlkd", values 8.0 20
                "rlkd/ResNet34-ResNet18/dkd/rlkd", values 1.0 1
                "ls/resnet32x4-resnet8x4/dkd/fixed-standardised", (1.0, [ "dkd", 9.0 ], 1.0, 8.0, 20)
            ]

            for name, expected in expected do
                Must.equal (name, expected) (name, dkd name)
        }

        test "MobileNets and ShuffleNets train at 0.01 on CIFAR-100, and all others at 0.05" {
            for recipe in Recipes.all |> List.filter (fun r -> r.Settings.Data = "cifar100") do
                let slow = List.contains recipe.Settings.Student [ "MobileNetV2"; "ShuffleV1"; "ShuffleV2" ]

                Must.equal (recipe.Name, (if slow then 0.01 else 0.05)) (recipe.Name, recipe.Settings.LearningRate)
        }

        test "runs on CIFAR-100 take 240 epochs of batches of 64, those on ImageNet their source's" {
            let length (s: Settings) = s.Epochs, s.Batch, s.Milestones, s.WeightDecay, s.Momentum, s.Decay

            for recipe in Recipes.all |> List.filter (fun r -> r.Settings.Data = "cifar100") do
                let expected = 240, 64, [ 150; 180; 210 ], 5e-4, 0.9, 0.1
                Must.equal (recipe.Name, expected) (recipe.Name, length recipe.Settings)
                Must.equal 10 recipe.Settings.CurriculumEpochs

            let ctkd, kd =
                settings "ctkd/ResNet34-ResNet18/kd/ctkd-global", settings "mdistiller/ResNet34-ResNet18/kd/fixed"

            Must.equal (120, 256, [ 30; 60; 90 ], 1e-4, 0.9, 0.1) (length ctkd)
            Must.equal (0.1, 5, 1.0) (ctkd.LearningRate, ctkd.CurriculumEpochs, ctkd.CrossEntropy)
            Must.equal (100, 512, [ 30; 60; 90 ], 1e-4, 0.9, 0.1) (length kd)

            for pair in [ "ResNet34-ResNet18"; "ResNet50-MobileNetV1" ] do
                let dtkd = settings $"dtkd/{pair}/kd/dtkd"
                Must.equal (length kd, 0.2) (length dtkd, dtkd.LearningRate)

            for recipe in ofSource "rlkd" |> List.filter (fun r -> r.Settings.Data = "imagenet") do
                Must.equal (recipe.Name, length ctkd) (recipe.Name, length recipe.Settings)
                Must.equal 0.1 recipe.Settings.LearningRate
                Must.hold (recipe.Policy <> "rlkd" || not recipe.Settings.Rlkd.Mix)

            Must.equal (0.2, 1.0, 0.5, [ "kd", 0.5 ]) (kd.LearningRate, kd.T, kd.CrossEntropy, Map.toList kd.Methods)
        }

        test "losses have their source's weights" {
            let weights name =
                let s = settings name
                s.CrossEntropy, Map.toList s.Methods

            let expected = [
                "ctkd/vgg13-vgg8/kd/fixed", (0.1, [ "kd", 0.9 ])
                "ctkd/vgg13-vgg8/pkt/ctkd-global", (0.1, [ "kd", 0.9; "pkt", 30000.0 ])
                "ctkd/vgg13-vgg8/sp/ctkd-global", (0.1, [ "kd", 0.9; "sp", 3000.0 ])
                "ctkd/vgg13-vgg8/vid/ctkd-instance", (0.1, [ "kd", 0.9; "vid", 1.0 ])
                "rlkd/vgg13-vgg8/crd/rlkd", (0.1, [ "crd", 0.8; "kd", 0.9 ])
                "ctkd/ResNet34-ResNet18/srrl/fixed", (1.0, [ "kd", 1.0; "srrl", 1.0 ])
                "mdistiller/vgg13-vgg8/crd/fixed", (1.0, [ "crd", 0.8 ])
                "mdistiller/vgg13-vgg8/at/fixed", (1.0, [ "at", 1000.0 ])
                "mdistiller/vgg13-vgg8/rkd/fixed", (1.0, [ "rkd", 1.0 ])
                "mdistiller/vgg13-vgg8/fitnet/fixed", (1.0, [ "fitnet", 100.0 ])
                "mdistiller/vgg13-vgg8/kd/fixed", (0.1, [ "kd", 0.9 ])
                "dtkd/resnet56-resnet20/kd/dtkd", (1.0, [ "kd", 1.0; "kd-fixed", 0.5 ])
                "dtkd/wrn_40_2-ShuffleV1/kd/dtkd", (1.0, [ "kd", 2.0; "kd-fixed", 0.5 ])
                "dtkd/ResNet50-MobileNetV2/kd/dtkd", (1.0, [ "kd", 3.0; "kd-fixed", 2.0 ])
                "dtkd/ResNet34-ResNet18/kd/dtkd", (1.0, [ "kd", 3.0; "kd-fixed", 1.0 ])
                "dtkd/ResNet50-MobileNetV1/kd/dtkd", (1.0, [ "kd", 3.0; "kd-fixed", 1.0 ])
                "ls/vgg13-vgg8/kd/fixed-standardised", (0.1, [ "kd", 9.0 ])
                "ls/ResNet50-MobileNetV2/kd/fixed-standardised", (0.1, [ "kd", 1.0 ])
            ]

            for name, values in expected do
                Must.equal (name, values) (name, weights name)

            let dtkd = settings "dtkd/resnet56-resnet20/kd/dtkd"
            Must.equal (20, 4.0, PolicyName.Dtkd) (dtkd.WarmUp, dtkd.T, dtkd.Policy)
            Must.equal 8.0 ((settings "rlkd/resnet110-resnet20/kd/rlkd").T)
            Must.equal 2.0 ((settings "ls/wrn_40_2-wrn_16_2/kd/fixed-standardised").T)
            Must.equal 3.0 ((settings "ls/ResNet50-MobileNetV2/kd/fixed-standardised").T)
            Must.equal 2.0 ((settings "ls/wrn_40_2-wrn_16_2/kd/ctkd-global-standardised").TStart)
            Must.equal 42 ((settings "rlkd/resnet110-resnet20/kd/fixed").Seed)
        }

        test "an ablation of RLKD's agent differs from the full recipe in what it leaves out, and nothing else" {
            let full = settings "rlkd/resnet56-resnet20/kd/rlkd"

            let expected = [
                "uncertainty", { full.Rlkd with State = Some RlkdState.Confidences }
                "calibration", { full.Rlkd with Calibration = Some RlkdCalibration.None }
                "exploration", { full.Rlkd with Mix = false }
            ]

            for left, agent in expected do
                let ablated = settings $"rlkd/resnet56-resnet20/kd/rlkd-no-{left}"
                Must.equal { full with Rlkd = agent } ablated
        }

        // ---- files ----

        test "a recipe survives JSON, and a file of one's own is read strictly" {
            inFolder (fun folder ->
                let path = Path.Combine(folder, "mine.json")
                let recipe = Recipes.find "ctkd/vgg13-vgg8/crd/ctkd-global" |> Error.orRaise
                let mine = { recipe with Name = "mine"; Settings = { recipe.Settings with Epochs = 3 } }
                File.WriteAllText(path, Json.writeIndented mine)
                Must.equal (Ok mine) (Recipes.load path)
                Must.equal (Ok recipe) (Recipes.load recipe.Name)

                let changed (change: JsonObject -> JsonObject -> unit) : string =
                    let json = (JsonNode.Parse(Json.write mine) |> nonNull).AsObject()
                    change json ((nonNull json["settings"]).AsObject())
                    File.WriteAllText(path, json.ToJsonString())
                    (errorOf (Recipes.load path)).What

                let surplus = changed (fun _ settings -> settings["epoch"] <- 3)
                Must.contain "unknown field 'epoch', did you mean one of: epochs, " surplus
                let missing = changed (fun _ settings -> settings.Remove "warmUp" |> ignore)
                Must.contain "the field 'warmUp' is missing" missing
                Must.contain "unknown field 'top'" (changed (fun json _ -> json["top"] <- 1.0))
                Must.equal Missing ((errorOf (Recipes.load (Path.Combine(folder, "none.json")))).Kind)
            )
        }
    ]
