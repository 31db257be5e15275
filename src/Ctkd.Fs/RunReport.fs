namespace Ctkd.Fs

open System.Globalization

/// Runs as a report: accuracy, loss, temperature and curriculum, as tables and curves.
[<RequireQualifiedAccess>]
module RunReport =
    let private fixedPoint (digits: int) (value: float) : string =
        value.ToString($"F{digits}", CultureInfo.InvariantCulture)

    /// One curve a run; epochs without the value are left out.
    let private chart
        (title: string)
        (yLabel: string)
        (value: EpochMetrics -> float option)
        (runs: (string * Summary) list)
        =
        let series (name: string, summary: Summary) : Series = {
            Name = name
            Points =
                summary.Epochs |> List.choose (fun m -> value m |> Option.map (fun y -> float m.Epoch, y))
        }

        let series = runs |> List.map series |> List.filter (fun s -> not s.Points.IsEmpty)

        if series.IsEmpty then
            None
        else
            Some {
                Chart.defaults with
                    Title = title
                    XLabel = "epoch"
                    YLabel = yLabel
                    Series = series
            }

    /// The learning curve of T: one series a run.
    let temperatureChart (runs: (string * Summary) list) : Chart option = chart "Temperature" "T" _.T runs

    let private row (name: string, summary: Summary) : string list =
        match List.tryLast summary.Epochs with
        | None -> [ name; "-"; "-"; "-"; "-"; "-" ]
        | Some last -> [
            name
            fixedPoint 2 last.Top1
            $"{fixedPoint 2 summary.Best.Top1} (epoch {summary.Best.Epoch})"
            fixedPoint 2 last.Top5
            fixedPoint 4 last.TestLoss
            last.T |> Option.map (fixedPoint 2) |> Option.defaultValue "-"
          ]

    /// The runs in one table: last and best accuracy in percent, test loss in nats, last mean T.
    let table (runs: (string * Summary) list) : Table = {
        Caption = "Accuracy on the test images"
        Header = [ "run"; "top-1 %"; "best top-1 %"; "top-5 %"; "test loss"; "T" ]
        Rows = List.map row runs
    }

    let private settingsFacts (settings: Settings) : (string * string) list = [
        "student", settings.Student
        "teacher", (if settings.Teacher = "" then "none" else settings.Teacher)
        "policy", (if settings.Teacher = "" then "none" else settings.Policy)
        "data", settings.Data
        "images a class", (if settings.PerClass = 0 then "all" else string settings.PerClass)
        "epochs", string settings.Epochs
        "batch", string settings.Batch
        "learning rate", string settings.LearningRate
        "precision", settings.Precision
        "seed", string settings.Seed
    ]

    /// The report of one or several runs, by name.
    let create (title: string) (runs: (string * Summary) list) : Report =
        let curves =
            [
                chart "Test accuracy" "top-1 %" (fun m -> Some m.Top1) runs
                chart "Training loss" "nats" (fun m -> Some m.Loss) runs
                temperatureChart runs
                chart
                    "Curriculum"
                    "lambda"
                    _.Lambda
                    (runs
                     |> List.filter (fun (_, s) ->
                         s.Settings.Policy.StartsWith("ctkd", System.StringComparison.Ordinal)
                     ))
            ]
            |> List.choose id

        let headline =
            runs
            |> List.choose (fun (name, summary) ->
                List.tryLast summary.Epochs |> Option.map (fun last -> name, fixedPoint 2 last.Top1 + " %")
            )

        {
            Title = title
            Subtitle = "Dynamic-temperature knowledge distillation"
            Sections =
                [
                    "Result", [ Section.Headline headline; Section.Table(table runs) ]
                    "Curves", [ Section.Charts curves ]
                ]
                @ [
                    for name, summary in runs ->
                        $"Settings: {name}", [ Section.Facts(settingsFacts summary.Settings) ]
                ]
        }

    /// Writes the report as a self-contained HTML file.
    let write (path: string) (title: string) (runs: (string * Summary) list) : Result<unit, Error> =
        let html = create title runs |> Report.html |> System.Text.Encoding.UTF8.GetBytes
        Files.replace path (fun stream -> stream.Write(System.ReadOnlySpan html))
