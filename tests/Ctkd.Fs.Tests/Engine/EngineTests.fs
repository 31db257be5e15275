module Ctkd.Fs.Tests.EngineTests

open System
open System.Diagnostics
open System.Threading
open Expecto
open Ctkd.Fs
open TorchSharp

let private make () : Tensor = Plain.tensor [ 2 ] [| 1.0; 2.0 |]

/// Whether the tensor is alive.
let private alive (x: Tensor) : bool = not x.IsInvalid

let tests =
    testList "Engine" [
        test "the result of a scope survives and its temporaries die" {
            Must.leaveNothing (fun () ->
                let mutable inside = []

                let result =
                    Tensor.scope (fun () ->
                        inside <- [ make (); make () ]
                        inside[0] + inside[1]
                    )

                Must.equal [ true; false; false ] (List.map alive (result :: inside))
                Must.equal [| 2.0; 4.0 |] (Tensor.toFloats result)
                Tensor.free result
            )
        }

        test "the temporaries of a scope die when its body throws" {
            Must.leaveNothing (fun () ->
                let failing () : Tensor =
                    Tensor.scope (fun () ->
                        let x = make ()
                        Tensor.scoped (fun () -> Tensor.reshape [| 3L |] (x + x))
                    )

                Must.throw<System.Runtime.InteropServices.ExternalException>(failing >> ignore) |> ignore
            )
        }

        test "an argument that a scope returns is left as it is" {
            let x = make ()
            Must.beTheSame x (Tensor.scope (fun () -> Tensor.scope (fun () -> x)))
            Tensor.scoped (fun () -> Tensor.scope (fun () -> x) |> ignore)
            Must.hold (alive x)
            Tensor.free x
        }

        test "what survives a scope belongs to the scope around it" {
            let mutable kept = Unchecked.defaultof<Tensor>

            Tensor.scoped (fun () ->
                kept <- Tensor.scope (fun () -> Tensor.scope make)
                Must.hold (alive kept)
            )

            Must.notHold (alive kept)
        }

        test "of many tensors those survive that are named" {
            Must.leaveNothing (fun () ->
                let a, b, c = Tensor.scopeWith (fun (a, b, _) -> [ a; b ]) (fun () -> make (), make (), make ())

                Must.equal [ true; true; false ] (List.map alive [ a; b; c ])
                List.iter Tensor.free [ a; b ]
            )
        }

        test "a sequence that escapes its scope meets freed tensors" {
            let late =
                Tensor.scoped (fun () ->
                    let x = make ()
                    seq { x + x }
                )

            Must.throw<InvalidOperationException>(fun () -> Seq.head late |> ignore) |> ignore
        }

        test "scopes of two threads do not see each other" {
            Tensor.scoped (fun () ->
                let x = make ()
                let thread = Thread(fun () -> Tensor.scoped (fun () -> make () |> ignore))
                thread.Start()
                thread.Join()
                Must.hold (alive x)
            )
        }

        test "the number of tensors stays flat over many operations" {
            Must.leaveNothing (fun () ->
                let x = make ()

                for _ in 1..500 do
                    Tensor.scoped (fun () ->
                        for operation in Operations.all |> List.truncate 20 do
                            operation.Apply(List.map Plain.ofDense operation.Inputs) |> ignore
                    )

                Tensor.free x
            )
        }

        test "a tensor that everyone forgot is freed by the garbage collector" {
            Must.leaveNothing (fun () ->
                for _ in 1..10 do
                    make () |> ignore
            )
        }

        test "the engine says which libtorch it is and where its libraries lie" {
            let facts = Engine.facts ()
            Must.matchRegex @"^\d+\.\d+\.\d+$" facts.Version
            Must.hold (IO.Directory.Exists facts.Folder)
            Must.hold (IO.File.Exists facts.Sharp)
        }

        test "the number of threads is the one that was set" {
            let before = Engine.threads ()
            let other = if before = 1 then 2 else 1
            Engine.setThreads other

            try
                Must.equal other (Engine.threads ())
            finally
                Engine.setThreads before
        }

        test "devices are found by name and an absent one is an error of usage" {
            Must.equal (Ok Device.Cpu) (Engine.device "cpu")

            for name in [ "gpu"; "cuda:x"; "cuda:-1"; "cuda:99"; "" ] do
                match Engine.device name with
                | Ok device -> failtest $"'{name}' gave {device}"
                | Error error ->
                    Must.equal Usage error.Kind
                    Must.contain $"'{name}'" error.What
                    Must.beNonEmpty error.Next
        }

        test "the generator repeats from its seed and from its state" {
            let draw () = Plain.numbers (fun () -> torch.rand ([| 5L |], dtype = DType.Float64))
            let original = Engine.generatorState ()
            Engine.seed Device.Cpu 7UL
            let first = draw ()
            let state = Engine.generatorState ()
            let second = draw ()
            Engine.setGeneratorState state
            Must.equal second (draw ())
            Engine.seed Device.Cpu 7UL
            Must.equal first (draw ())
            Must.differ first second
            Engine.setGeneratorState original
            List.iter Tensor.free [ original; state ]
        }

        test "the CPU records nothing: the refusal names CUDA, and neither rehearsal nor body has run" {
            let mutable runs = 0
            let run () = runs <- runs + 1
            Must.notHold (Engine.records Device.Cpu)

            match Engine.record Device.Cpu run run with
            | Ok _ -> failtest "the CPU recorded a graph"
            | Result.Error why -> Must.contain "CUDA" why

            Must.equal 0 runs
            Must.equal 0L (Engine.cudaMemory Device.Cpu)
        }

        test "TF32 changes nothing on the CPU" {
            Tensor.scoped (fun () ->
                let x = Tensor.ofSingles [ 3; 3 ] (Array.init 9 (fun i -> 1.0f / float32 (i + 1)))

                let product tf32 =
                    Engine.setTf32 tf32
                    Tensor.matmul x x |> Tensor.toSingles

                Must.equal (product false) (product true)
                Engine.setTf32 false
            )
        }

        // The best of many short batches, to exclude disturbances by other processes.
        test "EngineCost: an operation on one element costs less than 6 microseconds" {
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
            Expect.isTrue (cost < 6.0) $"one call costs {cost:F3} microseconds"
        }
    ]
