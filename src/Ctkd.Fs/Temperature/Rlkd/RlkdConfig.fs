namespace Ctkd.Fs

/// The state of an instance; p are softmaxes at T = 1, without gradient.
[<RequireQualifiedAccess>]
type RlkdState =
    /// (max p_t, max p_s, 1 - (largest p_s - second largest p_s)).
    | Uncertainty
    /// (max p_t, max p_s): the ablation without uncertainty.
    | Confidences
    /// As released: (max p_s, max p_t, max p_s - second smallest p_s).
    | SecondSmallest

/// Where the spread of the policy comes from.
[<RequireQualifiedAccess>]
type RlkdSpread =
    /// A second output of the network: it depends on the state, and stays within exp -5 .. exp 1.
    | Head
    /// One for all states: exp(sum of so many parameters - 1/2). The released code has 10 of them.
    | Shared of rows: int

/// Where the policy's density is taken.
[<RequireQualifiedAccess>]
type RlkdLikelihood =
    /// At the draw, before it is squashed into a temperature: the squashing cancels in PPO's ratio.
    | Draw
    /// As released: at the temperature, which lies far from the policy's mean.
    | Temperature

/// Which two accuracies make the reward of a batch's temperatures.
[<RequireQualifiedAccess>]
type RlkdReward =
    /// That of the next batch less that of the batch itself: what the temperatures led to.
    | Next
    /// As released: that of the batch itself less that of the one before, both older than the temperatures.
    | Lagged

/// The accuracy of a batch.
[<RequireQualifiedAccess>]
type RlkdAccuracy =
    /// Share of the instances that are right.
    | Micro
    /// As released: mean over the classes that are predicted or true of the share of their instances.
    | Macro

/// The reward's factor by epoch.
[<RequireQualifiedAccess>]
type RlkdFactor =
    /// min(e / epochs, 1).
    | Ramp of epochs: int
    /// As released for CIFAR-100 and for ImageNet: falling cosines, from about 20 to 1.
    | CosineCifar
    | CosineImageNet

/// How a batch's reward is shared out among its instances.
[<RequireQualifiedAccess>]
type RlkdCorrector =
    /// By the differences of an LSTM's predictions along the batch (RUDDER).
    | Lstm
    /// By a network that looks at each instance alone: a batch has no order.
    | Set
    /// As released: a linear network without memory.
    | Linear
    /// Not at all: it stays with the last instance.
    | Off

/// How states are masked before the policy learns from them.
[<RequireQualifiedAccess>]
type RlkdUpdater =
    /// By a factor for each instance that keeps an estimator of the return right and is small otherwise.
    | Estimated
    /// As released: the mask is only made small, and ends at 0.
    | Collapsing
    /// Not at all.
    | Off

/// Who learns from masked states. The agent acts on states as seen.
[<RequireQualifiedAccess>]
type RlkdMasked =
    /// The critic; the policy learns from states as seen.
    | Values
    /// Critic and policy. A draw keeps its noise: at the masked state it is the masked policy's draw with that noise.
    | States
    /// As released: critic and policy, from likelihoods and values of the states as seen: the ratio does not begin at 1.
    | Afterwards

/// How advantages are scaled.
[<RequireQualifiedAccess>]
type RlkdScaling =
    /// Divided by a running root mean square: the sign of a batch's reward survives.
    | Running
    /// As released: mean 0 and deviation 1 within each batch.
    | ZScore

/// Which entropies rank the images.
[<RequireQualifiedAccess>]
type RlkdHistory =
    /// The latest of the unmixed image.
    | Latest
    /// As released: the mean over the epochs from the second on.
    | Mean

/// Proximal policy optimisation (Schulman et al. 2017, arXiv:1707.06347).
type PpoConfig = {
    /// Discount, and lambda of the generalised advantages, from an instance to the next.
    Discount: float
    Lambda: float
    /// The likelihood's ratio counts within 1 - Clip .. 1 + Clip.
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
    /// First rank of the dominant images as a share of all; as many as `Share` of all follow.
    Dominant: float
    /// First rank of their partners.
    Partner: float
    /// Share of all images that are mixed.
    Share: float
    /// The smallest weight of a dominant image; the largest is 1.
    Least: float
    /// The last epoch with mixed images; None: no end.
    Until: int option
    /// As released: the mixed image takes its partner's place and label, with its pixels cut to whole numbers.
    /// Otherwise that of the dominant one, with both labels by weight and rounded pixels.
    AtPartner: bool
    History: RlkdHistory
}

/// Everything about the agent of RLKD (arXiv:2407.00115) that does not change while it runs. The paper and its
/// released code are two values of this record, and each ablation changes one field.
type RlkdConfig = {
    /// The first epoch in which the agent chooses; before it, T is constant.
    WarmUp: int
    /// From there on it learns in the epochs that are divisible by this.
    Every: int
    /// After this epoch the policy's mean is taken instead of a draw, and the agent learns no more; None: never.
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
    /// Whether the value beyond the batch is that of the next batch's first state, else of the own last one.
    LooksAhead: bool
    Scaling: RlkdScaling
    Ppo: PpoConfig
    /// Rate of corrector, updater and estimator.
    CreditRate: float
    /// None: no image is mixed.
    Mixing: RlkdMixing option
}

/// The two published variants, and the epochs in which something happens (counted from 1).
[<RequireQualifiedAccess>]
module RlkdConfig =

    /// Temperatures are below this.
    let hottest: float = 10.0

    /// What the paper says, for CIFAR-100's 240 epochs. Its equations are reconstructed; what it leaves open
    /// (the ramp's 80 epochs, mixing until epoch 150) is our choice.
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

    /// What the released code does, for comparison.
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

    /// How images are mixed in an epoch: in those in which the agent learns, after the warm-up, once there are
    /// entropies to rank by.
    let mixes (config: RlkdConfig) (epoch: int) : RlkdMixing option =
        let lives (mixing: RlkdMixing) =
            learns config epoch
            && epoch > max 1 config.WarmUp
            && Option.forall (fun last -> epoch <= last) mixing.Until

        config.Mixing |> Option.filter lives
