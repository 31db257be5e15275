namespace Ctkd.Fs

/// Expected calibration error (Guo, Pleiss, Sun and Weinberger 2017, arXiv:1706.04599, section 2): the difference
/// between a model's confidence and its accuracy. An image's confidence is its largest softmax probability. Bin m of
/// M = 15 contains the B_m images with confidence in ((m - 1) / M, m / M]; over N images
///
///     ECE = sum_m |B_m| / N * |accuracy(B_m) - mean confidence(B_m)|.
///
/// The three sums per bin stay on the device; reading the error waits for it.
[<ReferenceEquality>]
type internal Calibration = {
    Lower: Tensor
    Upper: Tensor
    /// float64 [3, bins]: images, sum of confidences and correct images per bin.
    Sums: Tensor
}

[<RequireQualifiedAccess>]
module internal Calibration =
    let bins = 15

    /// Creates empty sums.
    let start (device: Device) : Calibration =
        // The outermost edges are open: rounding may give a confidence of 1.0000000000000002.
        let edge (k: int) =
            if k = 0 then -infinity
            elif k = bins then infinity
            else float k / float bins

        let edges first =
            Tensor.ofFloats DType.Float64 [ bins ] (Array.init bins (fun m -> edge (m + first)))
            |> Tensor.toDevice device

        {
            Lower = edges 0
            Upper = edges 1
            Sums = Tensor.zeros DType.Float64 device [| 3L; int64 bins |]
        }

    /// Adds images: confidence and correctness (1 or 0), float64 [batch] each.
    let add (confidence: Tensor) (correct: Tensor) (calibration: Calibration) : unit =
        Tensor.scoped (fun () ->
            let column = Tensor.unsqueeze 1 confidence
            let above = Tensor.less calibration.Lower column
            let within = Tensor.less calibration.Upper column |> Tensor.logicalNot |> Tensor.logicalAnd above
            let ones = Tensor.zeros DType.Float64 (Tensor.device confidence) (Tensor.shape confidence)
            let rows = Tensor.stack 0 [ Tensor.addNumber 1.0 ones; confidence; correct ]
            Tensor.addInto calibration.Sums (Tensor.matmul rows (Tensor.toType DType.Float64 within))
        )

    /// Computes the error, 0 .. 1. Waits for the device.
    let error (calibration: Calibration) : float =
        let sums = Tensor.toFloats calibration.Sums |> Array.chunkBySize bins
        let images, confidence, correct = sums[0], sums[1], sums[2]
        (Array.map2 (fun a b -> abs (a - b)) correct confidence |> Array.sum) / Array.sum images
