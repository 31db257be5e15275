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

    /// Ends the process: asked to, it removes its temporary files.
    member _.Stop() : unit =
        try
            server.StandardInput.WriteLine "quit"
            server.StandardInput.Close()
        with :? IOException ->
            ()

        if not (server.WaitForExit 10_000) then
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
let private contestants (device: Device) : Contestant list =
    let on options = "--device" :: string device :: options
    let side name start precision own = { Name = name; Start = start; Precision = precision; Ours = own }

    [
        side "ours, f32" (fun () -> ours (on [])) "f32" true
        if Engine.records device then
            side "ours, TF32" (fun () -> ours (on [ "--tf32" ])) "f32" true
        side "ours, bf16" (fun () -> ours (on [ "--precision"; "bf16" ])) "bf16" true
        side "PyTorch, f32, as published" (fun () -> theirs (on [])) "f32" false
        side "PyTorch, f32, channels last" (fun () -> theirs (on [ "--channels-last" ])) "f32" false
        side
            "PyTorch, bf16, channels last"
            (fun () -> theirs (on [ "--channels-last"; "--bf16" ]))
            "bf16"
            false
    ]

// ---- numbers ----

/// One side's result in one part.
type Speed = {
    Part: string
    Side: string
    ImagesPerSecond: float
    /// Of the machine's own large convolutions in that precision; none where there is nothing to compute.
    ShareOfCeiling: float option
    /// Images a second in each start: a process keeps its luck with memory.
    Starts: float list
}

/// How many times as fast one of ours is as one of PyTorch's, in one part; also by start.
type Ratio = {
    Part: string
    Ours: string
    Theirs: string
    Times: Estimate
    Starts: float list
}

/// How much of a side's step the making of its batch takes, in per cent.
type DataShare = { Side: string; Percent: Estimate }

/// What a run of the benchmark found.
type Report = {
    Engine: string
    PyTorch: string option
    Pairs: int
    Batches: int
    Starts: int
    /// GFLOP/s of large convolutions, GB/s of a copy: the best of the starts.
    ConvolutionsF32: float
    ConvolutionsBf16: float
    Copies: float
    Speeds: Speed list
    Ratios: Ratio list
    DataShares: DataShare list
    /// The highest of the starts.
    PeakMiB: (string * float) list
    CallMicroseconds: float
}

// ---- measuring ----

/// What is compared: on which device, parts, rounds of measurements, batches a measurement, starts of all processes.
[<NoComparison>]
type Plan = {
    Compare: bool
    Device: Device
    Parts: string list
    Pairs: int
    Batches: int
    Starts: int
}

/// One start's measurements.
[<NoComparison; NoEquality>]
type private Start = {
    /// Seconds a batch by part: round, then side.
    Times: Map<string, float[][]>
    Versions: string list
    Memory: float list
    /// Operations a second by precision, bytes a second, microseconds a call.
    Convolutions: Map<string, float>
    Copies: float
    Cost: float
}

/// The making of a batch takes a millisecond or two: an epoch of them is one measurement.
let private batchesOf (plan: Plan) (part: string) : int =
    if part = "data" then Workload.images / Workload.published.Batch else plan.Batches

/// Seconds a batch of every side in every part, round by round; rounds are counted over all starts.
let private times
    (plan: Plan)
    (rounds: int list)
    (sides: (Contestant * Server) list)
    : Map<string, float[][]> =
    let samples = plan.Parts |> List.map (fun part -> part, ResizeArray<float[]>())

    for round in rounds do
        for part, found in samples do
            let count = batchesOf plan part

            let time (side: Contestant, server: Server) =
                server.Time (if side.Ours then part else BenchWork.twin part) count / float count
            // Forwards, then backwards: what drifts slowly meets all alike.
            let one =
                if round % 2 = 1 then
                    List.map time sides
                else
                    sides |> List.rev |> List.map time |> List.rev

            found.Add(Array.ofList one)

        eprintf $"\rpair {round} of {plan.Pairs}"

    samples |> List.map (fun (part, found) -> part, found.ToArray()) |> Map.ofList

/// Starts every side's process, measures the rounds, and ends the processes.
let private measureOnce (plan: Plan) (chosen: Contestant list) (rounds: int list) : Start =
    let servers = ResizeArray<Server>()

    use _ = {
        new IDisposable with
            member _.Dispose() = Seq.iter (fun (server: Server) -> server.Stop()) servers
    }

    let sides =
        chosen
        |> List.map (fun side ->
            servers.Add(side.Start())
            side, servers[servers.Count - 1]
        )

    let own precision (question: string) =
        let _, server = sides |> List.find (fun (side, _) -> side.Ours && side.Precision = precision)
        float (server.Ask question)

    let versions = sides |> List.map (fun (_, server) -> server.Ask "version")

    for side, server in sides do
        for part in plan.Parts do
            server.Time (if side.Ours then part else BenchWork.twin part) (max plan.Batches 8) |> ignore

    {
        Times = times plan rounds sides
        Versions = versions
        Memory = sides |> List.map (fun (_, server) -> float (server.Ask "memory"))
        Convolutions = Map [ for name in [ "f32"; "bf16" ] -> name, own name "convolutions" ]
        Copies = own "f32" "copies"
        Cost = own "f32" "cost"
    }

