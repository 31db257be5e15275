namespace Ctkd.Fs

/// How a parameter starts.
type Initial =
    /// The same number everywhere.
    | Fill of float
    /// N(0, 2 / fan-out): He et al. 2015, for layers followed by ReLU.
    | KaimingNormalFanOut
    /// N(0, deviation^2).
    | Normal of deviation: float
    /// Uniform in +-1 / sqrt(fan-in): PyTorch's default for convolutions, linear layers and their biases.
    | UniformFanIn of fanIn: int

/// How the parameters of a family of networks start; each is asked with the fan-in of its layer.
[<NoComparison; NoEquality>]
type Starts = {
    Convolution: int -> Initial
    ConvolutionBias: int -> Initial
    Linear: int -> Initial
    LinearBias: int -> Initial
}

/// The starts that the published models have. Batch normalisations begin with scale 1 and shift 0 in all of them.
[<RequireQualifiedAccess>]
module Starts =
    /// PyTorch's defaults.
    let pyTorch: Starts = {
        Convolution = UniformFanIn
        ConvolutionBias = UniformFanIn
        Linear = UniformFanIn
        LinearBias = UniformFanIn
    }

    /// Residual networks: convolutions for the ReLU behind them.
    let kaiming: Starts = { pyTorch with Convolution = fun _ -> KaimingNormalFanOut }

    /// As `kaiming`, with biases of zero; `linear` says how the classifier's weights start.
    let kaimingZeroBias (linear: int -> Initial) : Starts = {
        Convolution = fun _ -> KaimingNormalFanOut
        ConvolutionBias = fun _ -> Fill 0.0
        Linear = linear
        LinearBias = fun _ -> Fill 0.0
    }

/// A tensor that a model, policy or distiller asks for.
type Declaration = {
    Name: string
    Shape: int list
    Initial: Initial
    /// Buffers (running statistics, counters) are part of the state and not trained.
    Trained: bool
}
