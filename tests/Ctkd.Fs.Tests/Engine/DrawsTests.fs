module Ctkd.Fs.Tests.DrawsTests

open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Generators
open FsCheck.FSharp

let tests =
    testList "Draws" [
        testProperty "drawn numbers are those of the host's generator with that key"
        <| forAll
            (Gen.zip anyInt (Gen.choose (0, 1_000)))
            (fun (seed, index) ->
                Tensor.scoped (fun () ->
                    let rng = Rng.ofSeed seed
                    let key = Draws.key Device.Cpu index rng

                    let onDevice = Draws.keyAt (Draws.upload Device.Cpu rng) (Tensor.ofInt64s [] [| int64 index |])

                    Must.equal (Tensor.toInt64s key) (Tensor.toInt64s onDevice)
                    let host: Rng = { Key = Rng.bits index rng >>> 11 }
                    let drawn = Draws.uniform key [| 3L; 4L |]
                    Must.equal [| 3L; 4L |] (Tensor.shape drawn)
                    Must.beSame (Array.init 12 (fun i -> Rng.uniform i host)) (Tensor.toFloats drawn)
                )
            )

        test "drawn numbers fill [0, 1) evenly" {
            Tensor.scoped (fun () ->
                let drawn = Draws.uniform (Draws.key Device.Cpu 0 (Rng.ofSeed 1)) [| 100_000L |] |> Tensor.toFloats

                for u in drawn do
                    Must.hold (u >= 0.0 && u < 1.0)

                let counts = drawn |> Array.countBy (fun u -> int (u * 10.0)) |> Array.map snd
                Must.equal 10 counts.Length

                for n in counts do
                    Must.lie 9_500 10_500 n
            )
        }
    ]
