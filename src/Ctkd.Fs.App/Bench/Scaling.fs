/// `ctkd bench scaling`: the cost of the step against batch size, classes, temperature policy and depth, and its charts.
module Ctkd.Fs.App.Scaling

open System.IO
open FsToolkit.ErrorHandling
open Ctkd.Fs
open Ctkd.Fs.App.Workload

/// One measured step: the place on an axis of a chart, under the name of a curve.
type Point = {
    Axis: string
    Curve: string
    At: int
    Milliseconds: Estimate
    ImagesPerSecond: float
}

/// What a run of the benchmark found.
type Report = { Engine: string; Rounds: int; Points: Point list }

/// The policies whose cost may hang on the number of classes.
let private ofClasses: (string * Policy) list =
    policies
    |> List.filter (fun (name, _) -> List.contains name [ "fixed T"; "CTKD global"; "CTKD instance-wise"; "DTKD" ])

/// Every step that is measured, with its axis, its curve and its place; the work says what else it is like.
let private steps (work: Workload) : (string * string * int * Workload) list = [
    for name, precision in [ "float32", F32; "bfloat16", Bf16 ] do
        for batch in [ 8; 16; 32; 64; 128; 256 ] do
            "batch", name, batch, { work with Batch = batch; Precision = precision }

    for name, policy in ofClasses do
        for classes in [ 10; 100; 1000 ] do
            "classes", name, classes, { work with Classes = classes; Policy = policy }

    for depth in [ 8; 14; 20; 32; 44; 56; 110 ] do
        "depth", "student, under resnet56", depth, { work with Student = $"resnet{depth}" }

    for depth in [ 20; 32; 56; 110 ] do
        "depth", "teacher, of resnet20", depth, { work with Teacher = $"resnet{depth}" }
]

/// About how many seconds a measurement lasts.
let private length = 0.3

/// Seconds per step on one batch, measured over several, and the number of steps that a measurement needs.
let private prepared (work: Workload) : (int -> float) * int =
    let plan = plan work
    let batch = firstBatch plan (upload work plan)
    let learn = learner plan

    let time (count: int) =
        let learnAll () =
            for _ in 1..count do
                learn batch

        seconds work.Device learnAll / float count

    let warm = List.init 3 (fun _ -> time 1) |> List.min
    time, max 1 (int (length / warm))

let private measure (work: Workload) (rounds: int) : Point list =
    Tensor.scoped (fun () ->
        let steps = steps work |> List.map (fun (axis, curve, at, work) -> axis, curve, at, work, prepared work)

        let found = steps |> List.map (fun _ -> ResizeArray<float>())

        for round in 1..rounds do
            for (_, _, _, _, (time, count)), found in List.zip steps found do
                found.Add(1000.0 * time count)

            eprintf $"\rround {round} of {rounds}"

        eprintfn ""

        List.zip steps found
        |> List.map (fun ((axis, curve, at, work, _), found) ->
            let milliseconds = found.ToArray() |> Estimate.ofValues

            {
                Axis = axis
                Curve = curve
                At = at
                Milliseconds = milliseconds
                ImagesPerSecond = 1000.0 * float work.Batch / milliseconds.Median
            }
        )
    )

/// The charts by the names of their files.
let private charts (points: Point list) : (string * Chart) list =
    let chart axis title xLabel yLabel value =
        let curves = points |> List.filter (fun point -> point.Axis = axis) |> List.groupBy _.Curve

        $"scaling-{axis}.svg",
        {
            Chart.defaults with
                Title = title
                XLabel = xLabel
                YLabel = yLabel
                Series =
                    curves
                    |> List.map (fun (curve, points) -> {
                        Name = curve
                        Points = points |> List.map (fun point -> float point.At, value point)
                    })
        }

    let milliseconds point = point.Milliseconds.Median

    [
        chart "batch" "Training step against batch size" "images a batch" "images/s" _.ImagesPerSecond
        chart "classes" "Training step against classes" "classes" "ms per step" milliseconds
        chart "depth" "Training step against depth" "layers" "ms per step" milliseconds
    ]

let private write (folder: string) (points: Point list) : Result<unit, Error> =
    charts points
    |> List.traverseResultM (fun (name, chart) ->
        Picture.write (Path.Combine(folder, name)) (Chart.standalone 640 360 chart)
    )
    |> Result.map ignore

/// Measures, prints, and draws into a folder if there is one.
let run (terminal: Terminal) (work: Workload) (rounds: int) (folder: string option) : Result<unit, Error> =
    let report = { Engine = engine work; Rounds = rounds; Points = measure work rounds }

    terminal.Say
        $"{report.Engine}; teacher {work.Teacher}, student {work.Student}, batch {work.Batch} where nothing else is said"

    terminal.Table {
        Caption = $"median of {rounds} measurements, 95 %% interval"
        Header = [ "axis"; "curve"; "at"; "ms per step"; "from"; "to"; "images/s" ]
        Rows =
            report.Points
            |> List.map (fun point ->
                let { Median = median; Low = low; High = high } = point.Milliseconds

                [ point.Axis; point.Curve; string point.At ]
                @ List.map (sprintf "%.2f") [ median; low; high ]
                @ [ $"%.0f{point.ImagesPerSecond}" ]
            )
    }

    terminal.Json report

    match folder with
    | None -> Ok()
    | Some folder -> write folder report.Points
