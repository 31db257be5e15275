/// `ctkd bench`: the parts of the training step, ours and other programs', run in alternation.
module Ctkd.Fs.App.Bench

open System
open Ctkd.Fs
open Ctkd.Fs.App.BenchSides

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

/// How many times as fast one of ours is as another program in the same precision, in one part; also by start.
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
    /// What each side runs.
    Versions: (string * string) list
    Pairs: int
    Batches: int
    Starts: int
    /// By our sides, the best of the starts: GFLOP/s of large convolutions by precision, GB/s of a copy.
    Convolutions: (string * float) list
    Copies: float option
    Speeds: Speed list
    Ratios: Ratio list
    DataShares: DataShare list
    /// The highest of the starts.
    PeakMiB: (string * float) list
    CallMicroseconds: float option
}

// ---- measuring ----

/// What is compared: which sides, parts, rounds of measurements, batches a measurement, starts of all processes.
type Plan = { Sides: Side list; Parts: string list; Pairs: int; Batches: int; Starts: int }

/// One start's measurements.
[<NoComparison; NoEquality>]
type private Start = {
    /// Seconds a batch by part: round, then side.
    Times: Map<string, float[][]>
    Versions: string list
    Memory: float list
    /// Operations a second by precision.
    Convolutions: Map<string, float>
    /// Bytes a second.
    Copies: float option
    /// Microseconds a call.
    Cost: float option
}

/// The making of a batch takes a millisecond or two: an epoch of them is one measurement.
let private batchesOf (plan: Plan) (part: string) : int =
    if part = "data" then Workload.images / Workload.published.Batch else plan.Batches

/// Seconds a batch of every side in every part, round by round; rounds are counted over all starts.
let private times (plan: Plan) (rounds: int list) (servers: (Side * Server) list) : Map<string, float[][]> =
    let samples = plan.Parts |> List.map (fun part -> part, ResizeArray<float[]>())

    for round in rounds do
        for part, found in samples do
            let count = batchesOf plan part

            let time (side: Side, server: Server) = server.Time (BenchSides.partOf side part) count / float count
            // Forwards, then backwards: what drifts slowly meets all alike.
            let one =
                if round % 2 = 1 then
                    List.map time servers
                else
                    servers |> List.rev |> List.map time |> List.rev

            found.Add(Array.ofList one)

        eprintf $"\rpair {round} of {plan.Pairs}"

    samples |> List.map (fun (part, found) -> part, found.ToArray()) |> Map.ofList

/// Batches of each part before the first measurement: .NET compiles a program's busy methods again as it runs, oneDNN its
/// kernels at their first call, and a side has its pace only after some 40 batches.
let private warmUp = 48

/// Starts every side's process, measures the rounds, and ends the processes.
let private measureOnce (plan: Plan) (rounds: int list) : Start =
    let running = ResizeArray<Server>()

    use _ = {
        new IDisposable with
            member _.Dispose() = Seq.iter (fun (server: Server) -> server.Stop()) running
    }

    let servers =
        plan.Sides
        |> List.map (fun side ->
            running.Add(BenchSides.start side)
            side, running[running.Count - 1]
        )

    let ask question (_, server: Server) = float (server.Ask question)
    let versions = servers |> List.map (fun (_, server) -> server.Ask "version")

    for side, server in servers do
        for part in plan.Parts do
            server.Time (BenchSides.partOf side part) (max plan.Batches warmUp) |> ignore

    let times = times plan rounds servers
    // Before what follows, which needs memory of its own.
    let memory = List.map (ask "memory") servers
    let ours = servers |> List.filter (fun (side, _) -> side.Program = Ours)

    {
        Times = times
        Versions = versions
        Memory = memory
        Convolutions =
            Map [
                for precision in Settings.precisions do
                    match List.tryFind (fun (side, _) -> side.Name = $"ours-{precision}") ours with
                    | Some server -> precision, ask "convolutions" server
                    | None -> ()
            ]
        Copies = ours |> List.tryHead |> Option.map (ask "copies")
        Cost = ours |> List.tryHead |> Option.map (ask "cost")
    }

/// How many times as fast each of ours is as each other side of its precision, from seconds: start, round, side.
let ratios (sides: Side list) (part: string) (starts: float[][] list) : Ratio list = [
    for own, mine in List.indexed sides do
        for other, theirs in List.indexed sides do
            if mine.Program = Ours && theirs.Program <> Ours && mine.Precision = theirs.Precision then
                let rounds = starts |> List.map (Array.map (fun seconds -> seconds[other] / seconds[own]))

                {
                    Part = part
                    Ours = mine.Name
                    Theirs = theirs.Name
                    Times = rounds |> Array.concat |> Estimate.ofValues
                    Starts = rounds |> List.map Estimate.median
                }
]

