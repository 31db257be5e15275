namespace Ctkd.Fs

/// A batch that the agent acted on, and has not learned from yet.
[<ReferenceEquality>]
type RlkdExperience = {
    /// [batch, features].
    States: Tensor
    /// z [batch].
    Draws: Tensor
}

/// What RLKD's agent learns from a batch: the reward is shared out, states are masked, critic and actor descend.
[<RequireQualifiedAccess>]
module RlkdLearning =

    /// Number of optimiser steps that came before, for a part that takes so many an update.
    let private taken (tree: Tree) (steps: int) : Tensor =
        Tree.find "updates" tree |> Tensor.scale (float steps)

    let private creditSteps (config: RlkdConfig) (tree: Tree) (steps: int) : AdamStep[] =
        Adam.ahead (Adam.ofRate config.CreditRate) steps (taken tree steps)

    /// The value beyond a batch, [1]: that of the next batch's first state, or of the batch's own last one.
    let private beyond
        (config: RlkdConfig)
        (nets: RlkdNetworks)
        (tree: Tree)
        (states: Tensor)
        (next: Tensor)
        : Tensor =
        let last = Tensor.size 0 states - 1
        let state = if config.LooksAhead then next else Tensor.slice 0 last (last + 1) states
        Critic.forward (Learner.weights (Learner.find nets.Critic "critic" tree)) state

    /// The share of the running mean of rewards that an update keeps.
    let private usualKept = 0.95

    /// A batch's reward R [] as rewards of its instances [batch], and the corrector's loss; the corrector is trained.
    let private shared
        (config: RlkdConfig)
        (nets: RlkdNetworks)
        (tree: Tree)
        (experience: RlkdExperience)
        (next: Tensor)
        (reward: Tensor)
        : struct (Tensor * Tensor) =
        let sparse = Corrector.sparse (Tensor.size 0 experience.Draws) reward
        let t = Actor.squash config.CoolestT experience.Draws

        match nets.Corrector with
        | None -> struct (sparse, Tensor.scale 0.0 reward)
        | Some pack ->
            let steps = creditSteps config tree config.CorrectorSteps
            let x = Corrector.inputs config.Corrector experience.States t
            let train = Corrector.train config.Corrector steps (Learner.find pack "corrector" tree)

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
        (config: RlkdConfig)
        (tree: Tree)
        (experience: RlkdExperience)
        (next: Tensor)
        (reward: Tensor)
        : struct (Tensor * Tensor) =
        shared config (RlkdNetworks.create config) tree experience next reward

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
        let nets = RlkdNetworks.create config
        let ppo, states = config.Ppo, experience.States
        let actor, critic = Learner.find nets.Actor "actor" tree, Learner.find nets.Critic "critic" tree

        // Masks [rows, 1] of states, or the number 1, and the losses.
        let maskOf, struct (updaterLoss, estimatorLoss) =
            if config.Updater = RlkdUpdater.Off then
                let none = Tensor.scale 0.0 reward
                let one = Tensor.addNumber 1.0 none
                (fun _ -> one), struct (none, none)
            else
                let steps = creditSteps config tree config.UpdaterSteps

                let masker, estimator =
                    Learner.find nets.Mask "mask" tree, Learner.find nets.Mask "estimator" tree

                let losses =
                    Updater.train config.Updater config.MaskWeight steps masker estimator reward states

                Updater.mask (Learner.weights masker), losses

        let mask = maskOf states
        let updated = mask * states

        // The value beyond the batch is masked as those within it: seen raw it would be larger by 1 / M, and the
        // critic, which learns from masked states to predict it, would run after itself without end.
        let valued, next =
            if config.Masked = RlkdMasked.Afterwards then
                states, next
            else
                updated, maskOf next * next

        let acted, actorStates =
            match config.Masked with
            | RlkdMasked.Values -> states, states
            | RlkdMasked.States -> updated, updated
            | RlkdMasked.Afterwards -> states, updated

        let t = Actor.squash config.CoolestT experience.Draws
        let values = Critic.forward (Learner.weights critic) valued
        let policyOf = Actor.forward config.Spread (Learner.weights actor)
        let policy = policyOf acted
        let beyond = beyond config nets tree states next
        let advantages = Advantage.generalised ppo.Discount ppo.Lambda rewards values beyond

        // As it is, a draw would lie deviations away from a narrow policy's mean at the masked state, and drag it along
        // whatever it earned.
        let draws =
            if config.Masked = RlkdMasked.States then
                Actor.draw (Actor.noiseOf (policyOf states) experience.Draws) policy
            else
                experience.Draws

        let batch = {
            ActorStates = actorStates
            CriticStates = updated
            Draws = draws
            Temperatures = t
            Before = Actor.logLikelihood config.Likelihood draws t policy
            Advantages =
                match config.Scaling with
                | RlkdScaling.ZScore -> Advantage.zScored advantages
                | RlkdScaling.Running ->
                    Advantage.scaled (Tree.find "scale" tree) (Tree.find "updates" tree) advantages
            Returns = Advantage.returns ppo.Discount rewards beyond
        }

        let taken = taken tree ppo.Passes
        let criticLoss = Ppo.criticPasses ppo taken critic batch
        let actorLoss = Ppo.actorPasses ppo config.Spread config.Likelihood taken actor batch
        let updates = Tree.find "updates" tree
        Tensor.copyInto updates (Tensor.addNumber 1.0 updates)

        Tree.find "sums" tree
        |> RlkdSums.addUpdate {
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
