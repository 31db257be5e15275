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
