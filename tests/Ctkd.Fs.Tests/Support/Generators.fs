/// Generators of our own (finite numbers, logits of every scale, small sizes), and how to check a property.
module Ctkd.Fs.Tests.Generators

open System
open Expecto
open Ctkd.Fs
open FsCheck
open FsCheck.FSharp

/// The property of every value of a generator, for `testProperty`: a failure prints the value and the seed.
let forAll (gen: Gen<'T>) (property: 'T -> unit) : Property = Prop.forAll (Arb.fromGen gen) property

/// So many values instead of 100, for `testPropertyWithConfig`.
let times (count: int) : FsCheckConfig = { FsCheckConfig.defaultConfig with maxTest = count }

/// Checks a property on so many values inside a test; a failure prints the value and the seed that replays it.
let checkMany (count: int) (gen: Gen<'T>) (property: 'T -> unit) : unit =
    let config = Config.QuickThrowOnFailure.WithMaxTest(count).WithQuietOnSuccess true
    Check.One(config, forAll gen property)

/// Checks a property on 100 values.
let check (gen: Gen<'T>) (property: 'T -> unit) : unit = checkMany 100 gen property

/// Uniform in [low, high], finite by construction.
let uniform (low: float) (high: float) : Gen<float> =
    Gen.choose (0, 1_000_000) |> Gen.map (fun k -> low + (high - low) * float k / 1e6)

/// So many independent values.
let many (count: int) (gen: Gen<'T>) : Gen<'T[]> = Gen.arrayOfLength count gen

/// Teacher and student logits of a batch, row by row.
type Logits = { Rows: int; Classes: int; Teacher: float[]; Student: float[] }

/// Logits whose scale is one of the given.
let logitsOf (scales: float list) : Gen<Logits> =
    gen {
        let! rows = Gen.choose (1, 4)
        let! classes = Gen.choose (2, 8)
        let! scale = Gen.elements scales
        let! teacher = many (rows * classes) (uniform -scale scale)
        let! student = many (rows * classes) (uniform -scale scale)

        return { Rows = rows; Classes = classes; Teacher = teacher; Student = student }
    }

/// Logits of every scale, all equal included.
let logits: Gen<Logits> = logitsOf [ 0.0; 1e-3; 1.0; 10.0; 100.0 ]

/// Logits of the scales that networks give, where central differences are exact enough.
let moderateLogits: Gen<Logits> = logitsOf [ 1e-3; 1.0; 5.0 ]

/// A usual temperature.
let temperature: Gen<float> = uniform 0.5 21.0

/// Any int, the extremes included.
let anyInt: Gen<int> =
    Gen.oneof [
        Gen.choose (Int32.MinValue, Int32.MaxValue)
        Gen.choose (-5, 400)
        Gen.elements [ Int32.MinValue; Int32.MinValue + 1; -1; 0; 1; Int32.MaxValue - 1; Int32.MaxValue ]
    ]

/// A set of random images with labels that use every class.
let images (seed: int) (count: int) (classes: int) (size: int) : ImageSet =
    let rng = Rng.ofSeed seed

    {
        Name = "synthetic"
        Classes = classes
        Channels = 3
        Height = size
        Width = size
        Images = Array.init (count * 3 * size * size) (fun i -> byte (Rng.bits i rng))
        Labels = Array.init count (fun i -> i % classes)
    }
