namespace Ctkd.Fs

/// A batch that the agent acted on and has yet to learn from.
[<ReferenceEquality>]
type RlkdExperience = {
    /// [batch, features].
    States: Tensor
    /// z [batch].
    Draws: Tensor
}

/// How the agent learns from a batch: its reward is split among the instances, states are masked, critic and actor descend.
[<RequireQualifiedAccess>]
module RlkdLearning =

    /// Number of optimiser steps done so far by a part that takes `steps` per update.
    let private taken (tree: Tree) (steps: int) : Tensor = Tree.find "updates" tree |> Tensor.scale (float steps)

    let private creditSteps (config: RlkdConfig) (tree: Tree) (steps: int) : AdamStep[] =
        Adam.ahead (Adam.ofRate config.CreditRate) steps (taken tree steps)

    /// The value beyond a batch, [1]: that of the next batch's first state, or of the batch's own last one.
    let private beyond (nets: RlkdNetworks) (tree: Tree) (states: Tensor) (next: Tensor) : Tensor =
        let last = Tensor.size 0 states - 1

        (if nets.Config.LooksAhead then next else Tensor.slice 0 last (last + 1) states)
        |> RlkdNetworks.values nets tree

    let private temperatures (nets: RlkdNetworks) (experience: RlkdExperience) : Tensor =
        Actor.squash nets.Config.CoolestT experience.Draws

    /// The part of the running mean of rewards that an update keeps.
    let private usualKept = 0.95

    /// The mean of the rewards before this one, shape []; adds this one to it, in place.
    let private usual (tree: Tree) (reward: Tensor) : Tensor =
        let sum = Tree.find "usual" tree

        let usual =
            Advantage.runningMean usualKept sum (Tree.find "updates" tree) |> Tensor.toType (Tensor.dtype reward)

        Advantage.addRunning usualKept sum reward
        usual

    /// <summary>Splits a batch's reward among its instances; trains the corrector on it.</summary>
    /// <param name="nets">The agent.</param>
    /// <param name="tree">Its state, updated in place.</param>
    /// <param name="experience">The batch.</param>
    /// <param name="next">First state of the next batch, shape [1, features].</param>
    /// <param name="reward">R, shape [].</param>
    /// <returns>Rewards for the advantages, shape [batch], and the corrector's loss before, shape [].</returns>
    let credit
        (nets: RlkdNetworks)
        (tree: Tree)
        (experience: RlkdExperience)
        (next: Tensor)
        (reward: Tensor)
        : struct (Tensor * Tensor) =
        let config = nets.Config
        let count = Tensor.size 0 experience.Draws
        let sparse = Corrector.sparse count reward

        match nets.Corrector with
        | None -> struct (sparse, Tensor.scale 0.0 reward)
        | Some pack ->
            let steps = creditSteps config tree config.CorrectorSteps
            let x = temperatures nets experience |> Corrector.inputs config.Corrector experience.States
            let learner = Learner.find pack "corrector" tree

            let split reward returns =
                let struct (loss, g) = Corrector.train config.Corrector steps learner reward returns x
                struct (Corrector.redistribute config.Corrector reward returns g, loss)

            let struct (corrected, loss) =
                if config.Corrector = RlkdCorrector.Linear then
                    // As released: towards the discounted returns.
                    beyond nets tree experience.States next
                    |> Advantage.returns config.Ppo.Discount sparse
                    |> split reward
                else
                    // The network predicts the difference from the usual reward, which all instances share alike. Its
                    // predictions begin near 0: a constant reward would be credited to the first instances.
                    let usual = usual tree reward
                    let unusual = reward - usual
                    let struct (shares, loss) = split unusual unusual
                    struct (shares + Tensor.scale (1.0 / float count) usual, loss)

            struct ((if config.Corrects then corrected else sparse), loss)

    /// Trains mask and estimator, if the agent has them. Returns the masks [rows, 1] of states [rows, features], or the
    /// number 1, as a function, and the losses of both, shape [] each.
    let private masks (nets: RlkdNetworks) (tree: Tree) (states: Tensor) (reward: Tensor) =
        let config = nets.Config

        match nets.Mask with
        | None ->
            let none = Tensor.scale 0.0 reward
            let one = Tensor.addNumber 1.0 none
            struct ((fun _ -> one), none, none)
        | Some pack ->
            let steps = creditSteps config tree config.UpdaterSteps
            let masker, estimator = Learner.find pack "mask" tree, Learner.find pack "estimator" tree

            let struct (maskLoss, error) =
                Updater.train config.Updater config.MaskWeight steps masker estimator reward states

            struct (Updater.mask (Learner.weights masker), maskLoss, error)

    /// <summary>Learns from a batch: mask, then critic and actor.</summary>
    /// <param name="nets">The agent.</param>
    /// <param name="tree">Its state, updated in place.</param>
    /// <param name="experience">The batch.</param>
    /// <param name="next">First state of the next batch, shape [1, features].</param>
    /// <param name="reward">R, shape [].</param>
    /// <param name="credit">Rewards of the instances, shape [batch], and the corrector's loss, shape [].</param>
    let improve
        (nets: RlkdNetworks)
        (tree: Tree)
        (experience: RlkdExperience)
        (next: Tensor)
        (reward: Tensor)
        (credit: struct (Tensor * Tensor))
        : unit =
        let struct (rewards, correctorLoss) = credit
        let config, states = nets.Config, experience.States
        let ppo = config.Ppo
        let struct (maskOf, updaterLoss, estimatorLoss) = masks nets tree states reward
        let mask = maskOf states
        let updated = mask * states

        // The value beyond the batch is masked like those within it. Unmasked it would be larger by 1 / M, and the critic,
        // which learns from masked states to predict it, would grow without bound.
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

        let policy = RlkdNetworks.policy nets tree acted
        let values, beyond = RlkdNetworks.values nets tree valued, beyond nets tree states next
        let advantages = Advantage.generalised ppo.Discount ppo.Lambda rewards values beyond

        // An unchanged draw would lie deviations away from a narrow policy's mean at the masked state, and pull the mean
        // towards itself whatever it earned.
        let draws =
            if config.Masked = RlkdMasked.States then
                let noise = experience.Draws |> Actor.noiseOf (RlkdNetworks.policy nets tree states)
                Actor.draw noise policy
            else
                experience.Draws

        let t = temperatures nets experience

        let batch = {
            ActorStates = actorStates
            CriticStates = updated
            Draws = draws
            Temperatures = t
            Before = Actor.logLikelihood config.Likelihood draws t policy
            Advantages =
                match config.Scaling with
                | RlkdScaling.ZScore -> Advantage.zScored advantages
                | RlkdScaling.Running -> Advantage.scaled (Tree.find "scale" tree) (Tree.find "updates" tree) advantages
            Returns = Advantage.returns ppo.Discount rewards beyond
        }

        let taken, updates = taken tree ppo.Passes, Tree.find "updates" tree
        let criticLoss = Ppo.criticPasses ppo taken (RlkdNetworks.critic nets tree) batch

        let actorLoss =
            Ppo.actorPasses ppo config.Spread config.Likelihood taken (RlkdNetworks.actor nets tree) batch

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

    /// Updates the agent from a batch with the reward R [].
    let learn (nets: RlkdNetworks) (tree: Tree) (experience: RlkdExperience) (next: Tensor) (reward: Tensor) : unit =
        Tensor.scoped (fun () -> credit nets tree experience next reward |> improve nets tree experience next reward)
