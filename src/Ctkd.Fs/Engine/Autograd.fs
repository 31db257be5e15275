namespace Ctkd.Fs

open Ctkd.Engine
open TorchSharp

/// Gradients as a pure function of a loss and its leaves, and the three ways to interfere with them.
[<RequireQualifiedAccess>]
module Autograd =

    /// A leaf: the same values, detached, of which gradients are wanted.
    let leaf (x: Tensor) : Tensor =
        let leaf = Tensor.detach x
        leaf.requires_grad <- true
        leaf

    /// Runs the body without recording; its results carry no gradient.
    let noGrad (body: unit -> 'T) : 'T =
        use _ = torch.no_grad ()
        body ()

    /// d loss / d leaf for each leaf, in one backward pass. On the leaves from the index `free` on the loss need
    /// not depend: they get zeros then, as a learned temperature does beside losses without a softmax.
    let gradientsOrZeros (free: int) (loss: Tensor) (leaves: Tensor[]) : Tensor[] =
        // What libtorch refuses here would end the process: TorchSharp passes no exception of it on.
        if loss.numel () <> 1L then
            invalidArg (nameof loss) $"a loss is one number, got {loss.numel ()} of them."

        if not loss.requires_grad then
            invalidOp $"the loss does not depend on any of the {leaves.Length} leaves"

        leaves
        |> Array.iteri (fun i leaf ->
            if not leaf.requires_grad then
                invalidOp $"leaf {i} is none: make it with Autograd.leaf"
        )

        let gradients = torch.autograd.grad ([| loss |], leaves, allow_unused = true)
        FusedNorm.Release()

        gradients
        |> Array.ofSeq
        |> Array.mapi (fun i gradient ->
            if not gradient.IsInvalid then
                gradient
            elif i >= free then
                let leaf = leaves[i]
                Tensor.zeros leaf.dtype (Tensor.device leaf) leaf.shape
            else
                invalidOp $"the loss does not depend on leaf {i} of {leaves.Length}"
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
