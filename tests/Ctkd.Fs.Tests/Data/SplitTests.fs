/// Validations held out of training images.
module Ctkd.Fs.Tests.SplitTests

open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Folders

let private digits: Splits = Digits.load ()

/// The digits with the number of each training image as its first two bytes, so that images can be told apart.
let private numbered: Splits =
    let size = ImageSet.imageSize digits.Train
    let bytes = Array.copy (ImageSet.bytes digits.Train)

    for i in 0 .. ImageSet.count digits.Train - 1 do
        bytes[i * size] <- byte (i / 256)
        bytes[i * size + 1] <- byte (i % 256)

    { digits with Train = { digits.Train with Images = Pixels.InMemory bytes } }

/// The numbers of a set's images among all training images.
let private numbers (set: ImageSet) : int[] =
    let size, bytes = ImageSet.imageSize set, ImageSet.bytes set
    Array.init (ImageSet.count set) (fun i -> 256 * int bytes[i * size] + int bytes[i * size + 1])

let private held (share: float) (seed: int) : Splits = Splits.holdOut share seed numbered |> Error.orRaise

let tests =
    testList "Split" [
        test "a share of each class is held out, and the rest is trained on, each image once with its label" {
            for share in [ 0.05; 0.1; 0.5; 0.95 ] do
                let data = held share 1
                let validation = data.Validation.Value
                let all = Array.append (numbers data.Train) (numbers validation)
                Must.equal [| 0 .. ImageSet.count digits.Train - 1 |] (Array.sort all)

                for set in [ data.Train; validation ] do
                    Must.equal (Array.sort (numbers set)) (numbers set)
                    Must.equal (numbers set |> Array.map (fun i -> digits.Train.Labels[i])) set.Labels

                let counts (set: ImageSet) = set.Labels |> Array.countBy id |> Map
                let whole, part = counts digits.Train, counts validation

                for KeyValue(label, count) in whole do
                    Must.lie (share * float count - 0.5) (share * float count + 0.5) (float part[label])

                Must.equal digits.Test.Labels data.Test.Labels
                Must.equal (ImageSet.bytes digits.Test) (ImageSet.bytes data.Test)
        }

        test "the split's seed alone decides which" {
            let validation (data: Splits) = numbers data.Validation.Value
            Must.equal (validation (held 0.1 1)) (validation (held 0.1 1))
            Must.differ (validation (held 0.1 1)) (validation (held 0.1 2))

            let load (change: Settings -> Settings) =
                let data = Settings.loadData (change { Settings.defaults with ValSplit = 0.1 }) |> Error.orRaise
                ImageSet.count data.Train, ImageSet.bytes data.Validation.Value, Settings.fingerprint data

            let count, expected, _ = load id
            let total = ImageSet.count digits.Train
            Must.equal total (count + expected.Length / ImageSet.imageSize digits.Train)

            for trained, change in
                [
                    50, (fun s -> { s with PerClass = 5 })
                    77, (fun s -> { s with Subset = 77 })
                    count, (fun s -> { s with Seed = 9 })
                ] do
                let count, same, _ = load change
                Must.equal trained count
                Must.hold (expected = same)

            let _, other, _ = load (fun s -> { s with SplitSeed = 2 })
            Must.hold (expected <> other)
        }

        test "the data's hash covers the validation, and is the earlier one without" {
            let own = held 0.1 1
            let without = { own with Validation = None }
            let other = { own with Validation = (held 0.1 2).Validation }

            let relabelled =
                let set = own.Validation.Value

                {
                    own with
                        Validation = Some { set with Labels = Array.map (fun label -> 9 - label) set.Labels }
                }

            let hashes = [ own; without; other; relabelled ] |> List.map Settings.fingerprint
            Must.equal hashes (List.distinct hashes)
        }

        test "each class keeps an image to train with, and classes without one in the validation are told" {
            let rare = {
                numbered.Train with
                    Labels = numbered.Train.Labels |> Array.mapi (fun i label -> if i < 2 then i else max 2 label)
            }

            let data = Splits.holdOut 0.9 1 { numbered with Train = rare } |> Error.orRaise
            Must.hold (Array.contains 0 data.Train.Labels && Array.contains 1 data.Train.Labels)
            Must.equal "2 of 10 classes have too few images to hold any out for validation" (Must.single data.Warnings)
        }

        test "shares out of range, too few images and a second validation are refused, and 0 changes nothing" {
            Must.hold (Splits.holdOut 0.0 1 numbered |> Error.orRaise).Validation.IsNone
            let refused share data = (Splits.holdOut share 1 data |> errorOf).What

            for share in [ -0.1; 1.0; nan ] do
                Must.contain "the share for validation is" (refused share numbered)

            Must.contain "too few training images" (refused 1e-6 numbered)
            Must.contain "this data set has one" (refused 0.1 (held 0.1 1))
        }
    ]
