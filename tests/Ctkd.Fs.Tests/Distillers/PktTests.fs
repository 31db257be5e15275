module Ctkd.Fs.Tests.PktTests

open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Generators
open Ctkd.Fs.Tests.Inputs
open Ctkd.Fs.Tests.Oracle
open FsCheck.FSharp

let private features batch seed = normal seed [ batch; 5 ], normal (seed + 10) [ batch; 3 ]

let private value (a: Dense) (b: Dense) = Plain.value (fun () -> Pkt.loss (Plain.ofDense a) (Plain.ofDense b))

/// The published formula as loops.
let private pkt (teacher: Dense) (student: Dense) : float =
    let eps = 1e-7
    let dot a b = Array.fold2 (fun sum x y -> sum + x * y) 0.0 a b

    let neighbours (x: Dense) =
        let unit =
            rows x |> Array.map (fun row -> let n = sqrt (dot row row) in Array.map (fun v -> v / (n + eps)) row)

        unit
        |> Array.map (fun a ->
            let s = unit |> Array.map (fun b -> (dot a b + 1.0) / 2.0) in Array.map (fun v -> v / Array.sum s) s
        )

    Array.map2 (Array.map2 (fun q p -> q * log ((q + eps) / (p + eps)))) (neighbours teacher) (neighbours student)
    |> Array.concat
    |> Array.average

let tests =
    testList "Pkt" [
        testProperty "PKT is the published loop"
        <| forAll
            (Gen.zip seeds (Gen.choose (1, 6)))
            (fun (seed, batch) ->
                let teacher, student = features batch seed
                Must.beNear 1e-9 1e-14 (pkt teacher student) (value teacher student)
            )

        testProperty "PKT does not change when features are rotated or scaled"
        <| forAll
            (Gen.zip3 seeds (Gen.choose (2, 6)) (uniform 0.5 4.0))
            (fun (seed, batch, factor) ->
                let teacher, student = features batch seed
                let expected = value teacher student
                Must.beNear 1e-9 1e-13 expected (value (rotated seed teacher) (rotated (seed + 3) student))
                let scaled = { student with Values = Array.map ((*) factor) student.Values }
                // The 1e-7 added to the norm is the only trace of the scale.
                Must.beNear 1e-4 1e-5 expected (value teacher scaled)
            )

        testPropertyWithConfig (times 20) "the gradients of PKT are those of its values"
        <| forAll
            (Gen.zip seeds (Gen.choose (2, 5)))
            (fun (seed, batch) ->
                let teacher, student = features batch seed
                // Central differences need a smooth point: away from zero and from opposite vectors.
                let positive (x: Dense) = { x with Values = Array.map (fun v -> abs v + 0.3) x.Values }
                Must.matchDerivatives (fun xs -> Pkt.loss xs[0] xs[1]) [ positive teacher; positive student ]
            )

        testProperty "PKT is 0 for student = teacher, and features of zeros give no NaN"
        <| forAll
            (Gen.zip seeds (Gen.choose (1, 6)))
            (fun (seed, batch) ->
                let teacher, student = features batch seed
                Must.equal 0.0 (value teacher teacher)
                let zeros = { student with Values = Array.map (fun _ -> 0.0) student.Values }
                let gradients = Plain.gradients (fun xs -> Pkt.loss xs[0] xs[1]) [ teacher; zeros ]

                for g in Array.concat gradients do
                    Must.hold (System.Double.IsFinite g)
            )
    ]
