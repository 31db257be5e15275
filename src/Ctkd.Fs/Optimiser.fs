namespace Ctkd.Fs

/// Stochastic gradient descent as PyTorch defines it, without dampening.
type Sgd = {
    /// Share of the old velocity that is kept, 0 <= momentum < 1.
    Momentum: float
    /// Weight of the pull towards 0 that is added to the gradient, >= 0.
    WeightDecay: float
    /// Looks one step ahead along the velocity.
    Nesterov: bool
}

/// g' = g + decay p;  v' = momentum v + g';  p' = p - rate v'  (Nesterov: p - rate (g' + momentum v')).
///
/// Starting from v = 0 this equals PyTorch's first step, which sets v = g'. The rate is a 0-d tensor on the device.
[<RequireQualifiedAccess>]
module Sgd =

    /// The settings of every CIFAR recipe: momentum 0.9, weight decay 5e-4.
    let defaults: Sgd = { Momentum = 0.9; WeightDecay = 5e-4; Nesterov = false }

    /// The velocities before the first step.
    let start (parameters: Tree) : Tree =
        parameters
        |> Tree.map (fun _ p -> Tensor.scope (fun () -> Tensor.scale 0.0 (Tensor.detach p) |> Tensor.clone))

    /// One step of one tensor, as a pure function: new value and new velocity.
    let next
        (sgd: Sgd)
        (rate: Tensor)
        (gradient: Tensor)
        (velocity: Tensor)
        (p: Tensor)
        : struct (Tensor * Tensor) =
        let gradient = gradient + p * sgd.WeightDecay
        let velocity = velocity * sgd.Momentum + gradient
        let direction = if sgd.Nesterov then gradient + velocity * sgd.Momentum else velocity
        struct (p - direction * rate, velocity)

    /// The same step for many tensors, in place and in a few calls of the engine.
    let step
        (sgd: Sgd)
        (rate: Tensor)
        (gradients: Tensor[])
        (velocities: Tensor[])
        (parameters: Tensor[])
        : unit =
        Autograd.noGrad (fun () ->
            Tensor.scoped (fun () ->
                let gradients =
                    if sgd.WeightDecay = 0.0 then
                        gradients
                    else
                        Tensor.foreachAdd sgd.WeightDecay gradients parameters

                Tensor.foreachScaleInto sgd.Momentum velocities
                Tensor.foreachAddInto 1.0 velocities gradients

                let direction =
                    if sgd.Nesterov then Tensor.foreachAdd sgd.Momentum gradients velocities else velocities

                Tensor.foreachAddMulInto -1.0 parameters direction (Array.create parameters.Length rate)
            )
        )

/// Adam as PyTorch defines it, without weight decay.
type Adam = {
    Rate: float
    /// Shares of the old first and second moment that are kept, in [0, 1).
    Beta1: float
    Beta2: float
    /// Keeps the division finite, > 0.
    Epsilon: float
}

/// The numbers of one step that depend on how many came before, as 0-d tensors on the device.
[<ReferenceEquality>]
type AdamStep = {
    /// The settings of all steps.
    Of: Adam
    /// rate sqrt(1 - beta2^t) / (1 - beta1^t).
    Rate: Tensor
    /// epsilon sqrt(1 - beta2^t).
    Epsilon: Tensor
}

/// m' = beta1 m + (1 - beta1) g;  v' = beta2 v + (1 - beta2) g^2;
/// p' = p - rate m' / (1 - beta1^t) / (sqrt(v' / (1 - beta2^t)) + epsilon), t counted from 1
/// (Kingma and Ba 2015, arXiv:1412.6980, algorithm 1, in the order of its section 2).
[<RequireQualifiedAccess>]
module Adam =

    /// PyTorch's moments and epsilon, at a rate.
    let ofRate (rate: float) : Adam = { Rate = rate; Beta1 = 0.9; Beta2 = 0.999; Epsilon = 1e-8 }

    /// <summary>The next steps after those that were done, made without waiting for the device.</summary>
    /// <param name="adam">The settings.</param>
    /// <param name="dtype">Type of the parameters; the corrections are computed in float64.</param>
    /// <param name="steps">How many steps come.</param>
    /// <param name="taken">Number of steps done before, >= 0: float64 [].</param>
    let ahead (adam: Adam) (dtype: DType) (steps: int) (taken: Tensor) : AdamStep[] =
        let t = taken + (Tensor.arange (Tensor.device taken) steps |> Tensor.addInt 1)
        // 1 - beta^t
        let missing (beta: float) =
            Tensor.scale (log beta) t |> Tensor.exp |> Tensor.neg |> Tensor.addNumber 1.0

        let second = missing adam.Beta2 |> Tensor.sqrt
        let rates = Tensor.scale adam.Rate second / missing adam.Beta1 |> Tensor.toType dtype
        let epsilons = Tensor.scale adam.Epsilon second |> Tensor.toType dtype

        Array.init
            steps
            (fun i -> {
                Of = adam
                Rate = Tensor.select 0 i rates
                Epsilon = Tensor.select 0 i epsilons
            })

    /// One step of many tensors, in place and in a few calls of the engine; moments start as zeros.
    let step
        (now: AdamStep)
        (gradients: Tensor[])
        (first: Tensor[])
        (second: Tensor[])
        (parameters: Tensor[])
        : unit =
        let adam = now.Of

        Autograd.noGrad (fun () ->
            Tensor.scoped (fun () ->
                Tensor.foreachScaleInto adam.Beta1 first
                Tensor.foreachAddInto (1.0 - adam.Beta1) first gradients
                Tensor.foreachScaleInto adam.Beta2 second
                Tensor.foreachAddMulInto (1.0 - adam.Beta2) second gradients gradients
                let roots = Tensor.foreachSqrt second
                Tensor.foreachAddInto 1.0 roots (Array.create roots.Length now.Epsilon)
                let moves = Tensor.foreachMul first (Array.create first.Length now.Rate)
                Tensor.foreachAddDivInto -1.0 parameters moves roots
            )
        )
