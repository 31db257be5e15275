/// Tensors from and to plain arrays.
module Ctkd.Fs.Tests.Plain

open Ctkd.Fs
open Ctkd.Fs.Tests.Oracle

/// A float64 tensor of the values.
let tensor (shape: int list) (values: float[]) : Tensor = Tensor.ofFloats DType.Float64 shape values

/// A float64 tensor of the array.
let ofDense (x: Dense) : Tensor = tensor x.Shape x.Values

/// A 0-d float64 tensor.
let number (value: float) : Tensor = Tensor.scalar DType.Float64 Device.Cpu value

/// The numbers of a tensor that the body makes; all its tensors are freed.
let numbers (body: unit -> Tensor) : float[] = Tensor.scoped (body >> Tensor.toFloats)

/// The one number of a tensor that the body makes.
let value (body: unit -> Tensor) : float = Tensor.scoped (body >> Tensor.toFloat)

/// Gradients of a 0-d function of float64 tensors in one backward pass.
let gradients (f: Tensor list -> Tensor) (inputs: Dense list) : float[] list =
    Tensor.scoped (fun () ->
        let leaves = inputs |> List.map (ofDense >> Autograd.leaf)
        Autograd.gradients (f leaves) (Array.ofList leaves) |> List.ofArray |> List.map Tensor.toFloats
    )
