/// The temperature policies as functions of plain arrays, for tests of values and of gradients.
module Ctkd.Fs.Tests.Policies

open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Generators
open Ctkd.Fs.Tests.Oracle

let range = Ctkd.publishedRange
let lambda = Schedule.curriculum 10

let fresh (policy: Policy) (classes: int) : Tree =
    Policy.declarations classes policy |> Initialise.tree DType.Float64 Device.Cpu (Rng.ofSeed 1)

let values (strength: float) (t: float) : PolicyValues = { Strength = Plain.number strength; T = Plain.number t }

/// The mean loss of a softening: what the kd distiller makes of it.
let loss (softening: Softening) : Tensor = Tensor.mean (softening.Weight * Loss.kl softening.Teacher softening.Student)

/// Parameters of a policy by name, teacher and student logits.
let inputs (parameters: Tree) (x: Logits) : Dense list = [
    for tensor in Tree.leaves parameters ->
        {
            Shape = Tensor.shape tensor |> Array.map int |> List.ofArray
            Values = Tensor.toFloats tensor
        }
    yield { Shape = [ x.Rows; x.Classes ]; Values = x.Teacher }
    yield { Shape = [ x.Rows; x.Classes ]; Values = x.Student }
]

/// The loss under a policy as a function of `inputs`.
let lossUnder (policy: Policy) (strength: float) (names: string list) (xs: Tensor list) : Tensor =
    let parameters = List.zip names (List.take names.Length xs) |> Tree.ofSeq

    let softening =
        Policy.soften policy parameters (values strength 4.0) xs[names.Length] xs[names.Length + 1]

    loss softening

/// T for every instance of a policy's softening.
let temperatures (policy: Policy) (parameters: Tree) (x: Logits) : float[] =
    let tensor values = Plain.tensor [ x.Rows; x.Classes ] values

    Plain.numbers (fun () -> (Policy.soften policy parameters (values 1.0 4.0) (tensor x.Teacher) (tensor x.Student)).T)

let learned: Policy list = [ Ctkd.globalPolicy range lambda; Ctkd.instancePolicy range 16 lambda ]
