namespace Ctkd.Fs

/// The state of an instance; p is a softmax at T = 1, without gradient.
[<RequireQualifiedAccess>]
type RlkdState =
    /// (max p_t, max p_s, 1 - (largest p_s - second largest p_s)).
    | Uncertainty
    /// (max p_t, max p_s): the ablation without uncertainty.
    | Confidences
    /// As released: (max p_s, max p_t, max p_s - second smallest p_s).
    | SecondSmallest

/// How the policy's deviation is parametrised.
[<RequireQualifiedAccess>]
type RlkdSpread =
    /// A second output of the network: it depends on the state and lies in [exp -5, exp 1].
    | Head
    /// One for all states: exp(sum of `rows` parameters - 1/2). The released code has 10.
    | Shared of rows: int

/// Where the policy's density is evaluated.
[<RequireQualifiedAccess>]
type RlkdLikelihood =
    /// At the draw z. The Jacobian of T = 10 sigmoid(z) cancels in PPO's ratio.
    | Draw
    /// As released: at T, which lies far from the policy's mean.
    | Temperature

/// Which two accuracies make the reward of a batch's temperatures.
[<RequireQualifiedAccess>]
type RlkdReward =
    /// The next batch's minus the batch's own: the effect of the temperatures.
    | Next
    /// As released: the batch's own minus the one before, both older than the temperatures.
    | Lagged

/// The accuracy of a batch.
[<RequireQualifiedAccess>]
type RlkdAccuracy =
    /// Fraction of instances that are classified correctly.
    | Micro
    /// As released: mean recall over the classes that are predicted or true.
    | Macro

/// The reward's factor by epoch.
[<RequireQualifiedAccess>]
type RlkdFactor =
    /// min(e / epochs, 1).
    | Ramp of epochs: int
    /// As released for CIFAR-100 and for ImageNet: falling cosines, from about 20 to 1.
    | CosineCifar
    | CosineImageNet

/// How a batch's reward is split among its instances.
[<RequireQualifiedAccess>]
type RlkdCorrector =
    /// By the differences of an LSTM's predictions along the batch (RUDDER).
    | Lstm
    /// By a network that reads each instance alone, since a batch has no order.
    | Set
    /// As released: a linear network without memory.
    | Linear
    /// Not at all: the last instance gets it.
    | Off

/// How the masks of states are trained.
[<RequireQualifiedAccess>]
type RlkdUpdater =
    /// To keep an estimator of the return accurate, and to be small otherwise.
    | Estimated
    /// As released: only to be small; they end at 0.
    | Collapsing
    /// There are none.
    | Off

/// Who learns from masked states. The agent acts on states as seen.
[<RequireQualifiedAccess>]
type RlkdMasked =
    /// The critic; the policy learns from states as seen.
    | Values
    /// Critic and policy. A draw keeps its noise: it becomes the draw of the policy at the masked state with that noise.
    | States
    /// As released: critic and policy, with likelihoods and values of the states as seen. The ratio does not begin at 1.
    | Afterwards

/// How advantages are scaled.
[<RequireQualifiedAccess>]
type RlkdScaling =
    /// Divided by a running root mean square, which keeps the sign of a batch's reward.
    | Running
    /// As released: mean 0 and deviation 1 within each batch.
    | ZScore

/// Which entropies rank the images.
[<RequireQualifiedAccess>]
type RlkdHistory =
    /// The latest of the image when it was not mixed.
    | Latest
    /// As released: the mean over the epochs from the second on.
    | Mean

/// Proximal policy optimisation (Schulman et al. 2017, arXiv:1707.06347).
type PpoConfig = {
    /// Discount, and lambda of the generalised advantages, per instance.
    Discount: float
    Lambda: float
    /// The likelihoods' ratio is clamped to [1 - Clip, 1 + Clip].
    Clip: float
    /// Passes over a batch, of the critic and then of the actor.
    Passes: int
    ActorRate: float
    CriticRate: float
    /// Gradients are shortened to this norm.
    LongestGradient: float
}

/// Efficient exploration: high-quality images, mixed.
type RlkdMixing = {
    /// First rank of the dominant images, as a share of all images; `Share` of all follow.
    Dominant: float
    /// First rank of their partners.
    Partner: float
    /// Share of all images that are mixed.
    Share: float
    /// The smallest weight of a dominant image; the largest is 1.
    Least: float
    /// The last epoch with mixed images; None: the last of the run.
    Until: int option
    /// true, as released: the mixed image takes its partner's place and label, with truncated pixels.
    /// false: it takes the dominant image's place, with both labels by weight and rounded pixels.
    AtPartner: bool
    History: RlkdHistory
}

/// The settings of RLKD's agent (arXiv:2407.00115). The paper and its released code are two values of this record, and
/// each ablation changes one field.
type RlkdConfig = {
    /// The first epoch in which the agent chooses; before it, T is constant.
    WarmUp: int
    /// From then on it learns in the epochs that are divisible by this.
    Every: int
    /// The last epoch with draws and learning; afterwards the policy's mean is taken. None: no such epoch.
    GreedyAfter: int option
    State: RlkdState
    Spread: RlkdSpread
    Likelihood: RlkdLikelihood
    /// T lies in (CoolestT, 10).
    CoolestT: float
    Reward: RlkdReward
    Accuracy: RlkdAccuracy
    Factor: RlkdFactor
    Corrector: RlkdCorrector
    CorrectorSteps: int
    /// Whether the corrected rewards reach the advantages; in the released code they do not.
    Corrects: bool
    Updater: RlkdUpdater
    UpdaterSteps: int
    /// Weight of the mask's size in the updater's loss.
    MaskWeight: float
    Masked: RlkdMasked
    /// Whether the value beyond the batch is that of the next batch's first state; otherwise of the own last state.
    LooksAhead: bool
    Scaling: RlkdScaling
    Ppo: PpoConfig
    /// Learning rate of corrector, mask and estimator.
    CreditRate: float
    /// None: no images are mixed.
    Mixing: RlkdMixing option
}

