namespace Ctkd.Fs

/// Residual networks for small images (He et al. 2016, section 4.2), as RepDistiller, CTKD and mdistiller have them.
[<RequireQualifiedAccess>]
module ResNet =

    /// Two 3 x 3 convolutions beside a shortcut, which is a 1 x 1 convolution where the shape changes.
    let private basicBlock (name: string) (stride: int) (inputs: int) (outputs: int) : Layer =
        let body = [
            Layer.conv $"{name}.conv1" 3 stride inputs outputs
            Layer.batchNorm $"{name}.bn1" outputs
            Relu
            Layer.conv $"{name}.conv2" 3 1 outputs outputs
            Layer.batchNorm $"{name}.bn2" outputs
        ]

        let shortcut =
            if stride = 1 && inputs = outputs then
                []
            else
                [
                    Layer.conv $"{name}.downsample.0" 1 stride inputs outputs
                    Layer.batchNorm $"{name}.downsample.1" outputs
                ]

        Block(Sequence [ Residual(Sequence body, Sequence shortcut); Relu ])

    let private stage (index: int) (blocks: int) (inputs: int) (outputs: int) : Layer list =
        List.init
            blocks
            (fun i ->
                let stride = if i = 0 && index > 1 then 2 else 1
                basicBlock $"layer{index}.{i}" stride (if i = 0 then inputs else outputs) outputs
            )
        @ [ Tap ]

    /// The network of the given depth (6 n + 2) with the widths of its stem and three stages.
    /// Features: stem, then the three stages, each after its ReLU.
    let create (name: string) (depth: int) (widths: int list) (classes: int) : Model =
        if depth < 8 || (depth - 2) % 6 <> 0 then
            invalidArg (nameof depth) $"the depth must be 6 n + 2 with n >= 1, got {depth}."

        let blocks = (depth - 2) / 6
        let stem = widths.Head

        let stages =
            List.pairwise widths |> List.mapi (fun i (inputs, outputs) -> stage (i + 1) blocks inputs outputs)

        {
            Name = name
            Classes = classes
            Body =
                Sequence(
                    [
                        Block(Sequence [ Layer.conv "conv1" 3 1 3 stem; Layer.batchNorm "bn1" stem; Relu ])
                        Tap
                    ]
                    @ List.concat stages
                    @ [ GlobalPool ]
                )
            Classifier = Layer.dense "fc" (List.last widths) classes
            Convolutions = KaimingNormalFanOut
        }
