namespace Ctkd.Fs

open System

/// Describes images of which some are blends of two, with one entry per image.
[<ReferenceEquality>]
type LabelMix = {
    /// Label of the second image, int64.
    Other: Tensor
    /// Weight of the image's own label; 1 if it is not a blend.
    Weight: Tensor
    /// Whether an image is unchanged, bool.
    Clean: Tensor
}

/// A set of images on the device, as bytes.
[<ReferenceEquality>]
type DeviceSet = {
    /// uint8 [N, C, H, W].
    Images: Tensor
    /// int64 [N].
    Labels: Tensor
    /// Per channel, for pixels from 0 to 1: [1, C, 1, 1].
    Mean: Tensor
    Std: Tensor
    /// Shape [N] each; `None` if no image is a blend.
    Mix: LabelMix option
}

/// The random choices of one epoch, drawn on the host and uploaded once: the order of the images and their crops.
[<ReferenceEquality>]
type EpochOrder = {
    /// int64 [N]: a permutation of the images.
    Order: Tensor
    /// int64 [N]: first row of the crop in the padded image.
    Row: Tensor
    /// int64 [N]: column of the crop's left edge, or of its right edge if mirrored.
    Column: Tensor
    /// int64 [N]: +1, or -1 if mirrored.
    Direction: Tensor
    /// On the host: for each position, the number of its image and crop among all images and crops
    /// (`Augment.variants`).
    Variants: int64[]
    Epoch: int
}

/// Images and their labels, ready for a model.
[<ReferenceEquality>]
type Batch = {
    /// [B, C, H, W], normalised.
    Images: Tensor
    /// int64 [B].
    Labels: Tensor
    /// Positions of the images in their set: int64 [B].
    Index: Tensor
    /// Shape [B] each; `None` if no image is a blend.
    Mix: LabelMix option
}

