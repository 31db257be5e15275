module Ctkd.Fs.Tests.EngineTests

open System
open System.Diagnostics
open System.Threading
open Ctkd.Fs
open Ctkd.Torch
open Xunit

let private make () : Tensor = Expect.tensor [ 2 ] [| 1.0; 2.0 |]

/// Frees what the body made, then answers whether the tensor lives.
let private alive (x: Tensor) : bool = not x.IsClosed

[<Fact>]
let ``the result of a scope survives and its temporaries die`` () =
    Expect.leavesNothing (fun () ->
        let mutable inside = []

        let result =
            Tensor.scope (fun () ->
                inside <- [ make (); make () ]
                inside[0] + inside[1]
            )

        Assert.Equal<bool list>([ true; false; false ], List.map alive (result :: inside))
        Assert.Equal<float[]>([| 2.0; 4.0 |], Tensor.toFloats result)
        Tensor.free result
    )

[<Fact>]
let ``the temporaries of a scope die when its body throws`` () =
    Expect.leavesNothing (fun () ->
        let failing () : Tensor =
            Tensor.scope (fun () ->
                let x = make ()
                Tensor.scoped (fun () -> Tensor.reshape [| 3L |] (x + x))
            )

        Assert.Throws<TorchException>(failing >> ignore) |> ignore
    )

[<Fact>]
let ``an argument that a scope returns is left as it is`` () =
    let x = make ()
    Assert.Same(x, Tensor.scope (fun () -> Tensor.scope (fun () -> x)))
    Tensor.scoped (fun () -> Tensor.scope (fun () -> x) |> ignore)
    Assert.True(alive x)
    Tensor.free x

[<Fact>]
let ``what survives a scope belongs to the scope around it`` () =
    let mutable kept = Unchecked.defaultof<Tensor>

    Tensor.scoped (fun () ->
        kept <- Tensor.scope (fun () -> Tensor.scope make)
        Assert.True(alive kept)
    )

    Assert.False(alive kept)

[<Fact>]
let ``of many tensors those survive that are named`` () =
    Expect.leavesNothing (fun () ->
        let a, b, c = Tensor.scopeWith (fun (a, b, _) -> [ a; b ]) (fun () -> make (), make (), make ())
        Assert.Equal<bool list>([ true; true; false ], List.map alive [ a; b; c ])
        List.iter Tensor.free [ a; b ]
    )

[<Fact>]
let ``a sequence that escapes its scope meets freed tensors`` () =
    let late =
        Tensor.scoped (fun () ->
            let x = make ()
            seq { x + x }
        )

    Assert.Throws<ObjectDisposedException>(fun () -> Seq.head late |> ignore) |> ignore

[<Fact>]
let ``scopes refuse to close out of order and on another thread`` () =
    let outer = Scope.Open()
    let inner = Scope.Open()
    let x = make ()
    Assert.Throws<InvalidOperationException>(fun () -> outer.Dispose()) |> ignore
    let mutable elsewhere: exn | null = null

    let thread =
        Thread(fun () ->
            try
                inner.Dispose()
            with error ->
                elsewhere <- error
        )

    thread.Start()
    thread.Join()
    Assert.IsType<InvalidOperationException> elsewhere |> ignore
    Assert.True(alive x)
    inner.Dispose()
    Assert.False(alive x)
    outer.Dispose()
    outer.Dispose()

[<Fact>]
let ``scopes of two threads do not see each other`` () =
    Tensor.scoped (fun () ->
        let x = make ()
        let thread = Thread(fun () -> Tensor.scoped (fun () -> make () |> ignore))
        thread.Start()
        thread.Join()
        Assert.True(alive x)
    )

[<Fact>]
let ``the number of tensors stays flat over many operations`` () =
    Expect.leavesNothing (fun () ->
        let x = make ()

        for _ in 1..500 do
            Tensor.scoped (fun () ->
                for operation in Operations.all |> List.truncate 20 do
                    operation.Apply(List.map Expect.ofDense operation.Inputs) |> ignore
            )

        Tensor.free x
    )

