namespace Ctkd.Fs

/// A tensor of TorchSharp. Values live on a device; nothing here waits for it unless it says so.
type Tensor = TorchSharp.torch.Tensor

/// Element types: Float32, Float64, BFloat16, the integers (unsigned bytes are Byte) and Bool.
type DType = TorchSharp.torch.ScalarType

/// The CPU or one CUDA device.
type Device = Ctkd.Engine.Device

/// Recorded work of a device, a CUDA graph: one call replays all of it.
type Graph = Ctkd.Engine.CudaGraph

/// The seam: every operation that this library asks of a tensor engine. Above it nothing names the engine.
/// Configuration comes first and the tensor last; dimensions may be negative and count from the end then.
[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module Tensor =

    // ---- scopes -------------------------------------------------------------------------------------------------

    /// Frees every tensor made by the body but its result.
    val scope: body: (unit -> Tensor) -> Tensor

    /// Frees every tensor made by the body; the result must hold none.
    val scoped: body: (unit -> 'T) -> 'T

    /// Frees every tensor made by the body but those that `survivors` lists in its result.
    val scopeWith: survivors: ('T -> Tensor seq) -> body: (unit -> 'T) -> 'T

    /// Frees every tensor made by the body but those that `survivors` lists in its result: these belong to no scope, and live
    /// until they are freed.
    val unscoped: survivors: ('T -> Tensor seq) -> body: (unit -> 'T) -> 'T

    /// Number of tensors that the process holds.
    val live: unit -> int64

    /// Frees one tensor now.
    val free: x: Tensor -> unit

    // ---- making, reading ----------------------------------------------------------------------------------------

    /// float64 values as a tensor of the given type on the CPU, in row-major order.
    val ofFloats: dtype: DType -> shape: int list -> values: float[] -> Tensor

    /// float32 values as they are.
    val ofSingles: shape: int list -> values: float32[] -> Tensor

    /// int64 values as they are.
    val ofInt64s: shape: int list -> values: int64[] -> Tensor

    /// Raw little-endian bytes as a tensor.
    val ofBytes: dtype: DType -> shape: int64[] -> bytes: System.ReadOnlySpan<byte> -> Tensor

    /// A 0-d tensor.
    val scalar: dtype: DType -> device: Device -> value: float -> Tensor

    /// All zeros.
    val zeros: dtype: DType -> device: Device -> shape: int64[] -> Tensor

    /// All the same value.
    val full: dtype: DType -> device: Device -> value: float -> shape: int64[] -> Tensor

    /// The int64 numbers 0, 1, ..., count - 1.
    val arange: device: Device -> count: int -> Tensor

    /// The elements as float64 in row-major order. Waits for the device.
    val toFloats: x: Tensor -> float[]

    /// As float32 numbers. Waits for the device.
    val toSingles: x: Tensor -> float32[]

    /// The elements of an int64 tensor. Waits for the device.
    val toInt64s: x: Tensor -> int64[]

    /// The one element of a tensor. Waits for the device.
    val toFloat: x: Tensor -> float

    /// The elements as raw little-endian bytes in row-major order. Waits for the device.
    val toBytes: x: Tensor -> byte[]

    /// Lengths of the dimensions.
    val shape: x: Tensor -> int64[]

    /// Length of one dimension.
    val size: dim: int -> x: Tensor -> int

    /// Number of dimensions.
    val rank: x: Tensor -> int

    /// Number of elements.
    val count: x: Tensor -> int64

    /// Element type.
    val dtype: x: Tensor -> DType

    /// Where the tensor lives.
    val device: x: Tensor -> Device

    /// Converts the element type; the same tensor again when it has that type.
    val toType: dtype: DType -> x: Tensor -> Tensor

    /// Moves to a device; the same tensor again when it is there.
    val toDevice: device: Device -> x: Tensor -> Tensor

    /// Dense memory with the channels of an image [N, C, H, W] innermost.
    val channelsLast: x: Tensor -> Tensor

    /// Whether an image tensor is stored with its channels innermost.
    val isChannelsLast: x: Tensor -> bool

    /// A copy.
    val clone: x: Tensor -> Tensor

    /// The same values outside the graph: no gradient flows through.
    val detach: x: Tensor -> Tensor

    // ---- element by element, broadcasting -------------------------------------------------------------------------

    val add: a: Tensor -> b: Tensor -> Tensor
    val sub: a: Tensor -> b: Tensor -> Tensor
    val mul: a: Tensor -> b: Tensor -> Tensor
    val div: a: Tensor -> b: Tensor -> Tensor

    /// x + number.
    val addNumber: number: float -> x: Tensor -> Tensor

    /// x * number.
    val scale: number: float -> x: Tensor -> Tensor

    /// x + number, for integers.
    val addInt: number: int -> x: Tensor -> Tensor

    /// x * number, for integers.
    val mulInt: number: int -> x: Tensor -> Tensor

    val neg: x: Tensor -> Tensor
    val abs: x: Tensor -> Tensor
    val exp: x: Tensor -> Tensor
    val log: x: Tensor -> Tensor
    val sqrt: x: Tensor -> Tensor
    val sigmoid: x: Tensor -> Tensor
    val tanh: x: Tensor -> Tensor

    /// Cosine of an angle in radians.
    val cos: x: Tensor -> Tensor

    /// log(1 + exp x); x itself beyond 40, where the two are equal in float64.
    val softplus: x: Tensor -> Tensor

    val relu: x: Tensor -> Tensor

    /// Limited to [low, high].
    val clamp: low: float -> high: float -> x: Tensor -> Tensor

    /// The larger of the two, element by element.
    val maximum: a: Tensor -> b: Tensor -> Tensor

    /// The smaller of the two, element by element.
    val minimum: a: Tensor -> b: Tensor -> Tensor

    /// `yes` where the condition holds, else `no`.
    val where: condition: Tensor -> yes: Tensor -> no: Tensor -> Tensor

    val eq: a: Tensor -> b: Tensor -> Tensor
    val eqNumber: number: float -> x: Tensor -> Tensor
    val less: a: Tensor -> b: Tensor -> Tensor
    val lessThanNumber: number: float -> x: Tensor -> Tensor
    val logicalAnd: a: Tensor -> b: Tensor -> Tensor
    val logicalNot: x: Tensor -> Tensor
    val isFinite: x: Tensor -> Tensor

    /// The top 53 bits of `Rng`'s mixing function of every int64: the element k + i becomes
    /// `Rng.bits i { Key = k } >>> 11`.
    val mix: x: Tensor -> Tensor

    // ---- reductions -----------------------------------------------------------------------------------------------

    val sum: x: Tensor -> Tensor
    val sumOver: dim: int -> x: Tensor -> Tensor
    val mean: x: Tensor -> Tensor
    val meanOver: dim: int -> x: Tensor -> Tensor

    /// Mean over height and width: [N, C, H, W] -> [N, C].
    val meanOverImage: x: Tensor -> Tensor

    val max: x: Tensor -> Tensor
    val maxOver: dim: int -> x: Tensor -> Tensor
    val min: x: Tensor -> Tensor
    val argMax: dim: int -> x: Tensor -> Tensor

    /// The k largest values and their int64 indices, largest first.
    val topK: k: int -> dim: int -> x: Tensor -> struct (Tensor * Tensor)

    val all: x: Tensor -> Tensor
    val any: x: Tensor -> Tensor

    /// Euclidean norm of all elements.
    val norm: x: Tensor -> Tensor

    val softmax: dim: int -> x: Tensor -> Tensor
    val logSoftmax: dim: int -> x: Tensor -> Tensor
    val logSumExp: dim: int -> x: Tensor -> Tensor

    // ---- layers ---------------------------------------------------------------------------------------------------

    val matmul: a: Tensor -> b: Tensor -> Tensor

    /// x W^T + b, W [out, in].
    val linear: weight: Tensor -> bias: Tensor option -> x: Tensor -> Tensor

    /// Convolution of [N, C, H, W] with a weight [out, in / groups, k, k].
    val conv2d:
        stride: int ->
        padding: int ->
        groups: int ->
        weight: Tensor ->
        bias: Tensor option ->
        x: Tensor ->
            Tensor

    /// relu(conv x) in one pass over memory where the engine can: on the CPU with channels innermost in float32 and
    /// bfloat16. A weight in bfloat16 takes its input rounded.
    val conv2dRelu:
        stride: int ->
        padding: int ->
        groups: int ->
        weight: Tensor ->
        bias: Tensor option ->
        x: Tensor ->
            Tensor

    /// relu(residual + conv x), as `conv2dRelu`. The residual may be overwritten, and is then the result.
    val conv2dAddRelu:
        residual: Tensor ->
        stride: int ->
        padding: int ->
        groups: int ->
        weight: Tensor ->
        bias: Tensor option ->
        x: Tensor ->
            Tensor

    /// Transposed convolution of [N, C, H, W] with a weight [C, out, k, k].
    val convTranspose2d:
        stride: int -> padding: int -> weight: Tensor -> bias: Tensor option -> x: Tensor -> Tensor

    /// Batch normalisation; in training mode the running statistics are updated in place, and a channel needs 2 or more
    /// values: of one alone the running variance would become NaN.
    val batchNorm:
        training: bool ->
        momentum: float ->
        epsilon: float ->
        weight: Tensor ->
        bias: Tensor ->
        runningMean: Tensor ->
        runningVar: Tensor ->
        x: Tensor ->
            Tensor

    /// relu(batchNorm x), in the same passes over memory where the engine can.
    val batchNormRelu:
        training: bool ->
        momentum: float ->
        epsilon: float ->
        weight: Tensor ->
        bias: Tensor ->
        runningMean: Tensor ->
        runningVar: Tensor ->
        x: Tensor ->
            Tensor

    /// relu(residual + batchNorm x), likewise.
    val batchNormAddRelu:
        residual: Tensor ->
        training: bool ->
        momentum: float ->
        epsilon: float ->
        weight: Tensor ->
        bias: Tensor ->
        runningMean: Tensor ->
        runningVar: Tensor ->
        x: Tensor ->
            Tensor

    val maxPool2d: kernel: int -> stride: int -> padding: int -> x: Tensor -> Tensor
    val avgPool2d: kernel: int -> stride: int -> padding: int -> x: Tensor -> Tensor

    /// Zero with probability `share`, divided by 1 - share elsewhere; drawn from the engine's own generator (`Engine.seed`).
    val dropout: share: float -> x: Tensor -> Tensor

    /// [N, C, H, W] with the channels transposed as (groups, C / groups).
    val shuffleChannels: groups: int -> x: Tensor -> Tensor

    /// A long short-term memory of one layer over a sequence [T, N, in], from zeros: the outputs [T, N, hidden].
    /// Weights [4 hidden, in], [4 hidden, hidden] and the biases [4 hidden] of both; gates in the order input,
    /// forget, cell, output.
    val lstm: weights: Tensor[] -> x: Tensor -> Tensor

    /// -log softmax(logits)[label], one value an instance [N] (not reduced).
    val crossEntropyEach: labels: Tensor -> logits: Tensor -> Tensor

    /// Mean over the instances of -log softmax(logits)[label].
    val crossEntropy: labels: Tensor -> logits: Tensor -> Tensor

    // ---- shapes and selection ---------------------------------------------------------------------------------------

    val reshape: shape: int64[] -> x: Tensor -> Tensor
    val unsqueeze: dim: int -> x: Tensor -> Tensor
    val squeeze: dim: int -> x: Tensor -> Tensor
    val expand: shape: int64[] -> x: Tensor -> Tensor
    val transpose: first: int -> second: int -> x: Tensor -> Tensor
    val permute: dims: int64[] -> x: Tensor -> Tensor

    /// Merges all dimensions from `first` on into one.
    val flatten: first: int -> x: Tensor -> Tensor

    val cat: dim: int -> xs: Tensor list -> Tensor
    val stack: dim: int -> xs: Tensor list -> Tensor
    val select: dim: int -> index: int -> x: Tensor -> Tensor

    /// Elements start .. stop - 1 of one dimension.
    val slice: dim: int -> start: int -> stop: int -> x: Tensor -> Tensor

    val indexSelect: dim: int -> index: Tensor -> x: Tensor -> Tensor
    val gather: dim: int -> index: Tensor -> x: Tensor -> Tensor

    /// Pads height and width of an image by zeros on every side.
    val padImage: amount: int -> x: Tensor -> Tensor

    // ---- in place: the engine of an interface of values -----------------------------------------------------------

    val copyInto: target: Tensor -> source: Tensor -> unit
    val addInto: target: Tensor -> source: Tensor -> unit
    val reluInto: target: Tensor -> unit
    val fillInto: target: Tensor -> value: float -> unit

    /// Overwrites the rows of the target that the index lists; rows listed twice must have equal sources.
    val rowsInto: target: Tensor -> index: Tensor -> source: Tensor -> unit

    /// target[i] <- target[i] + number, for integers of one type.
    val addIntInto: number: int -> targets: Tensor[] -> unit

    /// One step of stochastic gradient descent for all tensors in place, see `Sgd`. The rate is a 0-d tensor; without
    /// momentum the velocities stay as they are.
    val sgdInto:
        momentum: float ->
        weightDecay: float ->
        nesterov: bool ->
        rate: Tensor ->
        gradients: Tensor[] ->
        velocities: Tensor[] ->
        parameters: Tensor[] ->
            unit

    /// One step of Adam for all tensors in place, see `Adam`. `step` counts from 1, float32 [].
    val adamInto:
        beta1: float ->
        beta2: float ->
        epsilon: float ->
        rate: float ->
        step: Tensor ->
        gradients: Tensor[] ->
        first: Tensor[] ->
        second: Tensor[] ->
        parameters: Tensor[] ->
            unit
