module Ctkd.Fs.Tests.FitNetTests

open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Generators
open Ctkd.Fs.Tests.Inputs
open Ctkd.Fs.Tests.Oracle

let private stem = [ 2; 8; 8 ]
let private tensor seed shape = normal seed shape |> Plain.ofDense

let tests =
    testList "FitNet" [
        test "FitNet's regressor meets maps that are equal, twice or half as large" {
            for side, kernel in [ 4, 1; 8, 3; 2, 4 ] do
                Tensor.scoped (fun () ->
                    let distiller =
                        pair [ stem; [ 3; 4; 4 ] ] [ stem; [ 2; side; side ] ] |> FitNet.distiller 1 |> Error.orRaise

                    Must.equal [ kernel; kernel ] (distiller.Declares.Head.Shape |> List.skip 2)
                    let teacher = mapped [ tensor 1 [ 2; 2; 8; 8 ]; tensor 2 [ 2; 3; 4; 4 ] ]

                    let input student = input teacher (mapped [ teacher.Features.Head; student ]) [| 0; 1 |]

                    let inputs, f = lossOf distiller (normal 3 [ 2; 2; side; side ]) input
                    // A bias before a batch normalisation has no effect: its gradient is 0 up to rounding.
                    Must.matchDerivatives f inputs
                )
        }

        test "FitNet refuses maps of other sizes, a hint that is not there and single pixels of single images" {
            let refuse hint teacher student why =
                let error = errorOf (FitNet.distiller hint (pair teacher student))
                Must.contain why error.What

            refuse 1 [ stem; [ 3; 4; 4 ] ] [ stem; [ 3; 3; 3 ] ] "equal, double or half"
            refuse 1 [ stem; [ 3; 4; 4 ] ] [ stem; [ 3; 8; 4 ] ] "equal, double or half"
            refuse 2 [ stem; [ 3; 4; 4 ] ] [ stem; [ 3; 4; 4 ]; [ 3; 4; 4 ] ] "teacher has no map 2"
            refuse 0 [] [ stem ] "teacher has no map 0"
            let single = { pair [ [ 3; 1; 1 ] ] [ [ 3; 1; 1 ] ] with SmallestBatch = 1 }
            Must.contain "at least 2 images" ((errorOf (FitNet.distiller 0 single)).What)
        }
    ]
