namespace Ctkd.Fs

/// Masks states before the policy learns from them (RLKD, eq. 12-13, after Liu et al. 2023, "Deep State
/// Identifier"): s' = M(s) s with one factor in (0, 1) an instance, small where an estimator of the return
/// does without the state.
[<RequireQualifiedAccess>]
module Updater =
    /// The mask's network and the estimator's: features to 16 to 1.
    let pack (features: int) : Pack = Perceptron.pack features

    /// What the networks do to their hidden layer: the mask's is linear, as released.
    let private ofMask, private ofEstimator = Activation.Identity, Activation.Relu

    /// M [batch, 1] of states [batch, features]: two linear layers and a sigmoid.
    let mask (p: Tensor[]) (states: Tensor) : Tensor =
        Perceptron.forward ofMask p states |> Tensor.sigmoid |> Tensor.unsqueeze 1

    /// The return of states [batch, features] as it is estimated, [batch].
    let estimate (p: Tensor[]) (states: Tensor) : Tensor = Perceptron.forward ofEstimator p states

    let private meanSquare (x: Tensor) : Tensor = Tensor.mean (x * x)

    /// As `train` by the engine, on any device.
    let trainByEngine
        (kind: RlkdUpdater)
        (weight: float)
        (steps: AdamStep[])
        (masker: Learner)
        (estimator: Learner)
        (reward: Tensor)
        (states: Tensor)
        : struct (Tensor * Tensor) =
        let maskLeaves, estimatorLeaves = Learner.leaves masker, Learner.leaves estimator
        // The mask's loss sees the estimator as it is, outside the graph.
        let frozen = Learner.weights estimator

        let turn (now: AdamStep) =
            let descend = Learner.pass now None

            match kind with
            | RlkdUpdater.Estimated ->
                let error =
                    descend estimator estimatorLeaves (fun p -> meanSquare (estimate p states - reward))

                let loss p =
                    let mask = mask p states

                    meanSquare (estimate frozen (mask * states) - reward)
                    + Tensor.scale weight (Tensor.mean mask)

                struct (descend masker maskLeaves loss, error)
            | RlkdUpdater.Collapsing ->
                let loss p = mask p states |> Tensor.sum |> Tensor.scale weight
                struct (descend masker maskLeaves loss, Tensor.scale 0.0 reward)
            | RlkdUpdater.Off -> invalidArg (nameof kind) "states that are not masked need no training."

        steps |> Array.map turn |> Array.head

    /// As `train` for the estimated mask, in plain numbers.
    let trainByHand
        (weight: float)
        (steps: AdamStep[])
        (masker: Learner)
        (estimator: Learner)
        (reward: Tensor)
        (states: Tensor)
        : struct (Tensor * Tensor) =
        let features, batch = Tensor.size 1 states, Tensor.size 0 states
        let s, returns = Tensor.toFloats states, Tensor.toFloats reward
        let masks, estimates = Numbers.ofLearner id masker, Numbers.ofLearner id estimator
        let m, e = masks.Parameters, estimates.Parameters
        let goal t = if returns.Length = 1 then returns[0] else returns[t]
        let part = 1.0 / float batch

        let inner, outer =
            Array.zeroCreate<float> Perceptron.hidden, Array.zeroCreate<float> Perceptron.hidden

        let gradient = Array.zeroCreate<float> m.Length

        /// One step down the sum over the instances of what a body answers, and of which it adds the gradient.
        let descend now (numbers: Numbers) (body: int -> float) =
            System.Array.Clear gradient
            let mutable loss = 0.0

            for t in 0 .. batch - 1 do
                loss <- loss + body t

            Numbers.step now gradient numbers
            loss

        let estimated t =
            let error = Perceptron.output ofEstimator features e s t 1.0 inner - goal t
            Perceptron.back ofEstimator features e s t inner (2.0 * part * error) gradient
            part * error * error

        let masked t =
            let mask = 1.0 / (1.0 + exp -(Perceptron.output ofMask features m s t 1.0 inner))
            let error = Perceptron.output ofEstimator features e s t mask outer - goal t
            let slope = part * (2.0 * error * Perceptron.byFactor ofEstimator features e s t outer + weight)
            Perceptron.back ofMask features m s t inner (slope * mask * (1.0 - mask)) gradient
            part * (error * error + weight * mask)

        let turn now =
            let error = descend now estimates estimated
            struct (descend now masks masked, error)

        let struct (maskLoss, error) = Numbers.rates steps |> Array.map turn |> Array.head
        Numbers.into id masker masks
        Numbers.into id estimator estimates
        let number = Tensor.scalar (Tensor.dtype reward) Device.Cpu
        struct (number maskLoss, number error)

    /// Trains estimator and mask on the states of a batch with reward R, in place. Estimated: in turn one step of the
    /// estimator on states as seen and one of the mask on mean_t (G(M s_t) - R)^2 + weight mean_t M_t. Collapsing, as
    /// released: the mask alone, on weight sum_t M_t. Answers the first losses of mask and estimator, shape [] each.
    let train
        (kind: RlkdUpdater)
        (weight: float)
        (steps: AdamStep[])
        (masker: Learner)
        (estimator: Learner)
        (reward: Tensor)
        (states: Tensor)
        : struct (Tensor * Tensor) =
        if kind = RlkdUpdater.Estimated && Tensor.device states = Device.Cpu then
            trainByHand weight steps masker estimator reward states
        else
            trainByEngine kind weight steps masker estimator reward states
