namespace Ctkd.Fs

/// The initial values of a module of the program's own, which draws them itself.
[<ReferenceEquality>]
type ModuleStart = {
    /// All values in row-major order by the tensors' names, from a key.
    Draw: uint64 -> Map<string, float32[]>
}

/// The initial values of a parameter.
[<NoComparison>]
type Initial =
    /// The same number everywhere.
    | Fill of float
    /// N(0, 2 / fan-out): He et al. 2015, for layers followed by ReLU.
    | KaimingNormalFanOut
    /// N(0, deviation^2).
    | Normal of deviation: float
    /// Uniform in +-1 / sqrt(fan-in): PyTorch's default for convolutions, linear layers and their biases.
    | UniformFanIn of fanIn: int
    /// Those that the module draws: all tensors of it under one key.
    | FromModule of ModuleStart

/// The initial values of a family's parameters, as functions of the layer's fan-in.
[<NoComparison; NoEquality>]
type Starts = {
    Convolution: int -> Initial
    ConvolutionBias: int -> Initial
    Linear: int -> Initial
    LinearBias: int -> Initial
}

/// The initial values of the published models. Batch normalisations always start with scale 1 and shift 0.
[<RequireQualifiedAccess>]
module Starts =
    /// PyTorch's defaults.
    let pyTorch: Starts = {
        Convolution = UniformFanIn
        ConvolutionBias = UniformFanIn
        Linear = UniformFanIn
        LinearBias = UniformFanIn
    }

    /// For residual networks: convolutions followed by ReLU.
    let kaiming: Starts = { pyTorch with Convolution = fun _ -> KaimingNormalFanOut }

    /// As `kaiming`, with zero biases; `linear` gives the initial values of the classifier's weights.
    let kaimingZeroBias (linear: int -> Initial) : Starts = {
        Convolution = fun _ -> KaimingNormalFanOut
        ConvolutionBias = fun _ -> Fill 0.0
        Linear = linear
        LinearBias = fun _ -> Fill 0.0
    }

/// A tensor that a model, policy or distiller requires.
[<NoComparison>]
type Declaration = {
    Name: string
    Shape: int list
    Initial: Initial
    /// Whether it is trained. Buffers (running statistics, counters) are state, but not trained.
    Trained: bool
}
