module Ctkd.Fs.Tests.EstimateTests

open Expecto
open Ctkd.Fs.App
open Ctkd.Fs.Tests.Generators
open FsCheck.FSharp

let tests =
    testList "Estimate" [
        test "the interval of a median lies between the order statistics of the binomial distribution" {
            // Of 5 values no two hold the median with 95 %: all of them are the interval.
            for count, low, high in [ 1, 1, 1; 5, 1, 5; 6, 1, 6; 9, 2, 8; 15, 4, 12; 60, 22, 39 ] do
                let values = Array.init count (fun i -> float (count - i))
                let expected = { Median = float (count + 1) / 2.0; Low = float low; High = float high }
                Must.equal expected (Estimate.ofValues values)
        }

        test "of random values of median 0 the interval holds it 95 times of 100 or more" {
            let holds i =
                let values = Ctkd.Fs.Rng.normals 15 (Ctkd.Fs.Rng.at i (Ctkd.Fs.Rng.ofSeed 1))
                let interval = Estimate.ofValues values
                interval.Low <= 0.0 && 0.0 <= interval.High

            let held = Seq.init 4000 holds |> Seq.filter id |> Seq.length
            // 96.5 % by the distribution, with a standard error of 0.3.
            Must.lie 3820 3900 held
        }

        test "the order of the values does not matter" {
            let values = Gen.arrayOfLength 7 (Gen.choose (-50, 50) |> Gen.map float)

            check values (fun values -> Must.equal (Estimate.ofValues values) (Estimate.ofValues (Array.rev values)))
        }
    ]
