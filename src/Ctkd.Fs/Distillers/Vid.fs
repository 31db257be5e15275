namespace Ctkd.Fs

/// Variational information distillation (Ahn et al. 2019, arXiv:1904.05835, section 2): the student's maps predict the
/// teacher's, with a learned variance v_c per channel c: mean 0.5 ((f(F_s) - F_t)^2 / v_c + log v_c), summed over maps.
[<RequireQualifiedAccess>]
module Vid =
    let private least = 1e-5

    /// log_scale of a variance of 5.
    let private start = log (exp (5.0 - least) - 1.0)

    /// f: three 1 x 1 convolutions from the student's channels to the teacher's.
    let private regressor (map: int) (inputs: int) (outputs: int) : Layer =
        let conv index inputs outputs = Layer.conv $"{map}.regressor.{index}" 1 1 inputs outputs
        Sequence [ conv 0 inputs outputs; Relu; conv 2 outputs outputs; Relu; conv 4 outputs outputs ]

    /// Computes the loss of a prediction of the teacher's map [batch, C, H, W] with log_scale [C]: shape [].
    let loss (logScale: Tensor) (teacher: Tensor) (predicted: Tensor) : Tensor =
        let variance =
            Tensor.softplus logScale |> Tensor.addNumber least |> Tensor.reshape [| 1L; -1L; 1L; 1L |]

        let difference = predicted - teacher
        Tensor.scale 0.5 (Tensor.mean (difference * difference / variance + Tensor.log variance))

    /// Creates the distiller on all maps after the stem (numbered from 1); of two sizes the larger is average-pooled
    /// first.
    let distiller (pair: ModelPair) : Result<Distiller, Error> =
        ModelPair.maps "vid" pair
        |> Result.map (fun maps ->
            let regressors =
                maps |> List.mapi (fun i (t, s) -> i + 1, regressor (i + 1) (List.head s) (List.head t), List.head t)

            let declares (map, regressor, channels) =
                Layer.declarations Starts.pyTorch regressor
                @ [
                    {
                        Name = $"{map}.log_scale"
                        Shape = [ channels ]
                        Initial = Fill start
                        Trained = true
                    }
                ]

            let ofMap connectors (map, regressor, _) (teacher, student) =
                student
                |> Layer.forward connectors true (ResizeArray()) regressor
                |> loss (Tree.find $"{map}.log_scale" connectors) teacher

            Distiller.connected
                "vid"
                1
                (List.collect declares regressors)
                (fun connectors input ->
                    List.map2 (ofMap connectors) regressors (Rows.maps input) |> List.reduce Tensor.add
                )
        )
