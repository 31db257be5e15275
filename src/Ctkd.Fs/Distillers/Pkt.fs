namespace Ctkd.Fs

/// Probabilistic knowledge transfer (Passalis and Tefas 2018, arXiv:1803.10837, section 3): compares the pooled
/// features of a batch as probabilities of being neighbours, by mean_ij q_ij log((q_ij + eps) / (p_ij + eps)).
[<RequireQualifiedAccess>]
module Pkt =
    let private epsilon = 1e-7

    /// Computes (cosine + 1) / 2 of all pairs of rows, each row divided by its sum.
    let private neighbours (features: Tensor) : Tensor =
        let cosines = Rows.gram (features / Tensor.addNumber epsilon (Rows.norms features))
        let similar = cosines |> Tensor.addNumber 1.0 |> Tensor.scale 0.5
        similar / Tensor.unsqueeze 1 (Tensor.sumOver 1 similar)

    /// Computes the loss of pooled features [batch, D], where D may differ between the sides: shape [].
    let loss (teacher: Tensor) (student: Tensor) : Tensor =
        let q, p = neighbours teacher, neighbours student
        let log x = Tensor.log (Tensor.addNumber epsilon x)
        Tensor.mean (q * (log q - log p))

    let distiller: Distiller =
        Distiller.simple "pkt" (fun input -> loss input.Teacher.Pooled input.Student.Pooled) |> Distiller.withoutMaps
