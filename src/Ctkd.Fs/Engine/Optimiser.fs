namespace Ctkd.Fs

/// Stochastic gradient descent as in PyTorch, without dampening.
type Sgd = {
    /// Momentum, 0 <= momentum < 1.
    Momentum: float
    /// Weight of the L2 penalty that is added to the gradient, >= 0.
    WeightDecay: float
    /// Uses Nesterov momentum.
    Nesterov: bool
}

/// g' = g + decay p;  v' = momentum v + g';  p' = p - rate v'  (Nesterov: p - rate (g' + momentum v')).
///
/// Starting from v = 0 this equals PyTorch's first step, which sets v = g'. Without momentum v stays 0. The rate is a
/// 0-d tensor on the device.
[<RequireQualifiedAccess>]
module Sgd =

    /// The settings of all CIFAR recipes: momentum 0.9, weight decay 5e-4.
    let defaults: Sgd = { Momentum = 0.9; WeightDecay = 5e-4; Nesterov = false }

    /// Returns the velocities before the first step: zeros.
    let start (parameters: Tree) : Tree =
        parameters
        |> Tree.map (fun _ p -> Tensor.scope (fun () -> Tensor.scale 0.0 (Tensor.detach p) |> Tensor.clone))

    /// Computes one step of one tensor as a pure function: new value and new velocity.
    let next (sgd: Sgd) (rate: Tensor) (gradient: Tensor) (velocity: Tensor) (p: Tensor) : struct (Tensor * Tensor) =
        let gradient = gradient + p * sgd.WeightDecay

        if sgd.Momentum = 0.0 then
            struct (p - gradient * rate, velocity)
        else
            let velocity = velocity * sgd.Momentum + gradient
            let direction = if sgd.Nesterov then gradient + velocity * sgd.Momentum else velocity
            struct (p - direction * rate, velocity)

    /// Does one step for all tensors, in place and in few engine calls.
    let step (sgd: Sgd) (rate: Tensor) (gradients: Tensor[]) (velocities: Tensor[]) (parameters: Tensor[]) : unit =
        Autograd.noGrad (fun () ->
            Tensor.sgdInto sgd.Momentum sgd.WeightDecay sgd.Nesterov rate gradients velocities parameters
        )

/// Adam with decoupled weight decay, as in PyTorch.
type AdamW = {
    /// Decay rates of the first and second moment, in [0, 1).
    Beta1: float
    Beta2: float
    /// Keeps the division finite, > 0.
    Epsilon: float
    /// Weight decay, >= 0: each step takes rate x decay of the parameter away.
    WeightDecay: float
}

/// p' = p (1 - rate decay) - rate m' / (1 - beta1^t) / (sqrt(v' / (1 - beta2^t)) + epsilon),
/// m' = beta1 m + (1 - beta1) g;  v' = beta2 v + (1 - beta2) g^2;  t counted from 1, m and v from 0
/// (Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2, as torch.optim.AdamW). The rate is a 0-d tensor on the device.
[<RequireQualifiedAccess>]
module AdamW =

    /// PyTorch's decay rates, epsilon and weight decay.
    let defaults: AdamW = { Beta1 = 0.9; Beta2 = 0.999; Epsilon = 1e-8; WeightDecay = 0.01 }

    /// Computes step number `number` (from 1) of one tensor as a pure function: new value, first and second moment.
    let next
        (adam: AdamW)
        (rate: Tensor)
        (number: int)
        (gradient: Tensor)
        (first: Tensor, second: Tensor)
        (p: Tensor)
        : struct (Tensor * Tensor * Tensor) =
        let toward (beta: float) (moment: Tensor) (x: Tensor) : Tensor = moment * beta + x * (1.0 - beta)
        let first, second = toward adam.Beta1 first gradient, toward adam.Beta2 second (gradient * gradient)
        let unbiased (beta: float) (moment: Tensor) = Tensor.scale (1.0 / (1.0 - beta ** float number)) moment
        let size = unbiased adam.Beta2 second |> Tensor.sqrt |> Tensor.addNumber adam.Epsilon
        struct (p - p * rate * adam.WeightDecay - rate * unbiased adam.Beta1 first / size, first, second)

    /// Does one step for all tensors, in place and in few engine calls. `number` counts from 1: float32 [].
    let step (adam: AdamW) (rate: Tensor) (number: Tensor) gradients first second parameters : unit =
        Autograd.noGrad (fun () ->
            Tensor.adamWInto
                adam.Beta1
                adam.Beta2
                adam.Epsilon
                adam.WeightDecay
                rate
                number
                gradients
                first
                second
                parameters
        )

/// How gradients become steps.
[<RequireQualifiedAccess>]
type Optimiser =
    | Sgd of Sgd
    | AdamW of AdamW

