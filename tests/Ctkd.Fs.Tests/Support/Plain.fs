/// Conversions between tensors and plain arrays.
module Ctkd.Fs.Tests.Plain

open Ctkd.Fs
open Ctkd.Fs.Tests.Oracle

/// Creates a float64 tensor of the values.
let tensor (shape: int list) (values: float[]) : Tensor = Tensor.ofFloats DType.Float64 shape values

/// Creates a float64 tensor of the array.
let ofDense (x: Dense) : Tensor = tensor x.Shape x.Values

/// Creates a 0-d float64 tensor.
let number (value: float) : Tensor = Tensor.scalar DType.Float64 Device.Cpu value

/// Returns the numbers of the tensor that the body makes; frees all its tensors.
let numbers (body: unit -> Tensor) : float[] = Tensor.scoped (body >> Tensor.toFloats)

/// Returns the number of the one-element tensor that the body makes.
let value (body: unit -> Tensor) : float = Tensor.scoped (body >> Tensor.toFloat)

/// Computes the gradients of a 0-d function of float64 tensors in one backward pass.
let gradients (f: Tensor list -> Tensor) (inputs: Dense list) : float[] list =
    Tensor.scoped (fun () ->
        let leaves = inputs |> List.map (ofDense >> Autograd.leaf)
        Autograd.gradients (f leaves) (Array.ofList leaves) |> List.ofArray |> List.map Tensor.toFloats
    )
