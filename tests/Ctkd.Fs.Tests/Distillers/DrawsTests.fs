module Ctkd.Fs.Tests.DrawsTests

open Ctkd.Fs
open Ctkd.Fs.Tests.Generators
open FsCheck.FSharp
open Xunit

[<Fact>]
let ``drawn numbers are those of the host's generator with that key`` () =
    check
        (Gen.zip anyInt (Gen.choose (0, 1_000)))
        (fun (seed, index) ->
            Tensor.scoped (fun () ->
                let rng = Rng.ofSeed seed
                let key = Draws.key Device.Cpu index rng

                let onDevice =
                    Draws.keyAt (Draws.upload Device.Cpu rng) (Tensor.ofInt64s [] [| int64 index |])

                Assert.Equal<int64[]>(Tensor.toInt64s key, Tensor.toInt64s onDevice)
                let host: Rng = { Key = Rng.bits index rng >>> 11 }
                let drawn = Draws.uniform key [| 3L; 4L |]
                Assert.Equal<int64[]>([| 3L; 4L |], Tensor.shape drawn)
                Expect.same (Array.init 12 (fun i -> Rng.uniform i host)) (Tensor.toFloats drawn)
            )
        )

[<Fact>]
let ``drawn numbers fill [0, 1) evenly`` () =
    Tensor.scoped (fun () ->
        let drawn = Draws.uniform (Draws.key Device.Cpu 0 (Rng.ofSeed 1)) [| 100_000L |] |> Tensor.toFloats
        Assert.All(drawn, fun u -> Assert.True(u >= 0.0 && u < 1.0))
        let counts = drawn |> Array.countBy (fun u -> int (u * 10.0)) |> Array.map snd
        Assert.Equal(10, counts.Length)
        Assert.All(counts, fun n -> Assert.InRange(n, 9_500, 10_500))
    )