/// An optimiser over many tensors, with its state as a tree.
[<RequireQualifiedAccess>]
module Optimiser =

    /// The optimiser of the CIFAR recipes.
    let defaults: Optimiser = Optimiser.Sgd Sgd.defaults

    /// The optimiser without weight decay.
    let withoutDecay (optimiser: Optimiser) : Optimiser =
        match optimiser with
        | Optimiser.Sgd sgd -> Optimiser.Sgd { sgd with WeightDecay = 0.0 }
        | Optimiser.AdamW adam -> Optimiser.AdamW { adam with WeightDecay = 0.0 }

    /// Returns the state before the first step: of SGD the velocities under the parameters' names; of AdamW the moments
    /// under first/NAME and second/NAME, and "steps", the number of steps done, float32 [] on the device.
    let start (optimiser: Optimiser) (parameters: Tree) : Tree =
        match optimiser with
        | Optimiser.Sgd _ -> Sgd.start parameters
        | Optimiser.AdamW _ ->
            let steps () =
                match Array.tryHead (Tree.leaves parameters) with
                | Some p -> [ "steps", Tensor.zeros DType.Float32 (Tensor.device p) [||] ]
                | None -> []

            Tree.concat [
                Sgd.start parameters |> Tree.prefixed "first/"
                Sgd.start parameters |> Tree.prefixed "second/"
                Tree.ofSeq (steps ())
            ]

    /// <summary>Does one step for all tensors, in place.</summary>
    /// <param name="optimiser">The optimiser.</param>
    /// <param name="decayed">How many of the tensors, from the first on, have weight decay.</param>
    /// <param name="rate">The learning rate, a 0-d tensor on the device.</param>
    /// <param name="gradients">A gradient for each parameter.</param>
    /// <param name="state">The leaves of <c>start</c>, in their order.</param>
    /// <param name="parameters">What is trained.</param>
    let step
        optimiser
        (decayed: int)
        (rate: Tensor)
        (gradients: Tensor[])
        (state: Tensor[])
        (parameters: Tensor[])
        : unit =
        let count = parameters.Length

        let groups =
            [ optimiser, 0, min decayed count; withoutDecay optimiser, decayed, count - decayed ]
            |> List.filter (fun (_, _, length) -> length > 0)

        match optimiser with
        | Optimiser.Sgd _ -> ()
        | Optimiser.AdamW _ when count > 0 ->
            let steps = state[2 * count]
            Autograd.noGrad (fun () -> Tensor.copyInto steps (Tensor.addNumber 1.0 steps))
        | Optimiser.AdamW _ -> ()

        for optimiser, first, length in groups do
            let part (xs: Tensor[]) = Array.sub xs first length

            match optimiser with
            | Optimiser.Sgd sgd -> Sgd.step sgd rate (part gradients) (part state) (part parameters)
            | Optimiser.AdamW adam ->
                let second = Array.sub state (count + first) length
                AdamW.step adam rate state[2 * count] (part gradients) (part state) second (part parameters)

/// Functions over gradients.
[<RequireQualifiedAccess>]
module Gradients =

    /// <summary>
    /// Shortens gradients whose common norm is too large: <c>g min(1, longest / (|g| + 1e-6))</c>, with |g| the Euclidean norm
    /// over all elements of all tensors, as torch.nn.utils.clip_grad_norm_. Does not wait for the device.
    /// </summary>
    /// <param name="longest">The largest norm, > 0.</param>
    /// <param name="gradients">The gradients; they stay as they are.</param>
    let clipped (longest: float) (gradients: Tensor[]) : Tensor[] =
        Autograd.noGrad (fun () ->
            if gradients.Length = 0 then
                gradients
            else
                let norm = gradients |> Seq.map Tensor.norm |> List.ofSeq |> Tensor.stack 0 |> Tensor.norm
                let limit = Tensor.full (Tensor.dtype norm) (Tensor.device norm) longest [||]
                let share = Tensor.clamp 0.0 1.0 (limit / Tensor.addNumber 1e-6 norm)
                gradients |> Array.map (Tensor.mul share)
        )

/// Adam as in PyTorch, without weight decay.
type Adam = {
    Rate: float
    /// Decay rates of the first and second moment, in [0, 1).
    Beta1: float
    Beta2: float
    /// Keeps the division finite, > 0.
    Epsilon: float
}

/// One of many steps.
[<ReferenceEquality>]
type AdamStep = {
    /// The settings of all steps.
    Of: Adam
    /// The number of this step, from 1: float32 [].
    Number: Tensor
}

/// m' = beta1 m + (1 - beta1) g;  v' = beta2 v + (1 - beta2) g^2;
/// p' = p - rate m' / (1 - beta1^t) / (sqrt(v' / (1 - beta2^t)) + epsilon), t counted from 1
/// (Kingma and Ba 2015, arXiv:1412.6980, algorithm 1, in the order of its section 2).
[<RequireQualifiedAccess>]
module Adam =

    /// PyTorch's decay rates and epsilon, with the given learning rate.
    let ofRate (rate: float) : Adam = { Rate = rate; Beta1 = 0.9; Beta2 = 0.999; Epsilon = 1e-8 }

    /// <summary>Prepares the next steps without waiting for the device.</summary>
    /// <param name="adam">The settings.</param>
    /// <param name="steps">Number of steps to prepare.</param>
    /// <param name="taken">Number of steps already done, >= 0: float64 [].</param>
    let ahead (adam: Adam) (steps: int) (taken: Tensor) : AdamStep[] =
        let numbers =
            taken + (Tensor.arange (Tensor.device taken) steps |> Tensor.addInt 1) |> Tensor.toType DType.Float32

        Array.init steps (fun i -> { Of = adam; Number = Tensor.select 0 i numbers })

    /// Does one step for all tensors, in place and in few engine calls. Moments start as zeros.
    let step (now: AdamStep) (gradients: Tensor[]) (first: Tensor[]) (second: Tensor[]) (parameters: Tensor[]) : unit =
        let adam = now.Of

        Autograd.noGrad (fun () ->
            Tensor.adamInto adam.Beta1 adam.Beta2 adam.Epsilon adam.Rate now.Number gradients first second parameters
        )
