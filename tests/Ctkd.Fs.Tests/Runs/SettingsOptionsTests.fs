/// Settings of the options of training.
module Ctkd.Fs.Tests.SettingsOptionsTests

open System
open Expecto
open Ctkd.Fs

let private valid = Settings.defaults

let tests =
    testList "SettingsOptions" [
        test "options of training have their bounds, and some exclude each other" {
            let taught = { valid with Teacher = "resnet20"; TeacherWeights = "t.safetensors" }
            let adamw = { valid with Optimiser = OptimiserName.Adamw }

            for wrong, text in
                [
                    { valid with LabelSmoothing = 1.0 }, "label-smoothing must be finite and in [0, 1), got 1"
                    { valid with Ema = 1.0 }, "ema must be finite and in [0, 1), got 1"
                    { valid with Mixup = -0.1 }, "mixup must be finite and >= 0, got -0.1"
                    { valid with ClipGradients = nan }, "clip-gradients must be finite and >= 0, got NaN"
                    { valid with LrStop = -1.0 }, "lr-stop must be finite and >= 0, got -1"
                    { valid with LrWarmUp = -1 }, "lr-warm-up must be at least 0, got -1"
                    { valid with Patience = -1 }, "patience must be at least 0, got -1"
                    { adamw with AdamBeta1 = 1.0 }, "adam-beta1 must be finite and in [0, 1), got 1"
                    { adamw with AdamEpsilon = 0.0 }, "adam-epsilon must be finite and > 0, got 0"
                    { adamw with Nesterov = true }, "nesterov is for the optimizer sgd, not adamw"
                    { taught with Mixup = 0.2; TeacherCache = "c" }, "mixup and teacher-cache exclude each other"
                    { taught with Mixup = 0.2; Policy = PolicyName.Rlkd }, "mixup is not for the policy rlkd"
                ] do
                Must.startWith text (Must.single (Settings.mistakes wrong))

            // From labels alone there is no cache and no policy.
            Must.beEmpty (Settings.mistakes { valid with Mixup = 0.2; TeacherCache = "c"; Policy = PolicyName.Rlkd })
        }

        test "a plan has the options of training, and none of them by default" {
            let data = Digits.load ()
            let student = Zoo.find "resnet8" 10 |> Error.orRaise
            let plan s = Settings.alone s student data Device.Cpu

            let options (plan: TrainingPlan) =
                plan.LabelSmoothing, plan.ClipGradients, plan.Average, plan.Patience, plan.Mixup

            Must.equal (0.0, None, None, None, None) (options (plan valid))

            let s = {
                valid with
                    Epochs = 8
                    LearningRate = 0.2
                    LrSchedule = RateSchedule.Cosine
                    LrStop = 0.02
                    LrWarmUp = 3
                    Optimiser = OptimiserName.Adamw
                    WeightDecay = 0.05
                    AdamBeta1 = 0.8
                    AdamBeta2 = 0.95
                    AdamEpsilon = 1e-6
                    LabelSmoothing = 0.1
                    ClipGradients = 2.0
                    Ema = 0.99
                    Patience = 4
                    Mixup = 0.3
            }

            let changed = plan s
            Must.equal (0.1, Some 2.0, Some 0.99, Some 4, Some 0.3) (options changed)
            let adam = { Beta1 = 0.8; Beta2 = 0.95; Epsilon = 1e-6; WeightDecay = 0.05 }
            Must.equal (Optimiser.AdamW adam) changed.Optimiser

            for epoch in 1..8 do
                let cosine = 0.02 + 0.18 * (1.0 + cos (Math.PI * float (epoch - 1) / 8.0)) / 2.0
                let expected = min 1.0 (float epoch / 4.0) * cosine
                Must.beNear 1e-14 0.0 expected (Schedule.at epoch changed.LearningRate)
                // Milestones stay where they are.
                let steps = { s with LrSchedule = RateSchedule.Steps; Milestones = [ 2; 6 ]; Decay = 0.5 }
                let falling = 0.2 * 0.5 ** float (List.length (List.filter (fun m -> epoch > m) [ 2; 6 ]))

                Must.beNear
                    1e-14
                    0.0
                    (min 1.0 (float epoch / 4.0) * falling)
                    (Schedule.at epoch (plan steps).LearningRate)
        }
    ]