let private measure (plan: Plan) : Report =
    let chosen = contestants plan.Device |> List.filter (fun side -> plan.Compare || side.Ours)

    let starts = [ 1 .. plan.Pairs ] |> List.splitInto plan.Starts |> List.map (measureOnce plan chosen)

    eprintfn ""
    let best (value: Start -> float) = starts |> List.map value |> List.max
    let ceiling precision = best (fun start -> start.Convolutions[precision])

    /// The rounds of every start, as numbers.
    let byStart (part: string) (number: float[] -> float) =
        starts |> List.map (fun start -> start.Times[part] |> Array.map number)

    let images = float Workload.published.Batch

    let speed part index (side: Contestant) : Speed =
        let rounds = byStart part (fun sides -> images / sides[index])
        let median = rounds |> Array.concat |> Estimate.median

        {
            Part = part
            Side = side.Name
            ImagesPerSecond = median
            ShareOfCeiling =
                BenchWork.operations part
                |> Option.map (fun operations -> median * operations / ceiling side.Precision)
            Starts = rounds |> List.map Estimate.median
        }

    let ratios part = [
        for own, mine in List.indexed chosen do
            for other, torch in List.indexed chosen do
                if mine.Ours && not torch.Ours then
                    let rounds = byStart part (fun sides -> sides[other] / sides[own])

                    {
                        Part = part
                        Ours = mine.Name
                        Theirs = torch.Name
                        Times = rounds |> Array.concat |> Estimate.ofValues
                        Starts = rounds |> List.map Estimate.median
                    }
    ]

    let dataShare index (side: Contestant) =
        let data, step = byStart "data" (Array.item index), byStart "step" (Array.item index)
        let shares = Array.map2 (fun data step -> 100.0 * data / step) (Array.concat data) (Array.concat step)
        { Side = side.Name; Percent = Estimate.ofValues shares }

    let has part = List.contains part plan.Parts

    let versionOf (own: bool) =
        chosen
        |> List.tryFindIndex (fun side -> side.Ours = own)
        |> Option.map (fun index -> starts.Head.Versions[index])

    {
        Engine = versionOf true |> Option.get
        PyTorch = versionOf false
        Pairs = plan.Pairs
        Batches = plan.Batches
        Starts = plan.Starts
        ConvolutionsF32 = ceiling "f32" / 1e9
        ConvolutionsBf16 = ceiling "bf16" / 1e9
        Copies = best _.Copies / 1e9
        Speeds = plan.Parts |> List.collect (fun part -> chosen |> List.mapi (speed part))
        Ratios = plan.Parts |> List.collect ratios
        DataShares = if has "data" && has "step" then List.mapi dataShare chosen else []
        PeakMiB = chosen |> List.mapi (fun index side -> side.Name, best (fun start -> start.Memory[index]))
        CallMicroseconds = starts |> List.map _.Cost |> List.min
    }

// ---- printing ----

let private speedTable (report: Report) : Table =
    let starts = [ for start in 1 .. report.Starts -> $"start {start}" ]

    {
        Caption = ""
        Header = [ "part"; "side"; "images/s" ] @ starts @ [ "% of convolutions"; "peak MiB" ]
        Rows =
            report.Speeds
            |> List.map (fun speed ->
                let share = speed.ShareOfCeiling |> Option.map (fun share -> $"%.0f{100.0 * share}")

                let memory =
                    if speed.Part <> "step" then
                        None
                    else
                        report.PeakMiB |> List.tryFind (fst >> (=) speed.Side) |> Option.map snd

                [ speed.Part; speed.Side; $"%.0f{speed.ImagesPerSecond}" ]
                @ List.map (sprintf "%.0f") speed.Starts
                @ [
                    Option.defaultValue "-" share
                    memory |> Option.map (sprintf "%.0f") |> Option.defaultValue "-"
                ]
            )
    }

let private ratioTable (report: Report) : Table =
    let starts = [ for start in 1 .. report.Starts -> $"start {start}" ]

    {
        Caption =
            $"times as fast: median of {report.Pairs} rounds of {report.Batches} batches over {report.Starts} starts, 95 %% interval, each start's median"
        Header = [ "part"; "ours"; "theirs"; "times"; "from"; "to" ] @ starts
        Rows =
            report.Ratios
            |> List.map (fun ratio ->
                let { Median = median; Low = low; High = high } = ratio.Times
                let numbers = [ median; low; high ] @ ratio.Starts
                [ ratio.Part; ratio.Ours; ratio.Theirs ] @ List.map (sprintf "%.3f") numbers
            )
    }

let private print (terminal: Terminal) (report: Report) : unit =
    let ceilings =
        $"large convolutions %.0f{report.ConvolutionsF32} GFLOP/s in f32, %.0f{report.ConvolutionsBf16} in bf16; copies %.1f{report.Copies} GB/s"

    let work = Workload.published

    terminal.Say
        $"Teacher {work.Teacher}, student {work.Student}, CTKD's global temperature, batch {work.Batch}."

    terminal.Say $"{report.Engine}; {ceilings}"
    terminal.Table(speedTable report)
    if not report.Ratios.IsEmpty then terminal.Table(ratioTable report)

    for share in report.DataShares do
        let { Median = median; Low = low; High = high } = share.Percent

        terminal.Say
            $"{share.Side}: making the batch is %.2f{median} (%.2f{low} to %.2f{high}) %% of the step"

    terminal.Say $"one call of the engine on one element: %.2f{report.CallMicroseconds} us"

/// Measures and prints.
let run (terminal: Terminal) (plan: Plan) : Result<unit, Error> =
    match plan.Parts |> List.tryFind (fun part -> not (List.contains part BenchWork.parts)) with
    | Some unknown -> Result.Error(Error.unknown "part" BenchWork.parts unknown)
    | None ->
        let report = measure plan
        print terminal report
        terminal.Json report
        Ok()
