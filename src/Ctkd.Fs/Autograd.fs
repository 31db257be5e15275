namespace Ctkd.Fs

open System
open Ctkd.Torch

/// Gradients as a pure function of a loss and its leaves, and the three ways to interfere with them.
[<RequireQualifiedAccess>]
module Autograd =

    /// A leaf: the same values, detached, of which gradients are wanted.
    let leaf (x: Tensor) : Tensor =
        let leaf = Tensor.detach x
        leaf.RequiresGrad <- true
        leaf

    /// Runs the body without recording; its results carry no gradient.
    let noGrad (body: unit -> 'T) : 'T =
        let before = Autograd.SetEnabled false

        try
            body ()
        finally
            Autograd.SetEnabled before |> ignore

    /// d loss / d leaf for each leaf, in one backward pass. On the leaves from the index `free` on the loss need
    /// not depend: they get zeros then, as a learned temperature does beside losses without a softmax.
    let gradientsOrZeros (free: int) (loss: Tensor) (leaves: Tensor[]) : Tensor[] =
        Autograd.Gradients(ReadOnlySpan [| loss |], ReadOnlySpan leaves, false, false)
        |> Array.mapi (fun i gradient ->
            match gradient with
            | null when i >= free -> Tensor.zeros leaves[i].DType leaves[i].Device leaves[i].Shape
            | null -> invalidOp $"the loss does not depend on leaf {i} of {leaves.Length}"
            | gradient -> gradient
        )

    /// d loss / d leaf for each leaf, in one backward pass.
    /// Raises `InvalidOperationException` when the loss does not depend on a leaf: that is a mistake in a model or a loss.
    let gradients (loss: Tensor) (leaves: Tensor[]) : Tensor[] = gradientsOrZeros leaves.Length loss leaves

    /// The same values; no gradient flows through (Bengio's stop-gradient).
    let stopGradient (x: Tensor) : Tensor = Tensor.detach x

    /// Gradient reversal: the value of x to the bit, and the gradient times -strength.
    ///
    /// With d = stopGradient x the expression is d - strength (x - d): the bracket is exactly 0 and carries the gradient.
    /// `strength` (lambda) is >= 0, shape []. One descent step then lowers the loss for everything below the reversal and
    /// raises it for x: CTKD's min-max in one backward pass (Ganin and Lempitsky 2015, arXiv:1409.7495; CTKD, arXiv:2211.16231).
    let reverse (strength: Tensor) (x: Tensor) : Tensor =
        let d = stopGradient x
        d - strength * (x - d)

    /// Runs the body with the engine's automatic casts to bfloat16 (float32 elsewhere stays as it is).
    let bf16 (device: Device) (body: unit -> 'T) : 'T =
        let before = Autograd.SetAutocast(device, true, DType.BFloat16)

        try
            body ()
        finally
            Autograd.SetAutocast(device, before, DType.BFloat16) |> ignore
