namespace Ctkd.Fs

/// What one image costs: multiply-accumulates of convolutions and linear layers, and the elements that batch
/// normalisations see. Layers of the user's own are not counted.
type Macs = {
    Convolution: int64
    Linear: int64
    Normalised: int64
} with

    /// Convolutions and linear layers: the usual convention.
    member m.Total: int64 = m.Convolution + m.Linear
    /// With four operations for each element that a batch normalisation sees, as the CTKD paper counts.
    member m.WithBatchNorm: int64 = m.Total + 4L * m.Normalised

    static member (+)(a: Macs, b: Macs) : Macs = {
        Convolution = a.Convolution + b.Convolution
        Linear = a.Linear + b.Linear
        Normalised = a.Normalised + b.Normalised
    }

    static member Zero: Macs = { Convolution = 0L; Linear = 0L; Normalised = 0L }

/// Counting multiply-accumulates from shapes alone.
[<RequireQualifiedAccess>]
module Macs =
    /// Those of one layer of a trace.
    let ofTraced (traced: Traced) : Macs =
        match traced.Layer with
        | Conv c -> {
            Macs.Zero with
                Convolution = Shapes.elements traced.Output * int64 (c.In / c.Groups * c.Kernel * c.Kernel)
          }
        | Linear d -> { Macs.Zero with Linear = int64 d.In * int64 d.Out }
        | BatchNorm _ -> { Macs.Zero with Normalised = Shapes.elements traced.Input }
        | _ -> Macs.Zero

    /// Those of a layer for one image of the given shape.
    let ofLayer (input: int list) (layer: Layer) : Macs =
        Shapes.trace layer input |> fst |> List.sumBy ofTraced
