/// Inputs of the tests of the agent's parts.
module Ctkd.Fs.Tests.Parts

open Expecto
open Ctkd.Fs

let normals (seed: int) (shape: int list) : Tensor = Inputs.normal seed shape |> Plain.ofDense

let row (values: float[]) : Tensor = Plain.tensor [ values.Length ] values

let learner (seed: int) (pack: Pack) : Learner =
    let weights = Pack.start DType.Float64 Device.Cpu (Rng.ofSeed seed) pack

    {
        Pack = pack
        Weights = weights
        First = Tensor.scale 0.0 weights
        Second = Tensor.scale 0.0 weights
    }

let burst (steps: int) : AdamStep[] = Adam.ahead (Adam.ofRate 1e-3) steps (Plain.number 20.0)
