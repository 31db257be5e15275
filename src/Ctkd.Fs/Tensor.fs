namespace Ctkd.Fs

open System
open System.Runtime.InteropServices
open Ctkd.Torch

type Tensor = Ctkd.Torch.Tensor
type DType = Ctkd.Torch.DType
type Device = Ctkd.Torch.Device
type Graph = Ctkd.Torch.Graph

[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module Tensor =

    let scopeWith (survivors: 'T -> Tensor seq) (body: unit -> 'T) : 'T =
        use scope = Scope.Open()
        let result = body ()

        for tensor in survivors result do
            scope.Keep tensor

        result

    let scope (body: unit -> Tensor) : Tensor =
        use scope = Scope.Open()
        let result = body ()
        scope.Keep result
        result

    let scoped (body: unit -> 'T) : 'T =
        use _ = Scope.Open()
        body ()

    let live () : int64 = Tensor.Live
    let free (x: Tensor) : unit = x.Dispose()

    let private longs (shape: int list) : int64[] = shape |> List.map int64 |> Array.ofList

    let toType (dtype: DType) (x: Tensor) : Tensor = if x.DType = dtype then x else Ops.To(x, dtype)

    let ofFloats (dtype: DType) (shape: int list) (values: float[]) : Tensor =
        scope (fun () -> Tensor.Create<float>(ReadOnlySpan values, ReadOnlySpan(longs shape)) |> toType dtype)

    let ofSingles (shape: int list) (values: float32[]) : Tensor =
        Tensor.Create<float32>(ReadOnlySpan values, ReadOnlySpan(longs shape))

    let ofInt64s (shape: int list) (values: int64[]) : Tensor =
        Tensor.Create<int64>(ReadOnlySpan values, ReadOnlySpan(longs shape))

    let ofBytes (dtype: DType) (shape: int64[]) (bytes: ReadOnlySpan<byte>) : Tensor =
        Tensor.Create(bytes, ReadOnlySpan shape, dtype)

    let full (dtype: DType) (device: Device) (value: float) (shape: int64[]) : Tensor =
        Ops.Full(shape, value, dtype, device)

    let zeros (dtype: DType) (device: Device) (shape: int64[]) : Tensor = Ops.Zeros(shape, dtype, device)
    let scalar (dtype: DType) (device: Device) (value: float) : Tensor = full dtype device value [||]
    let arange (device: Device) (count: int) : Tensor = Ops.Arange(0L, int64 count, 1L, device)

    let toFloats (x: Tensor) : float[] = scoped (fun () -> (toType DType.Float64 x).ToArray<float>())

    let toInt64s (x: Tensor) : int64[] = x.ToArray<int64>()

    let toSingles (x: Tensor) : float32[] = scoped (fun () -> (toType DType.Float32 x).ToArray<float32>())
    let toFloat (x: Tensor) : float = (toFloats x)[0]

    let toBytes (x: Tensor) : byte[] =
        let bytes = Array.zeroCreate<byte>(int x.ElementCount * x.DType.Size())
        x.Read(Span bytes)
        bytes

    let shape (x: Tensor) : int64[] = x.Shape
    let size (dim: int) (x: Tensor) : int = int (x.Size dim)
    let rank (x: Tensor) : int = x.Rank
    let count (x: Tensor) : int64 = x.ElementCount
    let dtype (x: Tensor) : DType = x.DType
    let device (x: Tensor) : Device = x.Device

    let toDevice (device: Device) (x: Tensor) : Tensor = if x.Device = device then x else Ops.To(x, device)

    let channelsLast (x: Tensor) : Tensor = Ops.ChannelsLast x
    let isChannelsLast (x: Tensor) : bool = x.IsChannelsLast
    let clone (x: Tensor) : Tensor = Ops.Clone x
    let detach (x: Tensor) : Tensor = Ops.Detach x

    let add (a: Tensor) (b: Tensor) : Tensor = Ops.Add(a, b)
    let sub (a: Tensor) (b: Tensor) : Tensor = Ops.Sub(a, b)
    let mul (a: Tensor) (b: Tensor) : Tensor = Ops.Mul(a, b)
    let div (a: Tensor) (b: Tensor) : Tensor = Ops.Div(a, b)
    let addNumber (number: float) (x: Tensor) : Tensor = Ops.AddScalar(x, number)
    let scale (number: float) (x: Tensor) : Tensor = Ops.MulScalar(x, number)
    let addInt (number: int) (x: Tensor) : Tensor = Ops.AddWhole(x, int64 number)
    let mulInt (number: int) (x: Tensor) : Tensor = Ops.MulWhole(x, int64 number)
    let neg (x: Tensor) : Tensor = Ops.Neg x
    let abs (x: Tensor) : Tensor = Ops.Abs x
    let exp (x: Tensor) : Tensor = Ops.Exp x
    let log (x: Tensor) : Tensor = Ops.Log x
    let sqrt (x: Tensor) : Tensor = Ops.Sqrt x
    let sigmoid (x: Tensor) : Tensor = Ops.Sigmoid x
    let tanh (x: Tensor) : Tensor = Ops.Tanh x
    let cos (x: Tensor) : Tensor = Ops.Cos x
    let softplus (x: Tensor) : Tensor = Ops.Softplus(x, 40.0)
    let relu (x: Tensor) : Tensor = Ops.Relu x
    let clamp (low: float) (high: float) (x: Tensor) : Tensor = Ops.Clamp(x, low, high)
    let maximum (a: Tensor) (b: Tensor) : Tensor = Ops.Maximum(a, b)
    let minimum (a: Tensor) (b: Tensor) : Tensor = Ops.Minimum(a, b)
    let where (condition: Tensor) (yes: Tensor) (no: Tensor) : Tensor = Ops.Where(condition, yes, no)
    let eq (a: Tensor) (b: Tensor) : Tensor = Ops.Eq(a, b)
    let eqNumber (number: float) (x: Tensor) : Tensor = Ops.EqScalar(x, number)
    let less (a: Tensor) (b: Tensor) : Tensor = Ops.Lt(a, b)
    let lessThanNumber (number: float) (x: Tensor) : Tensor = Ops.LtScalar(x, number)
    let logicalAnd (a: Tensor) (b: Tensor) : Tensor = Ops.And(a, b)
    let logicalNot (x: Tensor) : Tensor = Ops.Not x
    let isFinite (x: Tensor) : Tensor = Ops.IsFinite x

    // int64 multiplication wraps as that of uint64 does; the mask makes the arithmetic shift a logical one.
    let mix (x: Tensor) : Tensor =
        scope (fun () ->
            let shift (bits: int) z = Ops.And(Ops.ShiftRight(z, bits), Int64.MaxValue >>> (bits - 1))
            let turn bits factor z = Ops.MulWhole(Ops.Xor(z, shift bits z), int64 (factor: uint64))
            let z = Ops.AddWhole(x, int64 0x9E3779B97F4A7C15UL)
            let z = turn 30 0xBF58476D1CE4E5B9UL z |> turn 27 0x94D049BB133111EBUL
            shift 11 (Ops.Xor(z, shift 31 z))
        )

    let sum (x: Tensor) : Tensor = Ops.Sum x
    let sumOver (dim: int) (x: Tensor) : Tensor = Ops.Sum(x, dim)
    let mean (x: Tensor) : Tensor = Ops.Mean x
    let meanOver (dim: int) (x: Tensor) : Tensor = Ops.Mean(x, dim)
    let meanOverImage (x: Tensor) : Tensor = Ops.MeanPair(x, 2, 3)
    let max (x: Tensor) : Tensor = Ops.Max x
    let maxOver (dim: int) (x: Tensor) : Tensor = Ops.Max(x, dim)
    let min (x: Tensor) : Tensor = Ops.Min x
    let argMax (dim: int) (x: Tensor) : Tensor = Ops.ArgMax(x, dim)

    let topK (k: int) (dim: int) (x: Tensor) : struct (Tensor * Tensor) = Ops.TopK(x, k, dim)

    let all (x: Tensor) : Tensor = Ops.All x
    let any (x: Tensor) : Tensor = Ops.Any x
    let norm (x: Tensor) : Tensor = Ops.Norm x
    let softmax (dim: int) (x: Tensor) : Tensor = Ops.Softmax(x, dim)
    let logSoftmax (dim: int) (x: Tensor) : Tensor = Ops.LogSoftmax(x, dim)
    let logSumExp (dim: int) (x: Tensor) : Tensor = Ops.LogSumExp(x, dim)

    let private orNull (x: Tensor option) : Tensor | null = Option.toObj x

    let matmul (a: Tensor) (b: Tensor) : Tensor = Ops.MatMul(a, b)

    let linear (weight: Tensor) (bias: Tensor option) (x: Tensor) : Tensor =
        Ops.Linear(x, weight, orNull bias)

    let conv2d
        (stride: int)
        (padding: int)
        (groups: int)
        (weight: Tensor)
        (bias: Tensor option)
        (x: Tensor)
        : Tensor =
        Ops.Conv2d(x, weight, orNull bias, stride, padding, groups)

    let conv2dRelu
        (stride: int)
        (padding: int)
        (groups: int)
        (weight: Tensor)
        (bias: Tensor option)
        (x: Tensor)
        : Tensor =
        Ops.Conv2dRelu(x, weight, orNull bias, stride, padding, groups)

    let conv2dAddRelu
        (residual: Tensor)
        (stride: int)
        (padding: int)
        (groups: int)
        (weight: Tensor)
        (bias: Tensor option)
        (x: Tensor)
        : Tensor =
        Ops.Conv2dAddRelu(residual, x, weight, orNull bias, stride, padding, groups)

    let convTranspose2d
        (stride: int)
        (padding: int)
        (weight: Tensor)
        (bias: Tensor option)
        (x: Tensor)
        : Tensor =
        Ops.ConvTranspose2d(x, weight, orNull bias, stride, padding)

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
        // As PyTorch's own functions refuse it, above the operator.
        if training && count x = int64 (size 1 x) then
            let shape = shape x |> Array.map string |> String.concat ", "

            invalidArg
                (nameof x)
                $"batch normalisation in training needs 2 or more values a channel, got [{shape}]."

        Ops.BatchNorm(x, weight, bias, runningMean, runningVar, training, momentum, epsilon, relu)

    let batchNorm training momentum epsilon weight bias runningMean runningVar x =
        normalise false training momentum epsilon weight bias runningMean runningVar x

    let batchNormRelu training momentum epsilon weight bias runningMean runningVar x =
        normalise true training momentum epsilon weight bias runningMean runningVar x

    let maxPool2d (kernel: int) (stride: int) (padding: int) (x: Tensor) : Tensor =
        Ops.MaxPool2d(x, kernel, stride, padding)

    let avgPool2d (kernel: int) (stride: int) (padding: int) (x: Tensor) : Tensor =
        Ops.AvgPool2d(x, kernel, stride, padding)

    let dropout (share: float) (x: Tensor) : Tensor = Ops.Dropout(x, share)

    let shuffleChannels (groups: int) (x: Tensor) : Tensor =
        let shape = x.Shape
        let batch, channels, height, width = shape[0], shape[1], shape[2], shape[3]
        let groups = int64 groups
        let swapped apart = Ops.Transpose(apart, 1, 2)

        // Either way the channels come apart without a copy.
        if isChannelsLast x then
            let pixels = Ops.Permute(x, [| 0L; 2L; 3L; 1L |])
            let apart = Ops.Reshape(pixels, [| batch * height * width; groups; channels / groups |])
            let mixed = Ops.Reshape(swapped apart, [| batch; height; width; channels |])
            Ops.Permute(mixed, [| 0L; 3L; 1L; 2L |])
        else
            let apart = Ops.Reshape(x, [| batch; groups; channels / groups; height * width |])
            Ops.Reshape(swapped apart, shape)

    let lstm (weights: Tensor[]) (x: Tensor) : Tensor =
        scope (fun () ->
            let start = Ops.Zeros([| 1L; x.Size 1; weights[1].Size 1 |], x.DType, x.Device)
            Ops.Lstm(x, [| start; start |], weights)[0]
        )

    let crossEntropyEach (labels: Tensor) (logits: Tensor) : Tensor = Ops.CrossEntropy(logits, labels, false)
    let crossEntropy (labels: Tensor) (logits: Tensor) : Tensor = Ops.CrossEntropy(logits, labels, true)

    let reshape (shape: int64[]) (x: Tensor) : Tensor = Ops.Reshape(x, shape)
    let unsqueeze (dim: int) (x: Tensor) : Tensor = Ops.Unsqueeze(x, dim)
    let squeeze (dim: int) (x: Tensor) : Tensor = Ops.Squeeze(x, dim)
    let expand (shape: int64[]) (x: Tensor) : Tensor = Ops.Expand(x, shape)
    let transpose (first: int) (second: int) (x: Tensor) : Tensor = Ops.Transpose(x, first, second)
    let permute (dims: int64[]) (x: Tensor) : Tensor = Ops.Permute(x, dims)
    let flatten (first: int) (x: Tensor) : Tensor = Ops.Flatten(x, first)
    let cat (dim: int) (xs: Tensor list) : Tensor = Ops.Cat(Array.ofList xs, dim)
    let stack (dim: int) (xs: Tensor list) : Tensor = Ops.Stack(Array.ofList xs, dim)
    let select (dim: int) (index: int) (x: Tensor) : Tensor = Ops.Select(x, dim, int64 index)

    let slice (dim: int) (start: int) (stop: int) (x: Tensor) : Tensor =
        Ops.Slice(x, dim, int64 start, int64 stop)

    let indexSelect (dim: int) (index: Tensor) (x: Tensor) : Tensor = Ops.IndexSelect(x, dim, index)
    let gather (dim: int) (index: Tensor) (x: Tensor) : Tensor = Ops.Gather(x, dim, index)
    let padImage (amount: int) (x: Tensor) : Tensor = Ops.Pad(x, Array.create 4 (int64 amount))

    let copyInto (target: Tensor) (source: Tensor) : unit = Ops.CopyInto(target, source)
    let addInto (target: Tensor) (source: Tensor) : unit = Ops.AddInto(target, source)
    let reluInto (target: Tensor) : unit = Ops.ReluInto target
    let fillInto (target: Tensor) (value: float) : unit = Ops.FillInto(target, value)

    let rowsInto (target: Tensor) (index: Tensor) (source: Tensor) : unit =
        Ops.IndexCopyInto(target, 0, index, source)

    let foreachAdd (alpha: float) (a: Tensor[]) (b: Tensor[]) : Tensor[] = Ops.ForeachAdd(a, b, alpha)

    let foreachAddInto (alpha: float) (target: Tensor[]) (source: Tensor[]) : unit =
        Ops.ForeachAddInto(target, source, alpha)

    let foreachAddIntInto (number: int) (target: Tensor[]) : unit =
        Ops.ForeachAddNumberInto(target, int64 number)

    let foreachScaleInto (factor: float) (target: Tensor[]) : unit = Ops.ForeachMulInto(target, factor)

    let foreachAddMulInto (factor: float) (target: Tensor[]) (a: Tensor[]) (b: Tensor[]) : unit =
        Ops.ForeachAddMulInto(target, a, b, factor)

    let foreachAddDivInto (factor: float) (target: Tensor[]) (a: Tensor[]) (b: Tensor[]) : unit =
        Ops.ForeachAddDivInto(target, a, b, factor)

    let foreachMul (a: Tensor[]) (b: Tensor[]) : Tensor[] = Ops.ForeachMul(a, b)
    let foreachSqrt (x: Tensor[]) : Tensor[] = Ops.ForeachSqrt x

[<RequireQualifiedAccess>]
module Engine =
    let guarded (body: unit -> 'T) : 'T =
        try
            body ()
        with
        | :? EngineMissingException as missing ->
            Error.create
                Engine
                "the tensor engine is not ready"
                missing.Message
                "run: dotnet fsi build.fsx native (it installs libtorch where missing and builds the engine's shim)"
            |> Error.raise
        | :? TorchException as refused ->
            Error.create Engine "the tensor engine refused an operation" refused.Message "see: ctkd doctor"
            |> Error.raise

    let version () : string = guarded (fun () -> Runtime.Version)
    let configuration () : string = guarded (fun () -> Runtime.Configuration)
    let missingOperators () : string list = guarded (fun () -> List.ofSeq (Operator.Check()))
    let operators () : int = Operator.Count
    let hasOneDnn () : bool = guarded (fun () -> Runtime.HasOneDnn)

    let fuses () : bool = guarded (fun () -> Runtime.FusesConvolutions)
    let threads () : int = guarded (fun () -> Runtime.Threads)
    let setThreads (count: int) : unit = guarded (fun () -> Runtime.Threads <- count)
    let cudaDevices () : int = guarded (fun () -> Runtime.CudaDevices)
    let synchronize () : unit = Runtime.Synchronize()
    let records (device: Device) : bool = device <> Device.Cpu

    let record (device: Device) (rehearse: unit -> unit) (body: unit -> unit) : Result<Graph, string> =
        try
            Ok(Graph.Record(device, rehearse, body))
        with :? TorchException as refused ->
            Result.Error refused.Message

    let replay (graph: Graph) : unit = graph.Replay()
    let forget (graph: Graph) : unit = graph.Dispose()

    let cudaMemory (device: Device) : int64 = if device = Device.Cpu then 0L else Runtime.CudaMemory device

    let setTf32 (enabled: bool) : unit = Runtime.SetTf32 enabled
    let setDeterministic (enabled: bool) : unit = Runtime.SetDeterministic enabled

    let device (name: string) : Result<Device, Error> =
        let cuda (index: int) =
            let present = cudaDevices ()

            if index < present then
                Ok(Device.Cuda index)
            else
                let there = if present = 0 then "no CUDA device" else $"{present} CUDA device(s)"

                Result.Error(
                    Error.create
                        Usage
                        $"device '{name}' is not there: this engine sees {there}"
                        ""
                        "use --device cpu, or set LIBTORCH to a libtorch with CUDA and run: dotnet fsi build.fsx native"
                )

        match name with
        | "cpu" -> Ok Device.Cpu
        | "cuda" -> cuda 0
        | _ when name.StartsWith("cuda:", StringComparison.Ordinal) ->
            match Int32.TryParse(name.AsSpan 5) with
            | true, index when index >= 0 -> cuda index
            | _ -> Result.Error(Error.unknown "device" [ "cpu"; "cuda"; "cuda:0" ] name)
        | _ -> Result.Error(Error.unknown "device" [ "cpu"; "cuda"; "cuda:0" ] name)

    let generatorState (device: Device) : Tensor = Runtime.GeneratorState device

    let setGeneratorState (device: Device) (state: Tensor) : unit = Runtime.SetGeneratorState(device, state)

    let seed (device: Device) (seed: uint64) : unit = Runtime.Seed(device, seed)
