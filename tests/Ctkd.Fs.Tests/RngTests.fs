module Ctkd.Fs.Tests.RngTests

open System
open Ctkd.Fs
open Ctkd.Fs.Tests.Generators
open FsCheck
open FsCheck.FSharp
open Xunit

/// A generator of any seed.
let private rng: Gen<Rng> = anyInt |> Gen.map Rng.ofSeed

[<Fact>]
let ``a number depends on its key and index alone`` () =
    check
        (Gen.zip anyInt anyInt)
        (fun (seed, index) ->
            let draw () = Rng.ofSeed seed |> Rng.split "order" |> Rng.at 3 |> Rng.bits index
            Assert.Equal(draw (), draw ())
        )

[<Fact>]
let ``the bits are those of SplitMix64`` () =
    let bits = List.init 3 (fun i -> Rng.bits 0 { Key = uint64 i * 0x9E3779B97F4A7C15UL })
    Assert.Equal<uint64 list>([ 0xE220A8397B1DCDAFUL; 0x6E789E6AA1B965F4UL; 0x06C45D188009454FUL ], bits)
    Assert.Equal(0x910A2DEC89025CC1UL, (Rng.ofSeed 1).Key)

[<Fact>]
let ``seeds, purposes and numbers give different generators`` () =
    let keys =
        [
            for seed in 0..9 do
                let rng = Rng.ofSeed seed
                yield rng
                for purpose in [ ""; "a"; "b"; "ab"; "ba"; "order" ] -> Rng.split purpose rng
                for index in -2 .. 20 -> Rng.at index rng
        ]
        |> List.map _.Key

    Assert.Equal(keys.Length, (List.distinct keys).Length)

[<Fact>]
let ``uniform numbers lie in 0 to 1, without 1`` () =
    check
        (Gen.zip rng anyInt)
        (fun (rng, index) ->
            let x = Rng.uniform index rng
            Assert.True(x >= 0.0 && x < 1.0)
        )

[<Fact>]
let ``numbers below a count lie below it`` () =
    check
        (Gen.zip3 rng (Gen.choose (1, Int32.MaxValue)) anyInt)
        (fun (rng, count, index) -> Assert.InRange(Rng.below count index rng, 0, count - 1))

[<Fact>]
let ``numbers below a count come equally often`` () =
    let counts = Array.init 60_000 (fun i -> Rng.below 6 i (Rng.ofSeed 3)) |> Array.countBy id
    Assert.Equal(6, counts.Length)
    // Four standard deviations of a binomial distribution.
    Assert.All(counts, fun (_, n) -> Assert.InRange(n, 10_000 - 365, 10_000 + 365))

[<Fact>]
let ``normal numbers have the moments of the normal distribution`` () =
    let count = 100_000
    let values = Rng.normals count (Rng.ofSeed 5)
    let moment power = values |> Array.averageBy (fun x -> x ** power)
    let error variance = 4.0 * sqrt (variance / float count)
    Expect.near 0.0 (error 1.0) 0.0 (moment 1.0)
    Expect.near 0.0 (error 2.0) 1.0 (moment 2.0)
    Expect.near 0.0 (error 15.0) 0.0 (moment 3.0)
    Expect.near 0.0 (error 96.0) 3.0 (moment 4.0)
    Assert.All(values, fun x -> Assert.True(Double.IsFinite x))

[<Fact>]
let ``normal numbers do not know their neighbours`` () =
    let count = 100_000
    let values = Rng.normals count (Rng.ofSeed 5)

    // Over pairs of one radius, and over those of two; and of the squares, which share the radius.
    for lag in 1..3 do
        for parity in 0..1 do
            let products power =
                Array.init
                    (count / 2 - 2)
                    (fun i -> (values[2 * i + parity] * values[2 * i + parity + lag]) ** power)

            Expect.near 0.0 (4.0 / sqrt (float (count / 2))) 0.0 (Array.average (products 1.0))
            Expect.near 0.0 (4.0 * sqrt (8.0 / float (count / 2))) 1.0 (Array.average (products 2.0))

[<Fact>]
let ``a shorter draw is the beginning of a longer one`` () =
    check
        (Gen.zip rng (Gen.choose (0, 20)))
        (fun (rng, count) ->
            Expect.same (Array.truncate count (Rng.normals 21 rng)) (Rng.normals count rng)
            Expect.same (Array.truncate count (Rng.uniforms 2.0 21 rng)) (Rng.uniforms 2.0 count rng)
        )

[<Fact>]
let ``uniform numbers fill their bounds evenly`` () =
    let values = Rng.uniforms 0.5 40_000 (Rng.ofSeed 6)
    Assert.All(values, fun x -> Assert.True(x >= -0.5 && x < 0.5))
    Assert.True(Array.min values < -0.499 && Array.max values > 0.499)
    Expect.near 0.0 (4.0 * 0.5 / sqrt (3.0 * 40_000.0)) 0.0 (Array.average values)

[<Fact>]
let ``a permutation holds every number once`` () =
    check
        (Gen.zip rng (Gen.choose (0, 200)))
        (fun (rng, count) ->
            Assert.Equal<int64[]>(Array.init count int64, Array.sort (Rng.permutation count rng))
        )

[<Fact>]
let ``every order of three comes equally often`` () =
    let orders =
        List.init 6_000 (fun seed -> Rng.ofSeed seed |> Rng.permutation 3 |> List.ofArray)
        |> List.countBy id

    Assert.Equal(6, orders.Length)
    Assert.All(orders, fun (_, n) -> Assert.InRange(n, 1_000 - 116, 1_000 + 116))
