namespace Ctkd.Fs

/// Merges batch normalisations into the convolutions before them: the same function for inference, in fewer operations.
[<RequireQualifiedAccess>]
module FoldBatchNorm =

    /// A convolution and the normalisation of its result.
    type private Pair = Convolution * Normalisation

    let private biasName (c: Convolution) : string =
        let suffix = ".weight"
        let ends = c.Weight.EndsWith(suffix, System.StringComparison.Ordinal)
        let path = if ends then c.Weight.Substring(0, c.Weight.Length - suffix.Length) else c.Weight
        defaultArg c.Bias (path + ".bias")

    /// Returns the layer with merged convolutions, and the merged pairs. `free` decides by their names whether two
    /// layers may be merged.
    let rec private merge (free: Convolution -> Normalisation -> bool) (layer: Layer) : Layer * Pair list =
        let each layers =
            let merged, pairs = layers |> List.map (merge free) |> List.unzip
            merged, List.concat pairs

        let rec run layers =
            match layers with
            | Conv c :: BatchNorm n :: rest when free c n ->
                let merged = { c with Bias = Some(biasName c) }
                let layers, pairs = run (Conv merged :: rest)
                layers, (c, n) :: pairs
            | first :: rest ->
                let first, pairs = merge free first
                let rest, others = run rest
                first :: rest, pairs @ others
            | [] -> [], []

        match layer with
        | Sequence layers ->
            let layers, pairs = run layers
            Sequence layers, pairs
        | Concat layers ->
            let layers, pairs = each layers
            Concat layers, pairs
        | Residual(body, shortcut) ->
            let body, ofBody = merge free body
            let shortcut, ofShortcut = merge free shortcut
            Residual(body, shortcut), ofBody @ ofShortcut
        | Block body ->
            let body, pairs = merge free body
            Block body, pairs
        | Conv _
        | BatchNorm _
        | Relu
        | Relu6
        | MaxPool _
        | AvgPool _
        | GlobalPool
        | Linear _
        | Channels _
        | Shuffle _
        | Tap
        | Custom _
        | Whole _ -> layer, []

    /// Weight and bias of the merged convolution per output channel: w' = w s and b' = shift + (b - mean) s, with
    /// s = scale / sqrt(variance + epsilon).
    let private values (find: string -> Tensor) (c: Convolution, n: Normalisation) : (string * Tensor) list =
        let exact name = find name |> Tensor.toType DType.Float64

        Tensor.scopeWith
            (Seq.map snd)
            (fun () ->
                let weight = find c.Weight
                let scale = exact n.Scale / Tensor.sqrt (exact n.Variance |> Tensor.addNumber Layer.epsilon)

                let bias =
                    match c.Bias with
                    | Some name -> exact name - exact n.Mean
                    | None -> Tensor.neg (exact n.Mean)

                let back x = Tensor.toType (Tensor.dtype weight) x

                [
                    c.Weight, exact c.Weight * Tensor.reshape [| -1L; 1L; 1L; 1L |] scale |> back
                    biasName c, exact n.Shift + bias * scale |> back
                ]
            )

    /// <summary>
    /// Merges each batch normalisation that directly follows a convolution in a <c>Sequence</c> into it, in float64.
    /// Keeps all others: before a convolution (wide ResNets), after a tap or a branch, or with tensors shared by
    /// layers.
    /// </summary>
    /// <param name="model">The network. The folded one cannot be trained: its statistics are constants.</param>
    /// <param name="weights">Its weights, with the running statistics that evaluation uses.</param>
    /// <returns>
    /// The network without those normalisations, and its weights in the order of its declarations, with their old
    /// types. Unchanged tensors are the given ones, not copies.
    /// </returns>
    let model (model: Model) (weights: Tree) : Model * Tree =
        let uses = Model.declarations model |> List.countBy _.Name |> Map.ofList
        let once name = Map.tryFind name uses = Some 1

        let free (c: Convolution) (n: Normalisation) =
            let bias = biasName c

            c.Out = n.Channels
            && (once bias || not (uses.ContainsKey bias))
            && List.forall once [ c.Weight; n.Scale; n.Shift; n.Mean; n.Variance ]

        let body, pairs = merge free model.Body
        let folded = { model with Body = body }

        let find changed name = Map.tryFind name changed |> Option.defaultWith (fun () -> Tree.find name weights)

        // In order: one convolution may be followed by several normalisations.
        let change changed pair =
            values (find changed) pair |> List.fold (fun changed (name, x) -> Map.add name x changed) changed

        let merged () =
            let changed = pairs |> List.fold change Map.empty

            Model.declarations folded
            |> List.map _.Name
            |> List.distinct
            |> List.map (fun name -> name, find changed name)
            |> Tree.ofSeq

        folded, Autograd.noGrad (fun () -> Tensor.scopeWith (Tree.leaves >> Seq.ofArray) merged)
