module Ctkd.Fs.Tests.DatasetsTests

open System
open System.IO
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Folders
open Ctkd.Fs.Tests.Generators
open FsCheck
open FsCheck.FSharp

// ---- image sets

let private grey: ImageSet = {
    Name = "grey"
    Classes = 3
    Channels = 1
    Height = 2
    Width = 2
    Images = Pixels.InMemory(Array.init 24 (fun i -> byte (i * 10)))
    Labels = [| 2; 0; 2; 1; 2; 0 |]
}

// ---- own sets

let private tensor (name: string) (dtype: string) (shape: int64 list) (bytes: byte[]) : StoredTensor = {
    Name = name
    DType = dtype
    Shape = shape
    Bytes = ReadOnlyMemory bytes
}

let private images (name: string) (count: int) : StoredTensor =
    tensor name "U8" [ int64 count; 3L; 2L; 2L ] (Array.init (count * 12) (fun i -> byte (i * 37)))

let private labels (name: string) (values: int list) : StoredTensor =
    let bytes = values |> List.map (int64 >> BitConverter.GetBytes) |> Array.concat
    tensor name "I64" [ int64 values.Length ] bytes

let private save (path: string) (metadata: (string * string) list) (tensors: StoredTensor list) : unit =
    Safetensors.write path { Metadata = metadata; Tensors = tensors } |> Error.orRaise

/// Loads one file with the given metadata and tensors.
let private loadFile (metadata: (string * string) list) (tensors: StoredTensor list) : Result<Splits, Error> =
    let mutable result = Error(Error.create Usage "" "" "")

    inFolder (fun folder ->
        let path = Path.Combine(folder, "mine.safetensors")
        save path metadata tensors
        result <- OwnSet.load path
    )

    result

let private five = [ images "images" 5; labels "labels" [ 0; 1; 2; 1; 0 ] ]
let private two = [ images "test_images" 2; labels "test_labels" [ 1; 2 ] ]

let private mistakes: ((string * string) list * StoredTensor list * string) list = [
    [], [ images "images" 5 ], "no tensor 'labels', only: images"
    [], [ labels "labels" [ 0; 1 ] ], "no tensor 'images'"
    [], [ images "images" 5; labels "labels" [ 0; 1 ] ], "5 images and 2 labels"
    [], five @ [ two.Head ], "no tensor 'test_labels'"
    [], [ images "images" 2; labels "labels" [ 1; -1 ] ], "record 1 (from 0) is -1"
    [], [ images "images" 2; labels "labels" [ 0; 0 ] ], "number of classes is 1"
    [], five @ [ two.Head; labels "test_labels" [ 1; 3 ] ], "record 1 (from 0) is 3, allowed are 0 to 2"
    [], [ images "images" 0; labels "labels" [] ], "no images"
    [], [ images "images" 1; labels "labels" [ 1 ] ], "one image"
    [], [ five.Head; tensor "labels" "F32" [ 5L ] (Array.zeroCreate 20) ], "'labels' is F32 [5]"
    [], [ five.Head; tensor "labels" "U8" [ 5L; 1L ] (Array.zeroCreate 5) ], "'labels' is U8 [5, 1]"
    [], [ tensor "images" "I8" [ 5L; 3L; 1L; 1L ] (Array.zeroCreate 15); five[1] ], "'images' is I8 [5, 3, 1, 1]"
    [], [ tensor "images" "U8" [ 5L; 3L ] (Array.zeroCreate 15); five[1] ], "'images' is U8 [5, 3]"
    [], [ tensor "images" "U8" [ 5L; 2L; 1L; 1L ] (Array.zeroCreate 10); five[1] ], "2 channels"
    [], [ tensor "images" "U8" [ 5L; 3L; 0L; 9L ] [||]; five[1] ], "3 x 0 x 9"
    [], [ tensor "images" "U8" [ 5L; 1L; 0L; 9L ] [||]; five[1] ], "3 x 0 x 9"
    [], [ tensor "images" "U8" [ 5L; 3L; 1L; 1L ] (Array.zeroCreate 15); five[1] ], "all pixels of a channel"
    [],
    five @ [ tensor "test_images" "U8" [ 2L; 3L; 1L; 4L ] (Array.zeroCreate 24); two[1] ],
    "2 x 2 in training and 1 x 4"
    [ "classes", "many" ], five, "'classes' is 'many'"
    [ "classes", "2" ], five, "record 2 (from 0) is 2, allowed are 0 to 1"
    [ "mean", "0.1, 0.2" ], five, "'mean'"
    [ "mean", "NaN" ], five, "'mean'"
    [ "std", "0.1, 0.2, 0" ], five, "'std'"
    [ "std", "Infinity" ], five, "'std'"
    [ "pad", "-1" ], five, "'pad'"
    [ "flip", "perhaps" ], five, "'flip'"
]

