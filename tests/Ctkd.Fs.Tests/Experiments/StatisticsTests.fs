module Ctkd.Fs.Tests.StatisticsTests

open System
open Expecto
open FsCheck.FSharp
open Ctkd.Fs
open Ctkd.Fs.Tests.Generators

/// Hours of sleep that ten patients gained with two drugs (Student 1908, Biometrika 6): R's data set `sleep`.
let private first = [ 0.7; -1.6; -0.2; -1.2; -0.1; 3.4; 3.7; 0.8; 0.0; 2.0 ]
let private second = [ 1.9; 0.8; 1.1; 0.1; -0.1; 4.4; 5.5; 1.6; 4.6; 3.4 ]

let private near (expected: float) (actual: float) : unit = Must.beNear 1e-9 1e-12 expected actual

/// Two to eight pairs of accuracies.
let private pairs =
    gen {
        let! count = Gen.choose (2, 8)
        let! first = many count (uniform 0.0 100.0)
        let! second = many count (uniform 0.0 100.0)
        return List.zip (List.ofArray first) (List.ofArray second)
    }

let private paired (values: (float * float) list) : Difference = (Statistics.paired 0.95 values).Value

let private tTest (d: Difference) : TTest = d.Test.Value

let tests =
    testList "Statistics" [
        test "mean, deviation and interval are those of the textbook" {
            let values = [ 1.0; 2.0; 3.0; 4.0; 5.0 ]
            let sample = Statistics.sample 0.95 values
            Must.equal (5, 3.0) (sample.Count, sample.Mean)
            near (sqrt 2.5) sample.Deviation.Value
            // t of 4 degrees of freedom at 0.975 is 2.7764451051977987; the standard error is sqrt 0.5.
            near (3.0 - 2.7764451051977987 * sqrt 0.5) sample.Interval.Value.Low
            near (3.0 + 2.7764451051977987 * sqrt 0.5) sample.Interval.Value.High
        }

        test "two values have the interval of one degree of freedom, whose quantile is a tangent" {
            for level in [ 0.5; 0.8; 0.95; 0.99; 0.999 ] do
                let half = Math.Tan(Math.PI * level / 2.0) * 1.0
                let interval = (Statistics.interval level [ 4.0; 6.0 ]).Value
                Must.beNear 1e-7 0.0 (5.0 + half) interval.High
                Must.beNear 1e-7 1e-7 (5.0 - half) interval.Low
        }

        test "one value has a mean, and neither deviation, interval nor difference" {
            let sample = Statistics.sample 0.95 [ 71.3 ]
            Must.equal { Count = 1; Mean = 71.3; Deviation = None; Interval = None } sample
            Must.equal None (Statistics.paired 0.95 [ 71.3, 70.1 ])
            Must.equal None (Statistics.welch 0.95 [ 71.3 ] [ 70.1; 70.2 ])
            Must.equal None (Statistics.welch 0.95 [ 70.1; 70.2 ] [ 71.3 ])
        }

        test "no value, values that are not finite and levels out of range are refused" {
            Must.refuse "values" (fun () -> Statistics.mean [])
            Must.refuse "values" (fun () -> Statistics.sample 0.95 [ 1.0; nan ])
            Must.refuse "pairs" (fun () -> Statistics.paired 0.95 [ 1.0, 2.0; infinity, 1.0 ])

            for level in [ 0.0; 0.49; 0.9991; 1.0; nan ] do
                Must.refuse "level" (fun () -> Statistics.interval level [ 1.0; 2.0 ])
        }

        test "the paired test of Student's sleep data is R's" {
            let d = paired (List.zip first second)
            Must.beNear 0.0 1e-12 -1.58 d.Mean
            Must.beNear 0.0 5e-5 -4.0621 (tTest d).T
            Must.equal 9.0 (tTest d).Freedom
            Must.beNear 0.0 5e-7 0.002833 (tTest d).P
            Must.beNear 0.0 5e-8 -2.4598858 d.Interval.Low
            Must.beNear 0.0 5e-8 -0.7001142 d.Interval.High
        }

        test "Welch's test of the same values without their pairs is R's" {
            let d = (Statistics.welch 0.95 first second).Value
            Must.beNear 0.0 5e-5 -1.8608 (tTest d).T
            Must.beNear 0.0 5e-4 17.776 (tTest d).Freedom
            Must.beNear 0.0 5e-6 0.07939 (tTest d).P
            Must.beNear 0.0 5e-8 -3.3654832 d.Interval.Low
            Must.beNear 0.0 5e-8 0.2054832 d.Interval.High
        }

        test "chances and quantiles are those of the density, integrated" {
            for freedom in [ 1; 2; 3; 4; 9; 30 ] do
                let values = List.init (freedom + 1) (fun i -> float (i * i % 7) + 0.1 * float i)
                let pairs = values |> List.map (fun x -> x, 2.0)
                let d = paired pairs
                Must.equal (float freedom) (tTest d).Freedom
                Must.beNear 1e-7 1e-9 (StudentT.beyond (float freedom) (tTest d).T) (tTest d).P

                for level in [ 0.5; 0.9; 0.95; 0.99 ] do
                    let interval = (Statistics.interval level values).Value
                    let s = (Statistics.deviation values).Value / sqrt (float values.Length)
                    let half = StudentT.quantile (float freedom) level * s
                    Must.beNear 1e-7 0.0 half (interval.High - Statistics.mean values)
        }

        test "Holm's adjustment is R's, never falls along the order, and never exceeds 1" {
            Must.beClose
                1e-12
                0.0
                [| 0.03; 0.06; 0.06; 0.02 |]
                (Statistics.holm [ 0.01; 0.04; 0.03; 0.005 ] |> Array.ofList)

            Must.equal [ 1.0; 1.0 ] (Statistics.holm [ 0.7; 0.9 ])
            Must.equal [ 0.2 ] (Statistics.holm [ 0.2 ])
            Must.equal [] (Statistics.holm [])
        }

        test "values that do not vary have a difference, and no test to pretend" {
            for pairs in [ [ 70.0, 69.0; 71.0, 70.0 ]; [ 70.66, 70.56; 71.2, 71.1; 70.9, 70.8 ] ] do
                let d = paired pairs
                Must.equal None d.Test
                Must.beNear 0.0 1e-9 (fst pairs.Head - snd pairs.Head) d.Mean
                Must.beNear 0.0 1e-9 d.Mean d.Interval.Low

            let d = (Statistics.welch 0.95 [ 1.0; 1.0 ] [ 2.0; 2.0; 2.0 ]).Value
            Must.equal (-1.0, None) (d.Mean, d.Test)
        }

        testProperty "a paired difference with itself is 0"
        <| forAll
            pairs
            (fun values ->
                let d = values |> List.map (fun (a, _) -> a, a) |> paired
                Must.equal (0.0, { Low = 0.0; High = 0.0 }, None) (d.Mean, d.Interval, d.Test)
            )

        testProperty "swapping the sides changes signs and nothing else"
        <| forAll
            pairs
            (fun values ->
                let other = values |> List.map (fun (a, b) -> b, a)

                for d, swapped in
                    [
                        paired values, paired other
                        (let firsts, seconds = List.unzip values
                         (Statistics.welch 0.9 firsts seconds).Value, (Statistics.welch 0.9 seconds firsts).Value)
                    ] do
                    near -d.Mean swapped.Mean
                    near -d.Interval.Low swapped.Interval.High
                    near -(tTest d).T (tTest swapped).T
                    Must.beNear 1e-6 1e-12 (tTest d).P (tTest swapped).P
            )

        testProperty "a shift of both sides changes no difference, and a shift of one moves it"
        <| forAll
            pairs
            (fun values ->
                let d = paired values
                let both = values |> List.map (fun (a, b) -> a + 5.0, b + 5.0) |> paired
                let one = values |> List.map (fun (a, b) -> a + 5.0, b) |> paired
                Must.beNear 1e-9 1e-9 d.Mean both.Mean
                Must.beNear 1e-6 1e-9 (tTest d).T (tTest both).T
                Must.beNear 1e-9 1e-9 (d.Mean + 5.0) one.Mean
                Must.beNear 1e-9 1e-9 (d.Interval.High + 5.0) one.Interval.High
            )

        testProperty "a scale changes the numbers and neither t nor p"
        <| forAll
            pairs
            (fun values ->
                let d, scaled = paired values, values |> List.map (fun (a, b) -> 3.0 * a, 3.0 * b) |> paired
                Must.beNear 1e-9 1e-9 (3.0 * d.Interval.Low) scaled.Interval.Low
                Must.beNear 1e-7 1e-9 (tTest d).T (tTest scaled).T
                Must.beNear 1e-6 1e-12 (tTest d).P (tTest scaled).P
                Must.lie 0.0 1.0 (tTest d).P
            )

        testProperty "a higher level has a wider interval, and both hold the mean"
        <| forAll
            pairs
            (fun pairs ->
                let values = List.map fst pairs
                let narrow, wide = (Statistics.interval 0.8 values).Value, (Statistics.interval 0.95 values).Value
                Must.hold (wide.Low <= narrow.Low && narrow.High <= wide.High)
                Must.lie narrow.Low narrow.High (Statistics.mean values)
            )
    ]
