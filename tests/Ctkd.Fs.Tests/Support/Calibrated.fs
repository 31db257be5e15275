/// Networks that behave like trained ones, and differences between their outputs.
module Ctkd.Fs.Tests.Calibrated

open System
open Ctkd.Fs
open Ctkd.Fs.Tests.Golden

/// Images of noise on different colours. With noise alone a network's last maps, which average many pixels, would be
/// almost equal for all images, and their small differences mostly rounding.
let images (dtype: DType) (key: string) (count: int) (height: int) (width: int) : Tensor =
    probe dtype key [ count; 3; height; width ] 1.0 0.0
    + probe dtype (key + " colours") [ count; 3; 1; 1 ] 2.0 0.0

/// Weights by formula, with running statistics measured on images of the given size. With statistics by formula the
/// signal of a deep network vanishes, and all images have the same logits.
let weights (dtype: DType) (size: int) (model: Model) : Tree =
    let weights = weights dtype "" model

    let named (suffix: string) = weights |> Tree.filter _.EndsWith(suffix) |> Tree.leaves
    let means, variances = named "running_mean", named "running_var"

    // A remainder of the start prevents channels that hardly vary on these images from amplifying rounding errors.
    means |> Array.iter (fun mean -> Tensor.fillInto mean 0.0)
    variances |> Array.iter (fun variance -> Tensor.fillInto variance 0.01)

    Tensor.scoped (fun () ->
        let images = images dtype "calibration" 8 size size
        Autograd.noGrad (fun () -> Model.forward { model with Dropout = 0.0 } true weights images) |> ignore
    )

    // Training moves them by a tenth of the difference.
    for statistic in Array.append means variances do
        Tensor.scoped (fun () -> Tensor.scale 10.0 statistic |> Tensor.copyInto statistic)

    weights

/// The largest difference relative to the rms of the expected values; infinite if that is meaningless.
let difference (expected: float[]) (actual: float[]) : float =
    if expected.Length <> actual.Length || Array.exists Double.IsNaN actual then
        infinity
    else
        (Array.map2 (fun a b -> abs (a - b)) expected actual |> Array.fold max 0.0) / rms expected

/// The variation of a batch's outputs between its images, relative to their rms.
let variety (images: int) (outputs: float[]) : float =
    let centred (values: float[]) =
        let mean = Array.average values
        Array.map (fun x -> x - mean) values

    let each = outputs |> Array.chunkBySize (outputs.Length / images) |> Array.transpose
    rms (Array.collect centred each) / rms outputs
