module Ctkd.Fs.Tests.DigitsTests

open System
open System.Security.Cryptography
open Expecto
open Ctkd.Fs

let private digits = Digits.load ()

let private perClass (set: ImageSet) : int list = [
    for digit in 0..9 -> set.Labels |> Array.filter ((=) digit) |> Array.length
]

let tests =
    testList "Digits" [
        test "the classes have the counts that the set's own description states" {
            Must.equal [ 376; 389; 380; 389; 387; 376; 377; 387; 380; 382 ] (perClass digits.Train)
            Must.equal [ 178; 182; 177; 183; 181; 182; 181; 179; 174; 180 ] (perClass digits.Test)
        }

        test "both splits are valid images of 8 x 8 in three equal channels" {
            for set in [ digits.Train; digits.Test ] do
                Must.hold (Result.isOk (ImageSet.create "embedded" set))
                Must.equal (3, 8, 8) (set.Channels, set.Height, set.Width)

                for channels in Array.chunkBySize 192 (ImageSet.bytes set) do
                    Must.equal channels[..63] channels[64..127]
                    Must.equal channels[..63] channels[128..]
        }

        test "the first training image is the one of the published file" {
            let line =
                "0,1,6,15,12,1,0,0,0,7,16,6,6,10,0,0,0,8,16,2,0,11,2,0,0,5,16,3,0,5,7,0,"
                + "0,7,13,3,0,8,7,0,0,4,12,0,1,13,5,0,0,0,14,9,15,9,0,0,0,0,6,14,7,1,0,0"

            let bytes = line.Split ',' |> Array.map (fun text -> byte (floor (float text * 255.0 / 16.0 + 0.5)))

            Must.equal bytes (Array.truncate 64 (ImageSet.bytes digits.Train))
            Must.equal [| 0; 0; 7; 4; 6 |] digits.Train.Labels[..4]
        }

        test "the constants are mean and standard deviation of the training pixels" {
            for (mean, std), statedMean, statedStd in
                List.zip3 (ImageSet.statistics digits.Train) digits.Mean digits.Std do
                Must.beNear 0.0 0.00005 mean statedMean
                Must.beNear 0.0 0.00005 std statedStd
        }

        test "the augmentation shifts by one pixel and does not flip" {
            Must.equal (1, false) (digits.Pad, digits.Flip)
            Must.contain "10.24432/C50P49" digits.Citation
        }

        test "the embedded file is small and every byte of the set is as it was packed" {
            use stream = typeof<Splits>.Assembly.GetManifestResourceStream "digits.bin" |> nonNull
            Must.lie 1L 150_000L stream.Length

            // Both hashes were computed from the published text files by another program.
            let hash (set: ImageSet) =
                Array.append (ImageSet.bytes set) (Array.map byte set.Labels)
                |> SHA256.HashData
                |> Convert.ToHexStringLower

            Must.equal "9c0d657a4d0cfa280e19dcfbb7de9c6f5e802acb76f23ece3c366a04f5d32d11" (hash digits.Train)
            Must.equal "5d7f3af69f3260741cddc8db597b2928ea2f794cc6e8a40a93d3f754043d9995" (hash digits.Test)
        }
    ]
