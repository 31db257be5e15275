namespace Ctkd.Fs

open System
open Ctkd.Fs.FieldKind

/// Which of the two published agents the settings begin from: the paper's, or the released code's.
[<RequireQualifiedAccess>]
type RlkdMode =
    | Paper
    | Official

/// Where the policy's spread comes from: a second output of the network, or one parameter for all states.
[<RequireQualifiedAccess>]
type RlkdSpreadName =
    | Head
    | Shared

/// How rewards are shared out among instances; `None` leaves out the masks too.
[<RequireQualifiedAccess>]
type RlkdCalibration =
    | Lstm
    | Set
    | Linear
    | None

/// The settings of RLKD's agent as plain data; `RlkdSettings.fields` says what each means. None, an empty list, and 0
/// where it makes no sense, stand for the value of the mode.
type RlkdSettings = {
    Mode: RlkdMode
    WarmUp: int
    Every: int
    Ramp: int
    Mix: bool
    MixUntil: int
    Ranks: float list
    State: RlkdState option
    Spread: RlkdSpreadName option
    Calibration: RlkdCalibration option
    Masked: RlkdMasked option
    Reward: RlkdReward option
    GreedyAfter: int
}

/// Table, mistakes, and the configuration that the settings stand for.
[<RequireQualifiedAccess>]
module RlkdSettings =

    /// The epochs of the run that the schedule of `defaults` and of the modes is for.
    let publishedEpochs: int = 240

    let private ranks: FieldKind =
        ruled
            "two shares from 0 to 0.9"
            (fun label values ->
                match values with
                | [] -> []
                | [ dominant; partner ] when min dominant partner >= 0.0 && max dominant partner <= 0.9 -> []
                | _ -> [ $"{label} must be two numbers from 0 to 0.9, such as 0.1,0.4" ]
            )

    /// The table: a setting of the agent is a field of the record and a row here, which gives its flag, help, validation,
    /// JSON, `--set` and reference.
    let fields: Field list =
        let r = Unchecked.defaultof<RlkdSettings>
        let row flag name kind value = Field.row Audience.WithAgent flag ("Rlkd." + name) kind value
        let count least = whole least Int32.MaxValue
        let ofMode = Field.by "the mode's"

        [
            row "rl-mode NAME" (nameof r.Mode) (case<RlkdMode>()) RlkdMode.Paper
            |> Field.means "what the paper says or its released code does: paper or official"

            row "rl-warm-up EPOCH" (nameof r.WarmUp) (count 1) RlkdConfig.paper.WarmUp
            |> Field.means "the first epoch in which the agent chooses T; until then T is --t"
            |> Field.by $"{RlkdConfig.paper.WarmUp} of {publishedEpochs} epochs"

            row "rl-every EPOCHS" (nameof r.Every) (count 1) RlkdConfig.paper.Every
            |> Field.means "it learns in the epochs divisible by this"
            |> Field.by $"{RlkdConfig.paper.Every} of {publishedEpochs}"

            row "rl-ramp EPOCHS" (nameof r.Ramp) (count 0) 0
            |> Field.means "the reward grows over this many epochs"
            |> Field.by "80 of 240; official: the released table"

            row "rl-no-mix" (nameof r.Mix) switch true
            |> Field.means "mix no images"
            |> Field.by "mixed in the epochs of learning but the first"

            row "rl-mix-until EPOCH" (nameof r.MixUntil) (count 0) 0
            |> Field.means "the last epoch with mixed images"
            |> Field.by "150 of 240; official: no end"

            row "" (nameof r.Ranks) ranks ([]: float list)
            |> Field.means "first ranks of the mixed images and of their partners by entropy, as shares of all images"
            |> ofMode

            row "" (nameof r.State) (optionalCase<RlkdState>()) (None: RlkdState option)
            |> Field.means "what a state holds"
            |> ofMode

            row "" (nameof r.Spread) (optionalCase<RlkdSpreadName>()) (None: RlkdSpreadName option)
            |> Field.means "where the policy's spread comes from: a second output of its network, or one parameter"
            |> ofMode

            row "" (nameof r.Calibration) (optionalCase<RlkdCalibration>()) (None: RlkdCalibration option)
            |> Field.means "how a batch's reward is shared out among its instances; none leaves out the masks too"
            |> ofMode

            row "" (nameof r.Masked) (optionalCase<RlkdMasked>()) (None: RlkdMasked option)
            |> Field.means "who learns from masked states: the critic (values), both (states), or both afterwards"
            |> ofMode

            row "" (nameof r.Reward) (optionalCase<RlkdReward>()) (None: RlkdReward option)
            |> Field.means "which accuracies make a reward"
            |> ofMode

            row "" (nameof r.GreedyAfter) (count 0) 0
            |> Field.means "after this epoch T is the policy's mean and the agent learns no more"
            |> Field.by "never"
        ]

    /// The published schedule on CIFAR-100; `scaled` fits it to a run of another length.
    let defaults: RlkdSettings = Field.defaults "rlkd." fields

    let private modeOf (s: RlkdSettings) : RlkdConfig =
        match s.Mode with
        | RlkdMode.Paper -> RlkdConfig.paper
        | RlkdMode.Official -> RlkdConfig.official

    /// Every mistake, for a run of `epochs` epochs.
    let mistakes (epochs: int) (s: RlkdSettings) : string list =
        let last = if s.GreedyAfter > 0 then min epochs s.GreedyAfter else epochs
        let learns = { RlkdConfig.paper with WarmUp = s.WarmUp; Every = max 1 s.Every } |> RlkdConfig.learns

        [
            for field in fields do
                let value = Field.get (field.Name.Substring "rlkd.".Length) s
                yield! field.Kind.Mistakes (Field.label field) value

            if s.MixUntil > 0 && not s.Mix then
                "rl-mix-until says until when images are mixed, and rl-no-mix that none are: give one"

            if s.WarmUp > epochs then
                $"rl-warm-up is {s.WarmUp}, but there are only {epochs} epochs: the agent would never choose a T"
            elif s.Every >= 1 && s.WarmUp >= 1 && not (List.exists learns [ 1..last ]) then
                $"no epoch from {s.WarmUp} to {last} is divisible by rl-every {s.Every}: the agent would never learn"
        ]

    /// The schedule at the same shares of another number of epochs, rounded, at least 1: warm-up, learning, and ramp
    /// and mixing where the settings or their mode have numbers. The rest, and numbers below 1, stay as they are.
    let scaled (before: int) (epochs: int) (s: RlkdSettings) : RlkdSettings =
        let mode = modeOf s

        let share (value: int) =
            if value < 1 then
                value
            else
                let exact = float value * float epochs / float before
                max 1 (int (Math.Round(exact, MidpointRounding.AwayFromZero)))

        let ramp =
            match mode with
            | { Factor = RlkdFactor.Ramp ramp } when s.Ramp = 0 -> ramp
            | _ -> s.Ramp

        let until =
            match mode with
            | { Mixing = Some { Until = Some last } } when s.Mix && s.MixUntil = 0 -> last
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
        let mode = modeOf s

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

        let spread =
            function
            | RlkdSpreadName.Head -> RlkdSpread.Head
            | RlkdSpreadName.Shared -> RlkdSpread.Shared 1

        let corrector =
            function
            | RlkdCalibration.Lstm -> RlkdCorrector.Lstm
            | RlkdCalibration.Set -> RlkdCorrector.Set
            | RlkdCalibration.Linear -> RlkdCorrector.Linear
            | RlkdCalibration.None -> RlkdCorrector.Off

        let isOff = s.Calibration = Some RlkdCalibration.None

        {
            mode with
                WarmUp = s.WarmUp
                Every = s.Every
                GreedyAfter = (if s.GreedyAfter > 0 then Some s.GreedyAfter else None)
                Factor = (if s.Ramp > 0 then RlkdFactor.Ramp s.Ramp else mode.Factor)
                Mixing = (if s.Mix then Option.map mixing mode.Mixing else None)
                State = Option.defaultValue mode.State s.State
                Spread = s.Spread |> Option.map spread |> Option.defaultValue mode.Spread
                Masked = Option.defaultValue mode.Masked s.Masked
                Reward = Option.defaultValue mode.Reward s.Reward
                Corrector = s.Calibration |> Option.map corrector |> Option.defaultValue mode.Corrector
                // A calibration that is asked for counts, and its absence leaves out all of it.
                Corrects = mode.Corrects || s.Calibration.IsSome
                Updater = (if isOff then RlkdUpdater.Off else mode.Updater)
        }
