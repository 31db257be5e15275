namespace Ctkd.Fs

open System
open System.Runtime.InteropServices
open Ctkd.Engine
open TorchSharp

type Tensor = TorchSharp.torch.Tensor
type DType = TorchSharp.torch.ScalarType
type Device = Ctkd.Engine.Device
type Graph = Ctkd.Engine.CudaGraph

[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module Tensor =

    let private openScope () : DisposeScope =
        Natives.Load() |> ignore
        torch.NewDisposeScope()

    let scopeWith (survivors: 'T -> Tensor seq) (body: unit -> 'T) : 'T =
        use scope = openScope ()
        let result = body ()

        for tensor in survivors result do
            scope.MoveToOuter tensor |> ignore

        result

    let scope (body: unit -> Tensor) : Tensor =
        use scope = openScope ()
        body () |> scope.MoveToOuter

    let scoped (body: unit -> 'T) : 'T =
        use _ = openScope ()
        body ()

    let unscoped (survivors: 'T -> Tensor seq) (body: unit -> 'T) : 'T =
        use scope = openScope ()
        let result = body ()

        for tensor in survivors result do
            scope.Detach tensor |> ignore

        result

    let live () : int64 = Tensor.TotalCount
    let free (x: Tensor) : unit = x.Dispose()

    let private longs (shape: int list) : int64[] = shape |> List.map int64 |> Array.ofList

    let toType (dtype: DType) (x: Tensor) : Tensor = if x.dtype = dtype then x else Ops.To(x, dtype)

    let ofFloats (dtype: DType) (shape: int list) (values: float[]) : Tensor =
        scope (fun () -> Ops.Create<float>(ReadOnlySpan values, longs shape, DType.Float64) |> toType dtype)

    let ofSingles (shape: int list) (values: float32[]) : Tensor =
        Ops.Create<float32>(ReadOnlySpan values, longs shape, DType.Float32)

    let ofInt64s (shape: int list) (values: int64[]) : Tensor =
        Ops.Create<int64>(ReadOnlySpan values, longs shape, DType.Int64)

    let ofBytes (dtype: DType) (shape: int64[]) (bytes: ReadOnlySpan<byte>) : Tensor =
        Ops.FromBytes(bytes, shape, dtype)

    let full (dtype: DType) (device: Device) (value: float) (shape: int64[]) : Tensor =
        Ops.Full(shape, value, dtype, device)

    let zeros (dtype: DType) (device: Device) (shape: int64[]) : Tensor = Ops.Zeros(shape, dtype, device)
    let scalar (dtype: DType) (device: Device) (value: float) : Tensor = full dtype device value [||]
    let arange (device: Device) (count: int) : Tensor = Ops.Arange(0L, int64 count, 1L, device)

    let toBytes (x: Tensor) : byte[] = Ops.ToBytes x

    let private values<'T when 'T: struct and 'T: (new: unit -> 'T) and 'T :> ValueType>
        (dtype: DType)
        (x: Tensor)
        : 'T[] =
        MemoryMarshal.Cast<byte, 'T>(ReadOnlySpan(toBytes (toType dtype x))).ToArray()

    let toFloats (x: Tensor) : float[] = scoped (fun () -> values<float> DType.Float64 x)
    let toSingles (x: Tensor) : float32[] = scoped (fun () -> values<float32> DType.Float32 x)

    let toInt64s (x: Tensor) : int64[] =
        if x.dtype <> DType.Int64 then
            invalidArg (nameof x) $"the tensor holds {x.dtype}, not Int64."

        values<int64> DType.Int64 x

    let toFloat (x: Tensor) : float = (toFloats x)[0]

    let shape (x: Tensor) : int64[] = x.shape
    let rank (x: Tensor) : int = int x.ndim

    let size (dim: int) (x: Tensor) : int =
        let rank = rank x
        let at = if dim < 0 then dim + rank else dim

        if at < 0 || at >= rank then
            raise (ArgumentOutOfRangeException(nameof dim, dim, $"the tensor has {rank} dimensions"))

        int (x.size at)

    let count (x: Tensor) : int64 = x.numel ()
    let dtype (x: Tensor) : DType = x.dtype
    let device (x: Tensor) : Device = Device.Of x

    let toDevice (device: Device) (x: Tensor) : Tensor = if Device.Of x = device then x else Ops.To(x, device)

    let channelsLast (x: Tensor) : Tensor = Dispatcher.ChannelsLast x
    let isChannelsLast (x: Tensor) : bool = Ops.IsChannelsLast x
    let clone (x: Tensor) : Tensor = x.clone ()
    let detach (x: Tensor) : Tensor = x.detach ()

    let add (a: Tensor) (b: Tensor) : Tensor = a.add b
    let sub (a: Tensor) (b: Tensor) : Tensor = a.sub b
    let mul (a: Tensor) (b: Tensor) : Tensor = a.mul b
    let div (a: Tensor) (b: Tensor) : Tensor = a.div b
    let addNumber (number: float) (x: Tensor) : Tensor = Ops.AddScalar(x, number)
    let scale (number: float) (x: Tensor) : Tensor = Ops.MulScalar(x, number)
    let addInt (number: int) (x: Tensor) : Tensor = Ops.AddWhole(x, int64 number)
    let mulInt (number: int) (x: Tensor) : Tensor = Ops.MulWhole(x, int64 number)
    let neg (x: Tensor) : Tensor = x.neg ()
    let abs (x: Tensor) : Tensor = x.abs ()
    let exp (x: Tensor) : Tensor = x.exp ()
    let log (x: Tensor) : Tensor = x.log ()
    let sqrt (x: Tensor) : Tensor = x.sqrt ()
    let sigmoid (x: Tensor) : Tensor = x.sigmoid ()
    let tanh (x: Tensor) : Tensor = x.tanh ()
    let cos (x: Tensor) : Tensor = x.cos ()
    let softplus (x: Tensor) : Tensor = Ops.Softplus(x, 40.0)
    let relu (x: Tensor) : Tensor = x.relu ()
    let clamp (low: float) (high: float) (x: Tensor) : Tensor = Ops.Clamp(x, low, high)
    let maximum (a: Tensor) (b: Tensor) : Tensor = a.maximum b
    let minimum (a: Tensor) (b: Tensor) : Tensor = a.minimum b
    let where (condition: Tensor) (yes: Tensor) (no: Tensor) : Tensor = torch.where (condition, yes, no)
    let eq (a: Tensor) (b: Tensor) : Tensor = a.eq b
    let eqNumber (number: float) (x: Tensor) : Tensor = Ops.EqScalar(x, number)
    let less (a: Tensor) (b: Tensor) : Tensor = a.lt b
    let lessThanNumber (number: float) (x: Tensor) : Tensor = Ops.LtScalar(x, number)
    let logicalAnd (a: Tensor) (b: Tensor) : Tensor = a.logical_and b
    let logicalNot (x: Tensor) : Tensor = x.logical_not ()
    let isFinite (x: Tensor) : Tensor = x.isfinite ()

    // int64 multiplication wraps like that of uint64; the mask makes the arithmetic shift a logical one.
    let mix (x: Tensor) : Tensor =
        scope (fun () ->
            let shift (bits: int) z = Ops.And(Ops.ShiftRight(z, bits), Int64.MaxValue >>> (bits - 1))

            let turn bits factor (z: Tensor) = Ops.MulWhole(z.bitwise_xor (shift bits z), int64 (factor: uint64))

            let z = Ops.AddWhole(x, int64 0x9E3779B97F4A7C15UL)
            let z = turn 30 0xBF58476D1CE4E5B9UL z |> turn 27 0x94D049BB133111EBUL
            shift 11 (z.bitwise_xor (shift 31 z))
        )

    let sum (x: Tensor) : Tensor = x.sum ()
    let sumOver (dim: int) (x: Tensor) : Tensor = x.sum (int64 dim)
    let mean (x: Tensor) : Tensor = x.mean ()
    let meanOver (dim: int) (x: Tensor) : Tensor = Ops.Mean(x, int64 dim)
    let meanOverImage (x: Tensor) : Tensor = Ops.Mean(x, 2L, 3L)
    let max (x: Tensor) : Tensor = Ops.Max x
    let maxOver (dim: int) (x: Tensor) : Tensor = Ops.Max(x, int64 dim)
    let min (x: Tensor) : Tensor = Ops.Min x
    let argMax (dim: int) (x: Tensor) : Tensor = x.argmax (int64 dim)

    let topK (k: int) (dim: int) (x: Tensor) : struct (Tensor * Tensor) = x.topk (k, dim)

    let all (x: Tensor) : Tensor = x.all ()
    let any (x: Tensor) : Tensor = x.any ()
    let norm (x: Tensor) : Tensor = Ops.Norm x
    let softmax (dim: int) (x: Tensor) : Tensor = x.softmax (int64 dim)
    let logSoftmax (dim: int) (x: Tensor) : Tensor = x.log_softmax (int64 dim)
    let logSumExp (dim: int) (x: Tensor) : Tensor = x.logsumexp (int64 dim)

    let private orNull (x: Tensor option) : Tensor | null = Option.toObj x

    let matmul (a: Tensor) (b: Tensor) : Tensor = Ops.MatMul(a, b)

    let linear (weight: Tensor) (bias: Tensor option) (x: Tensor) : Tensor =
        torch.nn.functional.linear (x, weight, orNull bias)

    let conv2d (stride: int) (padding: int) (groups: int) (weight: Tensor) (bias: Tensor option) (x: Tensor) : Tensor =
        Ops.Conv2d(x, weight, orNull bias, int64 stride, int64 padding, int64 groups)

    let conv2dRelu
        (stride: int)
        (padding: int)
        (groups: int)
        (weight: Tensor)
        (bias: Tensor option)
        (x: Tensor)
        : Tensor =
        FusedConvolution.Relu(x, weight, orNull bias, int64 stride, int64 padding, int64 groups)

    let conv2dAddRelu
        (residual: Tensor)
        (stride: int)
        (padding: int)
        (groups: int)
        (weight: Tensor)
        (bias: Tensor option)
        (x: Tensor)
        : Tensor =
        FusedConvolution.AddRelu(residual, x, weight, orNull bias, int64 stride, int64 padding, int64 groups)

    let convTranspose2d (stride: int) (padding: int) (weight: Tensor) (bias: Tensor option) (x: Tensor) : Tensor =
        Ops.ConvTranspose2d(x, weight, orNull bias, int64 stride, int64 padding)

    // PyTorch checks this above the operator, which itself accepts it.
    let private checkValues (training: bool) (x: Tensor) : unit =
        if training && count x = int64 (size 1 x) then
            let shape = shape x |> Array.map string |> String.concat ", "

            invalidArg (nameof x) $"batch normalisation in training needs 2 or more values a channel, got [{shape}]."

    let private normalise
        (relu: bool)
        (training: bool)
        (momentum: float)
        (epsilon: float)
        (weight: Tensor)
        (bias: Tensor)
        (runningMean: Tensor)
        (runningVar: Tensor)
        (x: Tensor)
        : Tensor =
        checkValues training x

        if training then
            FusedNorm.BatchNormRelu(x, weight, bias, runningMean, runningVar, momentum, epsilon, relu)
        else
            let y = Ops.BatchNorm(x, weight, bias, runningMean, runningVar, epsilon)
            // In place: no backward pass needs the normalisation's result.
            if relu then y.relu_ () else y

    let batchNorm training momentum epsilon weight bias runningMean runningVar x =
        normalise false training momentum epsilon weight bias runningMean runningVar x

    let batchNormRelu training momentum epsilon weight bias runningMean runningVar x =
        normalise true training momentum epsilon weight bias runningMean runningVar x

    let batchNormAddRelu residual training momentum epsilon weight bias runningMean runningVar x =
        if training then
            checkValues training x

            FusedNorm.BatchNormAddRelu(x, residual, weight, bias, runningMean, runningVar, momentum, epsilon, true)
        else
            let y = normalise false training momentum epsilon weight bias runningMean runningVar x
            y.add_(residual).relu_()

    let maxPool2d (kernel: int) (stride: int) (padding: int) (x: Tensor) : Tensor =
        Ops.MaxPool2d(x, int64 kernel, int64 stride, int64 padding)

    let avgPool2d (kernel: int) (stride: int) (padding: int) (x: Tensor) : Tensor =
        Ops.AvgPool2d(x, int64 kernel, int64 stride, int64 padding)

    let dropout (share: float) (x: Tensor) : Tensor = torch.nn.functional.dropout (x, share, true)

    let shuffleChannels (groups: int) (x: Tensor) : Tensor =
        let shape = x.shape
        let batch, channels, height, width = shape[0], shape[1], shape[2], shape[3]
        let groups = int64 groups
        let swapped (apart: Tensor) = apart.transpose (1, 2)

        // Both layouts split the channels without a copy.
        if isChannelsLast x then
            let pixels = x.permute [| 0L; 2L; 3L; 1L |]
            let apart = pixels.reshape [| batch * height * width; groups; channels / groups |]
            let mixed = (swapped apart).reshape [| batch; height; width; channels |]
            mixed.permute [| 0L; 3L; 1L; 2L |]
        else
            let apart = x.reshape [| batch; groups; channels / groups; height * width |]
            (swapped apart).reshape shape

    let lstm (weights: Tensor[]) (x: Tensor) : Tensor =
        scope (fun () ->
            let start = zeros x.dtype (device x) [| 1L; x.size 1; weights[1].size 1 |]
            Ops.Lstm(x, [| start; start |], weights)
        )

    let crossEntropyEach (labels: Tensor) (logits: Tensor) : Tensor = Ops.CrossEntropy(logits, labels, false)
    let crossEntropy (labels: Tensor) (logits: Tensor) : Tensor = Ops.CrossEntropy(logits, labels, true)

    let reshape (shape: int64[]) (x: Tensor) : Tensor = x.reshape shape
    let unsqueeze (dim: int) (x: Tensor) : Tensor = x.unsqueeze (int64 dim)
    let squeeze (dim: int) (x: Tensor) : Tensor = x.squeeze (int64 dim)
    let expand (shape: int64[]) (x: Tensor) : Tensor = x.expand shape
    let transpose (first: int) (second: int) (x: Tensor) : Tensor = x.transpose (int64 first, int64 second)
    let permute (dims: int64[]) (x: Tensor) : Tensor = x.permute dims
    let flatten (first: int) (x: Tensor) : Tensor = x.flatten (int64 first, -1L)

    let cat (dim: int) (xs: Tensor list) : Tensor =
        match xs with
        // TorchSharp's cat returns the same tensor, not a copy, for a single one.
        | [ x ] -> x.clone ()
        | xs -> torch.cat (Array.ofList xs, int64 dim)

    let stack (dim: int) (xs: Tensor list) : Tensor = torch.stack (Array.ofList xs, int64 dim)
    let select (dim: int) (index: int) (x: Tensor) : Tensor = x.select (int64 dim, int64 index)

    let slice (dim: int) (start: int) (stop: int) (x: Tensor) : Tensor =
        x.slice (int64 dim, int64 start, int64 stop, 1L)

    let indexSelect (dim: int) (index: Tensor) (x: Tensor) : Tensor = x.index_select (int64 dim, index)
    let gather (dim: int) (index: Tensor) (x: Tensor) : Tensor = x.gather (int64 dim, index)

    let padImage (amount: int) (x: Tensor) : Tensor = torch.nn.functional.pad (x, Array.create 4 (int64 amount))

    let resizeImage (height: int) (width: int) (x: Tensor) : Tensor =
        torch.nn.functional.interpolate (
            x,
            [| int64 height; int64 width |],
            mode = torch.InterpolationMode.Bilinear,
            align_corners = false,
            antialias = true
        )

    let copyInto (target: Tensor) (source: Tensor) : unit = target.copy_ source |> ignore
    let addInto (target: Tensor) (source: Tensor) : unit = target.add_ source |> ignore
    let reluInto (target: Tensor) : unit = target.relu_ () |> ignore
    let fillInto (target: Tensor) (value: float) : unit = Ops.FillInto(target, value)

    let rowsInto (target: Tensor) (index: Tensor) (source: Tensor) : unit =
        target.index_copy_ (0L, index, source) |> ignore

    let addIntInto (number: int) (targets: Tensor[]) : unit = Ops.AddWholeInto(targets, int64 number)

    let sgdInto
        (momentum: float)
        (weightDecay: float)
        (nesterov: bool)
        (rate: Tensor)
        (gradients: Tensor[])
        (velocities: Tensor[])
        (parameters: Tensor[])
        : unit =
        Ops.Sgd(parameters, gradients, velocities, rate, momentum, weightDecay, nesterov)

    let adamInto
        (beta1: float)
        (beta2: float)
        (epsilon: float)
        (rate: float)
        (step: Tensor)
        (gradients: Tensor[])
        (first: Tensor[])
        (second: Tensor[])
        (parameters: Tensor[])
        : unit =
        Ops.Adam(parameters, gradients, first, second, step, rate, beta1, beta2, epsilon)

    let adamWInto
        (beta1: float)
        (beta2: float)
        (epsilon: float)
        (weightDecay: float)
        (rate: Tensor)
        (step: Tensor)
        (gradients: Tensor[])
        (first: Tensor[])
        (second: Tensor[])
        (parameters: Tensor[])
        : unit =
        Ops.AdamW(parameters, gradients, first, second, step, rate, beta1, beta2, epsilon, weightDecay)

    let lerpInto (share: Tensor) (sources: Tensor[]) (targets: Tensor[]) : unit = Ops.LerpInto(targets, sources, share)
