namespace Ctkd.Fs

/// Masks states before the critic or the policy learns from them (RLKD, arXiv:2407.00115, eq. 12-13, after Liu et al. 2023,
/// "Deep State Identifier"): s' = M(s) s with one factor in (0, 1) per instance, which is small where an estimator of the
/// return does not need the state.
[<RequireQualifiedAccess>]
module Updater =
    /// The network of the mask and that of the estimator.
    let pack (features: int) : Pack = Perceptron.pack features

    /// Masks M [batch, 1] of states [batch, features]: two linear layers, as released, and a sigmoid.
    let mask (p: Tensor[]) (states: Tensor) : Tensor =
        Perceptron.forward id p states |> Tensor.sigmoid |> Tensor.unsqueeze 1

    /// Estimated returns G [batch] of states [batch, features].
    let estimate (p: Tensor[]) (states: Tensor) : Tensor = Perceptron.forward Tensor.relu p states

    let private meanSquare (x: Tensor) : Tensor = Tensor.mean (x * x)

    /// <summary>
    /// Trains mask and estimator on a batch, in place. Estimated: each step descends first, in the estimator,
    /// mean_t (G(s_t) - R)^2, then, in the mask, mean_t (G(M s_t) - R)^2 + weight mean_t M_t. Collapsing, as released:
    /// each step descends weight sum_t M_t in the mask.
    /// </summary>
    /// <param name="kind">How the mask is trained.</param>
    /// <param name="weight">Weight of the mask's size.</param>
    /// <param name="steps">The steps of Adam.</param>
    /// <param name="masker">The mask's network.</param>
    /// <param name="estimator">The estimator's network.</param>
    /// <param name="reward">R: shape [], or [batch] for a return of each instance.</param>
    /// <param name="states">Shape [batch, features].</param>
    /// <returns>The first losses of mask and estimator, shape [] each.</returns>
    let train
        (kind: RlkdUpdater)
        (weight: float)
        (steps: AdamStep[])
        (masker: Learner)
        (estimator: Learner)
        (reward: Tensor)
        (states: Tensor)
        : struct (Tensor * Tensor) =
        let maskLeaves, estimatorLeaves = Learner.leaves masker, Learner.leaves estimator
        // The mask's loss reads the estimator's latest weights, outside the graph.
        let frozen = Learner.weights estimator

        let turn (now: AdamStep) =
            let descend = Learner.pass now None

            match kind with
            | RlkdUpdater.Estimated ->
                let error = descend estimator estimatorLeaves (fun p -> meanSquare (estimate p states - reward))

                let loss p =
                    let mask = mask p states

                    meanSquare (estimate frozen (mask * states) - reward) + Tensor.scale weight (Tensor.mean mask)

                struct (descend masker maskLeaves loss, error)
            | RlkdUpdater.Collapsing ->
                let loss p = mask p states |> Tensor.sum |> Tensor.scale weight
                struct (descend masker maskLeaves loss, Tensor.scale 0.0 reward)
            | RlkdUpdater.Off -> invalidArg (nameof kind) "an updater that is off has no networks."

        steps |> Array.map turn |> Array.head
