namespace Ctkd.Fs

open System.IO
open System.IO.Compression
open System.Reflection

/// The embedded handwritten digits: 3,823 training and 1,797 test images of 8 x 8 pixels, grey repeated to three
/// channels. `scripts/_pack-digits.fsx` made the resource; licence and source are in `Data/digits.LICENSE.md`.
[<RequireQualifiedAccess>]
module Digits =
    /// The name of the embedded resource.
    let internal resource: string = "digits.bin"

    let private side = 8
    let private pixels = side * side
    let private trainCount = 3823
    let private testCount = 1797
    let private total = trainCount + testCount

    let private citation =
        "E. Alpaydin, C. Kaynak (1998), Optical Recognition of Handwritten Digits, "
        + "UCI Machine Learning Repository, CC BY 4.0, doi 10.24432/C50P49"

    /// Reads 64 planes of pixel values, then the plane of labels, with one byte per image in each.
    let private planes () : byte[] =
        use stream = Assembly.GetExecutingAssembly().GetManifestResourceStream resource |> nonNull
        use brotli = new BrotliStream(stream, CompressionMode.Decompress)
        let bytes = Array.zeroCreate<byte>((pixels + 1) * total)
        brotli.ReadExactly(bytes, 0, bytes.Length)
        bytes

    /// Scales a value from 0 to 16 to a byte, rounding halves up: value * 255 / 16.
    let private toByte (value: byte) : byte = byte ((int value * 255 + 8) / 16)

    let private part (planes: byte[]) (name: string) (first: int) (count: int) : ImageSet =
        let pixel i = planes[i % pixels * total + first + i / (3 * pixels)]

        {
            Name = $"digits {name}"
            Classes = 10
            Channels = 3
            Height = side
            Width = side
            Images = Pixels.InMemory(Array.init (count * 3 * pixels) (pixel >> toByte))
            Labels = Array.init count (fun i -> int planes[pixels * total + first + i])
        }

    /// Loads the digits, normalised by the mean and standard deviation of the training pixels.
    let load () : Splits =
        let planes = planes ()

        {
            Train = part planes "train" 0 trainCount
            Validation = None
            Test = part planes "test" trainCount testCount
            ClassNames = ClassNames.ofData "digits"
            Mean = List.replicate 3 0.3078
            Std = List.replicate 3 0.3771
            Pad = 1
            Flip = false
            Warnings = []
            Citation = citation
        }
