/// `ctkd bench`: our training step and PyTorch's, run in alternation. Each side is a process of its own that
/// answers commands on its standard input (bench/torch_step.py lists them) and sleeps while the other one works.
module Ctkd.Fs.App.Bench

open System
open System.ComponentModel
open System.Diagnostics
open System.IO
open System.Text.Json
open Ctkd.Fs

let private batch, classes, images, size, pad = 64, 100, 4096, 32, 4

// ---- our side ----

/// The work of torch_step.py: teacher resnet56, student resnet20, CTKD's global temperature, random images.
let private course (channelsLast: bool) : Course =
    let model name = Zoo.find name classes |> Error.orRaise
    let teacher = model "resnet56"

    let course = {
        Student = model "resnet20"
        Teaching = None
        CrossEntropy = Schedule.constant 0.1
        LearningRate = Schedule.constant 0.05
        Sgd = Sgd.defaults
        DecayTemperature = true
        Epochs = 1
        Batch = batch
        Seed = 1
        Pad = pad
        Flip = true
        Precision = F32
        ChannelsLast = channelsLast
        Device = Engine.device "cpu" |> Error.orRaise
    }

    let teaching = {
        Model = teacher
        Weights =
            Model.declarations teacher
            |> Initialise.tree DType.Float32 course.Device (Rng.ofSeed 2)
            |> Train.format course
        Policy = Temperature.ctkdGlobal Temperature.published (Schedule.constant 0.5)
        Distillers = [ Schedule.constant 0.9, Distiller.kd ]
    }

    { course with Teaching = Some teaching }

let private randomSet () : ImageSet =
    let random = Random 3
    let pixels = Array.zeroCreate<byte>(images * 3 * size * size)
    random.NextBytes pixels

    {
        Name = "random"
        Classes = classes
        Channels = 3
        Height = size
        Width = size
        Images = pixels
        Labels = Array.init images (fun _ -> random.Next classes)
    }

/// A function that trains so many steps, over one epoch after the other.
let private trainer (channelsLast: bool) : int -> unit =
    let course = course channelsLast
    let dials = Train.dials course 1

    let set =
        randomSet ()
        |> Augment.upload DType.Float32 course.Device [ 0.5071; 0.4867; 0.4408 ] [ 0.2675; 0.2565; 0.2761 ]

    let fresh epoch = Augment.plan (Rng.ofSeed course.Seed) epoch pad true set
    let mutable state = Train.start course
    let mutable plan = fresh 0

    let next () =
        let at = state.Step * batch % images

        if at = 0 && state.Step > 0 then
            Augment.free plan
            plan <- fresh state.Step

        state <-
            Tensor.scopeWith
                (fun _ -> Seq.empty)
                (fun () -> Augment.batch pad plan at (at + batch) set |> Train.step course dials state)

    fun steps ->
        for _ in 1..steps do
            next ()

let private seconds (work: unit -> unit) : float =
    let start = Stopwatch.GetTimestamp()
    work ()
    Stopwatch.GetElapsedTime(start).TotalSeconds

let private median (values: float[]) : float =
    let sorted = Array.sort values
    (sorted[(sorted.Length - 1) / 2] + sorted[sorted.Length / 2]) / 2.0

/// Microseconds of one call of the engine: an addition of two tensors of one element.
let private callCost () : float =
    let calls = 10_000
    use x = Tensor.scalar DType.Float32 (Engine.device "cpu" |> Error.orRaise) 1.0

    let add () =
        for _ in 1..calls do
            use _ = Tensor.add x x
            ()

    Array.init 30 (fun _ -> seconds add / float calls * 1e6) |> Array.skip 15 |> median

/// Peak resident memory of this process in MiB.
let private peak () : float =
    File.ReadLines "/proc/self/status"
    |> Seq.pick (fun line ->
        match line.Split([| ' '; '\t' |], StringSplitOptions.RemoveEmptyEntries) with
        | [| "VmHWM:"; kilobytes; _ |] -> Some(float kilobytes / 1024.0)
        | _ -> None
    )

/// Our side as a server: the commands of torch_step.py, and `cost`.
let serve (channelsLast: bool) : int =
    let train = trainer channelsLast

    let answer (command: string) : string =
        match command.Split ' ' with
        | [| "run"; steps |] -> seconds (fun () -> train (int steps)) |> string
        | [| "memory" |] -> peak () |> string
        | [| "cost" |] -> callCost () |> string
        | [| "version" |] -> $"libtorch {Engine.version ()}, {Engine.threads ()} threads"
        | _ -> raise (NotSupportedException command)

    let rec go () =
        match Console.In.ReadLine() with
        | null
        | "quit" -> 0
        | command ->
            Console.Out.WriteLine(answer command)
            go ()

    go ()

// ---- both sides ----

let private noTorch (reason: string) : Error =
    Error.create
        Missing
        "PyTorch cannot be run, to which ctkd bench compares"
        reason
        "dotnet fsi build.fsx deps"

/// A process that answers each line with a line. It ends when this process does: its input closes then.
type private Server(failure: string -> Error, command: string list) =
    let info =
        ProcessStartInfo(
            command.Head,
            command.Tail,
            UseShellExecute = false,
            RedirectStandardInput = true,
            RedirectStandardOutput = true
        )

    let server = new Process(StartInfo = info)

    do
        try
            server.Start() |> ignore
        with :? Win32Exception as error ->
            failure error.Message |> Error.raise

    /// The answer to a command.
    member _.Ask(line: string) : string =
        let answer =
            try
                server.StandardInput.WriteLine line
                server.StandardInput.Flush()
                server.StandardOutput.ReadLine() |> Option.ofObj
            with :? IOException ->
                None

        answer
        |> Option.defaultWith (fun () ->
            server.WaitForExit()
            let line = String.concat " " command
            failure $"{line}\n  exit code: {server.ExitCode}" |> Error.raise
        )

    /// Seconds of so many training steps.
    member server.Time(steps: int) : float = server.Ask $"run {steps}" |> float

    /// Ends the process.
    member _.Stop() : unit =
        server.Kill()
        server.WaitForExit()
        server.Dispose()

