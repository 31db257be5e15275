namespace Ctkd.Fs

/// A long short-term memory of one layer of 16 units, with a linear output at each step.
[<RequireQualifiedAccess>]
module Lstm =
    let private hidden = 16

    /// The parameters in PyTorch's order and with its initial values (uniform in +-1 / sqrt(16)); gates in the order
    /// input, forget, cell, output.
    let pack (inputs: int) : Pack =
        let declare name shape = { Name = name; Shape = shape; Initial = UniformFanIn hidden; Trained = true }
        let gates = 4 * hidden

        Pack.ofDeclarations [
            declare "weight_ih" [ gates; inputs ]
            declare "weight_hh" [ gates; hidden ]
            declare "bias_ih" [ gates ]
            declare "bias_hh" [ gates ]
            declare "output.weight" [ 1; hidden ]
            declare "output.bias" [ 1 ]
        ]

    /// Outputs [T] of a sequence [T, inputs].
    let forward (p: Tensor[]) (x: Tensor) : Tensor =
        Tensor.unsqueeze 1 x
        |> Tensor.lstm (Array.truncate 4 p)
        |> Tensor.squeeze 1
        |> Tensor.linear p[4] (Some p[5])
        |> Tensor.squeeze 1

/// Splits a batch's reward among its instances (RLKD, arXiv:2407.00115, eq. 10-11, after RUDDER, Arjona-Medina et al.
/// 2019, arXiv:1806.07857). A network predicts the return along the batch; the change of its prediction at an instance
/// is that instance's reward.
[<RequireQualifiedAccess>]
module Corrector =
    /// Weights of the last prediction's error and of the mean error of all.
    let private main, private auxiliary = 1.0, 0.5

    let private noNetwork () = invalidArg "kind" "a corrector that is off has no network."

    /// The network for states of `features` numbers; None where rewards stay as they are.
    let pack (kind: RlkdCorrector) (features: int) : Pack option =
        let inputs = features + 1

        match kind with
        | RlkdCorrector.Lstm -> Some(Lstm.pack inputs)
        | RlkdCorrector.Set
        | RlkdCorrector.Linear -> Some(Perceptron.pack inputs)
        | RlkdCorrector.Off -> None

    /// The network's inputs [batch, features + 1]: states, and T / 10 - 1/2 (Linear, as released: T itself).
    ///
    /// An untrained network gives larger shares, of either sign, where its inputs are larger: with T / 10 alone, rewards
    /// that have nothing to do with T would lower it.
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
        | RlkdCorrector.Set -> Perceptron.forward Tensor.relu p x
        | RlkdCorrector.Linear -> Perceptron.forward id p x
        | RlkdCorrector.Off -> noNetwork ()

    /// The loss, shape [], of predictions g [batch] for the batch's reward R [] and the returns R_t [batch].
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
        | RlkdCorrector.Linear -> Tensor.scale (main + auxiliary) (square (Tensor.mean g - Tensor.mean returns))
        | RlkdCorrector.Off -> noNetwork ()

    /// `first`, then g_t - g_(t-1).
    let private differences (first: Tensor) (g: Tensor) : Tensor =
        let n = Tensor.size 0 g
        let steps = Tensor.slice 0 1 n g - Tensor.slice 0 0 (n - 1) g
        Tensor.cat 0 [ Tensor.reshape [| 1L |] first; steps ]

    /// Rewards of the instances [batch] from predictions g [batch].
    /// Lstm: g_1 and g_t - g_(t-1). Set: g_t / B. Both add (R - sum of these) / B to each, so that they sum to R.
    /// Linear, as released: R_1 and g_t - g_(t-1), each with (R_t - sum of these) / B.
    let redistribute (kind: RlkdCorrector) (reward: Tensor) (returns: Tensor) (g: Tensor) : Tensor =
        let part = 1.0 / float (Tensor.size 0 g)

        let complete (target: Tensor) (shares: Tensor) = shares + Tensor.scale part (target - Tensor.sum shares)

        match kind with
        | RlkdCorrector.Lstm -> differences (Tensor.select 0 0 g) g |> complete reward
        | RlkdCorrector.Set -> Tensor.scale part g |> complete reward
        | RlkdCorrector.Linear -> differences (Tensor.select 0 0 returns) g |> complete returns
        | RlkdCorrector.Off -> noNetwork ()

    /// The uncorrected rewards [batch]: R at the last instance, 0 before it.
    let sparse (count: int) (reward: Tensor) : Tensor =
        let zeros = Tensor.zeros (Tensor.dtype reward) (Tensor.device reward) [| int64 (count - 1) |]
        Tensor.cat 0 [ zeros; Tensor.reshape [| 1L |] reward ]

    /// <summary>Trains the network on a batch, in place.</summary>
    /// <param name="kind">Which network.</param>
    /// <param name="steps">The steps of Adam, one per pass.</param>
    /// <param name="learner">The network.</param>
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
        let before = Learner.descend steps None learner (fun p -> predict kind p x |> loss kind reward returns)

        struct (before, predict kind (Learner.weights learner) x)
