namespace Ctkd.Fs

/// Options of contrastive representation distillation; `Crd.published` has the usual values.
type CrdOptions = {
    /// Length of the embeddings.
    Width: int
    /// K, the negatives of each instance.
    Negatives: int
    /// Divides the scores, > 0.
    Temperature: float
    /// Weight of the old row in a memory update.
    Momentum: float
}

/// Contrastive representation distillation (Tian et al. 2020, arXiv:1910.10699, section 3.1): the student's embedding
/// of an image should identify the teacher's among those of K images of other classes, and vice versa.
///
/// Each side is scored against the other side's memory of all training images: P = exp(dot / 0.07) / Z, with Z fixed at
/// the first batch. With m = K and Pn = 1 / n the loss of a side is
/// -(sum log(P / (P + m Pn + eps)) + sum log(m Pn / (P + m Pn + eps))) / B.
/// With a = log P - log(m Pn + eps) the terms are softplus(-a), and softplus(a) up to a constant.
[<RequireQualifiedAccess>]
module Crd =
    let private epsilon = 1e-7

    let published: CrdOptions = { Width = 128; Negatives = 16384; Temperature = 0.07; Momentum = 0.5 }

    /// Computes the loss of one side, shape []: embeddings [batch, width] against a memory [n, width]. The contrast
    /// [batch, 1 + K] lists the rows, the positive first. Z (shape [], 0 before the first batch) is fixed in place.
    let side (options: CrdOptions) (z: Tensor) (memory: Tensor) (contrast: Tensor) (embedding: Tensor) : Tensor =
        let n, negatives = float (Tensor.size 0 memory), float (Tensor.size 1 contrast - 1)
        let noise = negatives / n

        // One product with the whole memory is far cheaper than gathering batch x (1 + K) rows.
        let scores =
            Tensor.matmul embedding (Tensor.transpose 0 1 memory)
            |> Tensor.gather 1 contrast
            |> Tensor.scale (1.0 / options.Temperature)

        let first = Tensor.detach scores |> Tensor.exp |> Tensor.mean |> Tensor.scale n
        Tensor.copyInto z (Tensor.where (Tensor.eqNumber 0.0 z) first z)
        let a = scores - Tensor.log (Tensor.scale (noise + epsilon) z)
        let columns start stop = Tensor.slice 1 start stop a
        let hits = columns 0 1 |> Tensor.neg |> Tensor.softplus |> Tensor.sumOver 1
        let misses = columns 1 (int negatives + 1) |> Tensor.softplus |> Tensor.sumOver 1
        Tensor.mean (hits + misses) |> Tensor.addNumber (negatives * log ((noise + epsilon) / noise))

    /// Moves the memory's rows towards the batch's embeddings and renormalises them. If an image occurs twice in the
    /// batch, the last instance counts.
    let remember (options: CrdOptions) (memory: Tensor) (index: Tensor) (embedding: Tensor) : unit =
        let rows =
            Tensor.scale options.Momentum (Tensor.indexSelect 0 index memory)
            + Tensor.scale (1.0 - options.Momentum) embedding
            |> Rows.normalise

        let same = Tensor.eq (Tensor.unsqueeze 1 index) (Tensor.unsqueeze 0 index)
        let position = Tensor.arange (Tensor.device index) (Tensor.size 0 index)
        let last = Tensor.toType DType.Int64 same * Tensor.unsqueeze 0 position |> Tensor.maxOver 1
        Tensor.rowsInto memory index (Tensor.indexSelect 0 last rows)

    /// Draws K images of other classes for each label, uniformly with repetition: [batch, K]. The table `order` lists
    /// the training images by class; those of a class are the `size` from `first` on.
    let negatives (count: int) (tables: Tree) (labels: Tensor) (key: Tensor) : Tensor =
        Tensor.scope (fun () ->
            let order = Tree.find "order" tables
            let ofLabel name = Tree.find name tables |> Tensor.indexSelect 0 labels |> Tensor.unsqueeze 1
            let first, size = ofLabel "first", ofLabel "size"
            let others = Tensor.toType DType.Float64 (Tensor.addInt (Tensor.size 0 order) -size)
            let shape = [| Tensor.count labels; int64 count |]
            let rank = Draws.uniform key shape * others |> Tensor.toType DType.Int64
            let rank = Tensor.where (Tensor.less rank first) rank (rank + size)
            Tensor.indexSelect 0 (Tensor.flatten 0 rank) order |> Tensor.reshape shape
        )

    /// Returns the positions of the training images by class, and the start and size of each class.
    let private tables (device: Device) (pair: ModelPair) : Tree =
        let size = Array.zeroCreate<int64> pair.Student.Classes
        pair.Labels |> Array.iter (fun label -> size[label] <- size[label] + 1L)
        let first = Array.scan (+) 0L size |> Array.truncate size.Length

        let order, next = Array.zeroCreate<int64> pair.Labels.Length, Array.copy first

        for i in 0 .. order.Length - 1 do
            let label = pair.Labels[i]
            order[int next[label]] <- int64 i
            next[label] <- next[label] + 1L

        let upload (values: int64[]) =
            Tensor.scope (fun () -> Tensor.ofInt64s [ values.Length ] values |> Tensor.toDevice device)

        Tree.ofSeq [ "order", upload order; "first", upload first; "size", upload size ]

    /// Draws uniformly from +-1 / sqrt(width / 3), so that rows have norm 1 on average.
    let private memory (options: CrdOptions) (pair: ModelPair) dtype (device: Device) (rng: Rng) : Tree =
        let rows side =
            Tensor.scope (fun () ->
                let bound = 1.0 / sqrt (float options.Width / 3.0)
                let shape = [| int64 pair.Labels.Length; int64 options.Width |]

                Draws.uniform (Draws.key device 0 (Rng.split side rng)) shape
                |> Tensor.scale (2.0 * bound)
                |> Tensor.addNumber -bound
                |> Tensor.toType dtype
            )

        let zero () = Tensor.zeros dtype device [||]

        Tree.concat [
            Tree.ofSeq [ "memory_student", rows "student"; "memory_teacher", rows "teacher" ]
            Tree.ofSeq [ "z_student", zero (); "z_teacher", zero () ]
            tables device pair
        ]

    let private embed (name: string) (state: Tree) (pooled: Tensor) : Tensor =
        pooled
        |> Tensor.linear (Tree.find $"{name}.weight" state) (Some(Tree.find $"{name}.bias" state))
        |> Rows.normalise

    /// Computes the loss of both sides for given negatives.
    let loss (options: CrdOptions) (state: Tree) (contrast: Tensor) (input: DistillerInput) : Tensor =
        let score own other embedding =
            side options (Tree.find $"z_{own}" state) (Tree.find $"memory_{other}" state) contrast embedding

        score "student" "teacher" (embed "embed_s" state input.Student.Pooled)
        + score "teacher" "student" (embed "embed_t" state input.Teacher.Pooled)

    let private rememberBatch (options: CrdOptions) (state: Tree) (input: DistillerInput) : unit =
        let move side embedding = remember options (Tree.find $"memory_{side}" state) input.Index embedding
        move "student" (embed "embed_s" state input.Student.Pooled)
        move "teacher" (embed "embed_t" state input.Teacher.Pooled)

    /// Creates the distiller on the pooled features. Memories and Z are part of the training state.
    let distiller (options: CrdOptions) (pair: ModelPair) : Result<Distiller, Error> =
        for name, value in [ nameof options.Width, options.Width; nameof options.Negatives, options.Negatives ] do
            if value < 1 then
                invalidArg (nameof options) $"{name} must be at least 1, got {value}."

        if not (options.Temperature > 0.0 && options.Momentum >= 0.0 && options.Momentum < 1.0) then
            invalidArg (nameof options) $"Temperature must be > 0 and Momentum in [0, 1), got {options}."

        let connectors =
            Sequence [
                Linear(Layer.dense "embed_s" pair.Student.Pooled options.Width)
                Linear(Layer.dense "embed_t" pair.Teacher.Pooled options.Width)
            ]

        if pair.Labels |> Array.distinct |> Array.length < 2 then
            ModelPair.refuse
                "crd"
                pair
                "its negatives are images of other classes, and all training images are of one"
                "train on images of two classes or more"
        else
            let contrast state (input: DistillerInput) =
                let drawn = negatives options.Negatives state input.Labels input.Key.Value
                Tensor.cat 1 [ Tensor.unsqueeze 1 input.Index; drawn ]

            Ok {
                Name = "crd"
                LooksAtMaps = false
                Fewest = 1
                Declares = Layer.declarations Starts.pyTorch connectors
                Memory = memory options pair
                Loss = fun state input -> loss options state (contrast state input) input
                Remember = rememberBatch options
            }
