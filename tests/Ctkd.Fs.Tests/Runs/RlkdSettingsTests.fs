module Ctkd.Fs.Tests.RlkdSettingsTests

open Expecto
open Ctkd.Fs

let private valid = RlkdSettings.defaults

let private mistake (epochs: int) (settings: RlkdSettings) : string =
    match RlkdSettings.mistakes epochs settings with
    | [ only ] -> only
    | mistakes -> failwith $"one mistake was expected, got %A{mistakes}"

let tests =
    testList "RlkdSettings" [
        test "the defaults are the paper's agent, and the released one differs in its mode alone" {
            Must.beEmpty (RlkdSettings.mistakes 240 valid)
            Must.equal RlkdConfig.paper (RlkdSettings.config valid)
            Must.equal RlkdConfig.official (RlkdSettings.config { valid with Mode = RlkdMode.Official })
        }

        test "every ablation changes what it names" {
            let paper = RlkdConfig.paper
            let changed change = RlkdSettings.config (change valid)
            let same expected change = Must.equal expected (changed change)

            same { paper with State = RlkdState.Confidences } (fun s -> { s with State = Some RlkdState.Confidences })

            same { paper with Spread = RlkdSpread.Shared 1 } (fun s -> { s with Spread = Some RlkdSpreadName.Shared })

            same { paper with Reward = RlkdReward.Lagged } (fun s -> { s with Reward = Some RlkdReward.Lagged })

            same
                { paper with Corrector = RlkdCorrector.Set }
                (fun s -> { s with Calibration = Some RlkdCalibration.Set })

            same { paper with Masked = RlkdMasked.States } (fun s -> { s with Masked = Some RlkdMasked.States })

            same { paper with Mixing = None } (fun s -> { s with Mix = false })
            same { paper with GreedyAfter = Some 200 } (fun s -> { s with GreedyAfter = 200 })
            same { paper with Factor = RlkdFactor.Ramp 4 } (fun s -> { s with Ramp = 4 })
            same { paper with WarmUp = 2; Every = 3 } (fun s -> { s with WarmUp = 2; Every = 3 })

            same
                { paper with Corrector = RlkdCorrector.Off; Updater = RlkdUpdater.Off }
                (fun s -> { s with Calibration = Some RlkdCalibration.None })

            let mixed = (changed (fun s -> { s with Ranks = [ 0.0; 0.5 ]; MixUntil = 9 })).Mixing |> Option.get

            Must.equal (0.0, 0.5, Some 9) (mixed.Dominant, mixed.Partner, mixed.Until)

            let corrected =
                RlkdSettings.config { valid with Mode = RlkdMode.Official; Calibration = Some RlkdCalibration.Lstm }

            Must.equal (RlkdCorrector.Lstm, true) (corrected.Corrector, corrected.Corrects)
        }

        test "settings that make no sense together are mistakes" {
            let wrong epochs change = mistake epochs (change valid)
            Must.contain "only 10 epochs" (wrong 10 (fun s -> s))
            Must.contain "never learn" (wrong 3 (fun s -> { s with WarmUp = 3; Every = 4 }))
            Must.contain "give one" (wrong 240 (fun s -> { s with Mix = false; MixUntil = 9 }))

            for ranks in [ [ 0.1 ]; [ 0.1; 0.95 ]; [ -0.1; 0.4 ]; [ nan; 0.4 ]; [ 0.1; 0.4; 0.5 ] ] do
                Must.contain "two numbers" (wrong 240 (fun s -> { s with Ranks = ranks }))
        }

        test "numbers below their least value and unknown names are mistakes that name the setting" {
            let wrong change = mistake 240 (change valid)
            Must.contain "rl-warm-up must be at least 1, got 0" (wrong (fun s -> { s with WarmUp = 0 }))
            Must.contain "rl-every must be at least 1, got 0" (wrong (fun s -> { s with Every = 0 }))
            Must.contain "rl-ramp must be at least 0, got -1" (wrong (fun s -> { s with Ramp = -1 }))
            Must.contain "rl-mix-until must be at least 0" (wrong (fun s -> { s with MixUntil = -1 }))
            Must.contain "rlkd.greedyAfter must be at least 0" (wrong (fun s -> { s with GreedyAfter = -1 }))
            let unknown text = Folders.errorOf (Resolve.set text)
            Must.contain "paper, official" ((unknown "rlkd.mode=").Next)
            Must.contain "did you mean one of: official" ((unknown "rlkd.mode=offical").Next)
            Must.contain "unknown rl-mode" ((unknown "rlkd.mode=offical").What)
            Must.contain "unknown rlkd.state" ((unknown "rlkd.state=x").What)
            Must.contain "did you mean one of: head" ((unknown "rlkd.spread=heed").Next)
            Must.contain "unknown rlkd.masked" ((unknown "rlkd.masked=x").What)
            Must.contain "unknown rlkd.calibration" ((unknown "rlkd.calibration=x").What)
            Must.contain "unknown rlkd.reward" ((unknown "rlkd.reward=x").What)
        }

        test "under another policy the agent's settings are not looked at" {
            let settings policy = {
                Settings.defaults with
                    Policy = Names.find "policy" policy |> Error.orRaise
                    Rlkd = { valid with WarmUp = 99 }
            }

            Must.beEmpty (Settings.mistakes (settings "fixed"))
            Must.beNonEmpty (Settings.mistakes (settings "rlkd"))
        }

        test "DKD in mode official has one weight for a batch, as released, and elsewhere one for each instance" {
            Tensor.scoped (fun () ->
                let logits seed = Inputs.normal seed [ 4; 4 ] |> Plain.ofDense
                let outputs seed = Inputs.pooled (logits seed)

                let input = {
                    Inputs.input (outputs 1) (outputs 2) [| 0; 1; 2; 3 |] with
                        Softened = Policy.shared (Plain.tensor [ 4 ] [| 1.0; 2.0; 4.0; 8.0 |]) (logits 1) (logits 2)
                }

                let loss policy mode =
                    let settings = {
                        Settings.defaults with
                            Policy = Names.find "policy" policy |> Error.orRaise
                            Methods = Map [ "dkd", 1.0 ]
                            Rlkd.Mode = mode
                    }

                    Settings.distillers settings (Inputs.pair [] [])
                    |> Error.orRaise
                    |> List.map (fun (_, distiller) -> distiller.Loss Tree.empty input |> Tensor.toFloat)
                    |> List.exactlyOne

                let each = Dkd.loss 1.0 2.0 input.Labels input.Softened |> Tensor.toFloats
                let t = Tensor.toFloats input.Softened.T
                let unweighted = Array.map2 (fun loss t -> loss / (t * t)) each t
                Must.beNear 1e-12 0.0 (Array.average each) (loss "rlkd" RlkdMode.Paper)
                Must.beNear 1e-12 0.0 (Array.average each) (loss "ctkd-instance" RlkdMode.Official)
                let mean = Array.average unweighted * Array.averageBy (fun t -> t * t) t
                Must.beNear 1e-12 0.0 mean (loss "rlkd" RlkdMode.Official)
            )
        }
    ]