let private measure (plan: Plan) : Report =
    let starts = [ 1 .. plan.Pairs ] |> List.splitInto plan.Starts |> List.map (measureOnce plan)
    eprintfn ""

    let extreme pick value =
        match List.choose value starts with
        | [] -> None
        | found -> Some(List.reduce pick found)

    let ceiling precision = extreme max (fun start -> start.Convolutions.TryFind precision)
    let rounds part = starts |> List.map (fun start -> start.Times[part])
    let images = float Workload.published.Batch

    let speed part index (side: Side) : Speed =
        let speeds = rounds part |> List.map (Array.map (fun seconds -> images / seconds[index]))
        let median = speeds |> Array.concat |> Estimate.median

        {
            Part = part
            Side = side.Name
            ImagesPerSecond = median
            ShareOfCeiling =
                Option.map2
                    (fun operations ceiling -> median * operations / ceiling)
                    (BenchWork.operations part)
                    (ceiling side.Precision)
            Starts = speeds |> List.map Estimate.median
        }

    let dataShare index (side: Side) =
        let all part = rounds part |> Array.concat |> Array.map (Array.item index)
        let shares = Array.map2 (fun data step -> 100.0 * data / step) (all "data") (all "step")
        { Side = side.Name; Percent = Estimate.ofValues shares }

    let has part = List.contains part plan.Parts

    {
        Versions = List.zip (plan.Sides |> List.map _.Name) starts.Head.Versions
        Pairs = plan.Pairs
        Batches = plan.Batches
        Starts = plan.Starts
        Convolutions = [
            for precision in Settings.precisions do
                for found in Option.toList (ceiling precision) -> precision, found / 1e9
        ]
        Copies = extreme max _.Copies |> Option.map (fun bytes -> bytes / 1e9)
        Speeds = plan.Parts |> List.collect (fun part -> plan.Sides |> List.mapi (speed part))
        Ratios = plan.Parts |> List.collect (fun part -> ratios plan.Sides part (rounds part))
        DataShares = if has "data" && has "step" then List.mapi dataShare plan.Sides else []
        PeakMiB = plan.Sides |> List.mapi (fun index side -> side.Name, starts |> List.map _.Memory[index] |> List.max)
        CallMicroseconds = extreme min _.Cost
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

                // One number per process, whatever its parts: the first part's rows hold it.
                let memory =
                    if speed.Part <> report.Speeds.Head.Part then
                        None
                    else
                        report.PeakMiB |> List.tryFind (fst >> (=) speed.Side) |> Option.map snd

                [ speed.Part; speed.Side; $"%.0f{speed.ImagesPerSecond}" ]
                @ List.map (sprintf "%.0f") speed.Starts
                @ [ Option.defaultValue "-" share; memory |> Option.map (sprintf "%.0f") |> Option.defaultValue "-" ]
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
    let work = Workload.published

    terminal.Say $"Teacher {work.Teacher}, student {work.Student}, CTKD's global temperature, batch {work.Batch}."

    for version, sides in report.Versions |> List.groupBy snd do
        let names = sides |> List.map fst |> String.concat ", "
        terminal.Say $"{names}: {version}"

    for precision, found in report.Convolutions do
        terminal.Say $"large convolutions in {precision}: %.0f{found} GFLOP/s"

    for found in Option.toList report.Copies do
        terminal.Say $"copies: %.1f{found} GB/s"

    terminal.Table(speedTable report)
    if not report.Ratios.IsEmpty then terminal.Table(ratioTable report)

    for share in report.DataShares do
        let { Median = median; Low = low; High = high } = share.Percent

        terminal.Say $"{share.Side}: making the batch is %.2f{median} (%.2f{low} to %.2f{high}) %% of the step"

    for cost in Option.toList report.CallMicroseconds do
        terminal.Say $"one call of the engine on one element: %.2f{cost} us"

/// Measures and prints.
let run (terminal: Terminal) (plan: Plan) : Result<unit, Error> =
    match plan.Parts |> List.tryFind (fun part -> not (List.contains part BenchWork.parts)) with
    | Some unknown -> Result.Error(Error.unknown "part" BenchWork.parts unknown)
    | None ->
        let report = measure plan
        print terminal report
        terminal.Json report
        Ok()
