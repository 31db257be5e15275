/// `ctkd bench`: the parts of the training step, ours and PyTorch's, run in alternation. Each side is a process of its
/// own that answers commands on its standard input and sleeps while another one works.
module Ctkd.Fs.App.Bench

open System
open System.ComponentModel
open System.Diagnostics
open System.IO
open Ctkd.Fs

// ---- sides ----

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

    /// Seconds of so many batches of a part.
    member server.Time (part: string) (count: int) : float = server.Ask $"run {part} {count}" |> float

    /// Ends the process.
    member _.Stop() : unit =
        server.Kill()
        server.WaitForExit()
        server.Dispose()

let private noTorch (reason: string) : Error =
    Error.create
        Missing
        "PyTorch cannot be run, to which ctkd bench compares"
        reason
        "dotnet fsi build.fsx deps"

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

/// What is timed: whose, how, and the precision whose ceiling it is measured by.
[<NoComparison; NoEquality>]
type private Contestant = { Name: string; Start: unit -> Server; Precision: string; Ours: bool }

/// Ours: as the library trains. PyTorch's: as published, and as fast as eager code can be.
let private contestants: Contestant list =
    let side name start precision own = { Name = name; Start = start; Precision = precision; Ours = own }

    [
        side "ours, f32" (fun () -> ours []) "f32" true
        side "ours, bf16" (fun () -> ours [ "--bf16" ]) "bf16" true
        side "PyTorch, f32, as published" (fun () -> theirs []) "f32" false
        side "PyTorch, f32, channels last" (fun () -> theirs [ "--channels-last" ]) "f32" false
        side "PyTorch, bf16, channels last" (fun () -> theirs [ "--channels-last"; "--bf16" ]) "bf16" false
    ]

// ---- numbers ----

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
        Median = BenchWork.median sorted
        Low = sorted[outside - 1]
        High = sorted[n - outside]
    }

/// One side's result in one part.
type Speed = {
    Part: string
    Side: string
    ImagesPerSecond: float
    /// Of the machine's own large convolutions in that precision; none where there is nothing to compute.
    ShareOfCeiling: float option
}

/// How many times as fast one of ours is as one of PyTorch's, in one part.
type Ratio = { Part: string; Ours: string; Theirs: string; Times: Estimate }

/// What a run of the benchmark found.
type Report = {
    Engine: string
    PyTorch: string option
    Pairs: int
    Batches: int
    /// GFLOP/s of large convolutions, GB/s of a copy.
    ConvolutionsF32: float
    ConvolutionsBf16: float
    Copies: float
    Speeds: Speed list
    Ratios: Ratio list
    PeakMiB: (string * float) list
    CallMicroseconds: float
}

// ---- measuring ----

/// Seconds by part and side, pair by pair.
let private times
    (parts: string list)
    (pairs: int)
    (batches: int)
    (sides: (bool * Server) list)
    : Map<string, float[][]> =
    let samples = parts |> List.map (fun part -> part, ResizeArray<float[]>())

    for pair in 1..pairs do
        for part, found in samples do
            let time (own: bool, side: Server) = side.Time (if own then part else BenchWork.twin part) batches
            // Forwards, then backwards: what drifts slowly meets all alike.
            let one =
                if pair % 2 = 1 then
                    List.map time sides
                else
                    sides |> List.rev |> List.map time |> List.rev

            found.Add(Array.ofList one)

        eprintf $"\rpair {pair} of {pairs}"

    eprintfn ""
    samples |> List.map (fun (part, found) -> part, found.ToArray()) |> Map.ofList

