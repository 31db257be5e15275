/// Runs exported networks with ONNX Runtime on the CPU.
module Ctkd.Fs.Tests.OnnxRuntime

open System
open Ctkd.Fs
open Microsoft.ML.OnnxRuntime
open Microsoft.ML.OnnxRuntime.Tensors

/// Loads a network into ONNX Runtime.
let load (file: byte[]) : InferenceSession = new InferenceSession(file)

/// Returns the network's outputs by name for images [batch, 3, height, width].
let run (network: InferenceSession) (images: Ctkd.Fs.Tensor) : (string * float[]) list =
    let pixels = images |> Tensor.toType DType.Float32 |> Tensor.toSingles
    let shape = Tensor.shape images |> Array.map int
    let input = NamedOnnxValue.CreateFromTensor("images", DenseTensor<float32>(pixels.AsMemory(), shape))
    use outputs = network.Run [| input |]

    [ for output in outputs -> output.Name, output.AsTensor<float32>() |> Seq.map float |> Array.ofSeq ]
