namespace Ctkd.Fs

open Ctkd.Engine
open TorchSharp

/// Gradients as pure functions of a loss and its leaves, and the three ways to alter them.
[<RequireQualifiedAccess>]
module Autograd =

    /// Returns a detached copy of the values whose gradient is tracked.
    let leaf (x: Tensor) : Tensor =
        let leaf = Tensor.detach x
        leaf.requires_grad <- true
        leaf

    /// Runs the body without recording gradients.
    let noGrad (body: unit -> 'T) : 'T =
        use _ = torch.no_grad ()
        body ()

    /// Computes d loss / d leaf for each leaf in one backward pass. The loss may be independent of the leaves from
    /// index `free` on, whose gradients are then zeros: a learned temperature beside losses without a softmax.
    let gradientsOrZeros (free: int) (loss: Tensor) (leaves: Tensor[]) : Tensor[] =
        // libtorch would end the process here: TorchSharp does not translate this exception.
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

    /// Computes d loss / d leaf for each leaf in one backward pass.
    /// Raises `InvalidOperationException` if the loss does not depend on a leaf, which is a bug in a model or loss.
    let gradients (loss: Tensor) (leaves: Tensor[]) : Tensor[] = gradientsOrZeros leaves.Length loss leaves

    /// Returns the same values without gradient flow (Bengio's stop-gradient).
    let stopGradient (x: Tensor) : Tensor = Tensor.detach x

    /// Reverses gradients: returns the value of x exactly, and multiplies its gradient by -strength.
    ///
    /// Computed as d - strength (x - d) with d = stopGradient x: the bracket is exactly 0 and carries the gradient.
    /// `strength` (lambda) is >= 0, shape []. One descent step then lowers the loss for all parameters that do not act
    /// through x, and raises it for those that do: CTKD's min-max in one backward pass (Ganin and Lempitsky 2015,
    /// arXiv:1409.7495; CTKD, arXiv:2211.16231).
    let reverse (strength: Tensor) (x: Tensor) : Tensor =
        let d = stopGradient x
        d - strength * (x - d)
