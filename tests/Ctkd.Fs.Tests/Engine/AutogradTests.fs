module Ctkd.Fs.Tests.AutogradTests

open System
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Generators
open Ctkd.Fs.Tests.Oracle
open FsCheck.FSharp

let private vector (values: float[]) : Dense = { Shape = [ values.Length ]; Values = values }

/// A weighted sum of x in which all elements have different weights.
let private weighted (x: Tensor) : Tensor =
    let count = int (Tensor.count x)

    Tensor.sum (Tensor.reshape [| -1L |] x * Plain.tensor [ count ] (Array.init count (fun i -> cos (float i) + 1.5)))

let tests =
    testList "Autograd" [
        test "every operation has the gradient of central differences" {
            for operation in Operations.all do
                try
                    Must.matchDerivatives (operation.Apply >> weighted) operation.Inputs
                with error ->
                    failtest $"{operation.Name}: {error.Message}"
        }

        test "reversal keeps the value to the bit in every precision" {
            let case = Gen.zip (uniform 0.0 3.0) (many 6 (uniform -1e3 1e3))

            check
                (Gen.zip (Gen.elements [ DType.Float32; DType.Float64 ]) case)
                (fun (dtype, (strength, values)) ->
                    Tensor.scoped (fun () ->
                        let x = Tensor.ofFloats dtype [ 6 ] values
                        let reversed = Autograd.reverse (Tensor.scalar dtype Device.Cpu strength) x
                        Must.equal (Tensor.toBytes x) (Tensor.toBytes reversed)
                    )
                )
        }

        testProperty "reversal multiplies the gradient by minus its strength"
        <| forAll
            (Gen.zip (Gen.oneof [ Gen.constant 0.0; uniform 0.0 3.0 ]) (many 4 (uniform -2.0 2.0)))
            (fun (strength, values) ->
                let gradient through =
                    Plain.gradients (fun xs -> xs[0] |> through |> Tensor.exp |> weighted) [ vector values ]
                    |> List.head

                let reversed = gradient (Autograd.reverse (Plain.number strength))
                Must.beClose 0.0 0.0 (gradient id |> Array.map (fun g -> -strength * g)) reversed
            )

        testProperty "a stopped gradient keeps the value and stops the gradient"
        <| forAll
            (many 3 (uniform -2.0 2.0))
            (fun values ->
                let product (xs: Tensor list) = Tensor.sum (xs[0] * Autograd.stopGradient xs[0])
                Must.beSame values (Plain.gradients product [ vector values ] |> List.head)

                Must.beNear
                    1e-15
                    0.0
                    (Array.sumBy (fun v -> v * v) values)
                    (Plain.value (fun () -> product [ Plain.tensor [ 3 ] values ]))
            )

        test "a leaf is detached from where it came from" {
            Tensor.scoped (fun () ->
                let x = Autograd.leaf (Plain.number 3.0)
                let y = Autograd.leaf (x * x)
                let gradients = Autograd.gradients (y * y) [| y |]
                Must.equal 18.0 (Tensor.toFloat gradients[0])

                Must.throw<InvalidOperationException>(fun () -> Autograd.gradients (y * y) [| x |] |> ignore) |> ignore
            )
        }

        test "a loss that does not depend on a leaf raises and names it" {
            Tensor.scoped (fun () ->
                let x, y = Autograd.leaf (Plain.number 1.0), Autograd.leaf (Plain.number 2.0)

                let raised =
                    Must.throw<InvalidOperationException>(fun () -> Autograd.gradients (x * x) [| x; y |] |> ignore)

                Must.equal "the loss does not depend on leaf 1 of 2" raised.Message
            )
        }

        test "what is computed without gradient carries none" {
            Tensor.scoped (fun () ->
                let x = Autograd.leaf (Plain.number 1.0)
                let inside = Autograd.noGrad (fun () -> x * x)
                Must.equal [ false; true ] [ inside.requires_grad; (x * x).requires_grad ]
            )
        }

        test "noGrad restores the mode that it found, also when its body throws" {
            let recording () =
                Tensor.scoped (fun () ->
                    let x = Autograd.leaf (Plain.number 1.0)
                    (x * x).requires_grad
                )

            let failing () : unit = Autograd.noGrad (fun () -> invalidOp "stop")
            Must.throw<InvalidOperationException> failing |> ignore
            Must.hold (recording ())

            Autograd.noGrad (fun () ->
                Must.throw<InvalidOperationException> failing |> ignore
                Autograd.noGrad ignore
                Must.notHold (recording ())
            )

            Must.hold (recording ())
        }

        test "gradients leave no tensors behind" {
            Must.leaveNothing (fun () ->
                for _ in 1..100 do
                    Tensor.scoped (fun () ->
                        let x = Autograd.leaf (Plain.tensor [ 3 ] [| 1.0; 2.0; 3.0 |])
                        Autograd.gradients (Tensor.sum (Tensor.exp x * x)) [| x |] |> ignore
                    )
            )
        }
    ]
