namespace Ctkd.Fs

/// The cost of one image: multiply-accumulates of convolutions and linear layers, and the number of elements that batch
/// normalisations process. User-defined layers are not counted.
type Macs = {
    Convolution: int64
    Linear: int64
    Normalised: int64
} with

    /// Convolutions and linear layers: the usual convention.
    member m.Total: int64 = m.Convolution + m.Linear
    /// Adds four operations per batch-normalised element, as in the CTKD paper.
    member m.WithBatchNorm: int64 = m.Total + 4L * m.Normalised

    static member (+)(a: Macs, b: Macs) : Macs = {
        Convolution = a.Convolution + b.Convolution
        Linear = a.Linear + b.Linear
        Normalised = a.Normalised + b.Normalised
    }

    static member Zero: Macs = { Convolution = 0L; Linear = 0L; Normalised = 0L }

/// Counts multiply-accumulates from shapes alone.
[<RequireQualifiedAccess>]
module Macs =
    /// Counts those of one traced layer.
    let ofTraced (traced: Traced) : Macs =
        match traced.Layer with
        | Conv c -> {
            Macs.Zero with
                Convolution = Shapes.elements traced.Output * int64 (c.In / c.Groups * c.Kernel * c.Kernel)
          }
        | Linear d -> { Macs.Zero with Linear = int64 d.In * int64 d.Out }
        | BatchNorm _ -> { Macs.Zero with Normalised = Shapes.elements traced.Input }
        | _ -> Macs.Zero

    /// Counts those of a layer for one image of the given shape.
    let ofLayer (input: int list) (layer: Layer) : Macs = Shapes.trace layer input |> fst |> List.sumBy ofTraced
