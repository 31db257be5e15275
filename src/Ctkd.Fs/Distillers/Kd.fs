namespace Ctkd.Fs

/// Knowledge distillation (Hinton, Vinyals and Dean 2015, arXiv:1503.02531, section 2) under any temperature policy:
/// mean_i w_i KL(p(z_t_i) || p(z_s_i)) over the softened logits. With one T for both sides w = T^2 and this is Hinton's
/// loss (`Loss.kd`).
[<RequireQualifiedAccess>]
module Kd =

    /// The distiller, which uses only the logits of both models.
    let distiller: Distiller =
        Distiller.simple
            "kd"
            (fun input ->
                let softened = input.Softened
                Tensor.mean (softened.Weight * Loss.kl softened.Teacher softened.Student)
            )
        |> Distiller.withoutMaps
