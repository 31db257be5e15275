namespace Ctkd.Fs

/// Random numbers on the device as functions of a key and an index, like `Rng` on the host: equal on every device, and
/// without generator state in checkpoints.
[<RequireQualifiedAccess>]
module Draws =

    /// Returns the key of an index of a generator, int64 []. Does not wait for the device.
    let key (device: Device) (index: int) (rng: Rng) : Tensor =
        Tensor.scalar DType.Int64 device (float (Rng.bits index rng >>> 11))

    /// Computes the key from a generator's own key (`upload`) and an index, both int64 [] on the device.
    let keyAt (generator: Tensor) (index: Tensor) : Tensor = Tensor.mix (generator + index)

    /// Copies a generator's own key to the device, for `keyAt`.
    let upload (device: Device) (rng: Rng) : Tensor =
        Tensor.scope (fun () -> Tensor.ofInt64s [] [| int64 rng.Key |] |> Tensor.toDevice device)

    /// Returns float64 numbers, uniform in [0, 1).
    let uniform (key: Tensor) (shape: int64[]) : Tensor =
        Tensor.scope (fun () ->
            Tensor.arange (Tensor.device key) (Array.fold (*) 1L shape |> int) + key
            |> Tensor.mix
            |> Tensor.toType DType.Float64
            |> Tensor.scale (1.0 / float (1L <<< 53))
            |> Tensor.reshape shape
        )
