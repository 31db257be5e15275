namespace Ctkd.Fs

/// ShuffleNets: convolutions over groups of channels that are then mixed (Zhang et al. 2018, Ma et al. 2018).
[<RequireQualifiedAccess>]
module ShuffleNet =

    let private small (kernel: int) (stride: int) : Layer list = [
        Block(Sequence [ Layer.conv "conv1" kernel stride 3 24; Layer.batchNorm "bn1" 24; Relu ])
        Tap
    ]

    // ---- version 1

    /// Grouped 1 x 1, shuffle, depthwise 3 x 3, grouped 1 x 1. Stride 2 concatenates the averaged input instead of
    /// adding.
    let private unit1 (groups: int) (name: string) (stride: int) (inputs: int) (outputs: int) : Layer =
        let own = if stride = 2 then outputs - inputs else outputs
        let width = own / 4
        // The 24 channels after the stem are too few for groups.
        let first = if inputs = 24 then 1 else groups

        let body =
            Sequence [
                Layer.groupedConv first $"{name}.conv1" 1 1 inputs width
                Layer.batchNorm $"{name}.bn1" width
                Relu
                Shuffle first
                Layer.depthwiseConv $"{name}.conv2" stride width
                Layer.batchNorm $"{name}.bn2" width
                Relu
                Layer.groupedConv groups $"{name}.conv3" 1 1 width own
                Layer.batchNorm $"{name}.bn3" own
            ]

        let joined = if stride = 2 then Concat [ body; AvgPool(3, 2, 1) ] else Residual(body, Layer.identity)

        Block(Sequence [ joined; Relu ])

    // ---- version 2

    /// Names of a unit's convolutions and batch normalisations: two of the left branch, three of the right branch.
    type private Names = { Left: (string * string) list; Right: (string * string) list }

    let private normalised (convolution: string -> Layer) (width: int) (name: string, norm: string) : Layer list = [
        convolution name
        Layer.batchNorm norm width
    ]

    /// 1 x 1, depthwise 3 x 3, 1 x 1.
    let private right2 (stride: int) (inputs: int) (width: int) (names: (string * string) list) : Layer list =
        normalised (fun name -> Layer.conv name 1 1 inputs width) width names[0]
        @ [ Relu ]
        @ normalised (fun name -> Layer.depthwiseConv name stride width) width names[1]
        @ normalised (fun name -> Layer.conv name 1 1 width width) width names[2]
        @ [ Relu ]

    /// Passes half of the channels, convolves the other half, joins and shuffles them.
    let private unit2 (names: Names) (channels: int) : Layer =
        let half = channels / 2
        let convolved = Sequence(Channels(half, half) :: right2 1 half half names.Right)
        Block(Sequence [ Concat [ Channels(0, half); convolved ]; Shuffle 2 ])

    /// Convolves both branches at stride 2, joins and shuffles them.
    let private down2 (names: Names) (inputs: int) (outputs: int) : Layer =
        let half = outputs / 2

        let left =
            normalised (fun name -> Layer.depthwiseConv name 2 inputs) inputs names.Left[0]
            @ normalised (fun name -> Layer.conv name 1 1 inputs half) half names.Left[1]
            @ [ Relu ]

        Block(Sequence [ Concat [ Sequence left; Sequence(right2 2 inputs half names.Right) ]; Shuffle 2 ])

    let private stages2 (names: int -> int -> Names) (widths: int list) (blocks: int list) : Layer list =
        List.zip (List.pairwise (24 :: widths)) blocks
        |> List.mapi (fun stage ((inputs, outputs), blocks) ->
            down2 (names stage 0) inputs outputs
            :: List.init (blocks - 1) (fun i -> unit2 (names stage (i + 1)) outputs)
            @ [ Tap ]
        )
        |> List.concat

    // ---- networks

    let private model body classifier width name classes : Model = {
        Name = name
        Classes = classes
        Body = Sequence(body @ [ GlobalPool ])
        Classifier = Layer.dense classifier width classes
        Dropout = 0.0
        Starts = Starts.pyTorch
    }

    /// Version 1 with three groups for 32 x 32 images: a 1 x 1 stem. Features: stem and the three stages.
    let small1: string -> int -> Model =
        let widths, blocks = [ 240; 480; 960 ], [ 4; 8; 4 ]

        let stage index ((inputs, outputs), blocks) =
            List.init
                blocks
                (fun i ->
                    let name = $"layer{index + 1}.{i}"
                    if i = 0 then unit1 3 name 2 inputs outputs else unit1 3 name 1 outputs outputs
                )
            @ [ Tap ]

        let stages = List.zip (List.pairwise (24 :: widths)) blocks |> List.mapi stage |> List.concat
        model (small 1 1 @ stages) "linear" 960

    /// Version 2 with width 1 for 32 x 32 images: a 1 x 1 stem. Features: stem and the three stages.
    let small2: string -> int -> Model =
        let names stage i =
            let at n = $"layer{stage + 1}.{i}.conv{n}", $"layer{stage + 1}.{i}.bn{n}"

            if i = 0 then
                { Left = [ at 1; at 2 ]; Right = [ at 3; at 4; at 5 ] }
            else
                { Left = []; Right = [ at 1; at 2; at 3 ] }

        let last = Block(Sequence [ Layer.conv "conv2" 1 1 464 1024; Layer.batchNorm "bn2" 1024; Relu ])
        model (small 1 1 @ stages2 names [ 116; 232; 464 ] [ 4; 8; 4 ] @ [ last ]) "linear" 1024

    /// Version 2 for 224 x 224 images as in torchvision, by the widths of its stages and last convolution.
    /// Features: the stem after its max-pool, then the three stages.
    let imageNet2 (widths: int list) (last: int) : string -> int -> Model =
        let names stage i =
            let at branch n =
                let name = $"stage{stage + 2}.{i}.branch{branch}"
                $"{name}.{n}", $"{name}.{n + 1}"

            { Left = [ at 1 0; at 1 2 ]; Right = [ at 2 0; at 2 3; at 2 5 ] }

        let convolved name kernel stride inputs outputs =
            Block(
                Sequence [
                    Layer.conv $"{name}.0" kernel stride inputs outputs
                    Layer.batchNorm $"{name}.1" outputs
                    Relu
                ]
            )

        model
            ([ convolved "conv1" 3 2 3 24; MaxPool(3, 2, 1); Tap ]
             @ stages2 names widths [ 4; 8; 4 ]
             @ [ convolved "conv5" 1 1 (List.last widths) last ])
            "fc"
            last
