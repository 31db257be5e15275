module Ctkd.Fs.Tests.AutogradTests

open System
open Ctkd.Fs
open Ctkd.Fs.Tests.Generators
open Ctkd.Fs.Tests.Oracle
open FsCheck.FSharp
open Xunit

let private vector (values: float[]) : Dense = { Shape = [ values.Length ]; Values = values }

/// A sum of x weighted so that no two elements count alike.
let private weighted (x: Tensor) : Tensor =
    let count = int (Tensor.count x)

    Tensor.sum (
        Tensor.reshape [| -1L |] x
        * Expect.tensor [ count ] (Array.init count (fun i -> cos (float i) + 1.5))
    )

[<Fact>]
let ``every operation has the gradient of central differences`` () =
    for operation in Operations.all do
        try
            Expect.gradientsMatch (operation.Apply >> weighted) operation.Inputs
        with error ->
            Assert.Fail $"{operation.Name}: {error.Message}"

[<Fact>]
let ``reversal keeps the value to the bit in every precision`` () =
    let case = Gen.zip (uniform 0.0 3.0) (many 6 (uniform -1e3 1e3))

    check
        (Gen.zip (Gen.elements [ DType.Float32; DType.Float64 ]) case)
        (fun (dtype, (strength, values)) ->
            Tensor.scoped (fun () ->
                let x = Tensor.ofFloats dtype [ 6 ] values
                let reversed = Autograd.reverse (Tensor.scalar dtype Device.Cpu strength) x
                Assert.Equal<byte[]>(Tensor.toBytes x, Tensor.toBytes reversed)
            )
        )

[<Fact>]
let ``reversal multiplies the gradient by minus its strength`` () =
    check
        (Gen.zip (Gen.oneof [ Gen.constant 0.0; uniform 0.0 3.0 ]) (many 4 (uniform -2.0 2.0)))
        (fun (strength, values) ->
            let gradient through =
                Expect.gradients (fun xs -> xs[0] |> through |> Tensor.exp |> weighted) [ vector values ]
                |> List.head

            let reversed = gradient (Autograd.reverse (Expect.number strength))
            Expect.close 0.0 0.0 (gradient id |> Array.map (fun g -> -strength * g)) reversed
        )

[<Fact>]
let ``a stopped gradient keeps the value and stops the gradient`` () =
    check
        (many 3 (uniform -2.0 2.0))
        (fun values ->
            let product (xs: Tensor list) = Tensor.sum (xs[0] * Autograd.stopGradient xs[0])
            Expect.same values (Expect.gradients product [ vector values ] |> List.head)

            Expect.near
                1e-15
                0.0
                (Array.sumBy (fun v -> v * v) values)
                (Expect.value (fun () -> product [ Expect.tensor [ 3 ] values ]))
        )

[<Fact>]
let ``a leaf is detached from where it came from`` () =
    Tensor.scoped (fun () ->
        let x = Autograd.leaf (Expect.number 3.0)
        let y = Autograd.leaf (x * x)
        let gradients = Autograd.gradients (y * y) [| y |]
        Assert.Equal(18.0, Tensor.toFloat gradients[0])

        Assert.Throws<InvalidOperationException>(fun () -> Autograd.gradients (y * y) [| x |] |> ignore)
        |> ignore
    )

[<Fact>]
let ``a loss that does not depend on a leaf raises and names it`` () =
    Tensor.scoped (fun () ->
        let x, y = Autograd.leaf (Expect.number 1.0), Autograd.leaf (Expect.number 2.0)

        let raised =
            Assert.Throws<InvalidOperationException>(fun () ->
                Autograd.gradients (x * x) [| x; y |] |> ignore
            )

        Assert.Equal("the loss does not depend on leaf 1 of 2", raised.Message)
    )

[<Fact>]
let ``what is computed without gradient carries none`` () =
    Tensor.scoped (fun () ->
        let x = Autograd.leaf (Expect.number 1.0)
        let inside = Autograd.noGrad (fun () -> x * x)
        Assert.Equal<bool list>([ false; true ], [ inside.RequiresGrad; (x * x).RequiresGrad ])
    )

[<Fact>]
let ``noGrad restores the mode that it found, also when its body throws`` () =
    let recording () =
        Tensor.scoped (fun () ->
            let x = Autograd.leaf (Expect.number 1.0)
            (x * x).RequiresGrad
        )

    let failing () : unit = Autograd.noGrad (fun () -> invalidOp "stop")
    Assert.Throws<InvalidOperationException> failing |> ignore
    Assert.True(recording ())

    Autograd.noGrad (fun () ->
        Assert.Throws<InvalidOperationException> failing |> ignore
        Autograd.noGrad ignore
        Assert.False(recording ())
    )

    Assert.True(recording ())

[<Fact>]
let ``bf16 multiplies in bfloat16 inside and in float32 outside, also when its body throws`` () =
    Tensor.scoped (fun () ->
        let x = Tensor.ofSingles [ 1; 1 ] [| 1.001f |]
        let product () = Tensor.matmul x x |> Tensor.dtype
        Assert.Equal(DType.BFloat16, Autograd.bf16 Device.Cpu product)
        let failing () : unit = Autograd.bf16 Device.Cpu (fun () -> invalidOp "stop")
        Assert.Throws<InvalidOperationException> failing |> ignore
        Assert.Equal(DType.Float32, product ())
    )

[<Fact>]
let ``a weight changed in place is seen by the next bf16 region`` () =
    Tensor.scoped (fun () ->
        let x = Tensor.ofSingles [ 1; 1 ] [| 1.0f |]
        let weight = Autograd.leaf (Tensor.ofSingles [ 1; 1 ] [| 2.0f |])
        let product () = Autograd.bf16 Device.Cpu (fun () -> Tensor.linear weight None x) |> Tensor.toFloat
        Assert.Equal(2.0, product ())
        Autograd.noGrad (fun () -> Tensor.fillInto weight 3.0)
        Assert.Equal(3.0, product ())
    )

[<Fact>]
let ``gradients leave no tensors behind`` () =
    Expect.leavesNothing (fun () ->
        for _ in 1..100 do
            Tensor.scoped (fun () ->
                let x = Autograd.leaf (Expect.tensor [ 3 ] [| 1.0; 2.0; 3.0 |])
                Autograd.gradients (Tensor.sum (Tensor.exp x * x)) [| x |] |> ignore
            )
    )
