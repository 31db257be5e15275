namespace Ctkd.Fs

/// A published model: its name, the image size and number of classes of its publication, and its constructor for other
/// numbers of classes.
[<NoComparison; NoEquality>]
type Published = { Name: string; Size: int; Classes: int; Create: int -> Model }

/// All published models by name. Your own models need no entry: every function takes any `Model` value.
[<RequireQualifiedAccess>]
module Zoo =
    let private narrow, wide = [ 16; 16; 32; 64 ], [ 32; 64; 128; 256 ]

    let private cifar: (string * (string -> int -> Model)) list = [
        for depth in [ 8; 14; 20; 32; 44; 56; 110 ] do
            $"resnet{depth}", (fun name -> ResNet.small name depth narrow)
        for depth in [ 8; 32 ] do
            $"resnet{depth}x4", (fun name -> ResNet.small name depth wide)
        "ResNet18", ResNet.small18
        "ResNet50", ResNet.small50
        for depth, widen in [ 16, 1; 16, 2; 40, 1; 40, 2 ] do
            $"wrn_{depth}_{widen}", WideResNet.create depth widen
        "vgg8", Vgg.create [ 1; 1; 1; 1; 1 ]
        "vgg11", Vgg.create [ 1; 1; 2; 2; 2 ]
        "vgg13", Vgg.create [ 2; 2; 2; 2; 2 ]
        "vgg16", Vgg.create [ 2; 2; 3; 3; 3 ]
        "vgg19", Vgg.create [ 2; 2; 4; 4; 4 ]
        "MobileNetV2", MobileNet.small2
        "ShuffleV1", ShuffleNet.small1
        "ShuffleV2", ShuffleNet.small2
    ]

    /// ImageNet networks; those under "imagenet-ctkd" have the names and features of CTKD's code.
    let private imageNet: (string * (string -> int -> Model)) list = [
        "imagenet/ResNet18", ResNet.imageNet18
        "imagenet/ResNet34", ResNet.imageNet34
        "imagenet/ResNet50", ResNet.imageNet50
        "imagenet/ResNet101", ResNet.imageNet101
        "imagenet/MobileNetV1", MobileNet.imageNet1
        "imagenet-ctkd/MobileNetV2_Imagenet", MobileNet.imageNet2
        "imagenet-ctkd/shufflenet_v2_x0_5", ShuffleNet.imageNet2 [ 48; 96; 192 ] 1024
        "imagenet-ctkd/ShuffleV2_Imagenet", ShuffleNet.imageNet2 [ 116; 232; 464 ] 1024
        "imagenet-ctkd/shufflenet_v2_x2_0", ShuffleNet.imageNet2 [ 244; 488; 976 ] 2048
    ]

    let private entries size classes =
        List.map (fun (name, create) -> { Name = name; Size = size; Classes = classes; Create = create name })

    /// All published models, smallest of each family first.
    let models: Published list = entries 32 100 cifar @ entries 224 1000 imageNet

    /// The names of all published models.
    let names: string list = models |> List.map _.Name

    /// Returns the published model of a name, or an error with the nearest names.
    let published (name: string) : Result<Published, Error> =
        match models |> List.tryFind (fun m -> m.Name = name) with
        | Some found -> Ok found
        | None -> Result.Error(Error.unknown "model" names name)

    /// Creates the published model of a name for `classes` classes, or returns an error with the nearest names.
    let find (name: string) (classes: int) : Result<Model, Error> =
        published name |> Result.map (fun m -> m.Create classes)