[<Fact>]
let ``a tensor that everyone forgot is freed by the garbage collector`` () =
    Expect.leavesNothing (fun () ->
        for _ in 1..10 do
            make () |> ignore
    )

[<Fact>]
let ``the engine has every operator that the seam calls`` () =
    Assert.Empty(Engine.missingOperators ())
    Assert.InRange(Engine.operators (), 60, 200)
    Assert.Matches(@"^\d+\.\d+", Engine.version ())
    Assert.NotEmpty(Engine.configuration ())

[<Fact>]
let ``the number of threads is the one that was set`` () =
    let before = Engine.threads ()
    Engine.setThreads 1
    Assert.Equal(1, Engine.threads ())
    Engine.setThreads before

[<Fact>]
let ``devices are found by name and an absent one is an error of usage`` () =
    Assert.Equal(Ok Device.Cpu, Engine.device "cpu")

    for name in [ "gpu"; "cuda:x"; "cuda:-1"; "cuda:99"; "" ] do
        match Engine.device name with
        | Ok device -> Assert.Fail $"'{name}' gave {device}"
        | Error error ->
            Assert.Equal(Usage, error.Kind)
            Assert.Contains($"'{name}'", error.What)
            Assert.NotEmpty error.Next

[<Fact>]
let ``the generator repeats from its seed and from its state`` () =
    let random = Operator("aten::rand", "size dtype")
    let arguments = [| Value.op_Implicit [| 5L |]; Value.op_Implicit DType.Float64 |]
    let draw () = Expect.numbers (fun () -> random.Call(ReadOnlySpan arguments))
    let original = Engine.generatorState Device.Cpu
    Engine.seed Device.Cpu 7UL
    let first = draw ()
    let state = Engine.generatorState Device.Cpu
    let second = draw ()
    Engine.setGeneratorState Device.Cpu state
    Assert.Equal<float[]>(second, draw ())
    Engine.seed Device.Cpu 7UL
    Assert.Equal<float[]>(first, draw ())
    Assert.NotEqual<float[]>(first, second)
    Engine.setGeneratorState Device.Cpu original
    List.iter Tensor.free [ original; state ]

[<Fact>]
let ``the CPU records nothing: the refusal names CUDA, and neither rehearsal nor body has run`` () =
    let mutable runs = 0
    let run () = runs <- runs + 1
    Assert.False(Engine.records Device.Cpu)

    match Engine.record Device.Cpu run run with
    | Ok _ -> Assert.Fail "the CPU recorded a graph"
    | Result.Error why -> Assert.Contains("CUDA", why)

    Assert.Equal(0, runs)
    Assert.Equal(0L, Engine.cudaMemory Device.Cpu)

[<Fact>]
let ``TF32 changes nothing on the CPU`` () =
    Tensor.scoped (fun () ->
        let x = Tensor.ofSingles [ 3; 3 ] (Array.init 9 (fun i -> 1.0f / float32 (i + 1)))

        let product tf32 =
            Engine.setTf32 tf32
            Tensor.matmul x x |> Tensor.toSingles

        Assert.Equal<float32[]>(product false, product true)
        Engine.setTf32 false
    )

/// The best of many short batches: what the call costs when nobody else disturbs it.
[<Fact>]
let ``EngineCost: an operation on one element costs less than 2 microseconds`` () =
    let x = Tensor.ofSingles [ 1 ] [| 1.0f |]
    let calls = 500

    let batch () =
        Tensor.scoped (fun () ->
            let start = Stopwatch.GetTimestamp()

            for _ in 1..calls do
                Tensor.add x x |> ignore

            Stopwatch.GetElapsedTime(start).TotalMicroseconds / float calls
        )

    let cost = Seq.init 400 (fun _ -> batch ()) |> Seq.min
    Tensor.free x
    Assert.True(cost < 2.0, $"one call costs {cost:F3} microseconds")
