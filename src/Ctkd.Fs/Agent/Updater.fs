namespace Ctkd.Fs

/// Masks states before the policy learns from them (RLKD, eq. 12-13, after Liu et al. 2023, "Deep State
/// Identifier"): s' = M(s) s with one factor in (0, 1) an instance, small where an estimator of the return
/// does without the state.
[<RequireQualifiedAccess>]
module Updater =
    let private hidden = 16

    /// The mask's network and the estimator's: features to 16 to 1.
    let pack (features: int) : Pack =
        Pack.ofLayers [ Layer.dense "hidden" features hidden; Layer.dense "output" hidden 1 ]

    let private first (p: Tensor[]) = Tensor.linear p[0] (Some p[1])
    let private last (p: Tensor[]) = Tensor.linear p[2] (Some p[3])

    /// M [batch, 1] of states [batch, features]: two linear layers and a sigmoid.
    let mask (p: Tensor[]) (states: Tensor) : Tensor = states |> first p |> last p |> Tensor.sigmoid

    /// The return of states [batch, features] as it is estimated, [batch].
    let estimate (p: Tensor[]) (states: Tensor) : Tensor =
        states |> first p |> Tensor.relu |> last p |> Tensor.squeeze 1

    let private meanSquare (x: Tensor) : Tensor = Tensor.mean (x * x)

    /// Trains estimator and mask on the states of a batch with reward R [], in place. Estimated: in turn one step
    /// of the estimator on states as seen and one of the mask on mean_t (G(M s_t) - R)^2 + weight mean_t M_t.
    /// Collapsing, as released: the mask alone, on weight sum_t M_t. Answers the first losses of mask and
    /// estimator, shape [] each.
    let train
        (kind: RlkdUpdater)
        (weight: float)
        (adam: Adam)
        (steps: AdamStep[])
        (pack: Pack)
        (masker: Learner)
        (estimator: Learner)
        (reward: Tensor)
        (states: Tensor)
        : struct (Tensor * Tensor) =
        let ofMask, ofEstimator = Learner.leaves pack masker, Learner.leaves pack estimator
        // The mask's loss sees the estimator as it is, outside the graph.
        let frozen = Pack.views pack estimator.Weights

        let turn (now: AdamStep) =
            let descend = Learner.pass adam now None

            match kind with
            | RlkdUpdater.Estimated ->
                let error = descend estimator ofEstimator (fun p -> meanSquare (estimate p states - reward))

                let loss p =
                    let mask = mask p states

                    meanSquare (estimate frozen (mask * states) - reward)
                    + Tensor.scale weight (Tensor.mean mask)

                struct (descend masker ofMask loss, error)
            | RlkdUpdater.Collapsing ->
                let loss p = mask p states |> Tensor.sum |> Tensor.scale weight
                struct (descend masker ofMask loss, Tensor.scale 0.0 reward)
            | RlkdUpdater.Off -> invalidArg (nameof kind) "states that are not masked need no training."

        steps |> Array.map turn |> Array.head
