namespace Ctkd.Fs

/// Similarity-preserving distillation (Tung and Mori 2019, arXiv:1907.09682, section 3.1): compares the similarities of
/// a batch's images in the last maps, || normrows(F_t F_t^T) - normrows(F_s F_s^T) ||_F^2 / B^2.
[<RequireQualifiedAccess>]
module Sp =

    /// Computes the loss of maps [batch, C, H, W], where C, H and W may differ between the sides: shape [].
    let loss (teacher: Tensor) (student: Tensor) : Tensor =
        let similarity = Tensor.flatten 1 >> Rows.gram >> Rows.normalise
        Rows.meanSquare (similarity teacher) (similarity student)

    /// Creates the distiller on the last map of both.
    let distiller (pair: ModelPair) : Result<Distiller, Error> =
        ModelPair.mapAt "sp" -1 pair
        |> Result.map (fun _ -> Distiller.simple "sp" (Rows.mapAt -1 >> fun (t, s) -> loss t s))
