namespace Ctkd.Fs

/// Shares a batch's reward out among its instances (RLKD, eq. 10-11, after RUDDER, Arjona-Medina et al. 2019,
/// arXiv:1806.07857): a network predicts the return along the batch, and the step by which its prediction changes
/// is an instance's reward.
[<RequireQualifiedAccess>]
module Corrector =
    /// Weights of the last prediction's error and of the mean of all.
    let private main, private auxiliary = 1.0, 0.5

    /// The network for states of so many features; none is needed where rewards stay as they are.
    let pack (kind: RlkdCorrector) (features: int) : Pack option =
        let inputs = features + 1

        match kind with
        | RlkdCorrector.Lstm -> Some(Lstm.pack inputs)
        | RlkdCorrector.Set
        | RlkdCorrector.Linear -> Some(Perceptron.pack inputs)
        | RlkdCorrector.Off -> None

    /// What the network reads: states, and T / 10 - 1/2, or T itself as released: [batch, features + 1]. A network that starts
    /// from small weights gives larger shares, of whatever sign, where its inputs are larger: without the middle of T
    /// taken off, rewards that have nothing to do with T would lower it.
    let inputs (kind: RlkdCorrector) (states: Tensor) (t: Tensor) : Tensor =
        let t =
            if kind = RlkdCorrector.Linear then
                t
            else
                Tensor.scale (1.0 / RlkdConfig.hottest) t |> Tensor.addNumber -0.5

        Tensor.cat 1 [ states; Tensor.unsqueeze 1 t ]

    /// Predictions g [batch] of the inputs [batch, features + 1].
    let predict (kind: RlkdCorrector) (p: Tensor[]) (x: Tensor) : Tensor =
        match kind with
        | RlkdCorrector.Lstm -> Lstm.forward p x
        | RlkdCorrector.Set -> Perceptron.forward Activation.Relu p x
        | RlkdCorrector.Linear -> Perceptron.forward Activation.Identity p x
        | RlkdCorrector.Off -> invalidArg (nameof kind) "rewards that are not corrected are not predicted."

    /// The loss of predictions [batch], shape [], for the batch's reward R [] and the returns R_t [batch].
    /// Lstm: (g_B - R)^2 + 1/2 mean_t (g_t - R)^2. Set: (mean_t g_t - R)^2.
    /// Linear, as released: 3/2 (mean_t g_t - mean_t R_t)^2.
    let loss (kind: RlkdCorrector) (reward: Tensor) (returns: Tensor) (g: Tensor) : Tensor =
        let square (x: Tensor) = x * x

        match kind with
        | RlkdCorrector.Lstm ->
            let last = Tensor.select 0 (Tensor.size 0 g - 1) g
            let sides = Tensor.mean (square (g - reward))
            Tensor.scale main (square (last - reward)) + Tensor.scale auxiliary sides
        | RlkdCorrector.Set -> square (Tensor.mean g - reward)
        | RlkdCorrector.Linear ->
            Tensor.scale (main + auxiliary) (square (Tensor.mean g - Tensor.mean returns))
        | RlkdCorrector.Off -> invalidArg (nameof kind) "rewards that are not corrected have no loss."

    /// g_t - g_(t-1), with the first as it is given.
    let private differences (first: Tensor) (g: Tensor) : Tensor =
        let n = Tensor.size 0 g
        let steps = Tensor.slice 0 1 n g - Tensor.slice 0 0 (n - 1) g
        Tensor.cat 0 [ Tensor.reshape [| 1L |] first; steps ]

    /// Rewards of the instances [batch] from predictions g. Lstm: g_1 and g_t - g_(t-1); Set: g_t / B, g counting
    /// in units of the whole batch; to each the same part of what is missing is added, so that they sum to R.
    /// Linear, as released: R_1 and g_t - g_(t-1), and to each a part of what its own R_t misses.
    let redistribute (kind: RlkdCorrector) (reward: Tensor) (returns: Tensor) (g: Tensor) : Tensor =
        let part = 1.0 / float (Tensor.size 0 g)

        let complete (target: Tensor) (shares: Tensor) =
            shares + Tensor.scale part (target - Tensor.sum shares)

        match kind with
        | RlkdCorrector.Lstm -> differences (Tensor.select 0 0 g) g |> complete reward
        | RlkdCorrector.Set -> Tensor.scale part g |> complete reward
        | RlkdCorrector.Linear -> differences (Tensor.select 0 0 returns) g |> complete returns
        | RlkdCorrector.Off -> invalidArg (nameof kind) "rewards that are not corrected are not shared out."

    /// All of the reward at the last of so many instances, as it came: [batch].
    let sparse (count: int) (reward: Tensor) : Tensor =
        let zeros = Tensor.zeros (Tensor.dtype reward) (Tensor.device reward) [| int64 (count - 1) |]
        Tensor.cat 0 [ zeros; Tensor.reshape [| 1L |] reward ]

    /// As `train`, by the engine on any device.
    let trainByEngine
        (kind: RlkdCorrector)
        (steps: AdamStep[])
        (learner: Learner)
        (reward: Tensor)
        (returns: Tensor)
        (x: Tensor)
        : struct (Tensor * Tensor) =
        let first = Learner.descend steps None learner (fun p -> predict kind p x |> loss kind reward returns)

        struct (first, predict kind (Learner.weights learner) x)

    /// As `train` for the LSTM, in plain numbers.
    let trainByHand
        (steps: AdamStep[])
        (learner: Learner)
        (reward: Tensor)
        (x: Tensor)
        : struct (Tensor * Tensor) =
        let inputs, batch = Tensor.size 1 x, Tensor.size 0 x
        let numbers = Numbers.ofLearner (Lstm.columns inputs) learner
        let x, reward' = Tensor.toFloats x, Tensor.toFloat reward
        let trace = Lstm.trace batch
        let slopes = Array.zeroCreate<float> batch

        /// The loss, and its slopes by the predictions.
        let judge () =
            let mutable sides = 0.0

            for t in 0 .. batch - 1 do
                let error = trace.Outputs[t] - reward'
                sides <- sides + error * error
                slopes[t] <- 2.0 * auxiliary / float batch * error

            let last = trace.Outputs[batch - 1] - reward'
            slopes[batch - 1] <- slopes[batch - 1] + 2.0 * main * last
            main * last * last + auxiliary * sides / float batch

        let pass now =
            Lstm.run inputs numbers.Parameters x trace
            let loss = judge ()
            Numbers.step now (Lstm.back inputs numbers.Parameters x trace slopes) numbers
            loss

        let losses = Numbers.rates steps |> Array.map pass
        Numbers.into (Lstm.packed inputs) learner numbers
        Lstm.run inputs numbers.Parameters x trace
        let dtype = Tensor.dtype reward
        struct (Tensor.scalar dtype Device.Cpu losses[0], Tensor.ofFloats dtype [ batch ] trace.Outputs)

    /// <summary>Trains the network on a batch, in place.</summary>
    /// <param name="kind">Which network.</param>
    /// <param name="steps">Of its optimiser: one for each pass.</param>
    /// <param name="learner">Its parameters and moments.</param>
    /// <param name="reward">R, shape [].</param>
    /// <param name="returns">R_t, shape [batch].</param>
    /// <param name="x">`inputs`, shape [batch, features + 1].</param>
    /// <returns>The loss before, shape [], and the predictions after, shape [batch].</returns>
    let train
        (kind: RlkdCorrector)
        (steps: AdamStep[])
        (learner: Learner)
        (reward: Tensor)
        (returns: Tensor)
        (x: Tensor)
        : struct (Tensor * Tensor) =
        if kind = RlkdCorrector.Lstm && Tensor.device x = Device.Cpu then
            trainByHand steps learner reward x
        else
            trainByEngine kind steps learner reward returns x
