namespace Ctkd.Fs

/// A batch that the agent acted on, and has not learned from yet.
[<ReferenceEquality>]
type RlkdExperience = {
    /// [batch, features].
    States: Tensor
    /// z [batch].
    Draws: Tensor
}

/// RLKD (Zhang et al. 2024, arXiv:2407.00115): an agent chooses a temperature for every instance from how confident
/// teacher and student are, and learns by proximal policy optimisation from the student's progress.
[<RequireQualifiedAccess>]
module Rlkd =

    /// The networks of a configuration.
    [<NoComparison; NoEquality>]
    type private Networks = { Actor: Pack; Critic: Pack; Corrector: Pack option; Mask: Pack }

    let private networks (config: RlkdConfig) : Networks =
        let features = Confidence.width config.State

        {
            Actor = Actor.pack config.Spread features
            Critic = Critic.pack features
            Corrector = Corrector.pack config.Corrector features
            Mask = Updater.pack features
        }

    // ---- state ----

    /// A fresh state of the agent, for so many training images and batches of so many.
    let start
        (config: RlkdConfig)
        (images: int)
        (batch: int)
        (dtype: DType)
        (device: Device)
        (rng: Rng)
        : Tree =
        let nets = networks config
        let learner name pack = Learner.start dtype device rng name pack
        let features = Confidence.width config.State

        let zeros dtype (shape: int list) =
            Tensor.zeros dtype device (shape |> List.map int64 |> Array.ofList)

        let exploration =
            match config.Mixing with
            | None -> Tree.empty
            | Some mixing ->
                let struct (count, _, _) = Exploration.ranks mixing images

                Tree.ofSeq [
                    "entropy", Tensor.full DType.Float32 device -1.0 [| int64 images |]
                    "dominant", zeros DType.Int64 [ count ]
                    "partner", zeros DType.Int64 [ count ]
                ]

        Tree.concat [
            learner "actor" nets.Actor
            learner "critic" nets.Critic
            nets.Corrector |> Option.map (learner "corrector") |> Option.defaultValue Tree.empty
            if config.Updater <> RlkdUpdater.Off then
                learner "mask" nets.Mask
                learner "estimator" nets.Mask
            Tree.ofSeq [
                "pending/states", zeros dtype [ batch; features ]
                "pending/draws", zeros dtype [ batch ]
                // Of the latest batch, and of the one before it.
                "accuracy/own", zeros dtype []
                "accuracy/before", zeros dtype []
                // Running means of the reward and of the advantages' squares.
                "usual", zeros DType.Float64 []
                "scale", zeros DType.Float64 []
                "updates", zeros DType.Float64 []
                "sums", zeros DType.Float64 [ RlkdTally.length ]
            ]
            exploration
        ]

    // ---- learning ----

    let private weights (pack: Pack) (name: string) (tree: Tree) : Tensor[] =
        Pack.views pack (Learner.find name tree).Weights

    /// Number of optimiser steps that came before, for a part that takes so many an update.
    let private taken (tree: Tree) (steps: int) : Tensor =
        Tree.find "updates" tree |> Tensor.scale (float steps)

    let private creditSteps (config: RlkdConfig) (tree: Tree) (steps: int) : Adam * AdamStep[] =
        let adam = Adam.ofRate config.CreditRate
        let dtype = Tensor.dtype (Tree.find "pending/draws" tree)
        adam, Adam.ahead adam dtype steps (taken tree steps)

    /// The value beyond a batch, [1]: that of the next batch's first state, or of the batch's own last one.
    let private beyond config nets tree (states: Tensor) (next: Tensor) : Tensor =
        let last = Tensor.size 0 states - 1
        let state = if config.LooksAhead then next else Tensor.slice 0 last (last + 1) states
        Critic.forward (weights nets.Critic "critic" tree) state

    /// The share of the running mean of rewards that an update keeps.
    let private usualKept = 0.95

    /// A batch's reward R [] as rewards of its instances [batch], and the corrector's loss; the corrector is trained.
    let private shared config nets tree (experience: RlkdExperience) (next: Tensor) (reward: Tensor) =
        let sparse = Corrector.sparse (Tensor.size 0 experience.Draws) reward
        let t = Actor.squash config.CoolestT experience.Draws

        match nets.Corrector with
        | None -> struct (sparse, Tensor.scale 0.0 reward)
        | Some pack ->
            let adam, steps = creditSteps config tree config.CorrectorSteps
            let x = Corrector.inputs config.Corrector experience.States t
            let train = Corrector.train config.Corrector adam steps pack (Learner.find "corrector" tree)

            let struct (corrected, loss) =
                if config.Corrector = RlkdCorrector.Linear then
                    // As released: towards the discounted returns.
                    let beyond = beyond config nets tree experience.States next
                    let returns = Advantage.returns config.Ppo.Discount sparse beyond
                    let struct (loss, g) = train reward returns x
                    struct (Corrector.redistribute config.Corrector reward returns g, loss)
                else
                    // The network predicts by how much a reward differs from the usual one, which all share alike: else
                    // its start along the batch, from nothing to that constant, would count as reward of the first ones.
                    let sum = Tree.find "usual" tree

                    let usual =
                        Advantage.runningMean usualKept sum (Tree.find "updates" tree)
                        |> Tensor.toType (Tensor.dtype reward)

                    let unusual = reward - usual
                    Advantage.addRunning usualKept sum reward
                    let struct (loss, g) = train unusual unusual x
                    let shares = Corrector.redistribute config.Corrector unusual unusual g
                    struct (shares + Tensor.scale (1.0 / float (Tensor.size 0 g)) usual, loss)

            struct ((if config.Corrects then corrected else sparse), loss)

    /// <summary>A batch's reward as rewards of its instances; the corrector is trained on it.</summary>
    /// <param name="config">The agent.</param>
    /// <param name="tree">Its state, updated in place.</param>
    /// <param name="experience">The batch.</param>
    /// <param name="next">First state of the batch after it, shape [1, features].</param>
    /// <param name="reward">R, shape [].</param>
    /// <returns>Rewards as the advantages use them, and the corrector's loss before.</returns>
    let credit
        config
        tree
        (experience: RlkdExperience)
        (next: Tensor)
        (reward: Tensor)
        : struct (Tensor * Tensor) =
        shared config (networks config) tree experience next reward

    /// <summary>Learns from a batch: mask, then critic and actor.</summary>
    /// <param name="config">The agent.</param>
    /// <param name="tree">Its state, updated in place.</param>
    /// <param name="experience">The batch.</param>
    /// <param name="next">First state of the batch after it, shape [1, features].</param>
    /// <param name="reward">R, shape [].</param>
    /// <param name="credit">Rewards of the instances, shape [batch], and the corrector's loss, shape [].</param>
    let improve
        (config: RlkdConfig)
        (tree: Tree)
        (experience: RlkdExperience)
        (next: Tensor)
        (reward: Tensor)
        (credit: struct (Tensor * Tensor))
        : unit =
        let struct (rewards, correctorLoss) = credit
        let nets = networks config
        let ppo, states = config.Ppo, experience.States
        let none = Tensor.scale 0.0 reward

        let struct (updaterLoss, estimatorLoss), mask =
            if config.Updater = RlkdUpdater.Off then
                struct (none, none), Tensor.addNumber 1.0 none
            else
                let adam, steps = creditSteps config tree config.UpdaterSteps
                let masker, estimator = Learner.find "mask" tree, Learner.find "estimator" tree

                let losses =
                    Updater.train
                        config.Updater
                        config.MaskWeight
                        adam
                        steps
                        nets.Mask
                        masker
                        estimator
                        reward
                        states

                losses, Updater.mask (weights nets.Mask "mask" tree) states

        let masked (states: Tensor) =
            if config.Updater = RlkdUpdater.Off then
                states
            else
                Updater.mask (weights nets.Mask "mask" tree) states * states

        let updated = masked states
        // The value beyond the batch is masked as those within it: seen raw it would be larger by 1 / M, and the
        // critic, which learns from masked states to predict it, would run after itself without end.
        let before, next = if config.MasksBefore then updated, masked next else states, next
        let t = Actor.squash config.CoolestT experience.Draws
        let values = Critic.forward (weights nets.Critic "critic" tree) before
        let policy = Actor.forward config.Spread (weights nets.Actor "actor" tree) before
        let beyond = beyond config nets tree states next
        let advantages = Advantage.generalised ppo.Discount ppo.Lambda rewards values beyond

        let batch = {
            States = updated
            Draws = experience.Draws
            Temperatures = t
            Before = Actor.logLikelihood config.Likelihood experience.Draws t policy
            Advantages =
                match config.Scaling with
                | RlkdScaling.ZScore -> Advantage.zScored advantages
                | RlkdScaling.Running ->
                    Advantage.scaled (Tree.find "scale" tree) (Tree.find "updates" tree) advantages
            Returns = Advantage.returns ppo.Discount rewards beyond
        }

        let taken = taken tree ppo.Passes
        let criticLoss = Ppo.criticPasses ppo taken nets.Critic (Learner.find "critic" tree) batch
        let actor = Learner.find "actor" tree
        let actorLoss = Ppo.actorPasses ppo config.Spread config.Likelihood taken nets.Actor actor batch
        let updates = Tree.find "updates" tree
        Tensor.copyInto updates (Tensor.addNumber 1.0 updates)

        Tree.find "sums" tree
        |> RlkdTally.addUpdate {
            Reward = reward
            Advantages = advantages
            Mask = mask
            CorrectorLoss = correctorLoss
            UpdaterLoss = updaterLoss
            EstimatorLoss = estimatorLoss
            CriticLoss = criticLoss
            ActorLoss = actorLoss
        }

    /// One update from a batch with the reward R [].
    let learn
        (config: RlkdConfig)
        (tree: Tree)
        (experience: RlkdExperience)
        (next: Tensor)
        (reward: Tensor)
        : unit =
        Tensor.scoped (fun () ->
            credit config tree experience next reward |> improve config tree experience next reward
        )

    // ---- acting ----

    /// The policy for states [batch, features].
    let policyOf (config: RlkdConfig) (tree: Tree) (states: Tensor) : Gaussian =
        let pack = (networks config).Actor
        Actor.forward config.Spread (weights pack "actor" tree) states

    /// Draws of a policy and their temperatures, [batch] each; `key` decides the draws, which are the means where
    /// the agent is greedy.
    let act (config: RlkdConfig) (epoch: int) (key: Tensor) (policy: Gaussian) : struct (Tensor * Tensor) =
        let z =
            if RlkdConfig.isGreedy config epoch then
                policy.Mean
            else
                Actor.draw (Actor.noise key (Tensor.size 0 policy.Mean)) policy

        struct (z, Actor.squash config.CoolestT z)

    /// Learns from the batch before, when there is one, then chooses for this one.
    let private decide (config: RlkdConfig) (tree: Tree) (o: Observation) : Tensor option =
        let seen = Confidence.seen config.State o.Teacher o.Student
        let accuracy = Reward.accuracy config.Accuracy o.Labels o.Student
        let find name = Tree.find name tree
        let own, before, sums = find "accuracy/own", find "accuracy/before", find "sums"
        let states, draws = find "pending/states", find "pending/draws"
        if o.Step = 0 then Tensor.fillInto sums 0.0

        config.Mixing
        |> Option.iter (fun mixing ->
            Exploration.record mixing.History o.Epoch o.Blend o.Index seen.Entropy (find "entropy")
        )

        // The batch that waits is one of the same epoch: what is left at an epoch's end is dropped.
        if RlkdConfig.learns config o.Epoch && o.Step > 0 then
            Reward.ofAccuracies config.Reward (Reward.factor config.Factor o.Epoch) before own accuracy
            |> learn config tree { States = states; Draws = draws } (Tensor.slice 0 0 1 seen.State)

        Tensor.copyInto before own
        Tensor.copyInto own accuracy

        if not (RlkdConfig.chooses config o.Epoch) then
            None
        else
            let policy = policyOf config tree seen.State
            let struct (z, t) = act config o.Epoch o.Key policy

            // A smaller batch is the last of its epoch: nothing will be learned from it.
            if RlkdConfig.learns config o.Epoch && Tensor.size 0 z = Tensor.size 0 draws then
                Tensor.copyInto states seen.State
                Tensor.copyInto draws z

            RlkdTally.addChoice { Uncertainty = seen.Uncertainty; T = t; Policy = policy } sums
            Some t

    // ---- exploration ----

    /// The set of a mixed epoch. What is mixed is chosen at its beginning and kept in the state: an epoch that goes on
    /// in its middle sees the same images.
    let private blend
        (config: RlkdConfig)
        (tree: Tree)
        (epoch: int)
        (step: int)
        (images: Tensor)
        (labels: Tensor)
        =
        RlkdConfig.mixes config epoch
        |> Option.bind (fun mixing ->
            let entropy = Tree.find "entropy" tree
            let total = Tensor.size 0 images
            let struct (count, _, _) = Exploration.ranks mixing total

            if count = 0 then
                None
            else
                let kept name = Tree.find name tree |> Tensor.slice 0 0 count
                let dominant, partner = kept "dominant", kept "partner"

                if step = 0 then
                    let struct (first, second) = Tensor.slice 0 0 total entropy |> Exploration.select mixing
                    Tensor.copyInto dominant first
                    Tensor.copyInto partner second

                let dtype = Tensor.dtype (Tree.find "pending/draws" tree)
                Some(Exploration.blend mixing dtype dominant partner images labels)
        )

    // ---- the policy ----

    let private check (config: RlkdConfig) : unit =
        let refuse what = invalidArg (nameof config) what

        if config.Every < 1 then
            refuse $"the agent must learn every 1 or more epochs, got {config.Every}."

        if not (config.CoolestT >= 0.0 && config.CoolestT < RlkdConfig.hottest) then
            refuse $"the coolest T must be in [0, {RlkdConfig.hottest}), got {config.CoolestT}."

        match config.Factor with
        | RlkdFactor.Ramp epochs when epochs < 1 ->
            refuse $"the ramp must take 1 or more epochs, got {epochs}."
        | _ -> ()

        config.Mixing
        |> Option.iter (fun m ->
            let last = max m.Dominant m.Partner + m.Share

            if not (m.Share > 0.0 && min m.Dominant m.Partner >= 0.0 && last <= 1.0 + 1e-9) then
                refuse
                    $"ranks must lie in 0 .. 1, got {m.Dominant} and {m.Partner} with a share of {m.Share}."

            if not (m.Least >= 0.0 && m.Least <= 1.0) then
                refuse $"the weight of a dominant image must be in [0, 1], got {m.Least}."
        )

    /// The agent of a configuration.
    let agent (config: RlkdConfig) : Agent =
        check config

        {
            Start = start config
            Decide = decide config
            Blend = blend config
            Report = Tree.find "sums" >> RlkdTally.read
        }

    /// The temperature policy: `t` before the agent chooses.
    let policy (config: RlkdConfig) (t: float) : Policy =
        let features = Confidence.width config.State

        let actor =
            Sequence [
                Linear(Layer.dense "l1" features 256)
                Relu
                Linear(Layer.dense "l2" 256 256)
                Relu
                Linear(Layer.dense "output" 256 (if config.Spread = RlkdSpread.Head then 2 else 1))
            ]

        {
            Temperature.fixedAt t with
                Name = "rlkd"
                Macs = fun _ -> Macs.ofLayer [ features ] actor
                Agent = Some(agent config)
        }
