namespace Ctkd.Fs

/// Similarity-preserving distillation (Tung and Mori 2019, arXiv:1907.09682, section 3.1): which images of a
/// batch the last maps find alike, || normrows(F_t F_t^T) - normrows(F_s F_s^T) ||_F^2 / B^2.
[<RequireQualifiedAccess>]
module Sp =

    /// The loss of maps [batch, C, H, W], of which each side may have its own shape: shape [].
    let loss (teacher: Tensor) (student: Tensor) : Tensor =
        let similarity = Tensor.flatten 1 >> Rows.gram >> Rows.normalise
        Rows.meanSquare (similarity teacher) (similarity student)

    /// On the last map of both.
    let distiller (pair: ModelPair) : Result<Distiller, Error> =
        ModelPair.mapAt "sp" -1 pair
        |> Result.map (fun _ -> Distiller.simple "sp" (Rows.mapAt -1 >> fun (t, s) -> loss t s))
