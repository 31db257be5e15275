module Ctkd.Fs.Tests.MixupTests

open System
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Generators
open FsCheck.FSharp

let private keys = Gen.choose (0, 1_000_000) |> Gen.map Rng.ofSeed

let private alphas = Gen.elements [ 1e-300; 1e-3; 0.1; 0.2; 0.5; 1.0; 2.0; 40.0; 1e6; 1e300 ]

/// `count` images of 2 x 3 x 3 numbers with labels 0, 1, ...
let private batch (count: int) : Batch = {
    Images = Rng.normals (18 * count) (Rng.ofSeed count) |> Plain.tensor [ count; 2; 3; 3 ]
    Labels = Tensor.arange Device.Cpu count
    Index = Tensor.arange Device.Cpu count |> Tensor.addInt 100
    Mix = None
}

let private images (x: Tensor) : float[][] = Tensor.toFloats x |> Array.chunkBySize 18

/// Everything of a batch with blends as plain numbers.
let private plain (batch: Batch) =
    let mix = batch.Mix.Value

    Tensor.toFloats batch.Images |> Array.map BitConverter.DoubleToInt64Bits,
    Tensor.toInt64s batch.Labels,
    Tensor.toInt64s batch.Index,
    Tensor.toInt64s mix.Other,
    Tensor.toFloats mix.Weight,
    Tensor.toBytes mix.Clean

let private rows (start: int) (stop: int) (batch: Batch) : Batch = Batch.map (Tensor.slice 0 start stop) batch

let tests =
    testList "Mixup" [
        testPropertyWithConfig (times 500) "a share is a number from 0 to 1 that depends on its key alone"
        <| forAll
            (Gen.zip keys alphas)
            (fun (key, alpha) ->
                let share = Mixup.share alpha key
                Must.lie 0.0 1.0 share
                Must.beSame [| share |] [| Mixup.share alpha key |]
            )

        test "shares have the mean and the variance of the beta distribution, 1/2 and 1 / (4 (2 alpha + 1))" {
            let count = 20_000

            for alpha in [ 1e-3; 0.1; 0.2; 0.5; 1.0; 2.0; 40.0 ] do
                let shares = Array.init count (fun i -> Mixup.share alpha (Rng.at i (Rng.ofSeed 11)))
                let off = shares |> Array.map (fun s -> s - 0.5)
                let variance = 1.0 / (4.0 * (2.0 * alpha + 1.0))
                // Five standard errors; the fourth moment about the mean is at most variance / 4.
                let error spread = 5.0 * sqrt (spread / float count)
                Must.beNear 0.0 (error variance) 0.0 (Array.average off)

                Must.beNear
                    0.0
                    (error (variance / 4.0 - variance * variance))
                    variance
                    (off |> Array.averageBy (fun d -> d * d))
        }

        test "with alpha 1 shares are uniform" {
            let count = 20_000
            let sorted = Array.init count (fun i -> Mixup.share 1.0 (Rng.at i (Rng.ofSeed 12))) |> Array.sort
            // The distance of Kolmogorov and Smirnov that one sample in 10^6 exceeds.
            let distance = sorted |> Array.mapi (fun i s -> abs (s - (float i + 0.5) / float count)) |> Array.max
            Must.lie 0.0 (2.7 / sqrt (float count)) distance
        }

        test "alpha must be a positive number" {
            for alpha in [ 0.0; -1.0; nan; infinity ] do
                Must.refuse "alpha" (fun () -> Mixup.share alpha (Rng.ofSeed 1))
        }

        testProperty "images and labels are blended by their shares"
        <| forAll
            (Gen.choose (1, 6)
             |> Gen.bind (fun n -> Gen.zip (many n (uniform 0.0 1.0)) (many n (Gen.choose (0, n - 1)))))
            (fun (shares, partners) ->
                Tensor.scoped (fun () ->
                    let whole = batch shares.Length
                    let before = images whole.Images
                    let mixed = Mixup.blend shares (Array.map int64 partners) whole
                    let mix = mixed.Mix.Value

                    let expected =
                        Array.init
                            shares.Length
                            (fun i ->
                                Array.map2
                                    (fun x y -> shares[i] * x + (1.0 - shares[i]) * y)
                                    before[i]
                                    before[partners[i]]
                            )

                    Must.beClose 1e-14 1e-14 (Array.concat expected) (Tensor.toFloats mixed.Images)
                    Must.beSame shares (Tensor.toFloats mix.Weight)
                    Must.equal (Array.map int64 partners) (Tensor.toInt64s mix.Other)

                    Must.equal
                        (Array.mapi (fun i p -> if i = p then 1uy else 0uy) partners)
                        (Tensor.toBytes mix.Clean)

                    Must.equal (Tensor.toInt64s whole.Labels) (Tensor.toInt64s mixed.Labels)
                    Must.equal (Tensor.toInt64s whole.Index) (Tensor.toInt64s mixed.Index)
                    Must.equal before (images whole.Images)
                )
            )

        testProperty "a step is blended alike wherever the span begins, the last and shorter one too"
        <| forAll
            (Gen.zip3 keys (Gen.elements [ 0.2; 1.0 ]) (Gen.choose (1, 5)))
            (fun (key, alpha, size) ->
                Tensor.scoped (fun () ->
                    let count = 13
                    let set = batch count
                    let whole = Mixup.steps alpha key size 0 set
                    let partners = Tensor.toInt64s whole.Mix.Value.Other

                    for step in 0 .. (count - 1) / size do
                        let start, stop = step * size, min count ((step + 1) * size)
                        let alone = rows start stop set |> Mixup.steps alpha key size step
                        Must.equal (plain alone) (plain (rows start stop whole))
                        // Labels are the images' numbers: partners are a permutation of the step's own images.
                        Must.equal [| int64 start .. int64 stop - 1L |] (Array.sort partners[start .. stop - 1])
                        Must.equal 1 (Tensor.toFloats alone.Mix.Value.Weight |> Array.distinct |> Array.length)
                )
            )

        test "steps and epochs have draws of their own" {
            Tensor.scoped (fun () ->
                let set = batch 8
                let of' key step = Mixup.steps 1.0 (Rng.ofSeed key) 8 step set |> plain
                Must.equal 4 ([ of' 1 0; of' 1 1; of' 2 0; of' 2 1 ] |> List.distinct |> List.length)
            )
        }

        test "a batch of blends is not blended again" {
            Tensor.scoped (fun () ->
                let mixed = Mixup.steps 1.0 (Rng.ofSeed 1) 4 0 (batch 4)
                Must.refuse "batch" (fun () -> Mixup.steps 1.0 (Rng.ofSeed 1) 4 0 mixed)
            )
        }

        test "blending holds the batch's tensors and no more" {
            Tensor.scoped (fun () ->
                let set = batch 8
                let before = Tensor.live ()
                let mixed = Mixup.steps 1.0 (Rng.ofSeed 1) 4 0 set
                // Images, and three tensors of the mix; labels and index are the batch's own.
                Must.equal (before + 4L) (Tensor.live ())
                Must.beTheSame set.Labels mixed.Labels
            )
        }
    ]
