namespace Ctkd.Fs

/// What an agent sees of a batch before it decides its temperatures; nothing of it carries gradient.
[<ReferenceEquality>]
type Observation = {
    /// From 1.
    Epoch: int
    /// Batches done in the epoch.
    Step: int
    /// Logits [batch, classes].
    Teacher: Tensor
    Student: Tensor
    /// int64 [batch].
    Labels: Tensor
    /// Positions of the images in the training set: int64 [batch].
    Index: Tensor
    /// The epoch's images are mixed as this says; None: they are as they are.
    Blend: Blend option
    /// A random number of the step, int64 []: the key of whatever is drawn.
    Key: Tensor
}

/// An epoch's training images with some of them mixed.
and [<ReferenceEquality>] Blend = {
    /// uint8 [N, C, H, W].
    Images: Tensor
    /// The second label of each image, int64 [N], and the weight of its own one, [N]; 1 where it is not mixed.
    Other: Tensor
    Weight: Tensor
    /// Whether an image is as it was, [N].
    Clean: Tensor
}

/// What decides temperatures by experience and not by gradient. Its state is a tree of tensors, updated in place and
/// stored in checkpoints; that it has a batch to learn from is known from the step's number. Nothing here waits for the
/// device but `Report`.
[<NoComparison; NoEquality>]
type Agent = {
    /// A fresh state for so many training images in batches of so many.
    Start: int -> int -> DType -> Device -> Rng -> Tree
    /// Learns from what the batch shows of the one before, and decides: T [batch], or None for the policy's
    /// scheduled T. Batches of an epoch have the size of the start, but the last, which may be smaller.
    Decide: Tree -> Observation -> Tensor option
    /// State, epoch, step, images and labels of the whole set to the set as the epoch sees it.
    Blend: Tree -> int -> int -> Tensor -> Tensor -> Blend option
    /// What the epoch so far says of the agent, by name. Waits for the device.
    Report: Tree -> Map<string, float>
}
