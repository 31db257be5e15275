namespace Ctkd.Fs

/// Attention transfer (Zagoruyko and Komodakis 2017, arXiv:1612.03928, eq. 2): where the maps look,
/// A = mean_c F^2, flattened and divided by its L2 norm; the mean squared difference, summed over the maps.
[<RequireQualifiedAccess>]
module At =

    /// The loss of one pair of maps [batch, C, H, W] of the same height and width: shape [].
    let loss (teacher: Tensor) (student: Tensor) : Tensor =
        let attention (map: Tensor) = Tensor.meanOver 1 (map * map) |> Tensor.flatten 1 |> Rows.normalise
        Rows.meanSquare (attention teacher) (attention student)

    /// On all maps behind the stem; where two differ in size the larger is average-pooled first.
    let distiller (pair: ModelPair) : Result<Distiller, Error> =
        ModelPair.maps "at" pair
        |> Result.map (fun _ ->
            Distiller.simple "at" (Rows.maps >> List.map (fun (t, s) -> loss t s) >> List.reduce Tensor.add)
        )
