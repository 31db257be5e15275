namespace Ctkd.Fs

open System

/// Mixup: each image of a batch is blended with another of the same batch by one share lambda ~ Beta(alpha, alpha), and the
/// loss counts both labels: x' = lambda x + (1 - lambda) x[p], CE' = lambda CE(y) + (1 - lambda) CE(y[p]), with p a random
/// permutation of the batch (Zhang et al. 2018, arXiv:1710.09412). A draw depends on its key alone.
[<RequireQualifiedAccess>]
module Mixup =

    /// The logarithm of a number from the gamma distribution of shape `alpha` > 0 and scale 1, by rejection (Marsaglia and
    /// Tsang 2000). In logarithms, because a small shape gives numbers below the smallest float.
    let private logGamma (alpha: float) (rng: Rng) : float =
        let d = (if alpha < 1.0 then alpha + 1.0 else alpha) - 1.0 / 3.0
        let c = 1.0 / sqrt (9.0 * d)

        let rec accepted (turn: int) : float =
            let rng = Rng.at turn rng
            let x = (Rng.normals 1 rng)[0]
            let v = (1.0 + c * x) ** 3.0
            let u = 1.0 - Rng.uniform 2 rng

            if v > 0.0 && log u < 0.5 * x * x + d - d * v + d * log v then
                log d + log v
            else
                accepted (turn + 1)

        // A shape below 1 is one above it times u^(1 / alpha).
        let boost = if alpha < 1.0 then log (1.0 - Rng.uniform 3 rng) / alpha else 0.0
        accepted 0 + boost

    /// <summary>Draws a share from the beta distribution Beta(alpha, alpha).</summary>
    /// <param name="alpha">Finite and > 0: small for shares near 0 and 1, 1 for uniform ones, large for shares near 1/2.</param>
    /// <param name="rng">The key of the draw.</param>
    /// <returns>lambda in [0, 1].</returns>
    /// <exception cref="T:System.ArgumentException">alpha is not finite and positive.</exception>
    let share (alpha: float) (rng: Rng) : float =
        if not (Double.IsFinite alpha && alpha > 0.0) then
            invalidArg (nameof alpha) $"mixup's alpha must be finite and > 0, got {alpha}."

        let one, other = logGamma alpha (Rng.split "one" rng), logGamma alpha (Rng.split "other" rng)
        1.0 / (1.0 + exp (other - one))

    /// <summary>Blends each image of a batch with a partner.</summary>
    /// <param name="shares">The image's own share lambda, in [0, 1], for each image of the batch.</param>
    /// <param name="partners">Rows of the partners in the batch, for each image.</param>
    /// <param name="batch">A batch without blends.</param>
    /// <exception cref="T:System.ArgumentException">The batch has blends already.</exception>
    let blend (shares: float[]) (partners: int64[]) (batch: Batch) : Batch =
        if batch.Mix.IsSome then
            invalidArg (nameof batch) "the batch's images are blends already."

        // Labels and positions stay the batch's own.
        let made (mixed: Batch) = mixed.Images :: (Batch.tensors mixed |> List.skip 3)

        Tensor.scopeWith
            (made >> Seq.ofList)
            (fun () ->
                let device = Tensor.device batch.Images
                let partner = Tensor.ofInt64s [ partners.Length ] partners |> Tensor.toDevice device

                let weight =
                    Tensor.ofFloats (Tensor.dtype batch.Images) [ shares.Length ] shares |> Tensor.toDevice device

                let own = Tensor.reshape [| int64 shares.Length; 1L; 1L; 1L |] weight
                let other = Tensor.indexSelect 0 partner batch.Images

                {
                    batch with
                        Images = own * batch.Images + Tensor.addNumber 1.0 (Tensor.neg own) * other
                        Mix =
                            Some {
                                Other = Tensor.indexSelect 0 partner batch.Labels
                                Weight = weight
                                Clean = Tensor.eq partner (Tensor.arange device partners.Length)
                            }
                }
            )

    /// <summary>Blends the images of consecutive steps, each step's among themselves.</summary>
    /// <param name="alpha">Of the shares, as in <c>share</c>.</param>
    /// <param name="rng">The key of the epoch.</param>
    /// <param name="size">Images of a step; the last step may have fewer.</param>
    /// <param name="step">The first step, counted from 0: a step has the same draw wherever the span begins.</param>
    /// <param name="batch">The images of one or more steps.</param>
    let steps (alpha: float) (rng: Rng) (size: int) (step: int) (batch: Batch) : Batch =
        let rows = Array.chunkBySize size [| 0 .. Tensor.size 0 batch.Labels - 1 |]

        let drawn =
            rows
            |> Array.mapi (fun i rows ->
                let rng = Rng.at (step + i) rng
                let own = share alpha (Rng.split "share" rng)
                let order = Rng.permutation rows.Length (Rng.split "order" rng)
                order |> Array.map (fun row -> own, int64 rows[0] + row)
            )
            |> Array.concat

        blend (Array.map fst drawn) (Array.map snd drawn) batch
