module Ctkd.Fs.Tests.LstmTests

open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Generators
open FsCheck.FSharp

let private hidden, private inputs = Lstm.hidden, 4
let private pack = Lstm.pack inputs

/// Parameters that are larger than at the start, so that gates leave their linear part.
let private weights (seed: int) : float[] = Rng.ofSeed seed |> Rng.uniforms 1.0 (Pack.count pack)

let private sequence (seed: int) (steps: int) : float[] =
    Rng.ofSeed (seed + 1) |> Rng.normals (steps * inputs)

/// Predictions by the engine, and the gradient of their sum weighted by slopes.
let private byEngine (w: float[]) (x: float[]) (slopes: float[]) : float[] * float[] =
    Tensor.scoped (fun () ->
        let x = Plain.tensor [ slopes.Length; inputs ] x

        let leaves = Pack.views pack (Plain.tensor [ w.Length ] w) |> Array.map Autograd.leaf

        let outputs = Lstm.forward leaves x
        let loss = Tensor.sum (outputs * Plain.tensor [ slopes.Length ] slopes)
        Tensor.toFloats outputs, Autograd.gradients loss leaves |> Pack.joined |> Tensor.toFloats
    )

let tests =
    testList "Lstm" [
        test "values and gradients by hand equal those of autograd" {
            let cases = Gen.zip Inputs.seeds (Gen.elements [ 1; 2; 3; 16; 64 ])

            checkMany
                25
                cases
                (fun (seed, steps) ->
                    let w, x = weights seed, sequence seed steps
                    let slopes = Rng.ofSeed (seed + 2) |> Rng.normals steps
                    let outputs, gradient = byEngine w x slopes
                    let columns, trace = Lstm.columns inputs w, Lstm.trace steps
                    Lstm.run inputs columns x trace
                    Must.beClose 1e-11 1e-12 outputs trace.Outputs
                    let byHand = Lstm.back inputs columns x trace slopes |> Lstm.packed inputs
                    Must.beClose 1e-9 1e-11 gradient byHand
                )
        }

        test "a trace that was used before gives the same" {
            let columns, x = Lstm.columns inputs (weights 1), sequence 1 5
            let fresh, used = Lstm.trace 5, Lstm.trace 5
            Lstm.run inputs columns (sequence 9 5) used
            Lstm.run inputs columns x used
            Lstm.run inputs columns x fresh
            Must.beSame fresh.Outputs used.Outputs
        }

        test "parameters by columns go back to their places" {
            let w = Array.init (Pack.count pack) float
            let columns = Lstm.columns inputs w
            Must.differ w columns
            Must.beSame w (Lstm.packed inputs columns)
        }

        test "extreme gates give finite values" {
            let columns, trace = Lstm.columns inputs (weights 2 |> Array.map (fun w -> 1e4 * w)), Lstm.trace 8
            let x = sequence 2 8 |> Array.map (fun v -> 1e4 * v)
            Lstm.run inputs columns x trace

            for v in trace.Outputs do
                Must.hold (System.Double.IsFinite v)

            let gradient = Lstm.back inputs columns x trace (Array.create 8 1.0)

            for v in gradient do
                Must.hold (System.Double.IsFinite v)

            Must.equal (hidden + 1 + 4 * hidden * (inputs + hidden + 2)) gradient.Length
        }
    ]
