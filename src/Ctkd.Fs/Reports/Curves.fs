namespace Ctkd.Fs

/// The learning curves of runs as charts: each run is a name and its metrics.
[<RequireQualifiedAccess>]
module Curves =

    /// One curve a run; epochs without the value are left out, and runs without any too. None: no run has it.
    let chart
        (title: string)
        (yLabel: string)
        (value: EpochMetrics -> float option)
        (runs: (string * EpochMetrics list) list)
        : Chart option =
        let series (name: string, epochs: EpochMetrics list) : Series = {
            Name = name
            Points = epochs |> List.choose (fun m -> value m |> Option.map (fun y -> float m.Epoch, y))
        }

        match runs |> List.map series |> List.filter (fun s -> not s.Points.IsEmpty) with
        | [] -> None
        | series ->
            Some {
                Chart.defaults with
                    Title = title
                    XLabel = "epoch"
                    YLabel = yLabel
                    Series = series
            }

    /// The learning curve of T as the papers draw it: mean T of the epoch's images (CTKD, arXiv:2211.16231).
    let temperature (runs: (string * EpochMetrics list) list) : Chart option = chart "Temperature" "T" _.T runs

    /// lambda, the strength of the adversary.
    let curriculum (runs: (string * EpochMetrics list) list) : Chart option = chart "Curriculum" "lambda" _.Lambda runs

    /// dL/dT.
    let gradient (runs: (string * EpochMetrics list) list) : Chart option =
        chart "Gradient of T" "dL/dT" _.GradientT runs

    /// The figures by which an agent shows the numbers of its runs; those of one title are one chart.
    let agents (runs: (string * Agent * EpochMetrics list) list) : Chart list =
        [
            for name, agent, epochs in runs do
                yield! agent.Figures name [ for m in epochs -> m.Epoch, m.Agent ]
        ]
        |> List.groupBy _.Title
        |> List.map (fun (title, figures) -> {
            Title = title
            XLabel = figures.Head.XLabel
            YLabel = figures.Head.YLabel
            YRange = figures.Head.YRange
            Series =
                figures
                |> List.collect _.Curves
                |> List.filter (fun (_, points) -> not points.IsEmpty)
                |> List.map (fun (name, points) -> { Name = name; Points = points })
        })
        |> List.filter (fun chart -> not chart.Series.IsEmpty)

    /// Mean and quantiles of T over the images of each epoch, of one run; None where all images have one T.
    let spread (name: string, epochs: EpochMetrics list) : Chart option =
        let series (label: string) (value: Spread -> float) =
            let chart = chart "" "" (fun m -> m.SpreadT |> Option.map value) [ label, epochs ]
            chart |> Option.map _.Series |> Option.defaultValue []

        let isSpread (m: EpochMetrics) = m.SpreadT |> Option.exists (fun s -> s.Q95 > s.Q05)

        if not (List.exists isSpread epochs) then
            None
        else
            Some {
                Chart.defaults with
                    Title = $"Temperature over the images: {name}"
                    XLabel = "epoch"
                    YLabel = "T"
                    Series =
                        [
                            series "95 %" _.Q95
                            series "75 %" _.Q75
                            series "median" _.Median
                            series "25 %" _.Q25
                            series "5 %" _.Q05
                        ]
                        |> List.concat
            }

    /// lambda by epoch under a schedule, from epoch 1 to the last.
    let planned (name: string) (epochs: int) (schedule: Schedule) : Series = {
        Name = name
        Points = [ for epoch in 1..epochs -> float epoch, Schedule.at epoch schedule ]
    }
