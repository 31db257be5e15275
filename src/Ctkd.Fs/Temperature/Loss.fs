namespace Ctkd.Fs

/// The losses as formulas over logits: natural logarithms, values in nats. Reduction is the caller's unless said.
[<RequireQualifiedAccess>]
module Loss =

    let private sameShape (a: Tensor) (b: Tensor) : unit =
        let shapeA, shapeB = Tensor.shape a, Tensor.shape b

        if shapeA <> shapeB || shapeA.Length <> 2 then
            let text (shape: int64[]) = System.String.Join(", ", shape)

            invalidArg
                "student"
                $"teacher and student logits must both be [batch, classes], got [{text shapeA}] and [{text shapeB}]."

    /// The terms of a divergence of probabilities p and q with sum 1 each, from their logarithms in float64:
    /// <c>p d - (p + q) tanh(d / 2)</c> with <c>d = log p - log q</c>, which is <c>p d + q - p</c>. The sum over all terms is
    /// that of <c>p d</c>, as p and q have one sum; but each term is >= 0 and of the order of d^2, so that nothing cancels in
    /// the sum where a high temperature makes p and q nearly equal.
    let internal divergence (logP: Tensor) (logQ: Tensor) : Tensor =
        let p, q, d = Tensor.exp logP, Tensor.exp logQ, logP - logQ
        p * d - (p + q) * Tensor.tanh (Tensor.scale 0.5 d)

    /// <summary>
    /// Kullback-Leibler divergence of the softmaxes, one value for each instance:
    /// <c>sum_c p_c (log p_c - log q_c)</c>, <c>p = softmax(teacher)</c>, <c>q = softmax(student)</c>. Computed in float64:
    /// in float32 the rounding of the logarithms alone exceeds the divergence of logits softened by T = 1e4.
    /// </summary>
    /// <param name="teacher">Teacher logits, already softened, shape [batch, classes].</param>
    /// <param name="student">Student logits, already softened, shape [batch, classes].</param>
    /// <returns>Divergence in nats, >= 0, shape [batch].</returns>
    /// <exception cref="T:System.ArgumentException">The shapes differ or are not [batch, classes].</exception>
    let kl (teacher: Tensor) (student: Tensor) : Tensor =
        sameShape teacher student
        let logSoftmax logits = Tensor.toType DType.Float64 logits |> Tensor.logSoftmax -1

        divergence (logSoftmax teacher) (logSoftmax student)
        |> Tensor.sumOver -1
        |> Tensor.toType (Tensor.dtype student)

    /// z / T for one temperature (shape []) or one for each instance (shape [batch]).
    let soften (temperature: Tensor) (logits: Tensor) : Tensor =
        if Tensor.rank temperature = 0 then
            logits / temperature
        else
            logits / Tensor.unsqueeze 1 temperature

    /// <summary>
    /// Vanilla knowledge distillation, one value for each instance:
    /// <c>T^2 KL(softmax(teacher / T) || softmax(student / T))</c>.
    /// </summary>
    /// <param name="temperature">T, unitless, > 0, shape [] or [batch].</param>
    /// <param name="teacher">Teacher logits, shape [batch, classes].</param>
    /// <param name="student">Student logits, shape [batch, classes].</param>
    /// <returns>Loss in nats, shape [batch]. Gradients flow into both logits and into T.</returns>
    /// <exception cref="T:System.ArgumentException">The shapes differ or are not [batch, classes].</exception>
    /// <remarks>Hinton, Vinyals and Dean 2015, arXiv:1503.02531, section 2: T^2 keeps gradients on one scale.</remarks>
    let kd (temperature: Tensor) (teacher: Tensor) (student: Tensor) : Tensor =
        temperature * temperature * kl (soften temperature teacher) (soften temperature student)

    /// (z - mean_c z) / (1e-7 + std_c z) for each instance, std with Bessel's correction: shape [batch, classes].
    /// Logits that are all equal become 0.
    let standardise (logits: Tensor) : Tensor =
        let centred = logits - Tensor.unsqueeze -1 (Tensor.meanOver -1 logits)
        let freedom = float (Tensor.size -1 logits - 1)

        // The root has no finite slope at 0: below 1e-30 the variance counts as constant.
        let deviation =
            Tensor.sumOver -1 (centred * centred)
            |> Tensor.scale (1.0 / freedom)
            |> Tensor.clamp 1e-30 infinity
            |> Tensor.sqrt

        centred / Tensor.unsqueeze -1 (Tensor.addNumber 1e-7 deviation)

    /// Cross entropy with integer labels [batch], mean over the instances.
    let crossEntropy (labels: Tensor) (logits: Tensor) : Tensor = Tensor.crossEntropy labels logits

    /// Cross entropy of images that are blends of two, shape []: mean of w CE(own label) + (1 - w) CE(other label), with the
    /// weights w [batch] and the labels int64 [batch].
    let mixedCrossEntropy (weight: Tensor) (other: Tensor) (labels: Tensor) (logits: Tensor) : Tensor =
        let other = Tensor.crossEntropyEach other logits
        let own = Tensor.crossEntropyEach labels logits
        Tensor.mean (other + weight * (own - other))

    /// <summary>
    /// Cross entropy with smoothed labels: <c>(1 - share) CE + share mean_c(-log q_c)</c>, <c>q = softmax(logits)</c>, mean over
    /// the instances: the target has share / classes on every class more, and 1 - share of the label. PyTorch's
    /// <c>label_smoothing</c>.
    /// </summary>
    /// <param name="share">In [0, 1).</param>
    /// <param name="crossEntropy">CE with the labels or with both labels of blends, shape [].</param>
    /// <param name="logits">Shape [batch, classes].</param>
    /// <returns>Loss in nats, shape [].</returns>
    /// <remarks>Szegedy et al. 2016, arXiv:1512.00567, section 7.</remarks>
    let smoothed (share: float) (crossEntropy: Tensor) (logits: Tensor) : Tensor =
        let even = Tensor.logSoftmax -1 logits |> Tensor.mean |> Tensor.neg
        Tensor.scale (1.0 - share) crossEntropy + Tensor.scale share even
