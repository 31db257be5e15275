module Ctkd.Fs.Tests.RngTests

open System
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Generators
open FsCheck
open FsCheck.FSharp

/// Generators of any seed.
let private rng: Gen<Rng> = anyInt |> Gen.map Rng.ofSeed

let tests =
    testList "Rng" [
        testProperty "a number depends on its key and index alone"
        <| forAll
            (Gen.zip anyInt anyInt)
            (fun (seed, index) ->
                let draw () = Rng.ofSeed seed |> Rng.split "order" |> Rng.at 3 |> Rng.bits index
                Must.equal (draw ()) (draw ())
            )

        test "the bits are those of SplitMix64" {
            let bits = List.init 3 (fun i -> Rng.bits 0 { Key = uint64 i * 0x9E3779B97F4A7C15UL })
            Must.equal [ 0xE220A8397B1DCDAFUL; 0x6E789E6AA1B965F4UL; 0x06C45D188009454FUL ] bits
            Must.equal 0x910A2DEC89025CC1UL ((Rng.ofSeed 1).Key)
        }

        test "seeds, purposes and numbers give different generators" {
            let keys =
                [
                    for seed in 0..9 do
                        let rng = Rng.ofSeed seed
                        yield rng
                        for purpose in [ ""; "a"; "b"; "ab"; "ba"; "order" ] -> Rng.split purpose rng
                        for index in -2 .. 20 -> Rng.at index rng
                ]
                |> List.map _.Key

            Must.equal keys.Length ((List.distinct keys).Length)
        }

        testProperty "uniform numbers lie in 0 to 1, without 1"
        <| forAll
            (Gen.zip rng anyInt)
            (fun (rng, index) ->
                let x = Rng.uniform index rng
                Must.hold (x >= 0.0 && x < 1.0)
            )

        testProperty "numbers below a count lie below it"
        <| forAll
            (Gen.zip3 rng (Gen.choose (1, Int32.MaxValue)) anyInt)
            (fun (rng, count, index) -> Must.lie 0 (count - 1) (Rng.below count index rng))

        test "numbers below a count come equally often" {
            let counts = Array.init 60_000 (fun i -> Rng.below 6 i (Rng.ofSeed 3)) |> Array.countBy id
            Must.equal 6 counts.Length
            // Four standard deviations of a binomial distribution.
            for (_, n) in counts do
                Must.lie (10_000 - 365) (10_000 + 365) n
        }

        test "normal numbers have the moments of the normal distribution" {
            let count = 100_000
            let values = Rng.normals count (Rng.ofSeed 5)
            let moment power = values |> Array.averageBy (fun x -> x ** power)
            let error variance = 4.0 * sqrt (variance / float count)
            Must.beNear 0.0 (error 1.0) 0.0 (moment 1.0)
            Must.beNear 0.0 (error 2.0) 1.0 (moment 2.0)
            Must.beNear 0.0 (error 15.0) 0.0 (moment 3.0)
            Must.beNear 0.0 (error 96.0) 3.0 (moment 4.0)

            for x in values do
                Must.hold (Double.IsFinite x)
        }

        test "normal numbers do not know their neighbours" {
            let count = 100_000
            let values = Rng.normals count (Rng.ofSeed 5)

            // Over pairs with one radius, and over pairs with two; and of the squares, which share the radius.
            for lag in 1..3 do
                for parity in 0..1 do
                    let products power =
                        Array.init
                            (count / 2 - 2)
                            (fun i -> (values[2 * i + parity] * values[2 * i + parity + lag]) ** power)

                    Must.beNear 0.0 (4.0 / sqrt (float (count / 2))) 0.0 (Array.average (products 1.0))
                    Must.beNear 0.0 (4.0 * sqrt (8.0 / float (count / 2))) 1.0 (Array.average (products 2.0))
        }

        testProperty "a shorter draw is the beginning of a longer one"
        <| forAll
            (Gen.zip rng (Gen.choose (0, 20)))
            (fun (rng, count) ->
                Must.beSame (Array.truncate count (Rng.normals 21 rng)) (Rng.normals count rng)
                Must.beSame (Array.truncate count (Rng.uniforms 2.0 21 rng)) (Rng.uniforms 2.0 count rng)
            )

        test "uniform numbers fill their bounds evenly" {
            let values = Rng.uniforms 0.5 40_000 (Rng.ofSeed 6)

            for x in values do
                Must.hold (x >= -0.5 && x < 0.5)

            Must.hold (Array.min values < -0.499 && Array.max values > 0.499)
            Must.beNear 0.0 (4.0 * 0.5 / sqrt (3.0 * 40_000.0)) 0.0 (Array.average values)
        }

        testProperty "a permutation holds every number once"
        <| forAll
            (Gen.zip rng (Gen.choose (0, 200)))
            (fun (rng, count) -> Must.equal (Array.init count int64) (Array.sort (Rng.permutation count rng)))

        test "every order of three comes equally often" {
            let orders =
                List.init 6_000 (fun seed -> Rng.ofSeed seed |> Rng.permutation 3 |> List.ofArray) |> List.countBy id

            Must.equal 6 orders.Length

            for (_, n) in orders do
                Must.lie (1_000 - 116) (1_000 + 116) n
        }
    ]
