/// `ctkd bench overheads`: what a temperature policy or a distiller adds to the step of plain knowledge distillation at
/// T = 4, measured in alternation in one process.
module Ctkd.Fs.App.Overheads

open Ctkd.Fs
open Ctkd.Fs.App.Workload

/// How a step differs from the plain one.
[<NoComparison; NoEquality>]
type private Variant = { Name: string; Change: Workload -> Workload }

/// All that is compared with the plain step; the first is the plain step itself, and shows what noise is left.
let private variants: Variant list = [
    for name, policy in policies do
        { Name = $"kd, {name}"; Change = fun work -> { work with Policy = policy } }

    for name in List.except [ "kd" ] Distillers.names do
        {
            Name = $"{name}, fixed"
            Change = fun work -> { work with Distiller = Distillers.find name }
        }
]

/// What a variant adds to the plain step, in per cent of it.
type Overhead = { Step: string; Percent: Estimate; Starts: float list }

/// What a run of the benchmark found.
type Report = {
    Engine: string
    Teacher: string
    Student: string
    Batch: int
    Precision: string
    Pairs: int
    Steps: int
    Starts: int
    /// Of the plain step.
    Milliseconds: Estimate
    Overheads: Overhead list
}

/// Per cent that each variant adds, pair by pair, and seconds of a plain step. A pair is A B B A, or B A A B, of `steps`
/// steps each: what drifts in a straight line cancels. Learners are made anew, since tensors keep their luck with memory.
let private pairsOf (work: Workload) (steps: int) (pairs: int list) : Map<string, float[]> * float[] =
    let plain = plan work
    let batch = firstBatch plain (upload work plain)

    let timed (plan: TrainingPlan) =
        let learn = learner plan

        fun () ->
            seconds
                work.Device
                (fun () ->
                    for _ in 1..steps do
                        learn batch
                )

    let plain = timed plain
    let others = variants |> List.map (fun variant -> variant.Name, timed (plan (variant.Change work)))

    // The just-in-time compiler knows what is hot after some dozen calls.
    for time in plain :: List.map snd others do
        for _ in 1..40 do
            time () |> ignore

    let found = others |> List.map (fun (name, _) -> name, ResizeArray<float>())
    let baseline = ResizeArray<float>()

    for pair in pairs do
        for (_, time), (_, found) in List.zip others found do
            let first, second = if pair % 2 = 1 then plain, time else time, plain
            let a1 = first ()
            let b = second () + second ()
            let a = a1 + first ()
            let plain, other = if pair % 2 = 1 then a, b else b, a
            found.Add(100.0 * (other / plain - 1.0))
            baseline.Add(plain / float (2 * steps))

        eprintf $"\rpair {pair}"

    found |> List.map (fun (name, values) -> name, values.ToArray()) |> Map.ofList, baseline.ToArray()

let private print (terminal: Terminal) (report: Report) : unit =
    let { Median = median; Low = low; High = high } = report.Milliseconds

    terminal.Say
        $"Teacher {report.Teacher}, student {report.Student}, batch {report.Batch}, {report.Precision}; {report.Engine}"

    terminal.Say $"KD at T = 4: %.2f{median} (%.2f{low} to %.2f{high}) ms per step"

    terminal.Table {
        Caption =
            $"%% more than KD at T = 4: median of {report.Pairs} pairs of 2 x {report.Steps} steps, 95 %% interval, and by start"
        Header = [ "step"; "%"; "from"; "to" ] @ [ for start in 1 .. report.Starts -> $"start {start}" ]
        Rows =
            report.Overheads
            |> List.map (fun overhead ->
                let { Median = median; Low = low; High = high } = overhead.Percent
                overhead.Step :: List.map (sprintf "%+.2f") ([ median; low; high ] @ overhead.Starts)
            )
    }

/// Measures and prints what is added to some work at T = 4.
let run (terminal: Terminal) (work: Workload) (pairs: int) (steps: int) (starts: int) : unit =
    let work = { work with Policy = Scheduled.fixedAt 4.0 }

    let found =
        [ 1..pairs ]
        |> List.splitInto starts
        |> List.map (fun pairs -> Tensor.scoped (fun () -> pairsOf work steps pairs))

    eprintfn ""
    let byStart (name: string) = found |> List.map (fun (overheads, _) -> overheads[name])

    let report = {
        Engine = engine work
        Teacher = work.Teacher
        Student = work.Student
        Batch = work.Batch
        Precision = $"{work.Precision}".ToLowerInvariant()
        Pairs = pairs
        Steps = steps
        Starts = starts
        Milliseconds = found |> List.map snd |> Array.concat |> Array.map ((*) 1000.0) |> Estimate.ofValues
        Overheads =
            variants
            |> List.map (fun variant -> {
                Step = variant.Name
                Percent = byStart variant.Name |> Array.concat |> Estimate.ofValues
                Starts = byStart variant.Name |> List.map Estimate.median
            })
    }

    print terminal report
    terminal.Json report
