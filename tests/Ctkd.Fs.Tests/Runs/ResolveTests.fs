/// Settings in layers: defaults, a recipe, assignments.
module Ctkd.Fs.Tests.ResolveTests

open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Folders

let private sets (texts: string list) : Assignment list = texts |> List.map (Resolve.set >> Error.orRaise)

let private resolved (recipe: string) (texts: string list) : Resolved =
    let recipe = if recipe = "" then None else Some(Recipes.find recipe |> Error.orRaise)

    Resolve.settings recipe (sets texts) |> Error.orRaise

// ---- the agent's schedule ----

/// Warm-up, learning, ramp, the end of mixing.
let private schedule (resolved: Resolved) =
    let agent = resolved.Settings.Rlkd
    agent.WarmUp, agent.Every, agent.Ramp, agent.MixUntil

let tests =
    testList "Resolve" [
        test "without a recipe and assignments every value is the library's and its origin the default" {
            let plain = resolved "" []
            Must.equal Settings.defaults plain.Settings

            for origin in plain.Origins.Values do
                Must.equal "default" origin

            Must.equal Resolve.fields (Resolve.rows plain |> List.map (fun (field, _, _) -> field))
            Must.have ("learningRate", "0.05", "default") (Resolve.rows plain)
        }

        test "a recipe beats the defaults, an assignment beats the recipe, and a later one an earlier" {
            let name = "mdistiller/resnet32x4-ShuffleV1/dkd/fixed"
            let recipe = (Recipes.find name |> Error.orRaise).Settings
            Must.equal recipe ((resolved name []).Settings)
            let changed = resolved name [ "dkdBeta=4"; "device=cuda"; "dkdBeta=5" ]
            Must.equal { recipe with DkdBeta = 5.0; Device = "cuda" } changed.Settings
            let origin field = changed.Origins[field]
            Must.equal ("--set", "--set") (origin "dkdBeta", origin "device")

            Must.equal ("recipe", "recipe", "default") (origin "learningRate", origin "teacher", origin "dataDir")

            Must.equal ("default", "default") (origin "seed", origin "precision")
            Must.equal "recipe" ((resolved "rlkd/vgg13-vgg8/kd/fixed" []).Origins["seed"])
        }

        test "the learning rate and the weight decay follow the optimiser, except where they are given or a recipe's" {
            let rates texts =
                let s = (resolved "" texts).Settings
                s.LearningRate, s.WeightDecay

            Must.equal (0.05, 5e-4) (rates [])
            Must.equal (0.05, 5e-4) (rates [ "optimiser=sgd" ])
            Must.equal (1e-3, 0.01) (rates [ "optimiser=adamw" ])
            Must.equal (0.3, 0.01) (rates [ "learningRate=0.3"; "optimiser=adamw" ])
            Must.equal (1e-3, 0.0) (rates [ "optimiser=adamw"; "weightDecay=0" ])
            let recipe = resolved "mdistiller/resnet32x4-ShuffleV1/dkd/fixed" [ "optimiser=adamw" ]
            Must.equal (0.01, 5e-4) (recipe.Settings.LearningRate, recipe.Settings.WeightDecay)
        }

        test "defaults follow what they depend on: epochs the data, milestones the epochs, weights the methods" {
            let cifar = (resolved "" [ "data=cifar100" ]).Settings
            Must.equal (240, [ 150; 180; 210 ]) (cifar.Epochs, cifar.Milestones)
            let short = (resolved "" [ "data=cifar100"; "epochs=8" ]).Settings
            Must.equal [ 5; 6; 7 ] short.Milestones

            let losses texts =
                let s = (resolved "" texts).Settings
                s.CrossEntropy, Map.toList s.Methods, s.WarmUp

            Must.equal (0.1, [ "kd", 0.9 ], 0) (losses [])
            Must.equal (1.0, [ "kd", 3.0; "kd-fixed", 1.0 ], 20) (losses [ "policy=dtkd" ])
            Must.equal (1.0, [ "dkd", 2.0 ], 20) (losses [ "methods=dkd:2" ])
            Must.equal (0.1, [ "crd", 0.5; "kd", 1.0 ], 0) (losses [ "methods=kd:1,crd:0.5" ])
            Must.equal (0.3, [ "at", 1.0 ], 7) (losses [ "methods=at:1"; "crossEntropy=0.3"; "warmUp=7" ])
        }

        test "methods come with their published weights, or with one weight each" {
            let losses (names: string list) weights more =
                Resolve.settings None (Resolve.methods "--method" names weights :: sets more)
                |> Result.map (fun r -> r.Settings.CrossEntropy, Map.toList r.Settings.Methods)

            Must.equal (Ok(0.1, [ "crd", 0.8; "kd", 0.9 ])) (losses [ "kd"; "crd" ] None [])
            Must.equal (Ok(1.0, [ "pkt", 30000.0 ])) (losses [ "pkt" ] None [])
            Must.equal (Ok(1.0, [ "dkd", 1.0; "kd", 3.0 ])) (losses [ "kd"; "dkd" ] None [ "policy=dtkd" ])
            Must.equal (Ok(0.1, [ "crd", 0.2; "kd", 0.5 ])) (losses [ "kd"; "crd" ] (Some [ 0.5; 0.2 ]) [])
            let few = errorOf (losses [ "kd"; "crd" ] (Some [ 0.5 ]) [])
            Must.equal (Usage, "there are 2 methods and 1 weights") (few.Kind, few.What)
            Must.contain "twice" ((errorOf (losses [ "kd"; "kd" ] None [])).What)
        }

        test "a recipe's milestones keep their shares of another number of epochs unless they are given" {
            let name = "ctkd/vgg13-vgg8/kd/ctkd-global"
            let scaled = resolved name [ "epochs=24" ]
            Must.equal [ 15; 18; 21 ] scaled.Settings.Milestones
            Must.equal "recipe, scaled" scaled.Origins["milestones"]
            let given = resolved name [ "epochs=24"; "milestones=20" ]
            Must.equal ([ 20 ], "--set") (given.Settings.Milestones, given.Origins["milestones"])
        }

        test "without a recipe the agent's schedule follows the epochs: 20, 20, 80 and 150 of 240" {
            let follows expected texts =
                let resolved = resolved "" ("policy=rlkd" :: texts)
                Must.equal (texts, expected) (texts, schedule resolved)
                Must.equal "default" resolved.Origins["rlkd.warmUp"]
                Must.beEmpty (Settings.mistakes resolved.Settings)

            follows (20, 20, 80, 150) [ "data=cifar100" ]
            follows (3, 3, 10, 19) []
            follows (2, 2, 8, 15) [ "epochs=24" ]
            follows (1, 1, 1, 1) [ "epochs=1" ]
            follows (40, 40, 160, 300) [ "epochs=480" ]
            follows (3, 3, 0, 0) [ "rlkd.mode=official" ]
            follows (3, 3, 10, 0) [ "rlkd.mix=false" ]
            let config = (resolved "" [ "policy=rlkd"; "data=cifar100" ]).Settings.Rlkd |> RlkdSettings.config
            Must.equal RlkdConfig.paper config
        }

        test "a recipe's agent keeps its shares of another number of epochs" {
            let name = "rlkd/resnet56-resnet20/kd/rlkd"
            let scaled = resolved name [ "epochs=24" ]
            Must.equal (2, 2, 8, 15) (schedule scaled)

            for field in [ "warmUp"; "every"; "ramp"; "mixUntil" ] do
                Must.equal "recipe, scaled" scaled.Origins[$"rlkd.{field}"]

            Must.equal "recipe" scaled.Origins["rlkd.mode"]

            Must.equal ((Recipes.find name |> Error.orRaise).Settings) ((resolved name [ "epochs=240" ]).Settings)

            let official = resolved name [ "epochs=24"; "rlkd.mode=official" ]
            Must.equal (2, 2, 0, 0) (schedule official)
            Must.equal ("--set", "recipe") (official.Origins["rlkd.mode"], official.Origins["rlkd.ramp"])
            Must.equal (2, 2, 8, 0) (schedule (resolved $"{name}-no-exploration" [ "epochs=24" ]))
            // Of 120 epochs: the first, every fifth, a ramp of 40.
            Must.equal (1, 3, 20, 0) (schedule (resolved "rlkd/ResNet34-ResNet18/dkd/rlkd" [ "epochs=60" ]))
            // Another policy's recipe of 100 epochs has no schedule of its own.
            let other = [ "policy=rlkd"; "epochs=60" ]
            Must.equal (5, 5, 20, 38) (schedule (resolved "mdistiller/ResNet34-ResNet18/kd/fixed" other))
        }

        test "an agent's numbers that are given stay as they are, and other policies leave it alone" {
            let given = resolved "" [ "policy=rlkd"; "rlkd.warmUp=20"; "rlkd.mixUntil=25" ]
            Must.equal (20, 3, 10, 25) (schedule given)
            Must.equal ("--set", "default") (given.Origins["rlkd.warmUp"], given.Origins["rlkd.every"])

            let recipe = resolved "rlkd/resnet56-resnet20/kd/rlkd" [ "rlkd.every=6"; "epochs=24"; "rlkd.ramp=4" ]

            Must.equal (2, 6, 4, 15) (schedule recipe)
            Must.equal ("--set", "--set") (recipe.Origins["rlkd.every"], recipe.Origins["rlkd.ramp"])
            let ctkd = resolved "ctkd/vgg13-vgg8/kd/ctkd-global" [ "epochs=24" ]
            Must.equal RlkdSettings.defaults ctkd.Settings.Rlkd
        }

        test "mistakes of a schedule are not scaled away" {
            let recipe = Recipes.find "rlkd/resnet56-resnet20/kd/rlkd" |> Error.orRaise

            let mistakes (epochs: int) (agent: RlkdSettings) : string list =
                let wrong = {
                    recipe with
                        Settings = { recipe.Settings with Epochs = epochs; Rlkd = agent }
                }

                let resolved = Resolve.settings (Some wrong) (sets [ "epochs=24" ]) |> Error.orRaise
                Settings.mistakes { resolved.Settings with TeacherWeights = "teacher.pth" }

            let agent = recipe.Settings.Rlkd
            Must.beEmpty (mistakes 240 agent)
            Must.have "rl-every must be at least 1, got 0" (mistakes 240 { agent with Every = 0 })
            Must.have "rl-ramp must be at least 0, got -1" (mistakes 240 { agent with Ramp = -1 })
            Must.have "rl-mix-until must be at least 0, got -3" (mistakes 240 { agent with MixUntil = -3 })
            // No epochs to scale by: the recipe's numbers as they are, too long for 24 epochs.
            Must.contain "rl-warm-up is 30" (String.concat "" (mistakes 0 { agent with WarmUp = 30 }))
        }

        test "every field can be set by its name in JSON, in the form of its type" {
            let s =
                (resolved "" [
                    "student=resnet20"
                    "mean=0.5,0.25,1e-1"
                    "std=[1, 2, 3]"
                    "nesterov=true"
                    "milestones=3,4"
                    "methods={\"kd\": 0.5, \"at\": 10}"
                    "teacherWeights=a=b.pth"
                ])
                    .Settings

            Must.equal ("resnet20", true, "a=b.pth") (s.Student, s.Nesterov, s.TeacherWeights)
            Must.equal [ 0.5; 0.25; 0.1 ] s.Mean
            Must.equal [ 1.0; 2.0; 3.0 ] s.Std
            Must.equal [ 3; 4 ] s.Milestones
            Must.equal [ "at", 10.0; "kd", 0.5 ] (Map.toList s.Methods)

            for field, value, _ in Resolve.rows (resolved "" []) do
                let unquoted = value.Trim '"'
                Must.equal Settings.defaults ((resolved "" [ $"{field}={unquoted}" ]).Settings)
        }

        test "an unknown field, a wrong value and a text without a field are errors that say what to write" {
            let wrong (text: string) =
                match Resolve.set text with
                | Result.Error error -> error
                | Ok assignment -> errorOf (Resolve.settings None [ assignment ])

            let unknown = wrong "learningrate=3"
            Must.equal (Usage, "unknown field 'learningrate'") (unknown.Kind, unknown.What)
            Must.startWith "did you mean one of: learningRate, " unknown.Next
            Must.contain "field=value" ((wrong "learningRate").Next)

            for text, needed in
                [
                    "learningRate=fast", "it takes a number"
                    "learningRate=", "it takes a number"
                    "learningRate=NaN", "it takes a number"
                    "epochs=1.5", "it takes a whole number"
                    "epochs=99999999999", "it takes a whole number"
                    "nesterov=maybe", "it takes true or false"
                    "milestones=a", "it takes numbers"
                    "milestones=null", "it takes numbers"
                    "methods=kd", "it takes names with weights"
                    "methods=kd:x", "it takes names with weights"
                    "methods=kd:1,kd:2", "it takes names with weights"
                ] do
                let error = wrong text
                Must.equal Usage error.Kind
                Must.startWith needed error.Next
                Must.contain ((text.Split '=')[0]) error.What
        }
    ]
