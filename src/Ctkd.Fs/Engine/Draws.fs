namespace Ctkd.Fs

/// Random numbers on the device as a function of a key and an index, as `Rng` has them on the host: the same
/// on every device, with no generator state in a checkpoint.
[<RequireQualifiedAccess>]
module Draws =

    /// The key of an index of a generator, int64 []: made on the device, so nothing waits for it.
    let key (device: Device) (index: int) (rng: Rng) : Tensor =
        Tensor.scalar DType.Int64 device (float (Rng.bits index rng >>> 11))

    /// As `key`, where the generator's own key and the index are on the device already, int64 [] each.
    let keyAt (generator: Tensor) (index: Tensor) : Tensor = Tensor.mix (generator + index)

    /// A generator's own key on the device, for `keyAt`.
    let upload (device: Device) (rng: Rng) : Tensor =
        Tensor.scope (fun () -> Tensor.ofInt64s [] [| int64 rng.Key |] |> Tensor.toDevice device)

    /// float64 numbers uniform in [0, 1).
    let uniform (key: Tensor) (shape: int64[]) : Tensor =
        Tensor.scope (fun () ->
            Tensor.arange (Tensor.device key) (Array.fold (*) 1L shape |> int) + key
            |> Tensor.mix
            |> Tensor.toType DType.Float64
            |> Tensor.scale (1.0 / float (1L <<< 53))
            |> Tensor.reshape shape
        )
