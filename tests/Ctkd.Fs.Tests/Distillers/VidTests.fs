module Ctkd.Fs.Tests.VidTests

open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Generators
open Ctkd.Fs.Tests.Inputs
open Ctkd.Fs.Tests.Oracle

let private stem = [ 2; 8; 8 ]
let private tensor seed shape = normal seed shape |> Plain.ofDense

let private vidPairing = pair [ stem; [ 3; 2; 2 ]; [ 2; 2; 2 ] ] [ stem; [ 2; 4; 4 ]; [ 4; 1; 1 ] ]

let private vidLesson (student: Tensor) : DistillerInput =
    let stem = tensor 1 [ 2; 2; 8; 8 ]
    let teacher = [ stem; tensor 2 [ 2; 3; 2; 2 ]; tensor 3 [ 2; 2; 2; 2 ] ]
    input (mapped teacher) (mapped [ stem; student; tensor 4 [ 2; 4; 1; 1 ] ]) [| 0; 1 |]

let tests =
    testList "Vid" [
        test "VID has a regressor and a variance of 5 for each channel of each map behind the stem" {
            let distiller = Vid.distiller vidPairing |> Error.orRaise
            let state = state 1 distiller

            Must.equal
                [
                    "1.regressor.0.weight", [ 3; 2; 1; 1 ]
                    "1.regressor.2.weight", [ 3; 3; 1; 1 ]
                    "1.regressor.4.weight", [ 3; 3; 1; 1 ]
                    "1.log_scale", [ 3 ]
                    "2.regressor.0.weight", [ 2; 4; 1; 1 ]
                    "2.regressor.2.weight", [ 2; 2; 1; 1 ]
                    "2.regressor.4.weight", [ 2; 2; 1; 1 ]
                    "2.log_scale", [ 2 ]
                ]
                (distiller.Declares |> List.map (fun d -> d.Name, d.Shape))

            let variance =
                Plain.numbers (fun () -> Tree.find "1.log_scale" state |> Tensor.softplus |> Tensor.addNumber 1e-5)

            Must.beClose 1e-12 0.0 [| 5.0; 5.0; 5.0 |] variance
        }

        test "the gradients of VID are those of its values, connectors included" {
            Tensor.scoped (fun () ->
                let distiller = Vid.distiller vidPairing |> Error.orRaise
                let inputs, f = lossOf distiller (normal 5 [ 2; 2; 4; 4 ]) vidLesson
                Must.matchDerivatives f inputs
            )
        }

        test "VID of a prediction that is right everywhere is half the logarithm of the variance" {
            Tensor.scoped (fun () ->
                let map = tensor 1 [ 2; 3; 4; 4 ]
                let scale = Plain.tensor [ 3 ] [| 1.0; 2.0; 3.0 |]
                let softplus x = log (1.0 + exp x) + 1e-5
                let expected = [ 1.0; 2.0; 3.0 ] |> List.averageBy (softplus >> log)
                Must.beNear 1e-12 0.0 (0.5 * expected) (Tensor.toFloat (Vid.loss scale map map))
            )
        }
    ]
