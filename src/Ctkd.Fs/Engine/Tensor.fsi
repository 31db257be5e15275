namespace Ctkd.Fs

/// A TorchSharp tensor. Operations do not wait for its device unless documented.
type Tensor = TorchSharp.torch.Tensor

/// Element types: Float32, Float64, BFloat16, the integers (unsigned bytes are Byte) and Bool.
type DType = TorchSharp.torch.ScalarType

/// The CPU or one CUDA device.
type Device = Ctkd.Engine.Device

/// Recorded device work (a CUDA graph), replayed by one call.
type Graph = Ctkd.Engine.CudaGraph

/// All tensor operations that this library uses; no other file names the engine. Configuration comes first and the
/// tensor last; negative dimensions count from the end.
[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module Tensor =

    // ---- scopes -------------------------------------------------------------------------------------------------

    /// Frees every tensor that the body made, except its result.
    val scope: body: (unit -> Tensor) -> Tensor

    /// Frees every tensor that the body made; the result must hold none.
    val scoped: body: (unit -> 'T) -> 'T

    /// Frees every tensor that the body made, except those that `survivors` lists from its result.
    val scopeWith: survivors: ('T -> Tensor seq) -> body: (unit -> 'T) -> 'T

    /// As `scopeWith`, but the survivors belong to no scope: the caller must free them.
    val unscoped: survivors: ('T -> Tensor seq) -> body: (unit -> 'T) -> 'T

    /// Returns the number of tensors alive in the process.
    val live: unit -> int64

    /// Frees one tensor now.
    val free: x: Tensor -> unit

    // ---- creation and reading ---------------------------------------------------------------------------------------

    /// Creates a CPU tensor of the given type from float64 values in row-major order.
    val ofFloats: dtype: DType -> shape: int list -> values: float[] -> Tensor

    /// Creates a float32 CPU tensor.
    val ofSingles: shape: int list -> values: float32[] -> Tensor

    /// Creates an int64 CPU tensor.
    val ofInt64s: shape: int list -> values: int64[] -> Tensor

    /// Creates a CPU tensor from raw little-endian bytes.
    val ofBytes: dtype: DType -> shape: int64[] -> bytes: System.ReadOnlySpan<byte> -> Tensor

    /// Creates a 0-d tensor.
    val scalar: dtype: DType -> device: Device -> value: float -> Tensor

    /// Creates a tensor of zeros.
    val zeros: dtype: DType -> device: Device -> shape: int64[] -> Tensor

    /// Creates a tensor filled with `value`.
    val full: dtype: DType -> device: Device -> value: float -> shape: int64[] -> Tensor

    /// Returns the int64 numbers 0, 1, ..., count - 1.
    val arange: device: Device -> count: int -> Tensor

    /// Returns the elements as float64 in row-major order. Waits for the device.
    val toFloats: x: Tensor -> float[]

    /// Returns the elements as float32 in row-major order. Waits for the device.
    val toSingles: x: Tensor -> float32[]

    /// Returns the elements of an int64 tensor; other types raise `ArgumentException`. Waits for the device.
    val toInt64s: x: Tensor -> int64[]

    /// Returns the element of a one-element tensor. Waits for the device.
    val toFloat: x: Tensor -> float

    /// Returns the elements as raw little-endian bytes in row-major order. Waits for the device.
    val toBytes: x: Tensor -> byte[]

    /// Returns the lengths of all dimensions.
    val shape: x: Tensor -> int64[]

    /// Returns the length of one dimension.
    val size: dim: int -> x: Tensor -> int

    /// Returns the number of dimensions.
    val rank: x: Tensor -> int

    /// Returns the number of elements.
    val count: x: Tensor -> int64

    /// Returns the element type.
    val dtype: x: Tensor -> DType

    /// Returns the device that holds the tensor.
    val device: x: Tensor -> Device

    /// Converts to an element type; returns the same tensor if it already has that type.
    val toType: dtype: DType -> x: Tensor -> Tensor

    /// Copies to a device; returns the same tensor if it is already there.
    val toDevice: device: Device -> x: Tensor -> Tensor

    /// Makes an image tensor [N, C, H, W] dense with the channels innermost in memory.
    val channelsLast: x: Tensor -> Tensor

    /// Whether an image tensor has its channels innermost in memory.
    val isChannelsLast: x: Tensor -> bool

    /// Copies the tensor.
    val clone: x: Tensor -> Tensor

    /// Returns the same values without gradient flow.
    val detach: x: Tensor -> Tensor

    // ---- element-wise, broadcasting
    // ----------------------------------------------------------------------------------

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

    /// log(1 + exp x); returns x above 40, where both are equal in float64.
    val softplus: x: Tensor -> Tensor

    val relu: x: Tensor -> Tensor

    /// Limits to [low, high].
    val clamp: low: float -> high: float -> x: Tensor -> Tensor

    /// Element-wise maximum of two tensors.
    val maximum: a: Tensor -> b: Tensor -> Tensor

    /// Element-wise minimum of two tensors.
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

    /// The top 53 bits of `Rng`'s mixing function for each int64: the element k + i becomes
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
        stride: int -> padding: int -> groups: int -> weight: Tensor -> bias: Tensor option -> x: Tensor -> Tensor

    /// relu(conv x), in one pass over memory where the engine can: on the CPU in float32 and bfloat16, channels
    /// innermost. A bfloat16 weight rounds its input to bfloat16.
    val conv2dRelu:
        stride: int -> padding: int -> groups: int -> weight: Tensor -> bias: Tensor option -> x: Tensor -> Tensor

    /// relu(residual + conv x), as `conv2dRelu`. May overwrite the residual and return it.
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
    val convTranspose2d: stride: int -> padding: int -> weight: Tensor -> bias: Tensor option -> x: Tensor -> Tensor

    /// Batch normalisation. Training mode updates the running statistics in place and needs at least 2 values per
    /// channel: with one the running variance would become NaN.
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

    /// relu(batchNorm x), without extra passes over memory where the engine can.
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

    /// relu(residual + batchNorm x), as `batchNormRelu`.
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

    /// Zeroes with probability `share` and scales the rest by 1 / (1 - share). Draws from the engine's generator
    /// (`Engine.seed`).
    val dropout: share: float -> x: Tensor -> Tensor

    /// Transposes the channels of [N, C, H, W] as (groups, C / groups).
    val shuffleChannels: groups: int -> x: Tensor -> Tensor

    /// One-layer long short-term memory over a sequence [T, N, in] with zero initial state; returns the outputs
    /// [T, N, hidden]. Weights: [4 hidden, in], [4 hidden, hidden] and both biases [4 hidden], gates in the order
    /// input, forget, cell, output.
    val lstm: weights: Tensor[] -> x: Tensor -> Tensor

    /// -log softmax(logits)[label] per instance: [N], not reduced.
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

    /// Merges all dimensions from `first` on.
    val flatten: first: int -> x: Tensor -> Tensor

    val cat: dim: int -> xs: Tensor list -> Tensor
    val stack: dim: int -> xs: Tensor list -> Tensor
    val select: dim: int -> index: int -> x: Tensor -> Tensor

    /// Returns the elements start .. stop - 1 of one dimension.
    val slice: dim: int -> start: int -> stop: int -> x: Tensor -> Tensor

    val indexSelect: dim: int -> index: Tensor -> x: Tensor -> Tensor
    val gather: dim: int -> index: Tensor -> x: Tensor -> Tensor

    /// Pads height and width with `amount` zeros on every side.
    val padImage: amount: int -> x: Tensor -> Tensor

    /// Resizes images [N, C, H, W] to a height and width, bilinear with antialiasing: as PyTorch's `interpolate` with
    /// `antialias=True`, and PIL's BILINEAR before it rounds.
    val resizeImage: height: int -> width: int -> x: Tensor -> Tensor

    // ---- in place --------------------------------------------------------------------------------------------------

    val copyInto: target: Tensor -> source: Tensor -> unit
    val addInto: target: Tensor -> source: Tensor -> unit
    val reluInto: target: Tensor -> unit
    val fillInto: target: Tensor -> value: float -> unit

    /// Overwrites the target's rows listed in `index`; rows listed twice must have equal sources.
    val rowsInto: target: Tensor -> index: Tensor -> source: Tensor -> unit

    /// target[i] <- target[i] + number, for integers of one type.
    val addIntInto: number: int -> targets: Tensor[] -> unit

    /// Does one step of stochastic gradient descent for all tensors in place, see `Sgd`. The rate is a 0-d tensor.
    /// Without momentum the velocities do not change.
    val sgdInto:
        momentum: float ->
        weightDecay: float ->
        nesterov: bool ->
        rate: Tensor ->
        gradients: Tensor[] ->
        velocities: Tensor[] ->
        parameters: Tensor[] ->
            unit

    /// Does one step of Adam for all tensors in place, see `Adam`. `step` counts from 1, float32 [].
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

    /// Does one step of Adam with decoupled weight decay for all tensors in place, see `AdamW`. `step` counts from 1,
    /// float32 []; the rate is a 0-d tensor.
    val adamWInto:
        beta1: float ->
        beta2: float ->
        epsilon: float ->
        weightDecay: float ->
        rate: Tensor ->
        step: Tensor ->
        gradients: Tensor[] ->
        first: Tensor[] ->
        second: Tensor[] ->
        parameters: Tensor[] ->
            unit

    /// target[i] <- target[i] + share (source[i] - target[i]), shapes and types alike; exactly the source where the share
    /// is 1. The share is a 0-d tensor of the targets' type.
    val lerpInto: share: Tensor -> sources: Tensor[] -> targets: Tensor[] -> unit
