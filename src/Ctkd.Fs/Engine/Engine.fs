namespace Ctkd.Fs

open System
open System.IO
open System.Runtime.InteropServices
open Ctkd.Engine

/// The engine and the machine: facts for reports and `ctkd doctor`, devices, and recorded work.
[<RequireQualifiedAccess>]
module Engine =
    /// Runs the body. Turns a missing engine and a rejected operation into `CtkdException` (Engine) with a remedy.
    let guarded (body: unit -> 'T) : 'T =
        try
            body ()
        with
        | :? EngineMissingException as missing ->
            Error.create Engine missing.What missing.Where missing.Next |> Error.raise
        | :? ExternalException as refused ->
            // libtorch appends a C++ backtrace to its message.
            let message = refused.Message.Split("\nException raised from")[0]

            Error.create Engine "the tensor engine refused an operation" (message.Trim()) "see: ctkd doctor"
            |> Error.raise

    /// Runs a body that works with files, too: what the engine or the file system raises becomes an error, at a place and with
    /// what to do next.
    let working (place: string) (next: string) (body: unit -> Result<'T, Error>) : Result<'T, Error> =
        try
            guarded body
        with
        | CtkdException error -> Result.Error error
        | :? IOException
        | :? UnauthorizedAccessException as problem -> Error.fail Unwritable problem.Message place next

    /// Returns which libtorch and which copy of TorchSharp's library are loaded, and from where. Loads them at the
    /// first call; raises `CtkdException` (Engine) if they are missing or unusable.
    let facts () : EngineFacts = guarded (fun () -> Natives.Load())

    /// Describes where large tensors lie in host memory, and why.
    let memory () : string =
        facts () |> ignore
        Heap.State

    /// Whether the CPU runs a convolution and the following sum and ReLU in one pass over memory.
    let fuses () : bool = FusedConvolution.OnCpu

    let private loaded (body: unit -> 'T) : 'T =
        guarded (fun () ->
            Natives.Load() |> ignore
            body ()
        )

    let threads () : int = loaded (fun () -> Runtime.Threads)
    let setThreads (count: int) : unit = loaded (fun () -> Runtime.Threads <- count)
    let cudaDevices () : int = loaded (fun () -> Runtime.CudaDevices)

    /// Waits until the device has finished all work.
    let synchronize () : unit = loaded Runtime.Synchronize

    /// Whether work on the device can be recorded: only on CUDA.
    let records (device: Device) : bool = device <> Device.Cpu

    /// Returns why work on a CUDA device cannot be recorded, or `None` if it can.
    let recordingProblem () : string option = Option.ofObj CudaGraph.Problem

    /// Records the body's work on a device, or returns why it cannot. `rehearse` runs first, on the stream of the
    /// recording, so that one-time initialisation in libraries is over by then. The body runs no kernel while it is
    /// recorded. It must read from and write to tensors that outlive the recording, and must not wait for the device.
    let record (device: Device) (rehearse: unit -> unit) (body: unit -> unit) : Result<Graph, string> =
        try
            Ok(CudaGraph.Record(device.Index, rehearse, body))
        with
        | :? ExternalException
        | :? PlatformNotSupportedException as refused -> Result.Error refused.Message

    /// Runs the recorded work again, after all work queued before. Does not wait for it.
    let replay (graph: Graph) : unit = graph.Replay()

    /// Frees a recording and its memory.
    let forget (graph: Graph) : unit = graph.Dispose()

    /// Returns the bytes in use on a CUDA device by all processes; 0 for the CPU.
    let cudaMemory (device: Device) : int64 = if device = Device.Cpu then 0L else CudaFacts.UsedBytes device.Index

    /// Enables float32 products and convolutions on tensor cores (TF32, 10-bit mantissa) of CUDA devices.
    let setTf32 (enabled: bool) : unit = loaded (fun () -> CudaFacts.TensorFloat32 enabled)

    /// Enables bit-reproducible algorithms on CUDA. The CPU's are reproducible for a fixed number of threads.
    let setDeterministic (enabled: bool) : unit = if cudaDevices () > 0 then CudaFacts.Deterministic enabled

    /// Returns the device of a name: cpu, cuda or cuda:N. An unknown name gives a `Usage` error that lists the devices.
    let device (name: string) : Result<Device, Error> =
        let cuda (index: int) =
            let present = cudaDevices ()

            if index < present then
                Ok(Device.Cuda index)
            else
                let there = if present = 0 then "no CUDA device" else $"{present} CUDA device(s)"

                Error.fail
                    Usage
                    $"device '{name}' is not there: this engine sees {there}"
                    ""
                    "use --device cpu, or set LIBTORCH to a libtorch with CUDA and run: dotnet fsi build.fsx native"

        match name with
        | "cpu" -> Ok Device.Cpu
        | "cuda" -> cuda 0
        | _ when name.StartsWith("cuda:", StringComparison.Ordinal) ->
            match Int32.TryParse(name.AsSpan 5) with
            | true, index when index >= 0 -> cuda index
            | _ -> Result.Error(Error.unknown "device" [ "cpu"; "cuda"; "cuda:0" ] name)
        | _ -> Result.Error(Error.unknown "device" [ "cpu"; "cuda"; "cuda:0" ] name)

    /// Returns the state of the engine's CPU random generator, as bytes. The state on CUDA is not accessible; dropout,
    /// the only user of that generator here, is seeded at every step.
    let generatorState () : Tensor = loaded Runtime.GeneratorState

    /// Restores a state from `generatorState`.
    let setGeneratorState (state: Tensor) : unit = loaded (fun () -> Runtime.SetGeneratorState state)

    /// Seeds the engine's random generator.
    let seed (device: Device) (seed: uint64) : unit = loaded (fun () -> Runtime.Seed(device, seed))
