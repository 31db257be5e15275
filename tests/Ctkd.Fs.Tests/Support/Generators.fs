/// Generators (finite numbers, logits of every scale, small sizes), and property checks.
module Ctkd.Fs.Tests.Generators

open System
open Expecto
open Ctkd.Fs
open FsCheck
open FsCheck.FSharp

/// A property of all values of a generator, for `testProperty`; a failure prints the value and the seed.
let forAll (gen: Gen<'T>) (property: 'T -> unit) : Property = Prop.forAll (Arb.fromGen gen) property

/// Tests `count` values instead of 100, for `testPropertyWithConfig`.
let times (count: int) : FsCheckConfig = { FsCheckConfig.defaultConfig with maxTest = count }

/// Checks a property on `count` values inside a test; a failure prints the value and the seed to replay it.
let checkMany (count: int) (gen: Gen<'T>) (property: 'T -> unit) : unit =
    let config = Config.QuickThrowOnFailure.WithMaxTest(count).WithQuietOnSuccess true
    Check.One(config, forAll gen property)

/// Checks a property on 100 values.
let check (gen: Gen<'T>) (property: 'T -> unit) : unit = checkMany 100 gen property

/// Uniform in [low, high], finite by construction.
let uniform (low: float) (high: float) : Gen<float> =
    Gen.choose (0, 1_000_000) |> Gen.map (fun k -> low + (high - low) * float k / 1e6)

/// `count` independent values.
let many (count: int) (gen: Gen<'T>) : Gen<'T[]> = Gen.arrayOfLength count gen

/// Teacher and student logits of a batch, row by row.
type Logits = { Rows: int; Classes: int; Teacher: float[]; Student: float[] }

/// Logits with one of the given scales.
let logitsOf (scales: float list) : Gen<Logits> =
    gen {
        let! rows = Gen.choose (1, 4)
        let! classes = Gen.choose (2, 8)
        let! scale = Gen.elements scales
        let! teacher = many (rows * classes) (uniform -scale scale)
        let! student = many (rows * classes) (uniform -scale scale)

        return { Rows = rows; Classes = classes; Teacher = teacher; Student = student }
    }

/// Logits of every scale, including all equal.
let logits: Gen<Logits> = logitsOf [ 0.0; 1e-3; 1.0; 10.0; 100.0 ]

/// Logits in the usual range of networks, where central differences are exact enough.
let moderateLogits: Gen<Logits> = logitsOf [ 1e-3; 1.0; 5.0 ]

/// A usual temperature.
let temperature: Gen<float> = uniform 0.5 21.0

/// Any int, including the extremes.
let anyInt: Gen<int> =
    Gen.oneof [
        Gen.choose (Int32.MinValue, Int32.MaxValue)
        Gen.choose (-5, 400)
        Gen.elements [ Int32.MinValue; Int32.MinValue + 1; -1; 0; 1; Int32.MaxValue - 1; Int32.MaxValue ]
    ]

/// A set of random images whose labels cover all classes.
let images (seed: int) (count: int) (classes: int) (size: int) : ImageSet =
    let rng = Rng.ofSeed seed

    {
        Name = "synthetic"
        Classes = classes
        Channels = 3
        Height = size
        Width = size
        Images = Pixels.InMemory(Array.init (count * 3 * size * size) (fun i -> byte (Rng.bits i rng)))
        Labels = Array.init count (fun i -> i % classes)
    }
