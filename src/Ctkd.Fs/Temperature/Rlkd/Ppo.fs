namespace Ctkd.Fs

/// What the policy learns from: a batch's states, draws and temperatures, and how they fared.
[<ReferenceEquality>]
type PpoBatch = {
    /// [batch, features].
    ActorStates: Tensor
    CriticStates: Tensor
    /// z and T of each instance: [batch].
    Draws: Tensor
    Temperatures: Tensor
    /// Log-likelihoods before learning, scaled advantages, returns: [batch].
    Before: Tensor
    Advantages: Tensor
    Returns: Tensor
}

/// Proximal policy optimisation of actor and critic on one batch.
[<RequireQualifiedAccess>]
module Ppo =

    /// Logarithms of the ratio are limited to this: a narrow policy may change so much in one pass that the ratio overflows,
    /// and an infinite loss has no gradient.
    let private largest = 20.0

    /// -mean min(ratio A, clip(ratio) A), shape []: what the actor descends.
    let surrogate (clip: float) (before: Tensor) (after: Tensor) (advantages: Tensor) : Tensor =
        let ratio = after - before |> Tensor.clamp -largest largest |> Tensor.exp
        let clipped = Tensor.clamp (1.0 - clip) (1.0 + clip) ratio
        Tensor.minimum (ratio * advantages) (clipped * advantages) |> Tensor.mean |> Tensor.neg

    /// Mean squared error of the values, shape [].
    let valueLoss (values: Tensor) (returns: Tensor) : Tensor =
        let error = values - returns
        Tensor.mean (error * error)

    /// The passes of the critic; answers its loss before them.
    let criticPasses (ppo: PpoConfig) (taken: Tensor) (critic: Learner) (batch: PpoBatch) : Tensor =
        let steps = Adam.ahead (Adam.ofRate ppo.CriticRate) ppo.Passes taken

        Learner.descend
            steps
            (Some ppo.LongestGradient)
            critic
            (fun p -> valueLoss (Critic.forward p batch.CriticStates) batch.Returns)

    /// The passes of the actor; answers its loss before them.
    let actorPasses
        (ppo: PpoConfig)
        (spread: RlkdSpread)
        (where: RlkdLikelihood)
        (taken: Tensor)
        (actor: Learner)
        (batch: PpoBatch)
        : Tensor =
        let steps = Adam.ahead (Adam.ofRate ppo.ActorRate) ppo.Passes taken

        Learner.descend
            steps
            (Some ppo.LongestGradient)
            actor
            (fun p ->
                let after =
                    Actor.forward spread p batch.ActorStates
                    |> Actor.logLikelihood where batch.Draws batch.Temperatures

                surrogate ppo.Clip batch.Before after batch.Advantages
            )
