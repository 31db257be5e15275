namespace Ctkd.Fs

/// VGG networks with batch normalisation for 32 x 32 images (Simonyan and Zisserman 2015).
[<RequireQualifiedAccess>]
module Vgg =

    /// A block of 3 x 3 convolutions with bias, batch normalisation and ReLU, numbered as in PyTorch.
    let private block (index: int) (inputs: int) (width: int) (convolutions: int) : Layer =
        let one i = [
            Layer.convWithBias $"block{index}.{3 * i}" 3 1 (if i = 0 then inputs else width) width
            Layer.batchNorm $"block{index}.{3 * i + 1}" width
            Relu
        ]

        Block(Sequence(List.init convolutions one |> List.concat))

    /// Creates the network with the given numbers of convolutions in its blocks of 64, 128, 256, 512 and 512 channels.
    /// Features: the five blocks after ReLU, before the max-pools that follow the first three.
    let create (convolutions: int list) (name: string) (classes: int) : Model =
        let widths = [ 64; 128; 256; 512; 512 ]

        let layers =
            List.zip3 (3 :: List.take 4 widths) widths convolutions
            |> List.mapi (fun i (inputs, width, count) -> [
                block i inputs width count
                Tap
                if i < 3 then MaxPool(2, 2, 0)
            ])

        {
            Name = name
            Classes = classes
            Body = Sequence(List.concat layers @ [ GlobalPool ])
            Classifier = Layer.dense "classifier" 512 classes
            Dropout = 0.0
            Starts = Starts.kaimingZeroBias (fun _ -> Normal 0.01)
        }
