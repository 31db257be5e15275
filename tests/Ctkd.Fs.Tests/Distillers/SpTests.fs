module Ctkd.Fs.Tests.SpTests

open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Generators
open Ctkd.Fs.Tests.Inputs
open Ctkd.Fs.Tests.Oracle
open FsCheck.FSharp

/// Takes maps in their flattened form.
let private loss (teacher: Tensor) (student: Tensor) : Tensor =
    let map side (x: Tensor) = Tensor.reshape [| int64 (Tensor.size 0 x); -1L; side; side |] x
    Sp.loss (map 2L teacher) (map 3L student)

let private features batch seed = normal seed [ batch; 12 ], normal (seed + 10) [ batch; 18 ]
let private value (a: Dense) (b: Dense) = Plain.value (fun () -> loss (Plain.ofDense a) (Plain.ofDense b))

let tests =
    testList "Sp" [
        testProperty "SP is the published loop"
        <| forAll
            (Gen.zip seeds (Gen.choose (1, 6)))
            (fun (seed, batch) ->
                let teacher, student = features batch seed

                let similarity (x: Dense) =
                    let x = rows x
                    let norm row = sqrt (Array.sumBy (fun v -> v * v) row)

                    x
                    |> Array.map (fun a -> x |> Array.map (fun b -> Array.fold2 (fun sum u v -> sum + u * v) 0.0 a b))
                    |> Array.map (fun row -> Array.map (fun v -> v / norm row) row)
                    |> Array.concat

                let expected =
                    Array.map2 (fun a b -> (a - b) ** 2.0) (similarity teacher) (similarity student) |> Array.sum

                Must.beNear 1e-10 1e-14 (expected / float (batch * batch)) (value teacher student)
            )

        testProperty "SP does not change when features are rotated or scaled"
        <| forAll
            (Gen.zip3 seeds (Gen.choose (2, 6)) (uniform 0.1 10.0))
            (fun (seed, batch, factor) ->
                let teacher, student = features batch seed
                let turned = rotated (seed + 3) student
                let turned = { turned with Values = Array.map ((*) factor) turned.Values }
                Must.beNear 1e-9 1e-13 (value teacher student) (value (rotated seed teacher) turned)
            )

        testPropertyWithConfig (times 20) "the gradients of SP are those of its values"
        <| forAll
            (Gen.zip seeds (Gen.choose (2, 4)))
            (fun (seed, batch) ->
                let teacher, student = features batch seed
                Must.matchDerivatives (fun xs -> loss xs[0] xs[1]) [ teacher; student ]
            )

        testProperty "SP is 0 for student = teacher, and maps of zeros give no NaN"
        <| forAll
            (Gen.zip seeds (Gen.choose (1, 6)))
            (fun (seed, batch) ->
                let map = normal seed [ batch; 3; 2; 2 ]
                let zeros = { map with Values = Array.map (fun _ -> 0.0) map.Values }
                Must.equal 0.0 (Plain.value (fun () -> Sp.loss (Plain.ofDense map) (Plain.ofDense map)))
                let gradients = Plain.gradients (fun xs -> Sp.loss xs[0] xs[1]) [ map; zeros ]

                for g in Array.concat gradients do
                    Must.hold (System.Double.IsFinite g)
            )

        test "SP takes maps of any two shapes and refuses a model without maps" {
            Must.hold (Result.isOk (Sp.distiller (pair [ [ 4; 7; 7 ] ] [ [ 3; 5; 5 ]; [ 3; 2; 2 ] ])))

            for teacher, student, name in [ [], [ [ 3; 4; 4 ] ], "teacher"; [ [ 3; 4; 4 ] ], [], "student" ] do
                let error = errorOf (Sp.distiller (pair teacher student))
                Must.equal Mismatch error.Kind
                Must.contain $"{name} has no map" error.What
        }
    ]