/// The two published variants, their validation, and the epochs of acting, learning and mixing (counted from 1).
[<RequireQualifiedAccess>]
module RlkdConfig =

    /// Upper bound of T, exclusive.
    let hottest: float = 10.0

    /// The paper, for CIFAR-100's 240 epochs. Its equations are reconstructed; the ramp's 80 epochs and mixing until epoch
    /// 150 are our choices, since the paper leaves them open.
    let paper: RlkdConfig = {
        WarmUp = 20
        Every = 20
        GreedyAfter = None
        State = RlkdState.Uncertainty
        Spread = RlkdSpread.Head
        Likelihood = RlkdLikelihood.Draw
        CoolestT = 0.1
        Reward = RlkdReward.Next
        Accuracy = RlkdAccuracy.Micro
        Factor = RlkdFactor.Ramp 80
        Corrector = RlkdCorrector.Lstm
        CorrectorSteps = 10
        Corrects = true
        Updater = RlkdUpdater.Estimated
        UpdaterSteps = 10
        MaskWeight = 5e-3
        Masked = RlkdMasked.Values
        LooksAhead = true
        Scaling = RlkdScaling.Running
        Ppo = {
            Discount = 0.99
            Lambda = 0.95
            Clip = 0.2
            Passes = 5
            ActorRate = 1e-4
            CriticRate = 1e-3
            LongestGradient = 2.0
        }
        CreditRate = 1e-3
        Mixing =
            Some {
                Dominant = 0.1
                Partner = 0.4
                Share = 0.1
                Least = 0.7
                Until = Some 150
                AtPartner = false
                History = RlkdHistory.Latest
            }
    }

    /// The released code, for comparison.
    let official: RlkdConfig = {
        paper with
            State = RlkdState.SecondSmallest
            Spread = RlkdSpread.Shared 10
            Likelihood = RlkdLikelihood.Temperature
            CoolestT = 0.0
            Reward = RlkdReward.Lagged
            Accuracy = RlkdAccuracy.Macro
            Factor = RlkdFactor.CosineCifar
            Corrector = RlkdCorrector.Linear
            CorrectorSteps = 9
            Corrects = false
            Updater = RlkdUpdater.Collapsing
            Masked = RlkdMasked.Afterwards
            LooksAhead = false
            Scaling = RlkdScaling.ZScore
            Mixing =
                Some {
                    Dominant = 0.1
                    Partner = 0.8
                    Share = 0.1
                    Least = 0.7
                    Until = None
                    AtPartner = true
                    History = RlkdHistory.Mean
                }
    }

    /// Whether the agent chooses T.
    let chooses (config: RlkdConfig) (epoch: int) : bool = epoch >= config.WarmUp

    /// Whether the policy's mean is taken.
    let isGreedy (config: RlkdConfig) (epoch: int) : bool =
        config.GreedyAfter |> Option.exists (fun last -> epoch > last)

    /// Whether it learns.
    let learns (config: RlkdConfig) (epoch: int) : bool =
        chooses config epoch && epoch % config.Every = 0 && not (isGreedy config epoch)

    /// How images are mixed in an epoch; None where they are not. They are mixed in epochs of learning after the first epoch
    /// of the run and of the agent: before, there are no entropies to rank by.
    let mixes (config: RlkdConfig) (epoch: int) : RlkdMixing option =
        let isOn (mixing: RlkdMixing) =
            learns config epoch && epoch > max 1 config.WarmUp && Option.forall (fun last -> epoch <= last) mixing.Until

        config.Mixing |> Option.filter isOn

    /// Why no agent can learn with a configuration; empty where one can.
    let mistakes (config: RlkdConfig) : string list =
        let { Discount = discount; Lambda = lambda; Clip = clip; Passes = passes } = config.Ppo
        let isShare x = x > 0.0 && x <= 1.0

        [
            if config.Every < 1 then
                $"the agent must learn every 1 or more epochs, got {config.Every}."
            if not (config.CoolestT >= 0.0 && config.CoolestT < hottest) then
                $"the coolest T must be in [0, {hottest}), got {config.CoolestT}."
            if not (isShare discount && isShare lambda) then
                $"discount and lambda must be in (0, 1], got {discount} and {lambda}."
            if not (clip > 0.0 && clip < 1.0) then
                $"the clip must be in (0, 1), got {clip}."
            if passes < 1 || config.CorrectorSteps < 1 || config.UpdaterSteps < 1 then
                $"passes and steps must be 1 or more, got {passes}, {config.CorrectorSteps} and {config.UpdaterSteps}."
            match config.Factor with
            | RlkdFactor.Ramp epochs when epochs < 1 -> $"the ramp must take 1 or more epochs, got {epochs}."
            | _ -> ()
            match config.Mixing with
            | None -> ()
            | Some m ->
                let last = max m.Dominant m.Partner + m.Share

                if not (m.Share > 0.0 && min m.Dominant m.Partner >= 0.0 && last <= 1.0 + 1e-9) then
                    $"ranks must lie in 0 .. 1, got {m.Dominant} and {m.Partner} with a share of {m.Share}."

                if not (m.Least >= 0.0 && m.Least <= 1.0) then
                    $"the weight of a dominant image must be in [0, 1], got {m.Least}."
        ]