/// Functions over blends.
[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module LabelMix =

    /// Applies a function to every tensor.
    let map (change: Tensor -> Tensor) (mix: LabelMix) : LabelMix = {
        Other = change mix.Other
        Weight = change mix.Weight
        Clean = change mix.Clean
    }

/// Functions over batches.
[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module Batch =

    /// Applies a function to every tensor.
    let map (change: Tensor -> Tensor) (batch: Batch) : Batch = {
        Images = change batch.Images
        Labels = change batch.Labels
        Index = change batch.Index
        Mix = Option.map (LabelMix.map change) batch.Mix
    }

    /// Returns all tensors.
    let tensors (batch: Batch) : Tensor list =
        let ofMix (mix: LabelMix) = [ mix.Other; mix.Weight; mix.Clean ]
        [ batch.Images; batch.Labels; batch.Index ] @ (Option.map ofMix batch.Mix |> Option.defaultValue [])

/// Random crops after padding with black, mirroring and normalising, as batched tensor code.
[<RequireQualifiedAccess>]
module Augment =

    /// Uploads a set. Mean and standard deviation are per channel, for pixels from 0 to 1.
    let upload (dtype: DType) (device: Device) (mean: float list) (std: float list) (set: ImageSet) : DeviceSet =
        let count = set.Labels.Length
        let shape = [| count; set.Channels; set.Height; set.Width |] |> Array.map int64

        let perChannel (values: float list) =
            Tensor.scope (fun () ->
                Tensor.ofFloats dtype [ 1; values.Length; 1; 1 ] (Array.ofList values) |> Tensor.toDevice device
            )

        {
            Images =
                Tensor.scope (fun () ->
                    Tensor.ofBytes DType.Byte shape (ReadOnlySpan set.Images) |> Tensor.toDevice device
                )
            Labels =
                Tensor.scope (fun () ->
                    Tensor.ofInt64s [ count ] (Array.map int64 set.Labels) |> Tensor.toDevice device
                )
            Mean = perChannel mean
            Std = perChannel std
            Mix = None
        }

    /// Returns the number of images.
    let count (set: DeviceSet) : int = Tensor.size 0 set.Images

    /// Returns the number of ways to crop and mirror an image.
    let variants (pad: int) (flip: bool) : int64 =
        let shifts = int64 (2 * pad + 1)
        shifts * shifts * (if flip then 2L else 1L)

    /// Draws the order of an epoch. Crops shift by up to `pad` pixels in each direction, and `flip` mirrors with
    /// probability 1/2.
    let shuffle (rng: Rng) (epoch: int) (pad: int) (flip: bool) (set: DeviceSet) : EpochOrder =
        let n, width = count set, Tensor.size 3 set.Images
        let draw purpose = rng |> Rng.split purpose |> Rng.at epoch
        let rows, columns, mirrors = draw "rows", draw "columns", draw "mirrors"

        let upload values =
            Tensor.scope (fun () -> Tensor.ofInt64s [ n ] values |> Tensor.toDevice (Tensor.device set.Images))

        let images = Rng.permutation n (draw "order")
        let shift rng = Array.init n (fun i -> Rng.below (2 * pad + 1) i rng)
        let row, column = shift rows, shift columns
        let mirrored = Array.init n (fun i -> flip && Rng.below 2 i mirrors = 1)

        let variant i =
            let cut = int64 row[i] * int64 (2 * pad + 1) + int64 column[i]
            let cuts = variants pad false
            images[i] * variants pad flip + cut + (if mirrored[i] then cuts else 0L)

        {
            Order = upload images
            Row = upload (Array.map int64 row)
            Column = upload (Array.init n (fun i -> int64 (column[i] + (if mirrored[i] then width - 1 else 0))))
            Direction = upload (Array.map (fun m -> if m then -1L else 1L) mirrored)
            Variants = Array.init n variant
            Epoch = epoch
        }

    /// Returns the tensors of an order.
    let tensors (order: EpochOrder) : Tensor list = [ order.Order; order.Row; order.Column; order.Direction ]

    /// Normalises bytes to mean 0 and standard deviation 1.
    let private normalise (set: DeviceSet) (images: Tensor) : Tensor =
        let dtype = Tensor.dtype set.Mean
        (Tensor.scale (1.0 / 255.0) (Tensor.toType dtype images) - set.Mean) / set.Std

    /// Crops image b of the batch at its row, column and direction, in one gather over all pixels.
    let private crop (pad: int) (row: Tensor) (column: Tensor) (direction: Tensor) (images: Tensor) : Tensor =
        let shape = Tensor.shape images
        let height, width = int shape[2], int shape[3]
        let device = Tensor.device images
        let outerSum first second = Tensor.unsqueeze 1 first + second
        let rows = outerSum row (Tensor.arange device height)

        let columns =
            outerSum column (Tensor.unsqueeze 1 direction * Tensor.unsqueeze 0 (Tensor.arange device width))
            |> Tensor.reshape [| shape[0]; int64 width |]

        let pixels = Tensor.unsqueeze 2 (Tensor.mulInt (width + 2 * pad) rows) + Tensor.unsqueeze 1 columns

        let index =
            pixels |> Tensor.reshape [| shape[0]; 1L; -1L |] |> Tensor.expand [| shape[0]; shape[1]; -1L |]

        Tensor.padImage pad images |> Tensor.flatten 2 |> Tensor.gather 2 index |> Tensor.reshape shape

    /// Returns the augmented images that `at` takes from each part of the order.
    let private taken (pad: int) (order: EpochOrder) (at: Tensor -> Tensor) (set: DeviceSet) : Batch =
        Tensor.scopeWith
            (Batch.tensors >> Seq.ofList)
            (fun () ->
                let images = at order.Order

                {
                    Images =
                        set.Images
                        |> Tensor.indexSelect 0 images
                        |> crop pad (at order.Row) (at order.Column) (at order.Direction)
                        |> normalise set
                    Labels = Tensor.indexSelect 0 images set.Labels
                    Index = images
                    Mix = set.Mix |> Option.map (LabelMix.map (Tensor.indexSelect 0 images))
                }
            )

    /// Returns the images at positions start .. stop - 1 of the epoch's order, augmented.
    let batch (pad: int) (order: EpochOrder) (start: int) (stop: int) (set: DeviceSet) : Batch =
        taken pad order (Tensor.slice 0 start stop) set

    /// Returns the images at positions of the epoch's order given on the device, int64 [B], augmented.
    let at (pad: int) (order: EpochOrder) (positions: Tensor) (set: DeviceSet) : Batch =
        taken pad order (Tensor.indexSelect 0 positions) set

    /// Returns the images at any positions of the epoch's order, augmented.
    let pick (pad: int) (order: EpochOrder) (positions: int[]) (set: DeviceSet) : Batch =
        let positions = Tensor.ofInt64s [ positions.Length ] (Array.map int64 positions)
        at pad order (Tensor.toDevice (Tensor.device set.Images) positions) set

    /// Returns the images start .. stop - 1 without augmentation, for evaluation.
    let plain (start: int) (stop: int) (set: DeviceSet) : Batch =
        Tensor.scopeWith
            (Batch.tensors >> Seq.ofList)
            (fun () -> {
                Images = set.Images |> Tensor.slice 0 start stop |> normalise set
                Labels = Tensor.slice 0 start stop set.Labels |> Tensor.clone
                Index = Tensor.arange (Tensor.device set.Labels) (stop - start) |> Tensor.addInt start
                Mix = None
            })