let private measure (compare: bool) (parts: string list) (pairs: int) (batches: int) : Report =
    let chosen = contestants |> List.filter (fun side -> compare || side.Ours)
    let sides = chosen |> List.map (fun side -> side, side.Start())

    use _ = {
        new IDisposable with
            member _.Dispose() = sides |> List.iter (fun (_, server) -> server.Stop())
    }

    let asked (own: bool) (precision: string) (question: string) =
        sides
        |> List.tryFind (fun (side, _) -> side.Ours = own && side.Precision = precision)
        |> Option.map (fun (_, server) -> server.Ask question)

    let number precision question = asked true precision question |> Option.get |> float

    for side, server in sides do
        server.Ask "version" |> ignore

        for part in parts do
            server.Time (if side.Ours then part else BenchWork.twin part) (max batches 8) |> ignore

    let times = times parts pairs batches (sides |> List.map (fun (side, server) -> side.Ours, server))
    let memory = sides |> List.map (fun (side, server) -> side.Name, float (server.Ask "memory"))
    let f32, bf16 = number "f32" "convolutions", number "bf16" "convolutions"

    let speed part index (side: Contestant) =
        let images =
            float (batches * BenchWork.batch) / BenchWork.median (times[part] |> Array.map (Array.item index))

        let ceiling = if side.Precision = "bf16" then bf16 else f32

        {
            Part = part
            Side = side.Name
            ImagesPerSecond = images
            ShareOfCeiling =
                BenchWork.operations part |> Option.map (fun operations -> images * operations / ceiling)
        }

    let ratios part = [
        for own, mine in List.indexed chosen do
            for other, torch in List.indexed chosen do
                if mine.Ours && not torch.Ours then
                    {
                        Part = part
                        Ours = mine.Name
                        Theirs = torch.Name
                        Times = times[part] |> Array.map (fun pair -> pair[other] / pair[own]) |> estimate
                    }
    ]

    {
        Engine = asked true "f32" "version" |> Option.get
        PyTorch = asked false "f32" "version"
        Pairs = pairs
        Batches = batches
        ConvolutionsF32 = f32 / 1e9
        ConvolutionsBf16 = bf16 / 1e9
        Copies = number "f32" "copies" / 1e9
        Speeds = parts |> List.collect (fun part -> chosen |> List.mapi (speed part))
        Ratios = parts |> List.collect ratios
        PeakMiB = memory
        CallMicroseconds = number "f32" "cost"
    }

let private print (terminal: Terminal) (report: Report) : unit =
    let ceilings =
        $"large convolutions %.0f{report.ConvolutionsF32} GFLOP/s in f32, %.0f{report.ConvolutionsBf16} in bf16; copies %.1f{report.Copies} GB/s"

    terminal.Say $"Teacher resnet56, student resnet20, CTKD's global temperature, batch {BenchWork.batch}."
    terminal.Say $"{report.Engine}; {ceilings}"

    terminal.Table {
        Caption = ""
        Header = [ "part"; "side"; "images/s"; "% of convolutions"; "peak MiB" ]
        Rows =
            report.Speeds
            |> List.map (fun speed -> [
                speed.Part
                speed.Side
                $"%.0f{speed.ImagesPerSecond}"
                (match speed.ShareOfCeiling with
                 | Some share -> $"%.0f{100.0 * share}"
                 | None -> "-")
                (if speed.Part = "step" then
                     report.PeakMiB
                     |> List.find (fun (side, _) -> side = speed.Side)
                     |> fun (_, m) -> $"%.0f{m}"
                 else
                     "-")
            ])
    }

    if not report.Ratios.IsEmpty then
        terminal.Table {
            Caption =
                $"times as fast: median of {report.Pairs} pairs of {report.Batches} batches, 95 %% interval"
            Header = [ "part"; "ours"; "theirs"; "times"; "from"; "to" ]
            Rows =
                report.Ratios
                |> List.map (fun ratio -> [
                    ratio.Part
                    ratio.Ours
                    ratio.Theirs
                    $"%.3f{ratio.Times.Median}"
                    $"%.3f{ratio.Times.Low}"
                    $"%.3f{ratio.Times.High}"
                ])
        }

    terminal.Say $"one call of the engine on one element: %.2f{report.CallMicroseconds} us"

/// Measures and prints. Without `compare` only our sides run.
let run (compare: bool) (part: string option) (pairs: int) (batches: int) (json: bool) : int =
    let terminal = Terminal json

    Commands.guarded
        terminal
        (fun () ->
            match part with
            | _ when pairs < 1 || batches < 1 ->
                Error.create
                    Usage
                    $"pairs and steps must be at least 1, got {pairs} and {batches}"
                    ""
                    "see --help"
                |> Result.Error
            | Some name when not (List.contains name BenchWork.parts) ->
                Result.Error(Error.unknown "part" BenchWork.parts name)
            | _ ->
                let parts = part |> Option.map List.singleton |> Option.defaultValue BenchWork.parts
                let report = measure compare parts pairs batches
                print terminal report
                terminal.Json report
                Ok()
        )
