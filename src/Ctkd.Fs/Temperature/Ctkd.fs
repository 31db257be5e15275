namespace Ctkd.Fs

/// Curriculum temperature knowledge distillation (Li et al. 2023, arXiv:2211.16231): T is trained to make the loss larger
/// while the student makes it smaller, and a curriculum raises the strength lambda of that contest from easy to hard.
///
/// This file gives x. `Policy.soften` puts gradient reversal (`Autograd.reverse`) and the range's sigmoid between x and T.
[<RequireQualifiedAccess>]
module Ctkd =

    /// The published range: T in (1, 21). The released code calls the scale "t_end".
    let publishedRange: TemperatureRange = { Start = 1.0; Scale = 20.0 }

    let private policy (name: string) (learned: LearnedTemperature) : Policy =
        let range = learned.Range

        if not (System.Double.IsFinite range.Start && range.Start >= 0.0) then
            invalidArg (nameof range) $"the range must start at a finite number >= 0, got {range.Start}."

        if not (System.Double.IsFinite range.Scale && range.Scale > 0.0) then
            invalidArg (nameof range) $"the range's scale must be finite and > 0, got {range.Scale}."

        Policy.ofSource name (TemperatureSource.Learned learned)

    /// Global T: x is one scalar theta. It starts at 1, so T starts at 15.6212 in the published range.
    let globalPolicy (range: TemperatureRange) (curriculum: Schedule) : Policy =
        let theta = { Name = "theta"; Shape = []; Initial = Fill 1.0; Trained = true }

        policy "ctkd-global" {
            Range = range
            Strength = curriculum
            Declares = fun _ -> [ theta ]
            Macs = fun _ -> Macs.Zero
            Raw = fun parameters _ _ -> Tree.find "theta" parameters
        }

    /// Instance-wise T: x comes from two linear layers (the published 1 x 1 convolutions) over [z_t ; z_s]. Their inputs are
    /// detached, so the reversal reaches the two layers and never the student.
    let instancePolicy (range: TemperatureRange) (hidden: int) (curriculum: Schedule) : Policy =
        if hidden < 1 then
            invalidArg (nameof hidden) $"the hidden width must be at least 1, got {hidden}."

        let network (classes: int) =
            Sequence [ Linear(Layer.dense "hidden" (2 * classes) hidden); Relu; Linear(Layer.dense "output" hidden 1) ]

        policy "ctkd-instance" {
            Range = range
            Strength = curriculum
            Declares = network >> Layer.declarations Starts.pyTorch
            Macs = fun classes -> Macs.ofLayer [ 2 * classes ] (network classes)
            Raw =
                fun parameters teacher student ->
                    Tensor.cat 1 [ Autograd.stopGradient teacher; Autograd.stopGradient student ]
                    |> Layer.forward parameters true (ResizeArray()) (network (Tensor.size 1 teacher))
                    |> Tensor.squeeze 1
        }
