namespace Ctkd.Fs

/// Attention transfer (Zagoruyko and Komodakis 2017, arXiv:1612.03928, eq. 2): the mean squared difference of the
/// attention maps A = mean_c F^2, flattened and divided by their L2 norms, summed over the maps.
[<RequireQualifiedAccess>]
module At =

    /// Computes the loss of one pair of maps [batch, C, H, W] with equal height and width: shape [].
    let loss (teacher: Tensor) (student: Tensor) : Tensor =
        let attention (map: Tensor) = Tensor.meanOver 1 (map * map) |> Tensor.flatten 1 |> Rows.normalise
        Rows.meanSquare (attention teacher) (attention student)

    /// Creates the distiller on all maps after the stem; of two sizes the larger is average-pooled first.
    let distiller (pair: ModelPair) : Result<Distiller, Error> =
        ModelPair.maps "at" pair
        |> Result.map (fun _ ->
            Distiller.simple "at" (Rows.maps >> List.map (fun (t, s) -> loss t s) >> List.reduce Tensor.add)
        )
