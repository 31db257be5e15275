module Ctkd.Fs.Tests.CropTests

open System
open Expecto
open Ctkd.Fs
open Ctkd.Images
open Ctkd.Fs.Tests.Generators
open FsCheck.FSharp

let private box (top, left, height, width) : CropBox = {
    CropBox.Top = top
    Left = left
    Height = height
    Width = width
}

/// The draws in their order; asking for one more is a mistake.
let private draws (numbers: float list) (index: int) : float = numbers[index]

let private randomBox (draw: int -> float) (width: int) (height: int) : CropBox * int =
    let struct (box, used) = Crop.random 0.08 draw height width
    box, used

/// A picture of width x height whose bytes follow a formula, as RGBA.
let private pattern (width: int) (height: int) : byte[] =
    Array.init
        (4 * width * height)
        (fun i ->
            let c, x, y = i % 4, i / 4 % width, i / 4 / width
            if c = 3 then 255uy else byte (7 * x + 13 * y + 29 * c + ((x * y) >>> 3))
        )

let private crc (bytes: byte[]) : uint32 = IO.Hashing.Crc32.HashToUInt32(ReadOnlySpan bytes)

/// The window of a cut, as RGB.
let private window (source: byte[]) (sourceWidth: int) (cut: Cut) (height: int) (width: int) : byte[] =
    let target = Array.zeroCreate<byte>(3 * height * width)
    Resampler().Resize(ReadOnlySpan source, 4, sourceWidth, &cut, Span target, height, width)
    target

/// A box resized, as RGB.
let private resize (source: byte[]) (sourceWidth: int) (b: CropBox) (height: int) (width: int) (mirror: bool) : byte[] =
    window source sourceWidth (Cut(b.Top, b.Left, b.Height, b.Width, height, width, 0, 0, mirror)) height width

/// Without the fourth byte of each pixel, and with the one more that the resampler needs.
let private packed (rgba: byte[]) : byte[] =
    Array.init (rgba.Length / 4 * 3 + 1) (fun i -> if i = rgba.Length / 4 * 3 then 0uy else rgba[i / 3 * 4 + i % 3])

/// Two passes in floating point, without the rounding between and after them.
let private exactly (source: byte[]) (sourceWidth: int) (b: CropBox) (height: int) (width: int) : float[] =
    let weights from into o =
        let scale = float from / float into
        let support = max scale 1.0
        let centre = (float o + 0.5) * scale
        let shares = [ for x in 0 .. from - 1 -> x, max 0.0 (1.0 - abs ((float x - centre + 0.5) / support)) ]
        let total = List.sumBy snd shares
        shares |> List.filter (fun (_, share) -> share > 0.0) |> List.map (fun (x, share) -> x, share / total)

    let columns, rows =
        Array.init width (weights b.Width width), Array.init height (weights b.Height height)

    [|
        for y in 0 .. height - 1 do
            for x in 0 .. width - 1 do
                for c in 0..2 do
                    List.sum [
                        for row, v in rows[y] do
                            for column, h in columns[x] do
                                let pixel = (b.Top + row) * sourceWidth + b.Left + column
                                v * h * float source[4 * pixel + c]
                    ]
    |]

