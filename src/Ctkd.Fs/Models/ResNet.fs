namespace Ctkd.Fs

/// Residual networks (He et al. 2016). For small images: three stages as in RepDistiller, CTKD and mdistiller
/// (section 4.2), or the four stages of the ImageNet networks after a 3 x 3 stem. For ImageNet: as in torchvision.
[<RequireQualifiedAccess>]
module ResNet =

    /// Makes a block's layers from its name, stride, input width and width. The result is `Expansion` times as wide.
    [<NoComparison; NoEquality>]
    type private BlockKind = { Expansion: int; Layers: string -> int -> int -> int -> Layer list }

    let private normalised (name: string) (index: int) (kernel: int) (stride: int) inputs outputs = [
        Layer.conv $"{name}.conv{index}" kernel stride inputs outputs
        Layer.batchNorm $"{name}.bn{index}" outputs
    ]

    /// Two 3 x 3 convolutions.
    let private basic = {
        Expansion = 1
        Layers =
            fun name stride inputs width ->
                normalised name 1 3 stride inputs width @ [ Relu ] @ normalised name 2 3 1 width width
    }

    /// 1 x 1, 3 x 3, 1 x 1: a bottleneck with a quarter of the result's channels; the stride is in the middle.
    let private bottleneck = {
        Expansion = 4
        Layers =
            fun name stride inputs width ->
                normalised name 1 1 1 inputs width
                @ [ Relu ]
                @ normalised name 2 3 stride width width
                @ [ Relu ]
                @ normalised name 3 1 1 width (4 * width)
    }

    /// A block with its shortcut: a 1 x 1 convolution where the shape changes, else the identity.
    let private block (kind: BlockKind) (shortcut: string) (name: string) (stride: int) inputs width : Layer =
        let outputs = kind.Expansion * width

        let shortcutLayers =
            if stride = 1 && inputs = outputs then
                []
            else
                [
                    Layer.conv $"{name}.{shortcut}.0" 1 stride inputs outputs
                    Layer.batchNorm $"{name}.{shortcut}.1" outputs
                ]

        Block(Sequence [ Residual(Sequence(kind.Layers name stride inputs width), Sequence shortcutLayers); Relu ])

    /// Stages of blocks by width and number of blocks; all but the first halve the image.
    let private stages (kind: BlockKind) (shortcut: string) (stem: int) (shape: (int * int) list) : Layer list =
        let inputs = stem :: List.map (fun (width, _) -> kind.Expansion * width) shape

        List.zip (List.take shape.Length inputs) shape
        |> List.mapi (fun stage (inputs, (width, blocks)) ->
            List.init
                blocks
                (fun i ->
                    let name = $"layer{stage + 1}.{i}"
                    let stride = if i = 0 && stage > 0 then 2 else 1
                    block kind shortcut name stride (if i = 0 then inputs else kind.Expansion * width) width
                )
            @ [ Tap ]
        )
        |> List.concat

    let private stem (kernel: int) (stride: int) (width: int) : Layer list = [
        Block(Sequence [ Layer.conv "conv1" kernel stride 3 width; Layer.batchNorm "bn1" width; Relu ])
        Tap
    ]

    /// Creates the network of depth 6 n + 2 with the widths of its stem and three stages.
    /// Features: stem, then the three stages, each after its ReLU.
    let small (name: string) (depth: int) (widths: int list) (classes: int) : Model =
        if depth < 8 || (depth - 2) % 6 <> 0 then
            invalidArg (nameof depth) $"the depth must be 6 n + 2 with n >= 1, got {depth}."

        let shape = [ for width in widths.Tail -> width, (depth - 2) / 6 ]

        {
            Name = name
            Classes = classes
            Body = Sequence(stem 3 1 widths.Head @ stages basic "downsample" widths.Head shape @ [ GlobalPool ])
            Classifier = Layer.dense "fc" (List.last widths) classes
            Dropout = 0.0
            Starts = Starts.kaiming
        }

    let private widths = [ 64; 128; 256; 512 ]

    let private fourStages stem kind shortcut (blocks: int list) (classifier: string) starts name classes : Model = {
        Name = name
        Classes = classes
        Body = Sequence(stem @ stages kind shortcut 64 (List.zip widths blocks) @ [ GlobalPool ])
        Classifier = Layer.dense classifier (kind.Expansion * 512) classes
        Dropout = 0.0
        Starts = starts
    }

    /// For 32 x 32 images: a 3 x 3 stem without pooling. Features: stem, then the four stages.
    let private fourStagesSmall kind blocks = fourStages (stem 3 1 64) kind "shortcut" blocks "linear" Starts.pyTorch

    /// For 224 x 224 images. Features: the stem before its max-pool, then the four stages.
    let private imageNet kind blocks =
        fourStages (stem 7 2 64 @ [ MaxPool(3, 2, 1) ]) kind "downsample" blocks "fc" Starts.kaiming

    /// ResNet-18 with a stem for small images.
    let small18: string -> int -> Model = fourStagesSmall basic [ 2; 2; 2; 2 ]
    /// ResNet-50 with a stem for small images.
    let small50: string -> int -> Model = fourStagesSmall bottleneck [ 3; 4; 6; 3 ]
    let imageNet18: string -> int -> Model = imageNet basic [ 2; 2; 2; 2 ]
    let imageNet34: string -> int -> Model = imageNet basic [ 3; 4; 6; 3 ]
    let imageNet50: string -> int -> Model = imageNet bottleneck [ 3; 4; 6; 3 ]
    let imageNet101: string -> int -> Model = imageNet bottleneck [ 3; 4; 23; 3 ]
