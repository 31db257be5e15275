namespace Ctkd.Fs

/// A linear classifier of features that stay as they are, W x + b.
[<RequireQualifiedAccess>]
module LinearClassifier =

    /// The layer's names: classifier.weight and classifier.bias.
    let private layer (width: int) (classes: int) : Dense = Layer.dense "classifier" width classes

    /// The declarations of W [classes, D] and b [classes].
    let declarations (width: int) (classes: int) : Declaration list =
        Layer.declarations Starts.pyTorch (Linear(layer width classes))

    /// Logits [N, classes] of features [N, D].
    let logits (weights: Tree) (features: Tensor) : Tensor =
        let names = layer 1 1
        Tensor.linear (Tree.find names.Weight weights) (Some(Tree.find names.Bias weights)) features

    let private steps, rate = 300, 0.01
    let private adam = Optimiser.AdamW { AdamW.defaults with WeightDecay = 0.1 }

    /// <summary>
    /// Minimises the mean cross entropy over all rows by 300 steps of AdamW (rate 0.01, weight decay 0.1) from zeros, on
    /// features of mean 0 whose mean variance is 1; the scaling is then part of W and b. Nothing is random.
    /// </summary>
    /// <param name="classes">The number of classes.</param>
    /// <param name="features">Features, float32 [N, D].</param>
    /// <param name="labels">Classes, int64 [N].</param>
    /// <returns>W [classes, D] and b [classes], in the current scope.</returns>
    let train (classes: int) (features: Tensor) (labels: Tensor) : Tree =
        let names = layer (Tensor.size 1 features) classes
        let device = Tensor.device features
        let tensors (tree: Tree) = Tree.leaves tree |> Seq.ofArray

        Tensor.scopeWith
            tensors
            (fun () ->
                let mean = Tensor.meanOver 0 features
                let centred = features - mean
                // One scale for all: a feature that hardly varies in few images would else count most in others.
                let deviation = Tensor.mean (centred * centred) |> Tensor.addNumber 1e-12 |> Tensor.sqrt
                let scaled = centred / deviation

                let zeros (shape: int list) =
                    Tensor.zeros DType.Float32 device (shape |> List.map int64 |> Array.ofList)

                let start = Tree.ofSeq [ names.Weight, zeros [ names.Out; names.In ]; names.Bias, zeros [ names.Out ] ]
                let parameters = Tree.leaves start
                let state = Optimiser.start adam start |> Tree.leaves
                let rate = Tensor.scalar DType.Float32 device rate
                let isDecayed = Tree.names start |> List.takeWhile ((=) names.Weight) |> List.length

                for _ in 1..steps do
                    Tensor.scoped (fun () ->
                        let leaves = Tree.map (fun _ x -> Autograd.leaf x) start
                        let loss = Tensor.crossEntropy labels (logits leaves scaled)
                        let gradients = Autograd.gradients loss (Tree.leaves leaves)
                        Optimiser.step adam isDecayed rate gradients state parameters
                    )

                let weight, bias = Tree.find names.Weight start, Tree.find names.Bias start
                let folded = weight / deviation
                let shift = Tensor.linear folded None (Tensor.unsqueeze 0 mean) |> Tensor.squeeze 0
                Tree.ofSeq [ names.Weight, folded; names.Bias, bias - shift ]
            )