let private ours (options: string list) : Server =
    let self = Environment.GetCommandLineArgs()[0]
    let host = Environment.ProcessPath |> Option.ofObj |> Option.defaultValue "dotnet"
    let program = if Path.GetFileNameWithoutExtension host = "dotnet" then [ host; self ] else [ host ]

    let failed where = Error.create Engine "our side of the benchmark has ended" where "ctkd doctor"

    new Server(failed, program @ [ "bench"; "--serve" ] @ options)

let private theirs (options: string list) : Server =
    let python =
        Environment.GetEnvironmentVariable "CTKD_PYTHON"
        |> Option.ofObj
        |> Option.defaultValue "/usr/bin/python3"

    new Server(noTorch, python :: Path.Combine(AppContext.BaseDirectory, "torch_step.py") :: options)

/// A median with its 95 % interval.
type Estimate = { Median: float; Low: float; High: float }

/// The median's interval between two order statistics: by the binomial distribution it holds the true median
/// with a probability of at least 95 %, whatever the values' distribution (from 6 values on; below, all of them).
let private estimate (values: float[]) : Estimate =
    let sorted = Array.sort values
    let n = sorted.Length
    let ways = Seq.scan (fun ways k -> ways * float (n - k) / float (k + 1)) 1.0 (seq { 0 .. n - 1 })
    let below = ways |> Seq.scan (+) 0.0 |> Seq.tail |> Seq.map (fun sum -> sum / 2.0 ** n)
    let outside = below |> Seq.takeWhile (fun p -> p <= 0.025) |> Seq.length |> max 1

    {
        Median = median sorted
        Low = sorted[outside - 1]
        High = sorted[n - outside]
    }

/// One side's result.
type Side = { Engine: string; ImagesPerSecond: float; PeakMiB: float }

/// What a run of the benchmark found. Ratios are of times, ours to PyTorch's: below 1 ours is faster.
type Report = {
    Format: string
    Pairs: int
    Steps: int
    Ours: Side
    PyTorch: Side option
    TimeRatio: Estimate option
    MemoryRatio: float option
    CallMicroseconds: float
}

let private measure (compare: bool) (pairs: int) (steps: int) (channelsLast: bool) : Report =
    let options = if channelsLast then [ "--channels-last" ] else []
    let mine = ours options
    let sides = mine :: (if compare then [ theirs options ] else [])

    use _ = {
        new IDisposable with
            member _.Dispose() = sides |> List.iter _.Stop()
    }

    for side in sides do
        side.Ask "version" |> ignore
        side.Time(max steps 20) |> ignore

    // Order A B B A: what drifts slowly meets both alike.
    let times = [|
        for pair in 1..pairs do
            let ordered work = if pair % 2 = 1 then work sides else List.rev (work (List.rev sides))
            ordered (List.map _.Time(steps)) |> Array.ofList
    |]

    let result index (side: Server) = {
        Engine = side.Ask "version"
        ImagesPerSecond = float (steps * batch) / median (times |> Array.map (Array.item index))
        PeakMiB = side.Ask "memory" |> float
    }

    let results = List.mapi result sides

    {
        Format = if channelsLast then "channels last" else "contiguous"
        Pairs = pairs
        Steps = steps
        Ours = results.Head
        PyTorch = List.tryItem 1 results
        TimeRatio =
            if compare then
                Some(times |> Array.map (fun pair -> pair[0] / pair[1]) |> estimate)
            else
                None
        MemoryRatio = List.tryItem 1 results |> Option.map (fun other -> results.Head.PeakMiB / other.PeakMiB)
        CallMicroseconds = mine.Ask "cost" |> float
    }

let private print (report: Report) : unit =
    let side name (side: Side) =
        printfn $"%-10s{name}%10.1f{side.ImagesPerSecond}%14.0f{side.PeakMiB}   {side.Engine}"

    printfn
        "Teacher resnet56, student resnet20, CTKD's global temperature, batch %d, float32, %s"
        batch
        report.Format

    printfn "%-10s%10s%14s" "" "images/s" "peak MiB"
    side "ours" report.Ours
    Option.iter (side "PyTorch") report.PyTorch

    match report.TimeRatio, report.MemoryRatio with
    | Some time, Some memory ->
        printfn $"time, ours / PyTorch: %.3f{time.Median}, 95 %% interval %.3f{time.Low} to %.3f{time.High}"

        printfn
            $"  (median of {report.Pairs} alternating pairs of {report.Steps} steps; below 1 ours is faster)"

        printfn $"peak memory, ours / PyTorch: %.3f{memory}"
    | _ -> ()

    printfn $"one call of the engine on one element: %.2f{report.CallMicroseconds} us"

/// Measures and prints. Without `compare` only our side runs.
let run (compare: bool) (pairs: int) (steps: int) (channelsLast: bool) (json: bool) : int =
    if pairs < 1 || steps < 1 then
        eprintfn $"error: pairs and steps must be at least 1, got {pairs} and {steps}"
        2
    else
        try
            let report = measure compare pairs steps channelsLast

            if json then printfn $"{JsonSerializer.Serialize report}" else print report

            0
        with CtkdException error ->
            eprintfn $"error: {error}"
            1
