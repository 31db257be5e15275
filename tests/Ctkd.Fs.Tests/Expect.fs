/// Comparisons that say which number differs, and tensors from and to plain arrays.
module Ctkd.Fs.Tests.Expect

open Ctkd.Fs
open Ctkd.Fs.Tests.Oracle
open Xunit

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

/// Every element within absolute + relative |expected|; a NaN is never close.
let close (relative: float) (absolute: float) (expected: float[]) (actual: float[]) : unit =
    Assert.Equal(expected.Length, actual.Length)

    for i in 0 .. expected.Length - 1 do
        if not (abs (expected[i] - actual[i]) <= absolute + relative * abs expected[i]) then
            Assert.Fail $"element {i} of {expected.Length}: expected {expected[i]:R}, got {actual[i]:R}"

/// One number within absolute + relative |expected|.
let near (relative: float) (absolute: float) (expected: float) (actual: float) : unit =
    close relative absolute [| expected |] [| actual |]

/// Equal to the bit.
let same (expected: float[]) (actual: float[]) : unit =
    Assert.Equal<int64[]>(
        Array.map System.BitConverter.DoubleToInt64Bits expected,
        Array.map System.BitConverter.DoubleToInt64Bits actual
    )

/// Two trees of the same names with tensors that are equal to the bit.
let sameTree (expected: Tree) (actual: Tree) : unit =
    Assert.Equal<string list>(Tree.names expected, Tree.names actual)

    for name, x in Tree.toList expected do
        let y = Tree.find name actual
        Assert.True(Tensor.dtype x = Tensor.dtype y, $"{name}: {x} and {y}")
        Assert.True(Tensor.toBytes x = Tensor.toBytes y, $"{name} differs")

/// An `ArgumentException` that names the parameter.
let refuses (parameter: string) (body: unit -> 'T) : unit =
    let error = Assert.Throws<System.ArgumentException>(fun () -> body () |> ignore)
    Assert.Equal(parameter, error.ParamName)

/// Values and gradients of a 0-d function of float64 tensors in one backward pass.
let gradients (f: Tensor list -> Tensor) (inputs: Dense list) : float[] list =
    Tensor.scoped (fun () ->
        let leaves = inputs |> List.map (ofDense >> Autograd.leaf)
        Autograd.gradients (f leaves) (Array.ofList leaves) |> List.ofArray |> List.map Tensor.toFloats
    )

/// The gradients of a 0-d function equal central differences, with respect to every element of every input.
let gradientsMatch (f: Tensor list -> Tensor) (inputs: Dense list) : unit =
    let actual = gradients f inputs
    let size = max 1.0 (abs (value (fun () -> f (List.map ofDense inputs))))

    for i in 0 .. inputs.Length - 1 do
        let f (values: float[]) =
            let moved = inputs |> List.mapi (fun j x -> if i = j then { x with Values = values } else x)
            value (fun () -> f (List.map ofDense moved))

        let expected = Array.init inputs[i].Values.Length (derivative f inputs[i].Values)
        close 1e-7 (1e-9 * size) expected actual[i]

/// Tensors that the process holds once the garbage of earlier tests is gone.
let live () : int64 =
    for _ in 1..2 do
        System.GC.Collect()
        System.GC.WaitForPendingFinalizers()

    Tensor.live ()

/// The body leaves as many tensors as it found.
let leavesNothing (body: unit -> unit) : unit =
    let before = live ()
    body ()
    Assert.Equal(before, live ())
