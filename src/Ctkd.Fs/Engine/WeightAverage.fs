namespace Ctkd.Fs

/// The exponential moving average of weights over the steps of a run. After step t it is the mean of the weights after steps
/// 1 to t, weighted by decay^(t - i): s' = decay s + 1 and a' = a + (w - a) / s', with s = 0 before the first step. Late in a
/// run this is a' = decay a + (1 - decay) w, and early it holds nothing of the random start. Buffers (the running statistics
/// of batch normalisation, counters) are copied, as in torch.optim.swa_utils.AveragedModel.
[<RequireQualifiedAccess>]
module WeightAverage =
    let private weightsPrefix, private total = "weights/", "total"

    /// Where `weights` finds the weights among the average's tensors.
    let prefix: string = weightsPrefix

    /// The average before the first step: a copy of the weights under weights/NAME, and "total", the sum s, float64 [].
    let start (device: Device) (weights: Tree) : Tree =
        Tree.concat [
            weights |> Tree.map (fun _ w -> Tensor.detach w |> Tensor.clone) |> Tree.prefixed weightsPrefix
            Tree.ofSeq [ total, Tensor.zeros DType.Float64 device [||] ]
        ]

    /// <summary>Takes up the weights after a step, in place. Does not wait for the device.</summary>
    /// <param name="decay">In [0, 1).</param>
    /// <param name="weights">The weights: leaves of the gradient are averaged, buffers copied.</param>
    /// <param name="average">The tree of <c>start</c>.</param>
    let update (decay: float) (weights: Tree) (average: Tree) : unit =
        Autograd.noGrad (fun () ->
            Tensor.scoped (fun () ->
                let sum = Tree.find total average
                Tensor.copyInto sum (Tensor.scale decay sum |> Tensor.addNumber 1.0)
                let share = Tensor.full DType.Float64 (Tensor.device sum) 1.0 [||] / sum
                let averages = Tree.leaves average |> Array.truncate (Tree.count weights)

                let trained, buffers =
                    Array.zip averages (Tree.leaves weights) |> Array.partition (fun (_, w) -> w.requires_grad)

                for dtype, pairs in Array.groupBy (fst >> Tensor.dtype) trained do
                    Tensor.lerpInto (Tensor.toType dtype share) (Array.map snd pairs) (Array.map fst pairs)

                for target, source in buffers do
                    Tensor.copyInto target source
            )
        )

    /// The averaged weights, under the names of the weights.
    let weights (average: Tree) : Tree = Tree.under weightsPrefix average
