module Ctkd.Fs.Tests.RkdTests

open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Generators
open Ctkd.Fs.Tests.Inputs
open Ctkd.Fs.Tests.Oracle
open FsCheck.FSharp

let private features batch seed = normal seed [ batch; 5 ], normal (seed + 10) [ batch; 3 ]

let private valueAt distance angle (a: Dense) (b: Dense) =
    Plain.value (fun () -> Rkd.loss distance angle (Plain.ofDense a) (Plain.ofDense b))

let private value = valueAt 25.0 50.0

/// The published formula as loops.
let private rkd (distance: float) (angle: float) (teacher: Dense) (student: Dense) : float =
    let minus = Array.map2 (fun a b -> a - b)
    let dot a b = Array.fold2 (fun sum x y -> sum + x * y) 0.0 a b
    let smooth a b = let d = abs (a - b) in if d < 1.0 then 0.5 * d * d else d - 0.5

    let distances (x: float[][]) =
        let all = [|
            for a in x do
                for b in x -> if obj.ReferenceEquals(a, b) then 0.0 else let d = minus a b in sqrt (max 1e-12 (dot d d))
        |]

        let mean = all |> Array.filter (fun d -> d > 0.0) |> Array.average
        Array.map (fun d -> d / mean) all

    let angles (x: float[][]) =
        let unit a b =
            let d = minus a b in
            let n = max 1e-12 (sqrt (dot d d)) in
            Array.map (fun v -> v / n) d

        [|
            for j in x do
                for i in x do
                    for k in x -> dot (unit i j) (unit k j)
        |]

    let mean f = Array.map2 smooth (f (rows student)) (f (rows teacher)) |> Array.average
    distance * mean distances + angle * mean angles

let tests =
    testList "Rkd" [
        testProperty "RKD is the published loops, in distances and in angles"
        <| forAll
            (Gen.zip seeds (Gen.choose (2, 6)))
            (fun (seed, batch) ->
                let teacher, student = features batch seed

                for distance, angle in [ 1.0, 0.0; 0.0, 1.0; 25.0, 50.0 ] do
                    Must.beNear
                        1e-9
                        1e-13
                        (rkd distance angle teacher student)
                        (valueAt distance angle teacher student)
            )

        testProperty "RKD does not change when features are rotated, scaled or moved"
        <| forAll
            (Gen.zip3 seeds (Gen.choose (2, 6)) (uniform 0.1 10.0))
            (fun (seed, batch, factor) ->
                let teacher, student = features batch seed
                let turned = rotated (seed + 3) student
                let moved = { turned with Values = Array.map (fun v -> factor * v + 1.0) turned.Values }
                Must.beNear 1e-8 1e-12 (value teacher student) (value (rotated seed teacher) moved)
            )

        testPropertyWithConfig (times 60) "the gradients of RKD are those of its values"
        <| forAll
            (Gen.zip seeds (Gen.choose (2, 4)))
            (fun (seed, batch) ->
                // Central differences need a smooth point: directions turn fast between near instances, and the
                // derivative of smooth L1 has a kink where angles differ by 1.
                let teacher, noise = normal seed [ batch; 5 ], normal (seed + 1) [ batch; 5 ]

                let student = {
                    teacher with
                        Values = Array.map2 (fun t n -> t + 0.1 * n) teacher.Values noise.Values
                }

                let apart (x: Dense) =
                    let all = rows x
                    let distance a b = Array.map2 (fun u v -> (u - v) ** 2.0) a b |> Array.sum |> sqrt
                    let far (i, j) = i = j || distance all[i] all[j] > 1.0
                    List.allPairs [ 0 .. batch - 1 ] [ 0 .. batch - 1 ] |> List.forall far

                if apart teacher && apart student then
                    Must.matchDerivatives (fun xs -> Rkd.loss 25.0 50.0 xs[0] xs[1]) [ teacher; student ]
            )

        testProperty "RKD is 0 for student = teacher, and features that coincide give no NaN"
        <| forAll
            (Gen.zip seeds (Gen.choose (2, 6)))
            (fun (seed, batch) ->
                let teacher, student = features batch seed
                Must.equal 0.0 (value teacher teacher)
                let same = { student with Values = Array.map (fun _ -> 0.5) student.Values }
                let gradients = Plain.gradients (fun xs -> Rkd.loss 25.0 50.0 xs[0] xs[1]) [ teacher; same ]

                for g in Array.concat gradients do
                    Must.hold (System.Double.IsFinite g)
            )

        test "RKD refuses an epoch whose last batch is one image" {
            let one = { pair [] [] with SmallestBatch = 1 }
            let error = errorOf (Rkd.distiller 25.0 50.0 one)
            Must.equal Usage error.Kind
            Must.contain "at least 2 images" error.What
        }
    ]
