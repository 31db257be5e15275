namespace Ctkd.Fs

/// FitNets (Romero et al. 2015, arXiv:1412.6550, eq. 3): a regressor on one map of the student imitates the teacher's:
/// MSE(regressor(F_s), F_t).
[<RequireQualifiedAccess>]
module FitNet =

    /// A 4 x 4 transposed convolution that doubles height and width.
    let private doubling (inputs: int) (outputs: int) : Layer =
        let declaration name shape : Declaration = {
            Name = name
            Shape = shape
            Initial = UniformFanIn(outputs * 16)
            Trained = true
        }

        Custom {
            Name = "transposed convolution"
            Declares = [ declaration "conv.weight" [ inputs; outputs; 4; 4 ]; declaration "conv.bias" [ outputs ] ]
            Forward =
                fun weights _ x ->
                    let bias = Tree.find "conv.bias" weights
                    Tensor.convTranspose2d 2 1 (Tree.find "conv.weight" weights) (Some bias) x
            OutputShape = fun input -> [ outputs; 2 * input[1]; 2 * input[2] ]
        }

    /// Maps a student's map to the shape of the teacher's, whose size may be equal, double or half.
    let private regressor (teacher: int list) (student: int list) : Layer option =
        let inputs, outputs = student.Head, teacher.Head

        let resize =
            match student.Tail, teacher.Tail with
            | s, t when s = t -> Some(Layer.convWithBias "conv" 1 1 inputs outputs)
            | s, t when s = List.map ((*) 2) t -> Some(Layer.convWithBias "conv" 3 2 inputs outputs)
            | s, t when List.map ((*) 2) s = t -> Some(doubling inputs outputs)
            | _ -> None

        resize |> Option.map (fun layer -> Sequence [ layer; Layer.batchNorm "bn" outputs; Relu ])

    /// Creates the distiller on the map at an index; 0 is the stem, 2 as published.
    let distiller (hint: int) (pair: ModelPair) : Result<Distiller, Error> =
        ModelPair.mapAt "fitnet" hint pair
        |> Result.bind (fun (teacher, student) ->
            match regressor teacher student with
            | None ->
                ModelPair.refuse
                    "fitnet"
                    pair
                    $"map {hint} is %A{student.Tail} and %A{teacher.Tail} pixels large: equal, double or half fit"
                    "choose another hint, or other models"
            | Some regressor ->
                let fewest = if teacher.Tail = [ 1; 1 ] then 2 else 1

                let loss connectors (input: DistillerInput) =
                    let teacher, student = Rows.mapAt hint input
                    Rows.meanSquare (Layer.forward connectors true (ResizeArray()) regressor student) teacher

                Distiller.connected "fitnet" fewest (Layer.declarations Starts.pyTorch regressor) loss
                |> Distiller.enough pair
        )
