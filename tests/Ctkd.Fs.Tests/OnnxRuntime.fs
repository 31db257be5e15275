/// ONNX Runtime, which runs in one process of node for all files of a folder: tests/onnx/run.mjs.
module Ctkd.Fs.Tests.OnnxRuntime

open System
open System.ComponentModel
open System.IO
open System.Runtime.InteropServices
open Ctkd.Fs
open Xunit

let private script: string =
    let tests = Path.Combine(AppContext.BaseDirectory, "..", "..", "..", "..")
    Path.GetFullPath(Path.Combine(tests, "onnx", "run.mjs"))

let private floatsOf (bytes: byte[]) : float[] =
    MemoryMarshal.Cast<byte, float32>(bytes.AsSpan()).ToArray() |> Array.map float

/// A file of a network, and the images that it is given: [batch, 3, height, width] each.
[<NoComparison>]
type Question = { Name: string; File: byte[]; Images: Tensor list }

let private shapeOf (images: Tensor) : string =
    let shape = Tensor.shape images
    $"{shape[0]}x{shape[2]}x{shape[3]}"

/// What ONNX Runtime answers: each output by the network's name, the images' BxHxW and the output's name. The
/// questions are written one after the other: not all files need to be in memory at once.
let ask (questions: Question seq) : Map<string * string * string, float[]> =
    let needed problem = Assert.Fail $"{problem}: ONNX Runtime is needed here, run: dotnet fsi build.fsx deps"

    let modules = Path.Combine(nonNull (Path.GetDirectoryName script), "node_modules", "onnxruntime-node")
    if not (Directory.Exists modules) then needed $"{modules} is not there"

    Folders.inFolder (fun folder ->
        for question in questions do
            File.WriteAllBytes(Path.Combine(folder, question.Name + ".onnx"), question.File)

            for images in question.Images do
                let input = Path.Combine(folder, $"{question.Name}.{shapeOf images}.in")
                File.WriteAllBytes(input, images |> Tensor.toType DType.Float32 |> Tensor.toBytes)

        let ended =
            try
                Child.runCommand folder [] [ "node"; script; folder ]
            with :? Win32Exception as problem ->
                needed $"node does not start ({problem.Message})"
                { Code = 1; Out = ""; Err = "" }

        Assert.True((ended.Code = 0), $"ONNX Runtime: {ended.Out}{ended.Err}")

        Map [
            for path in Directory.GetFiles(folder, "*.out") ->
                let parts = (nonNull (Path.GetFileNameWithoutExtension path)).Split('.', 3)
                (parts[0], parts[1], parts[2]), floatsOf (File.ReadAllBytes path)
        ]
    )
