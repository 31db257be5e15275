namespace Ctkd.Fs

/// The settings of RLKD's agent as plain data. An empty text or list, and 0 where that makes no sense, stand for what
/// the mode has.
type RlkdSettings = {
    /// "paper" or "official", the released code's behaviour.
    Mode: string
    /// The first epoch in which the agent chooses T; before it, T is that of the fixed policy.
    WarmUp: int
    /// It learns in the epochs from there on that are divisible by this.
    Every: int
    /// The reward grows over so many epochs.
    Ramp: int
    /// Whether images are mixed in the epochs in which it learns, but the first.
    Mix: bool
    /// The last epoch with mixed images.
    MixUntil: int
    /// First ranks of the mixed images and of their partners by entropy, as shares of all: two numbers.
    Ranks: float list
    /// What a state holds: `RlkdSettings.states`.
    State: string
    /// Where the policy's spread comes from: `RlkdSettings.spreads`.
    Spread: string
    /// How rewards are shared out among instances: `RlkdSettings.calibrations`; "none" leaves out the masks too.
    Calibration: string
    /// Who learns from masked states: `RlkdSettings.masked`.
    Masked: string
    /// Which accuracies make a reward: `RlkdSettings.rewards`.
    Reward: string
    /// After this epoch T is the policy's mean and the agent learns no more; 0: T is always drawn.
    GreedyAfter: int
}

