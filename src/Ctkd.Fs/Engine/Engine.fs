namespace Ctkd.Fs

open System
open System.Runtime.InteropServices
open Ctkd.Engine

/// Facts of the engine and the machine, for reports and `ctkd doctor`.
[<RequireQualifiedAccess>]
module Engine =
    /// Runs the body; the engine's absence and its refusals become `CtkdException` (Engine) with what to do next.
    let guarded (body: unit -> 'T) : 'T =
        try
            body ()
        with
        | :? EngineMissingException as missing ->
            Error.create Engine missing.What missing.Where missing.Next |> Error.raise
        | :? ExternalException as refused ->
            // After its message libtorch gives a backtrace of C++.
            let message = refused.Message.Split("\nException raised from")[0]

            Error.create Engine "the tensor engine refused an operation" (message.Trim()) "see: ctkd doctor"
            |> Error.raise

    /// Which libtorch and which copy of TorchSharp's library are loaded, and from where. Loads them at the first call;
    /// raises `CtkdException` (Engine) when they are missing or unfit.
    let facts () : EngineFacts = guarded (fun () -> Natives.Load())

    /// Where large tensors lie in the host's memory, and why, in words.
    let memory () : string =
        facts () |> ignore
        Heap.State

    /// Whether the CPU runs a convolution and the sum and ReLU behind it in one pass over memory.
    let fuses () : bool = FusedConvolution.OnCpu

    let private loaded (body: unit -> 'T) : 'T =
        guarded (fun () ->
            Natives.Load() |> ignore
            body ()
        )

    let threads () : int = loaded (fun () -> Runtime.Threads)
    let setThreads (count: int) : unit = loaded (fun () -> Runtime.Threads <- count)
    let cudaDevices () : int = loaded (fun () -> Runtime.CudaDevices)

    /// Waits until the device has done all its work.
    let synchronize () : unit = loaded Runtime.Synchronize

    /// Whether work on a device can be recorded: on CUDA devices.
    let records (device: Device) : bool = device <> Device.Cpu

    /// Why no work of a CUDA device can be recorded; None where it can.
    let recordingProblem () : string option = Option.ofObj CudaGraph.Problem

    /// Records what the body asks of a device, or says why that cannot be. `rehearse` runs before it, on the stream of the
    /// recording: what a library does only the first time must be done by then. While it is recorded the body does nothing;
    /// it must read its inputs from tensors that stay, wait for nothing, and write what is to last into tensors that stay.
    let record (device: Device) (rehearse: unit -> unit) (body: unit -> unit) : Result<Graph, string> =
        try
            Ok(CudaGraph.Record(device.Index, rehearse, body))
        with
        | :? ExternalException
        | :? PlatformNotSupportedException as refused -> Result.Error refused.Message

    /// Does the recorded work again, after all that was asked of the device before; does not wait for it.
    let replay (graph: Graph) : unit = graph.Replay()

    /// Frees a recording and its memory.
    let forget (graph: Graph) : unit = graph.Dispose()

    /// Bytes in use on a CUDA device, by all processes; 0 for the CPU.
    let cudaMemory (device: Device) : int64 =
        if device = Device.Cpu then 0L else CudaFacts.UsedBytes device.Index

    /// Products and convolutions of float32 numbers on the tensor cores of CUDA devices, which read 10 bits of a fraction.
    let setTf32 (enabled: bool) : unit = loaded (fun () -> CudaFacts.TensorFloat32 enabled)

    /// Algorithms that repeat to the bit on CUDA; the CPU's do with the same number of threads.
    let setDeterministic (enabled: bool) : unit = if cudaDevices () > 0 then CudaFacts.Deterministic enabled

    /// The device by name: cpu, cuda or cuda:N. Usage errors say what is there.
    let device (name: string) : Result<Device, Error> =
        let cuda (index: int) =
            let present = cudaDevices ()

            if index < present then
                Ok(Device.Cuda index)
            else
                let there = if present = 0 then "no CUDA device" else $"{present} CUDA device(s)"

                Result.Error(
                    Error.create
                        Usage
                        $"device '{name}' is not there: this engine sees {there}"
                        ""
                        "use --device cpu, or set LIBTORCH to a libtorch with CUDA and run: dotnet fsi build.fsx native"
                )

        match name with
        | "cpu" -> Ok Device.Cpu
        | "cuda" -> cuda 0
        | _ when name.StartsWith("cuda:", StringComparison.Ordinal) ->
            match Int32.TryParse(name.AsSpan 5) with
            | true, index when index >= 0 -> cuda index
            | _ -> Result.Error(Error.unknown "device" [ "cpu"; "cuda"; "cuda:0" ] name)
        | _ -> Result.Error(Error.unknown "device" [ "cpu"; "cuda"; "cuda:0" ] name)

    /// State of the engine's own random generator of the CPU, as bytes. That of a CUDA device is out of reach; what this
    /// library draws from it (dropout) is seeded in every step.
    let generatorState () : Tensor = loaded Runtime.GeneratorState

    /// Sets the state that `generatorState` gave.
    let setGeneratorState (state: Tensor) : unit = loaded (fun () -> Runtime.SetGeneratorState state)

    /// Seeds the engine's own random generator.
    let seed (device: Device) (seed: uint64) : unit = loaded (fun () -> Runtime.Seed(device, seed))
