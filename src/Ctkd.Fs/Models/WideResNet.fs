namespace Ctkd.Fs

/// Wide residual networks (Zagoruyko and Komodakis 2016): batch normalisation and ReLU precede each convolution.
[<RequireQualifiedAccess>]
module WideResNet =

    /// Two pre-activated 3 x 3 convolutions. Where the width changes, the shortcut is a 1 x 1 convolution of the
    /// activated input, elsewhere the input itself.
    let private block (name: string) (stride: int) (inputs: int) (outputs: int) : Layer =
        let activate = [ Layer.batchNorm $"{name}.bn1" inputs; Relu ]

        let convolve = [
            Layer.conv $"{name}.conv1" 3 stride inputs outputs
            Layer.batchNorm $"{name}.bn2" outputs
            Relu
            Layer.conv $"{name}.conv2" 3 1 outputs outputs
        ]

        if inputs = outputs then
            Block(Residual(Sequence(activate @ convolve), Layer.identity))
        else
            let shortcut = Layer.conv $"{name}.convShortcut" 1 stride inputs outputs
            Block(Sequence(activate @ [ Residual(Sequence convolve, shortcut) ]))

    /// Creates the network of depth 6 n + 4 and widening factor k: stages of 16 k, 32 k and 64 k channels.
    /// Features: the stem's convolution and the stages' sums, before batch normalisation and ReLU.
    let create (depth: int) (widen: int) (name: string) (classes: int) : Model =
        if depth < 10 || (depth - 4) % 6 <> 0 then
            invalidArg (nameof depth) $"the depth must be 6 n + 4 with n >= 1, got {depth}."

        let blocks = (depth - 4) / 6
        let widths = [ 16; 16 * widen; 32 * widen; 64 * widen ]
        let last = List.last widths

        let stage index (inputs, outputs) =
            List.init
                blocks
                (fun i ->
                    let stride = if i = 0 && index > 0 then 2 else 1
                    block $"block{index + 1}.layer.{i}" stride (if i = 0 then inputs else outputs) outputs
                )
            @ [ Tap ]

        {
            Name = name
            Classes = classes
            Body =
                Sequence(
                    [ Layer.conv "conv1" 3 1 3 16; Tap ]
                    @ (List.pairwise widths |> List.mapi stage |> List.concat)
                    @ [ Block(Sequence [ Layer.batchNorm "bn1" last; Relu; GlobalPool ]) ]
                )
            Classifier = Layer.dense "fc" last classes
            Dropout = 0.0
            Starts = { Starts.kaiming with LinearBias = fun _ -> Fill 0.0 }
        }