/// Sets with one pixel per image, and numbers of images.
let private subsetGen =
    gen {
        let! labels = Gen.nonEmptyListOf (Gen.choose (0, 4))
        let! number = Gen.choose (1, 4)
        let images = Array.init labels.Length byte

        let set = {
            grey with
                Classes = 5
                Height = 1
                Width = 1
                Images = Pixels.InMemory images
                Labels = Array.ofList labels
        }

        return set, number
    }

let tests =
    testList "Datasets" [
        test "a good set is itself and a wrong one says what is wrong" {
            Must.equal (Ok grey) (ImageSet.create "x" grey)

            let wrong = [
                { grey with Labels = [||]; Images = Pixels.InMemory [||] }, "no images"
                { grey with Classes = 1 }, "number of classes is 1"
                { grey with Height = 0 }, "1 x 0 x 2"
                { grey with Width = 3 }, "36 bytes, it has 24"
                { grey with Classes = 2 }, "record 0 (from 0) is 2, allowed are 0 to 1"
                { grey with Labels = [| 2; 0; 2; 1; -1; 0 |] }, "record 4 (from 0) is -1"
                { grey with Height = 1 <<< 16; Width = 1 <<< 16; Channels = 1 <<< 16 }, "1688849860263936 bytes"
            ]

            for set, part in wrong do
                let error = errorOf (ImageSet.create "path" set)
                Must.equal (Damaged, "path") (error.Kind, error.Where)
                Must.contain part error.What
        }

        test "the first images of each class are taken in the order of the set" {
            let two = ImageSet.firstPerClass 2 grey
            Must.equal [| 2; 0; 2; 1; 0 |] two.Labels
            let bytes = ImageSet.bytes grey
            Must.equal (Array.append bytes[..15] bytes[20..]) (ImageSet.bytes two)
            Must.equal grey (ImageSet.firstPerClass 3 grey)
            Must.throw<ArgumentException>(fun () -> ImageSet.firstPerClass 0 grey |> ignore) |> ignore
        }

        testPropertyWithConfig (times 200) "a subset has so many images of each class and each is one of the set's"
        <| forAll
            subsetGen
            (fun (set, number) ->
                let subset = ImageSet.firstPerClass number set

                let expected = set.Labels |> Array.countBy id |> Array.map (fun (label, n) -> label, min n number)

                Must.equal (Set.ofArray expected) (Set.ofArray (Array.countBy id subset.Labels))
                Must.equal subset.Labels [| for image in ImageSet.bytes subset -> set.Labels[int image] |]
                Must.equal (Array.sort (ImageSet.bytes subset)) (ImageSet.bytes subset)
            )

        test "grey is repeated to three channels and other numbers of channels are not" {
            let colour = ImageSet.toThreeChannels grey |> Option.get
            let greys, three = ImageSet.bytes grey, ImageSet.bytes colour
            Must.equal (Array.concat (List.replicate 3 greys[4..7])) three[12..23]
            Must.hold ((ImageSet.create "x" colour).IsOk)
            Must.equal (Some colour) (ImageSet.toThreeChannels colour)
            Must.equal None (ImageSet.toThreeChannels { grey with Channels = 2; Width = 1 })
        }

        test "statistics are those of each channel" {
            let set = {
                grey with
                    Channels = 2
                    Height = 1
                    Width = 2
                    Images = Pixels.InMemory [| 0uy; 255uy; 51uy; 51uy |]
                    Labels = [| 0 |]
            }

            match ImageSet.statistics set with
            | [ (mean0, std0); (mean1, std1) ] ->
                Must.beNear 0.0 (1e-12) 0.5 mean0
                Must.beNear 0.0 (1e-12) 0.5 std0
                Must.beNear 0.0 (1e-12) 0.2 mean1
                Must.beNear 0.0 (1e-7) 0.0 std1
            | other -> failwith $"two channels were expected: {other}"
        }

        test "one file with both splits is read, with statistics of its training images" {
            let splits = loadFile [] (five @ two) |> Error.orRaise
            Must.equal [| 0; 1; 2; 1; 0 |] splits.Train.Labels
            Must.equal [| 1; 2 |] splits.Test.Labels
            Must.equal (five.Head.Bytes.ToArray()) (ImageSet.bytes splits.Train)
            Must.equal (two.Head.Bytes.ToArray()) (ImageSet.bytes splits.Test)
            Must.equal (3, 3) (splits.Train.Classes, splits.Test.Classes)
            Must.equal (ImageSet.statistics splits.Train) (List.zip splits.Mean splits.Std)
            Must.equal (0, false) (splits.Pad, splits.Flip)
        }

        test "a folder with two files is read" {
            inFolder (fun folder ->
                save (Path.Combine(folder, "train.safetensors")) [] five
                let test = Path.Combine(folder, "test.safetensors")
                let missing = errorOf (OwnSet.load folder)
                Must.equal (Missing, test) (missing.Kind, missing.Where)
                save test [] [ images "images" 2; labels "labels" [ 1; 2 ] ]
                let splits = OwnSet.load folder |> Error.orRaise
                Must.equal [| 1; 2 |] splits.Test.Labels
                Must.equal 5 (ImageSet.count splits.Train)
            )
        }

        test "without a test split every tenth image is held out" {
            let values = [ for i in 0..24 -> i % 3 ]
            let splits = loadFile [] [ images "images" 25; labels "labels" values ] |> Error.orRaise
            Must.equal [| values[9]; values[19] |] splits.Test.Labels
            Must.equal 23 (ImageSet.count splits.Train)
            let few = loadFile [] five |> Error.orRaise
            Must.equal (4, 1) (ImageSet.count few.Train, ImageSet.count few.Test)
        }

        test "metadata gives classes, normalisation, augmentation and citation" {
            let metadata = [
                "classes", "7"
                "mean", "0.1, 0.2, 0.3"
                "std", "[0.5]"
                "pad", "3"
                "flip", "true"
                "citation", "me"
            ]

            let splits = loadFile metadata (five @ two) |> Error.orRaise

            // Spaces separate numbers as commas do, and a decimal comma is none.
            let spaced = metadata |> List.map (fun (key, text) -> key, text.Replace(",", " "))
            Must.equal splits (loadFile spaced (five @ two) |> Error.orRaise)
            let decimal = List.filter (fst >> (<>) "mean") metadata @ [ "mean", "0,5" ]
            Must.contain "'0,5' is 0.5 with a decimal comma" (errorOf (loadFile decimal (five @ two))).What

            Must.equal (7, 7) (splits.Train.Classes, splits.Test.Classes)
            Must.equal [ 0.1; 0.2; 0.3 ] splits.Mean
            Must.equal [ 0.5; 0.5; 0.5 ] splits.Std
            Must.equal (3, true, "me") (splits.Pad, splits.Flip, splits.Citation)
        }

        test "grey images and labels of other types are read" {
            let grey = tensor "images" "U8" [ 3L; 1L; 1L; 2L ] [| 1uy; 2uy; 3uy; 4uy; 5uy; 6uy |]
            let bytes = [ 1; 0; 1 ] |> List.map BitConverter.GetBytes |> Array.concat

            for labels in [ tensor "labels" "U8" [ 3L ] [| 1uy; 0uy; 1uy |]; tensor "labels" "I32" [ 3L ] bytes ] do
                let splits = loadFile [] [ grey; labels ] |> Error.orRaise

                Must.equal
                    [| 1uy; 2uy; 1uy; 2uy; 1uy; 2uy; 3uy; 4uy; 3uy; 4uy; 3uy; 4uy |]
                    (ImageSet.bytes splits.Train)

                Must.equal [| 1; 0 |] splits.Train.Labels
        }

        test "each mistake in a set of one's own is named" {
            for metadata, tensors, part in mistakes do
                let error = errorOf (loadFile metadata tensors)
                Must.equal Damaged error.Kind
                Must.contain part error.What
                Must.endWith "mine.safetensors" error.Where
        }

        test "random and cut files never throw" {
            inFolder (fun folder ->
                let path = Path.Combine(folder, "mine.safetensors")
                save path [] (five @ two)
                let good = File.ReadAllBytes path
                let random = Random 1

                for i in 0 .. good.Length - 1 do
                    File.WriteAllBytes(path, good[.. i - 1])
                    Must.hold ((OwnSet.load path).IsError)
                    let bad = Array.copy good
                    bad[i] <- byte (random.Next 256)
                    File.WriteAllBytes(path, bad)
                    OwnSet.load path |> ignore
            )
        }

        // ---- by name

        test "every data set has a name, and digits and cells need no folder" {
            Must.equal [ "digits"; "cells"; "cifar10"; "cifar100"; "file"; "photos"; "imagenet" ] Datasets.names
            let digits = Datasets.load "digits" None |> Error.orRaise
            Must.equal (3823, 1797) (ImageSet.count digits.Train, ImageSet.count digits.Test)
            let cells = Datasets.load "cells" None |> Error.orRaise
            Must.equal (450, 150, 48) (ImageSet.count cells.Train, ImageSet.count cells.Test, cells.Train.Height)
            Must.equal [ "digits"; "cells" ] Datasets.embedded
        }

        test "an unknown data set names the nearest ones" {
            let error = errorOf (Datasets.load "cifar101" None)
            Must.equal Usage error.Kind
            Must.contain "'cifar101'" error.What
            Must.contain "cifar100" error.Next
        }

        test "the other sets need a folder and are read from it" {
            for name in [ "cifar10"; "cifar100"; "file"; "photos"; "imagenet" ] do
                let error = errorOf (Datasets.load name None)
                Must.equal Usage error.Kind
                Must.contain "--data-dir" error.Next
                let folder = Path.Combine(Path.GetTempPath(), "ctkd-there-is-no-such-folder")
                Must.equal Missing ((errorOf (Datasets.load name (Some folder))).Kind)
        }
    ]