let tests =
    testList "Crop" [
        test "random boxes are those of torchvision for given draws" {
            let repeated a r = List.replicate 10 [ a; r ] |> List.concat

            for width, height, numbers, expected in
                [
                    500, 375, [ 0.0; 0.5; 0.25; 0.75 ], (63, 284, 122, 122)
                    500, 375, [ 0.5; 0.0; 0.0; 0.0 ], (0, 0, 367, 276)
                    500, 375, [ 0.5; 0.999999; 0.999999; 0.999999 ], (99, 133, 276, 367)
                    500, 375, [ 0.999; 0.999; 0.3; 0.9 ], (0, 0, 375, 500)
                    500, 375, repeated 0.999999999 0.5, (0, 0, 375, 500)
                    1000, 200, repeated 0.9 0.5, (0, 366, 200, 267)
                    64, 900, repeated 0.9 0.5, (407, 0, 85, 64)
                    375, 500, [ 0.25; 0.25; 0.5; 0.5 ], (121, 76, 259, 224)
                    2, 2, [ 0.0; 0.5; 0.0; 0.5 ], (0, 1, 1, 1)
                ] do
                Must.equal (box expected, numbers.Length) (randomBox (draws numbers) width height)
        }

        testProperty "every random box lies in its picture, and takes four draws for the first attempt that fits"
        <| forAll
            (Gen.zip3 (Gen.choose (1, 2000)) (Gen.choose (1, 2000)) anyInt)
            (fun (width, height, seed) ->
                let b, used = randomBox (fun i -> Rng.ofSeed seed |> Rng.uniform i) width height
                Must.hold (b.Top >= 0 && b.Left >= 0 && b.Height > 0 && b.Width > 0)
                Must.hold (b.Top + b.Height <= height && b.Left + b.Width <= width)
                Must.hold (used % 2 = 0 && used >= 4 && used <= 22)
            )

        test "random boxes of ImageNet's usual size have the areas and ratios of torchvision's" {
            let rng = Rng.ofSeed 3
            let boxes = [ for i in 0..19_999 -> fst (randomBox (fun k -> rng |> Rng.at i |> Rng.uniform k) 500 375) ]
            let share (b: CropBox) = float (b.Height * b.Width) / (500.0 * 375.0)
            let ratios = boxes |> List.map (fun b -> float b.Width / float b.Height) |> List.sort
            Must.lie 0.43 0.44 (List.averageBy share boxes)
            Must.lie 1.04 1.06 ratios[10_000]
            Must.lie 0.74 0.78 ratios.Head
            Must.lie 1.30 1.35 (List.last ratios)
        }

        test "the evaluation's size and middle are torchvision's" {
            for width, height, (newWidth, newHeight), (top, left) in
                [
                    500, 375, (341, 256), (16, 58)
                    375, 500, (256, 341), (58, 16)
                    333, 500, (256, 384), (80, 16)
                    200, 100, (512, 256), (16, 144)
                    257, 256, (257, 256), (16, 16)
                ] do
                Must.equal (struct (newHeight, newWidth)) (Crop.resized 256 height width)
                Must.equal (box (top, left, 224, 224)) (Crop.centre 224 newHeight newWidth)
        }

        test "a resized box has the bytes of PIL" {
            let source = pattern 500 375
            // Of the RGB bytes.
            Must.equal 0x6ad1a852u (crc (Array.init (3 * 500 * 375) (fun i -> source[i / 3 * 4 + i % 3])))

            for place, expected in
                [
                    (14, 89, 357, 300), 0xe9c1b4feu
                    (103, 112, 240, 230), 0x93012827u
                    (0, 0, 375, 500), 0x1c080977u
                    (100, 200, 70, 90), 0x611e4d9bu
                    (50, 60, 224, 224), 0x7fee74b9u
                    (10, 20, 224, 301), 0x7c0f97c0u
                    (5, 5, 31, 29), 0x3312047au
                ] do
                Must.equal (place, expected) (place, crc (resize source 500 (box place) 224 224 false))
        }

        test "the evaluation's crops have the bytes of PIL" {
            for width, height, expected in
                [
                    500, 375, 0x8cb4921bu
                    375, 500, 0xb2bb9949u
                    333, 500, 0x6b50cebcu
                    200, 100, 0x4bfad088u
                    257, 256, 0x0d74a98du
                ] do
                let cut = (Crop.evaluation 256 224).Invoke(7, height, width)
                let middle = window (pattern width height) width cut 224 224
                Must.equal (width, height, expected) (width, height, crc middle)
        }

        testProperty "a resized box is within one of the exact filter, and its mirror image is it from the right"
        <| forAll
            (gen {
                let! width = Gen.choose (1, 24)
                let! height = Gen.choose (1, 24)
                let! w = Gen.choose (1, width)
                let! h = Gen.choose (1, height)
                let! left = Gen.choose (0, width - w)
                let! top = Gen.choose (0, height - h)
                let! toHeight = Gen.choose (1, 20)
                let! toWidth = Gen.choose (1, 20)
                let! seed = anyInt
                return (width, height), box (top, left, h, w), (toHeight, toWidth), seed
            })
            (fun ((width, height), b, (toHeight, toWidth), seed) ->
                let source = Array.init (4 * width * height) (fun i -> byte (Rng.ofSeed seed |> Rng.below 256 i))
                let resized = resize source width b toHeight toWidth false
                let exact = exactly source width b toHeight toWidth
                Must.hold (Array.forall2 (fun e (r: byte) -> abs (e - float r) <= 1.01) exact resized)
                let mirrored = resize source width b toHeight toWidth true
                let row i = i / (3 * toWidth)

                let back =
                    Array.init
                        mirrored.Length
                        (fun i ->
                            let x, c = i / 3 % toWidth, i % 3
                            mirrored[3 * (row i * toWidth + toWidth - 1 - x) + c]
                        )

                Must.equal resized back
            )

        test "a box outside its picture and buffers of the wrong size are refused" {
            let source = pattern 4 3

            for b in [ (0, 0, 4, 4); (0, 1, 3, 4); (-1, 0, 2, 2); (0, -1, 2, 2); (0, 0, 0, 1); (0, 0, 1, 0) ] do
                Must.throwAny<ArgumentException>(fun () -> resize source 4 (box b) 2 2 false |> ignore) |> ignore

            let refused (cut: Cut) (channels: int) (length: int) =
                Must.throwAny<ArgumentException>(fun () ->
                    Resampler()
                        .Resize(ReadOnlySpan source, channels, 4, &cut, Span(Array.zeroCreate<byte> length), 2, 2)
                )
                |> ignore

            let whole = Cut(0, 0, 3, 4, 2, 2, 0, 0, false)
            refused whole 4 11
            refused whole 2 12
            refused (Cut(0, 0, 3, 4, 2, 2, 1, 0, false)) 4 12
            refused (Cut(0, 0, 3, 4, 2, 2, 0, -1, false)) 4 12
            refused (Cut(Int32.MaxValue, 0, 3, 4, 2, 2, 0, 0, false)) 4 12
        }

        test "pixels of three bytes give what pixels of four give" {
            let source = pattern 61 47
            let cut = Cut(3, 5, 41, 52, 30, 33, 2, 4, true)
            let target = Array.zeroCreate<byte>(3 * 24 * 25)
            Resampler().Resize(ReadOnlySpan(packed source), 3, 61, &cut, Span target, 24, 25)
            Must.equal (window source 61 cut 24 25) target
        }

        testProperty "a window is that part of the whole resized box, also mirrored"
        <| forAll
            (gen {
                let! toHeight = Gen.choose (1, 40)
                let! toWidth = Gen.choose (1, 40)
                let! top = Gen.choose (0, toHeight - 1)
                let! left = Gen.choose (0, toWidth - 1)
                let! height = Gen.choose (1, toHeight - top)
                let! width = Gen.choose (1, toWidth - left)
                let! mirror = Gen.elements [ false; true ]
                return (toHeight, toWidth), (top, left, height, width), mirror
            })
            (fun ((toHeight, toWidth), (top, left, height, width), mirror) ->
                let source = pattern 31 23
                let whole = window source 31 (Cut(1, 2, 21, 27, toHeight, toWidth, 0, 0, false)) toHeight toWidth

                let expected =
                    Array.init
                        (3 * height * width)
                        (fun i ->
                            let y, x = i / 3 / width, i / 3 % width
                            let x = if mirror then width - 1 - x else x
                            whole[3 * ((top + y) * toWidth + left + x) + i % 3]
                        )

                let cut = Cut(1, 2, 21, 27, toHeight, toWidth, top, left, mirror)
                Must.equal expected (window source 31 cut height width)
            )

        test "the longest sides neither overflow nor take the memory of the whole resized picture" {
            let white = Array.create (4 * 65_535) 255uy
            let thin = (Crop.evaluation 256 224).Invoke(0, 1, 65_535)
            Must.equal (Array.create (3 * 224 * 224) 255uy) (window white 65_535 thin 224 224)
            let dot = Cut(0, 0, 1, 65_535, 1, 1, 0, 0, false)
            Must.equal [| 255uy; 255uy; 255uy |] (window white 65_535 dot 1 1)
            let one = Cut(0, 0, 1, 1, 224, 224, 0, 0, false)
            Must.equal (Array.create (3 * 224 * 224) 255uy) (window white 65_535 one 224 224)
        }

        test "cuts for training depend on the position alone, and half of them are mirrored" {
            let rng = Rng.ofSeed 5
            let cuts (order: int list) = [ for p in order -> p, (Crop.training rng 0.08 224).Invoke(p, 375, 500) ]
            Must.equal (cuts [ 0..99 ]) (cuts [ 99..-1..0 ] |> List.rev)
            let all = cuts [ 0..9_999 ] |> List.map snd
            Must.lie 0.48 0.52 (all |> List.averageBy (fun cut -> if cut.Mirror then 1.0 else 0.0))
            // Of equal boxes there are none among so few: the positions are independent.
            Must.hold ((List.distinct all).Length > 9_900)
        }

        test "a cut for training is the random box of its position's draws, and the flip is drawn after it" {
            for position in 0..200 do
                let draw i = Rng.ofSeed 9 |> Rng.at position |> Rng.uniform i
                let struct (b, used) = Crop.random 0.3 draw 333 500
                let cut = (Crop.training (Rng.ofSeed 9) 0.3 64).Invoke(position, 333, 500)
                Must.equal (Cut(b.Top, b.Left, b.Height, b.Width, 64, 64, 0, 0, draw used < 0.5)) cut
        }

        test "sizes and areas that make no sense are refused by name" {
            Must.refuse "shortSide" (fun () -> Crop.evaluation 223 224)
            Must.refuse "size" (fun () -> Crop.evaluation 223 0)
            Must.refuse "size" (fun () -> Crop.training (Rng.ofSeed 1) 0.08 0)
            Must.refuse "leastArea" (fun () -> Crop.training (Rng.ofSeed 1) 0.0 8)
            Must.refuse "leastArea" (fun () -> Crop.training (Rng.ofSeed 1) nan 8)
        }
    ]
