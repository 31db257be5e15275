/// Two layers by hand against the engine.
module Ctkd.Fs.Tests.PerceptronTests

open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Generators
open Ctkd.Fs.Tests.Parts
open FsCheck.FSharp

let tests =
    testList "Perceptron" [
        testProperty "values and gradients by hand, also by a row's factor, equal those of autograd"
        <| forAll
            (Gen.zip Inputs.seeds (Gen.choose (1, 5)))
            (fun (seed, inputs) ->
                Tensor.scoped (fun () ->
                    let pack = Perceptron.pack inputs
                    // Weights that are larger than at the start, so that some units are cut off and some are not.
                    let packed, x = normals seed [ Pack.count pack ], normals (seed + 1) [ 3; inputs ]
                    let p, rows = Tensor.toFloats packed, Tensor.toFloats x

                    for activation in [ Activation.Identity; Activation.Relu ] do
                        for row in 0..2 do
                            let units, gradient =
                                Array.zeroCreate Perceptron.hidden, Array.zeroCreate p.Length

                            for at in [ 1.0; 0.3 ] do
                                let factor = Autograd.leaf (Plain.number at)
                                let leaves = Pack.views pack packed |> Array.map Autograd.leaf

                                let output =
                                    Tensor.slice 0 row (row + 1) x * factor
                                    |> Perceptron.forward activation leaves
                                    |> Tensor.sum

                                let slopes = Autograd.gradients output (Array.append [| factor |] leaves)
                                let ours = Perceptron.output activation inputs p rows row at units
                                Must.beNear 1e-12 1e-12 (Tensor.toFloat output) ours

                                Perceptron.byFactor activation inputs p rows row units
                                |> Must.beNear 1e-12 1e-12 (Tensor.toFloat slopes[0])

                                if at = 1.0 then
                                    System.Array.Clear gradient
                                    Perceptron.back activation inputs p rows row units 0.7 gradient

                                    Array.tail slopes
                                    |> Pack.joined
                                    |> Tensor.toFloats
                                    |> Array.map ((*) 0.7)
                                    |> fun expected -> Must.beClose 1e-12 1e-12 expected gradient
                )
            )
    ]
