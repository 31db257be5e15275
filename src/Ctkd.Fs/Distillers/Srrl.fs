namespace Ctkd.Fs

/// Softmax regression representation learning (Yang et al., ICLR 2021, section 3): the student's pooled
/// features, through a connector phi, feed the teacher's own classifier:
/// MSE(phi(f_s), f_t) + MSE(W_t phi(f_s) + b_t, z_t).
[<RequireQualifiedAccess>]
module Srrl =

    /// phi: 1 x 1 convolution, batch normalisation, ReLU.
    let private connector (pair: ModelPair) : Layer =
        Sequence [
            Layer.conv "conv" 1 1 pair.Student.Pooled pair.Teacher.Pooled
            Layer.batchNorm "bn" pair.Teacher.Pooled
            Relu
        ]

    let distiller (pair: ModelPair) : Result<Distiller, Error> =
        let phi = connector pair
        let image x = x |> Tensor.unsqueeze 2 |> Tensor.unsqueeze 3

        let loss connectors (input: DistillerInput) =
            let features =
                image input.Student.Pooled |> Layer.forward connectors true (ResizeArray()) phi |> Tensor.flatten 1

            Rows.meanSquare features input.Teacher.Pooled
            + Rows.meanSquare (input.Classify features) input.Teacher.Logits

        if not pair.Teacher.HasClassifier then
            ModelPair.refuse
                "srrl"
                pair
                "the teacher's classifier cannot run by itself"
                "use another method, or a teacher of the library's layers"
        elif pair.Teacher.Classes <> pair.Student.Classes then
            ModelPair.refuse
                "srrl"
                pair
                $"they know {pair.Student.Classes} and {pair.Teacher.Classes} classes"
                "choose a teacher of the student's classes"
        else
            // A single instance has no variance to normalise by.
            Distiller.connected "srrl" 2 (Layer.declarations Starts.pyTorch phi) loss
            |> Distiller.withoutMaps
            |> Distiller.enough pair
