namespace Ctkd.Fs

/// MobileNets: depthwise 3 x 3 convolutions between 1 x 1 convolutions (Howard et al. 2017, Sandler et al. 2018).
[<RequireQualifiedAccess>]
module MobileNet =

    /// The parts of the inverted residual by PyTorch's numbers: the expanding, depthwise and projecting convolution,
    /// each with its batch normalisation.
    type private Names = {
        Expand: string * string
        Depthwise: string * string
        Project: string * string
    }

    let private inverted (activation: Layer) (expandAlways: bool) names t stride inputs outputs : Layer =
        let width = inputs * t

        let expand = [
            Layer.conv (fst names.Expand) 1 1 inputs width
            Layer.batchNorm (snd names.Expand) width
            activation
        ]

        let body =
            Sequence(
                (if t > 1 || expandAlways then expand else [])
                @ [
                    Layer.depthwiseConv (fst names.Depthwise) stride width
                    Layer.batchNorm (snd names.Depthwise) width
                    activation
                    Layer.conv (fst names.Project) 1 1 width outputs
                    Layer.batchNorm (snd names.Project) outputs
                ]
            )

        Block(if stride = 1 && inputs = outputs then Residual(body, Layer.identity) else body)

    /// A convolution, its batch normalisation and its activation.
    let private convolved (activation: Layer) name norm kernel stride inputs outputs : Layer =
        Block(Sequence [ Layer.conv name kernel stride inputs outputs; Layer.batchNorm norm outputs; activation ])

    /// Table 2 of the paper: expansion, channels, blocks, stride of the first block.
    let private table (secondStride: int) = [
        1, 16, 1, 1
        6, 24, 2, secondStride
        6, 32, 3, 2
        6, 64, 4, 2
        6, 96, 3, 1
        6, 160, 3, 2
        6, 320, 1, 1
    ]

    /// Returns the blocks of the table by line, and the width after them: `block line index t stride inputs outputs`.
    let private lines (scale: int -> int) stem rows block : Layer list list =
        rows
        |> List.indexed
        |> List.mapFold
            (fun inputs (line, (t, channels, blocks, stride)) ->
                let outputs = scale channels

                let layers =
                    List.init
                        blocks
                        (fun i ->
                            let stride = if i = 0 then stride else 1
                            block line i t stride (if i = 0 then inputs else outputs) outputs
                        )

                layers, outputs
            )
            stem
        |> fst

    /// Adds a tap after the lines with 24, 32, 96 and 320 channels, whose features are used.
    let private tapped (lines: Layer list list) : Layer list =
        lines
        |> List.mapi (fun line layers -> if List.contains line [ 1; 2; 4; 6 ] then layers @ [ Tap ] else layers)
        |> List.concat

    /// Version 2 for 32 x 32 images, half as wide, as in the distillation literature: ReLU instead of ReLU6, the first
    /// convolution halves the image, the second line does not. Features: stem and four of the lines.
    let small2 (name: string) (classes: int) : Model =
        let half channels = channels / 2

        let block line i =
            let names at = $"blocks.{line}.{i}.conv.{at}", $"blocks.{line}.{i}.conv.{at + 1}"
            inverted Relu true { Expand = names 0; Depthwise = names 3; Project = names 6 }

        {
            Name = name
            Classes = classes
            Body =
                Sequence(
                    [ convolved Relu "conv1.0" "conv1.1" 3 2 3 16; Tap ]
                    @ tapped (lines half 16 (table 1) block)
                    @ [ convolved Relu "conv2.0" "conv2.1" 1 1 160 1280; GlobalPool ]
                )
            Classifier = Layer.dense "classifier.0" 1280 classes
            Dropout = 0.0
            Starts = Starts.kaimingZeroBias (fun _ -> Normal 0.01)
        }

    /// Version 2 for 224 x 224 images as in torchvision. Features: stem and four of the lines.
    let imageNet2 (name: string) (classes: int) : Model =
        let rows = table 2
        let before line = rows |> List.take line |> List.sumBy (fun (_, _, blocks, _) -> blocks)

        let block line i t =
            let at = $"features.{1 + before line + i}.conv"

            let names =
                if t = 1 then
                    {
                        Expand = "", ""
                        Depthwise = $"{at}.0.0", $"{at}.0.1"
                        Project = $"{at}.1", $"{at}.2"
                    }
                else
                    {
                        Expand = $"{at}.0.0", $"{at}.0.1"
                        Depthwise = $"{at}.1.0", $"{at}.1.1"
                        Project = $"{at}.2", $"{at}.3"
                    }

            inverted Relu6 false names t

        {
            Name = name
            Classes = classes
            Body =
                Sequence(
                    [ convolved Relu6 "features.0.0" "features.0.1" 3 2 3 32; Tap ]
                    @ tapped (lines id 32 rows block)
                    @ [ convolved Relu6 "features.18.0" "features.18.1" 1 1 320 1280; GlobalPool ]
                )
            Classifier = Layer.dense "classifier.1" 1280 classes
            Dropout = 0.2
            Starts = Starts.kaimingZeroBias (fun _ -> Normal 0.01)
        }

    /// Version 1 for 224 x 224 images as in mdistiller. Features: the maps with 128, 256, 512 and 1024 channels.
    let imageNet1 (name: string) (classes: int) : Model =
        let widths = [ 32; 64; 128; 128; 256; 256; 512; 512; 512; 512; 512; 512; 1024; 1024 ]

        let separable index (inputs, outputs) = [
            Block(
                Sequence [
                    Layer.depthwiseConv $"model.{index}.0" (if inputs <> outputs && inputs > 32 then 2 else 1) inputs
                    Layer.batchNorm $"model.{index}.1" inputs
                    Relu
                    Layer.conv $"model.{index}.3" 1 1 inputs outputs
                    Layer.batchNorm $"model.{index}.4" outputs
                    Relu
                ]
            )
            if List.contains index [ 3; 5; 11; 13 ] then Tap
        ]

        {
            Name = name
            Classes = classes
            Body =
                Sequence(
                    convolved Relu "model.0.0" "model.0.1" 3 2 3 32
                    :: (List.pairwise widths |> List.mapi (fun i widths -> separable (i + 1) widths) |> List.concat)
                    @ [ GlobalPool ]
                )
            Classifier = Layer.dense "fc" 1024 classes
            Dropout = 0.0
            Starts = Starts.pyTorch
        }
