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