/// Defaults, mistakes, and the configuration that the settings stand for.
[<RequireQualifiedAccess>]
module RlkdSettings =

    /// The run that the schedule of `defaults` and of the modes is for.
    let publishedEpochs: int = 240

    /// The published schedule on CIFAR-100; `scaled` fits it to a run of another length.
    let defaults: RlkdSettings = {
        Mode = "paper"
        WarmUp = RlkdConfig.paper.WarmUp
        Every = RlkdConfig.paper.Every
        Ramp = 0
        Mix = true
        MixUntil = 0
        Ranks = []
        State = ""
        Spread = ""
        Calibration = ""
        Masked = ""
        Reward = ""
        GreedyAfter = 0
    }

    let private modesOf = [ "paper", RlkdConfig.paper; "official", RlkdConfig.official ]

    let private statesOf = [
        "uncertainty", RlkdState.Uncertainty
        "confidences", RlkdState.Confidences
        "second-smallest", RlkdState.SecondSmallest
    ]

    let private spreadsOf = [ "head", RlkdSpread.Head; "shared", RlkdSpread.Shared 1 ]

    let private calibrationsOf = [
        "lstm", RlkdCorrector.Lstm
        "set", RlkdCorrector.Set
        "linear", RlkdCorrector.Linear
        "none", RlkdCorrector.Off
    ]

    let private maskedOf = [
        "values", RlkdMasked.Values
        "states", RlkdMasked.States
        "afterwards", RlkdMasked.Afterwards
    ]

    let private rewardsOf = [ "next", RlkdReward.Next; "lagged", RlkdReward.Lagged ]

    /// The names of each choice.
    let modes: string list = List.map fst modesOf
    let states: string list = List.map fst statesOf
    let spreads: string list = List.map fst spreadsOf
    let calibrations: string list = List.map fst calibrationsOf
    let masked: string list = List.map fst maskedOf
    let rewards: string list = List.map fst rewardsOf

    let private named (choices: (string * 'T) list) (name: string) : 'T option =
        choices |> List.tryFind (fst >> (=) name) |> Option.map snd

    /// Every mistake, for a run of so many epochs.
    let mistakes (epochs: int) (s: RlkdSettings) : string list =
        let atLeast least name value =
            if value >= least then [] else [ $"{name} must be at least {least}, got {value}" ]

        let oneOf kind known name =
            if name = "" || List.contains name known then
                []
            else
                let wrong = Error.unknown kind known name
                [ $"{wrong.What}: {wrong.Next}" ]

        let last = if s.GreedyAfter > 0 then min epochs s.GreedyAfter else epochs
        let learns = { RlkdConfig.paper with WarmUp = s.WarmUp; Every = max 1 s.Every } |> RlkdConfig.learns

        List.concat [
            (if s.Mode = "" then
                 [ "rl-mode is missing: paper or official" ]
             else
                 oneOf "rl-mode" modes s.Mode)
            atLeast 1 "rl-warm-up" s.WarmUp
            atLeast 1 "rl-every" s.Every
            atLeast 0 "rl-ramp" s.Ramp
            atLeast 0 "rl-mix-until" s.MixUntil
            atLeast 0 "rlkd.greedyAfter" s.GreedyAfter
            oneOf "rlkd.state" states s.State
            oneOf "rlkd.spread" spreads s.Spread
            oneOf "rlkd.calibration" calibrations s.Calibration
            oneOf "rlkd.masked" masked s.Masked
            oneOf "rlkd.reward" rewards s.Reward
            (match s.Ranks with
             | [] -> []
             | [ dominant; partner ] when min dominant partner >= 0.0 && max dominant partner <= 0.9 -> []
             | _ -> [ "rlkd.ranks must be two numbers from 0 to 0.9, such as 0.1,0.4" ])
            (if s.MixUntil > 0 && not s.Mix then
                 [ "rl-mix-until says until when images are mixed, and rl-no-mix that none are: give one" ]
             else
                 [])
            (if s.WarmUp > epochs then
                 [
                     $"rl-warm-up is {s.WarmUp}, but there are only {epochs} epochs: the agent would never choose a T"
                 ]
             elif s.Every >= 1 && s.WarmUp >= 1 && not (List.exists learns [ 1..last ]) then
                 [
                     $"no epoch from {s.WarmUp} to {last} is divisible by rl-every {s.Every}: the agent would never \
                       learn"
                 ]
             else
                 [])
        ]

    /// The schedule at the same shares of another number of epochs, rounded, at least 1: warm-up, learning, and ramp
    /// and mixing where the settings or their mode have numbers. The rest, and numbers below 1, stay as they are.
    let scaled (before: int) (epochs: int) (s: RlkdSettings) : RlkdSettings =
        let mode = named modesOf s.Mode

        let share (value: int) =
            if value < 1 then
                value
            else
                let exact = float value * float epochs / float before
                max 1 (int (System.Math.Round(exact, System.MidpointRounding.AwayFromZero)))

        let ramp =
            match mode with
            | Some { Factor = RlkdFactor.Ramp ramp } when s.Ramp = 0 -> ramp
            | _ -> s.Ramp

        let until =
            match mode with
            | Some { Mixing = Some { Until = Some last } } when s.Mix && s.MixUntil = 0 -> last
            | _ -> s.MixUntil

        {
            s with
                WarmUp = share s.WarmUp
                Every = share s.Every
                Ramp = share ramp
                MixUntil = share until
        }

    /// The configuration of settings without mistakes.
    let config (s: RlkdSettings) : RlkdConfig =
        let mode =
            named modesOf s.Mode
            |> Option.defaultWith (fun () -> Error.unknown "rl-mode" modes s.Mode |> Error.raise)

        let mixing (mixing: RlkdMixing) =
            let dominant, partner =
                match s.Ranks with
                | [ dominant; partner ] -> dominant, partner
                | _ -> mixing.Dominant, mixing.Partner

            {
                mixing with
                    Dominant = dominant
                    Partner = partner
                    Until = (if s.MixUntil > 0 then Some s.MixUntil else mixing.Until)
            }

        let calibration = named calibrationsOf s.Calibration

        {
            mode with
                WarmUp = s.WarmUp
                Every = s.Every
                GreedyAfter = (if s.GreedyAfter > 0 then Some s.GreedyAfter else None)
                Factor = (if s.Ramp > 0 then RlkdFactor.Ramp s.Ramp else mode.Factor)
                Mixing = (if s.Mix then Option.map mixing mode.Mixing else None)
                State = named statesOf s.State |> Option.defaultValue mode.State
                Spread = named spreadsOf s.Spread |> Option.defaultValue mode.Spread
                Masked = named maskedOf s.Masked |> Option.defaultValue mode.Masked
                Reward = named rewardsOf s.Reward |> Option.defaultValue mode.Reward
                Corrector = calibration |> Option.defaultValue mode.Corrector
                // A calibration that is asked for counts, and its absence leaves out all of it.
                Corrects = mode.Corrects || calibration.IsSome
                Updater = (if calibration = Some RlkdCorrector.Off then RlkdUpdater.Off else mode.Updater)
        }
