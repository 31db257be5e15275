namespace Ctkd.Fs

/// What actor and critic learn from: a batch's states, draws and temperatures, with their advantages and returns.
[<ReferenceEquality>]
type PpoBatch = {
    /// [batch, features].
    ActorStates: Tensor
    CriticStates: Tensor
    /// z and T of each instance, [batch].
    Draws: Tensor
    Temperatures: Tensor
    /// Log-likelihoods before learning, scaled advantages, returns, [batch].
    Before: Tensor
    Advantages: Tensor
    Returns: Tensor
}

/// Proximal policy optimisation of actor and critic on one batch (Schulman et al. 2017, arXiv:1707.06347).
[<RequireQualifiedAccess>]
module Ppo =

    /// Limit of the ratio's logarithm. A narrow policy can change so much in one pass that the ratio overflows, and an
    /// infinite loss has no gradient.
    let private largest = 20.0

    /// The actor's loss, shape []: -mean min(ratio A, clamp(ratio, 1 - clip, 1 + clip) A), ratio = exp(after - before), from
    /// log-likelihoods and advantages A [batch] (eq. 7).
    let surrogate (clip: float) (before: Tensor) (after: Tensor) (advantages: Tensor) : Tensor =
        let ratio = after - before |> Tensor.clamp -largest largest |> Tensor.exp
        let clipped = Tensor.clamp (1.0 - clip) (1.0 + clip) ratio
        Tensor.minimum (ratio * advantages) (clipped * advantages) |> Tensor.mean |> Tensor.neg

    /// The critic's loss, shape []: mean (V - R)^2 of values V and returns R [batch].
    let valueLoss (values: Tensor) (returns: Tensor) : Tensor =
        let error = values - returns
        Tensor.mean (error * error)

    /// Trains the critic, in place; `taken` is the number of steps done so far, float64 []. Returns the loss before,
    /// shape [].
    let criticPasses (ppo: PpoConfig) (taken: Tensor) (critic: Learner) (batch: PpoBatch) : Tensor =
        let steps = Adam.ahead (Adam.ofRate ppo.CriticRate) ppo.Passes taken

        Learner.descend
            steps
            (Some ppo.LongestGradient)
            critic
            (fun p -> valueLoss (Critic.forward p batch.CriticStates) batch.Returns)

    /// Trains the actor, in place; `taken` is the number of steps done so far, float64 []. Returns the loss before,
    /// shape [].
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
