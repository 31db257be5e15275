module Ctkd.Fs.Tests.RlkdSettingsTests

open Ctkd.Fs
open Xunit

let private valid = RlkdSettings.defaults

let private mistake (epochs: int) (settings: RlkdSettings) : string =
    match RlkdSettings.mistakes epochs settings with
    | [ only ] -> only
    | mistakes -> failwith $"one mistake was expected, got %A{mistakes}"

[<Fact>]
let ``the defaults are the paper's agent, and the released one differs in its mode alone`` () =
    Assert.Empty(RlkdSettings.mistakes 240 valid)
    Assert.Equal(RlkdConfig.paper, RlkdSettings.config valid)
    Assert.Equal(RlkdConfig.official, RlkdSettings.config { valid with Mode = "official" })

[<Fact>]
let ``every ablation changes what it names`` () =
    let paper = RlkdConfig.paper
    let changed change = RlkdSettings.config (change valid)
    let same expected change = Assert.Equal(expected, changed change)
    same { paper with State = RlkdState.Confidences } (fun s -> { s with State = "confidences" })
    same { paper with Spread = RlkdSpread.Shared 1 } (fun s -> { s with Spread = "shared" })
    same { paper with Reward = RlkdReward.Lagged } (fun s -> { s with Reward = "lagged" })
    same { paper with Corrector = RlkdCorrector.Set } (fun s -> { s with Calibration = "set" })
    same { paper with Masked = RlkdMasked.States } (fun s -> { s with Masked = "states" })
    same { paper with Mixing = None } (fun s -> { s with Mix = false })
    same { paper with GreedyAfter = Some 200 } (fun s -> { s with GreedyAfter = 200 })
    same { paper with Factor = RlkdFactor.Ramp 4 } (fun s -> { s with Ramp = 4 })
    same { paper with WarmUp = 2; Every = 3 } (fun s -> { s with WarmUp = 2; Every = 3 })

    same
        { paper with Corrector = RlkdCorrector.Off; Updater = RlkdUpdater.Off }
        (fun s -> { s with Calibration = "none" })

    let mixed = (changed (fun s -> { s with Ranks = [ 0.0; 0.5 ]; MixUntil = 9 })).Mixing |> Option.get
    Assert.Equal((0.0, 0.5, Some 9), (mixed.Dominant, mixed.Partner, mixed.Until))
    let corrected = RlkdSettings.config { valid with Mode = "official"; Calibration = "lstm" }
    Assert.Equal((RlkdCorrector.Lstm, true), (corrected.Corrector, corrected.Corrects))

[<Fact>]
let ``settings that make no sense together are mistakes`` () =
    let wrong epochs change = mistake epochs (change valid)
    Assert.Contains("only 10 epochs", wrong 10 (fun s -> s))
    Assert.Contains("never learn", wrong 3 (fun s -> { s with WarmUp = 3; Every = 4 }))
    Assert.Contains("give one", wrong 240 (fun s -> { s with Mix = false; MixUntil = 9 }))

    for ranks in [ [ 0.1 ]; [ 0.1; 0.95 ]; [ -0.1; 0.4 ]; [ nan; 0.4 ]; [ 0.1; 0.4; 0.5 ] ] do
        Assert.Contains("two numbers", wrong 240 (fun s -> { s with Ranks = ranks }))

[<Fact>]
let ``numbers below their least value and unknown names are mistakes that name the setting`` () =
    let wrong change = mistake 240 (change valid)
    Assert.Contains("rl-warm-up must be at least 1, got 0", wrong (fun s -> { s with WarmUp = 0 }))
    Assert.Contains("rl-every must be at least 1, got 0", wrong (fun s -> { s with Every = 0 }))
    Assert.Contains("rl-ramp must be at least 0, got -1", wrong (fun s -> { s with Ramp = -1 }))
    Assert.Contains("rl-mix-until must be at least 0", wrong (fun s -> { s with MixUntil = -1 }))
    Assert.Contains("rlkd.greedyAfter must be at least 0", wrong (fun s -> { s with GreedyAfter = -1 }))
    Assert.Contains("paper or official", wrong (fun s -> { s with Mode = "" }))
    Assert.Contains("did you mean one of: official", wrong (fun s -> { s with Mode = "offical" }))
    Assert.Contains("unknown rlkd.state", wrong (fun s -> { s with State = "x" }))
    Assert.Contains("did you mean one of: head", wrong (fun s -> { s with Spread = "heed" }))
    Assert.Contains("unknown rlkd.masked", wrong (fun s -> { s with Masked = "x" }))
    Assert.Contains("unknown rlkd.calibration", wrong (fun s -> { s with Calibration = "x" }))
    Assert.Contains("unknown rlkd.reward", wrong (fun s -> { s with Reward = "x" }))

[<Fact>]
let ``under another policy the agent's settings are not looked at`` () =
    let settings policy = { Settings.defaults with Policy = policy; Rlkd = { valid with WarmUp = 99 } }
    Assert.Empty(Settings.mistakes (settings "fixed"))
    Assert.NotEmpty(Settings.mistakes (settings "rlkd"))

[<Fact>]
let ``DKD in mode official has one weight for a batch, as released, and elsewhere one for each instance`` () =
    Tensor.scoped (fun () ->
        let logits seed = Lessons.normal seed [ 4; 4 ] |> Expect.ofDense
        let outputs seed = Lessons.pooled (logits seed)

        let lesson = {
            Lessons.lesson (outputs 1) (outputs 2) [| 0; 1; 2; 3 |] with
                Softened =
                    Expect.tensor [ 4 ] [| 1.0; 2.0; 4.0; 8.0 |] |> Temperature.shared (logits 1) (logits 2)
        }

        let loss policy mode =
            let settings = {
                Settings.defaults with
                    Policy = policy
                    Methods = Map [ "dkd", 1.0 ]
                    Rlkd.Mode = mode
            }

            Settings.distillers settings (Lessons.pairing [] [])
            |> Error.orRaise
            |> List.map (fun (_, distiller) -> distiller.Loss Tree.empty lesson |> Tensor.toFloat)
            |> List.exactlyOne

        let each = Dkd.loss 1.0 2.0 lesson.Labels lesson.Softened |> Tensor.toFloats
        let t = Tensor.toFloats lesson.Softened.T
        let unweighted = Array.map2 (fun loss t -> loss / (t * t)) each t
        Expect.near 1e-12 0.0 (Array.average each) (loss "rlkd" "paper")
        Expect.near 1e-12 0.0 (Array.average each) (loss "ctkd-instance" "official")
        let mean = Array.average unweighted * Array.averageBy (fun t -> t * t) t
        Expect.near 1e-12 0.0 mean (loss "rlkd" "official")
    )
