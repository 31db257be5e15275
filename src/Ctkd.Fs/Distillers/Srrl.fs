namespace Ctkd.Fs

/// Softmax regression representation learning (Yang et al., ICLR 2021, section 3): the student's pooled
/// features, through a connector phi, feed the teacher's own classifier:
/// MSE(phi(f_s), f_t) + MSE(W_t phi(f_s) + b_t, z_t).
[<RequireQualifiedAccess>]
module Srrl =

    /// phi: 1 x 1 convolution, batch normalisation, ReLU.
    let private connector (pairing: Pairing) : Layer =
        Sequence [
            Layer.conv "conv" 1 1 pairing.Student.Pooled pairing.Teacher.Pooled
            Layer.batchNorm "bn" pairing.Teacher.Pooled
            Relu
        ]

    let distiller (pairing: Pairing) : Result<Distiller, Error> =
        let phi = connector pairing
        let image x = x |> Tensor.unsqueeze 2 |> Tensor.unsqueeze 3

        let loss connectors (lesson: Lesson) =
            let features =
                image lesson.Student.Pooled
                |> Layer.forward connectors true (ResizeArray()) phi
                |> Tensor.flatten 1

            Rows.meanSquare features lesson.Teacher.Pooled
            + Rows.meanSquare (lesson.Classify features) lesson.Teacher.Logits

        if pairing.Teacher.Classes <> pairing.Student.Classes then
            Pairing.refuse
                "srrl"
                pairing
                $"they know {pairing.Student.Classes} and {pairing.Teacher.Classes} classes"
                "choose a teacher of the student's classes"
        else
            // One instance alone has no variance to normalise by.
            Distillation.connected "srrl" 2 (Layer.declarations Starts.pyTorch phi) loss
            |> Distillation.withoutMaps
            |> Distillation.enough pairing
