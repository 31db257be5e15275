namespace Ctkd.Fs

/// Efficient exploration (RLKD, arXiv:2407.00115, eq. 14-16, after Xu et al. 2022, "Knowledge Condensation Distillation"):
/// mixes images whose predictions have a high, but not the highest entropy with others.
[<RequireQualifiedAccess>]
module Exploration =

    /// The number of mixed images among `images`, and the first ranks of dominant images and of their partners.
    let ranks (mixing: RlkdMixing) (images: int) : struct (int * int * int) =
        // The excess keeps a product such as 0.1 * 20 from falling below a whole number.
        let part share = int (share * float images + 1e-9)
        struct (part mixing.Share, part mixing.Dominant, part mixing.Partner)

    /// <summary>Selects dominant images and partners by rank of their entropies.</summary>
    /// <param name="mixing">The ranks.</param>
    /// <param name="entropies">Entropy of every image, shape [N].</param>
    /// <returns>Positions in the set, int64 [M] each; the i-th dominant image is mixed with the i-th partner.</returns>
    let select (mixing: RlkdMixing) (entropies: Tensor) : struct (Tensor * Tensor) =
        let struct (count, dominant, partner) = ranks mixing (Tensor.size 0 entropies)
        let struct (_, order) = Tensor.topK (max dominant partner + count) 0 entropies

        struct (Tensor.slice 0 dominant (dominant + count) order, Tensor.slice 0 partner (partner + count) order)

    /// Weights of the dominant images by rank i, from 1 down towards `Least`: 1 - (1 - Least) i / M.
    let weights (mixing: RlkdMixing) (count: int) : float[] =
        Array.init count (fun i -> 1.0 - (1.0 - mixing.Least) * float i / float count)

    /// weight dominant + (1 - weight) partner, in the weights' type; images [M, ...], weights [M].
    let mixed (weights: Tensor) (dominant: Tensor) (partner: Tensor) : Tensor =
        let exact = Tensor.toType (Tensor.dtype weights)
        let shape = Array.append [| -1L |] (Array.create (Tensor.rank dominant - 1) 1L)
        let weights = Tensor.reshape shape weights
        let partner = exact partner
        partner + weights * (exact dominant - partner)

    /// Pixels as bytes: rounded, or, as released, truncated.
    let bytes (cut: bool) (pixels: Tensor) : Tensor =
        // A whole number may be 14.999999 after rounding: a thousandth of a grey level keeps it from being truncated.
        Tensor.addNumber (if cut then 1e-3 else 0.5) pixels |> Tensor.toType DType.Byte

    /// <summary>Returns the training images of an epoch with some of them mixed; `set` is unchanged.</summary>
    /// <param name="mixing">How images are mixed.</param>
    /// <param name="dtype">Type of the weights and of the computation.</param>
    /// <param name="dominant">Positions of the dominant images, int64 [M].</param>
    /// <param name="partner">Positions of their partners, int64 [M].</param>
    /// <param name="set">All images, N.</param>
    let mix (mixing: RlkdMixing) (dtype: DType) (dominant: Tensor) (partner: Tensor) (set: DeviceSet) : DeviceSet =
        let images, labels = set.Images, set.Labels
        let device, count = Tensor.device images, Tensor.size 0 images

        let weights =
            Tensor.ofFloats dtype [ Tensor.size 0 dominant ] (weights mixing (Tensor.size 0 dominant))
            |> Tensor.toDevice device

        let pick index = Tensor.indexSelect 0 index images
        let pixels = mixed weights (pick dominant) (pick partner) |> bytes mixing.AtPartner
        let places = if mixing.AtPartner then partner else dominant

        let written (background: Tensor) (values: Tensor) =
            let copy = Tensor.clone background
            Tensor.rowsInto copy places values
            copy

        let ones = Tensor.full dtype device 1.0 [| int64 count |]

        {
            set with
                Images = written images pixels
                Mix =
                    Some {
                        Other =
                            if mixing.AtPartner then labels else written labels (Tensor.indexSelect 0 partner labels)
                        Weight = if mixing.AtPartner then ones else written ones weights
                        Clean = written ones (Tensor.scale 0.0 weights) |> Tensor.eqNumber 1.0
                    }
        }

    /// Writes a batch's entropies [batch] into the table [N], in place: the latest of images that are not mixed, or the sum
    /// over the epochs from the second on. `epoch` counts from 1.
    let record (history: RlkdHistory) (epoch: int) (batch: Batch) (entropies: Tensor) (table: Tensor) : unit =
        let entropies = Tensor.toType (Tensor.dtype table) entropies
        let old () = Tensor.indexSelect 0 batch.Index table

        match history with
        | RlkdHistory.Latest ->
            batch.Mix
            |> Option.map (fun mix -> Tensor.where mix.Clean entropies (old ()))
            |> Option.defaultValue entropies
            |> Tensor.rowsInto table batch.Index
        | RlkdHistory.Mean when epoch > 1 -> Tensor.rowsInto table batch.Index (old () + entropies)
        | RlkdHistory.Mean -> ()
