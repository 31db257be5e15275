module Ctkd.Fs.Tests.AtTests

open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Generators
open Ctkd.Fs.Tests.Inputs

let private finite (values: float[]) = Seq.iter (fun v -> Must.hold (System.Double.IsFinite v)) values

let tests =
    testList "At" [
        testProperty "AT is 0 for student = teacher and for a student with every channel twice"
        <| forAll
            seeds
            (fun seed ->
                Tensor.scoped (fun () ->
                    let map = normal seed [ 3; 2; 4; 4 ] |> Plain.ofDense
                    Must.equal 0.0 (Tensor.toFloat (At.loss map map))
                    Must.beNear 0.0 1e-30 0.0 (Tensor.toFloat (At.loss map (Tensor.cat 1 [ map; map ])))
                )
            )

        testProperty "AT does not change with the scale of a map"
        <| forAll
            (FsCheck.FSharp.Gen.zip seeds (uniform 0.1 10.0))
            (fun (seed, factor) ->
                Tensor.scoped (fun () ->
                    let teacher, student =
                        normal seed [ 3; 2; 4; 4 ] |> Plain.ofDense, normal (seed + 1) [ 3; 5; 4; 4 ] |> Plain.ofDense

                    let scaled = Tensor.scale factor student

                    Must.beNear
                        1e-12
                        1e-16
                        (Tensor.toFloat (At.loss teacher student))
                        (Tensor.toFloat (At.loss teacher scaled))
                )
            )

        testPropertyWithConfig (times 20) "the gradients of AT are those of its values, and a map of zeros gives no NaN"
        <| forAll
            seeds
            (fun seed ->
                let teacher, student = normal seed [ 2; 2; 2; 2 ], normal (seed + 1) [ 2; 3; 2; 2 ]
                Must.matchDerivatives (fun xs -> At.loss xs[0] xs[1]) [ teacher; student ]
                let zeros = { student with Values = Array.map (fun _ -> 0.0) student.Values }
                Plain.gradients (fun xs -> At.loss xs[0] xs[1]) [ teacher; zeros ] |> Array.concat |> finite
            )

        test "AT sums over the maps behind the stem and pools the larger of two" {
            Tensor.scoped (fun () ->
                let map seed shape = normal seed shape |> Plain.ofDense
                let stem = map 1 [ 2; 2; 3; 3 ]
                let teacher = [ map 2 [ 2; 3; 2; 2 ]; map 3 [ 2; 3; 4; 4 ] ]
                let student = [ map 4 [ 2; 5; 4; 4 ]; map 5 [ 2; 5; 2; 2 ] ]

                let distiller =
                    pair [ [ 2; 3; 3 ]; [ 3; 2; 2 ]; [ 3; 4; 4 ] ] [ [ 2; 9; 9 ]; [ 5; 4; 4 ]; [ 5; 2; 2 ] ]
                    |> At.distiller
                    |> Error.orRaise

                let half = Tensor.avgPool2d 2 2 0
                let expected = At.loss teacher[0] (half student[0]) + At.loss (half teacher[1]) student[1]

                let actual =
                    distiller.Loss Tree.empty (input (mapped (stem :: teacher)) (mapped (stem :: student)) [| 0; 1 |])

                Must.beNear 1e-13 0.0 (Tensor.toFloat expected) (Tensor.toFloat actual)
            )
        }

        test "AT refuses models without maps, with other numbers of maps, and maps that cannot be pooled to one size" {
            let stem = [ 2; 8; 8 ]

            for teacher, student, why in
                [
                    [ stem ], [ stem; [ 3; 4; 4 ] ], "teacher has no maps behind its stem"
                    [ stem; [ 3; 4; 4 ] ], [ stem; [ 3; 4; 4 ]; [ 3; 2; 2 ] ], "they have 2 and 1 maps"
                    [ stem; [ 3; 7; 7 ] ], [ stem; [ 3; 4; 4 ] ], "maps of 3 x 4 x 4 and 3 x 7 x 7 cannot be pooled"
                    [ stem; [ 3; 8; 4 ] ], [ stem; [ 3; 4; 4 ] ], "cannot be pooled"
                ] do
                let error = errorOf (At.distiller (pair teacher student))
                Must.equal Mismatch error.Kind
                Must.contain why error.What
        }
    ]
