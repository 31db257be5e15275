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

    /// Accuracy on the test images, in percent.
    let accuracy (runs: (string * EpochMetrics list) list) : Chart option =
        chart "Test accuracy" "top-1 %" (fun m -> Some m.Top1) runs

    /// The weighted training loss, mean over the images, in nats.
    let loss (runs: (string * EpochMetrics list) list) : Chart option =
        chart "Training loss" "nats" (fun m -> Some m.Loss) runs

    /// The step size of the optimiser.
    let learningRate (runs: (string * EpochMetrics list) list) : Chart option =
        chart "Learning rate" "learning rate" (fun m -> Some m.LearningRate) runs

    /// Accuracy on the test images, in percent, against the seconds of training up to the end of each epoch; evaluation is
    /// not counted, nor is the part of an epoch before a resume.
    let accuracyByTime (runs: (string * EpochMetrics list) list) : Chart option =
        let timed (name: string, epochs: EpochMetrics list) : Series =
            let seconds = epochs |> List.scan (fun sum m -> sum + m.Seconds) 0.0 |> List.tail

            {
                Name = name
                Points = List.map2 (fun at (m: EpochMetrics) -> at, m.Top1) seconds epochs
            }

        match runs |> List.filter (fun (_, epochs) -> not epochs.IsEmpty) with
        | [] -> None
        | runs ->
            Some {
                Chart.defaults with
                    Title = "Test accuracy by time"
                    XLabel = "seconds of training"
                    YLabel = "top-1 %"
                    Series = List.map timed runs
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

    /// A group of reported numbers as the title and the label of its chart.
    let private titled (group: string) : string * string =
        match group with
        | "temperature" -> "Temperatures of teacher and student", "T"
        | "" -> "", ""
        | group -> group.Substring(0, 1).ToUpperInvariant() + group.Substring 1, group

    /// Means over the images of what policies report besides T (`Policy.Reports`): a chart for each group of names, such as
    /// "sharpness" of "sharpness/student", with a curve for each run and name of the group.
    let reported (runs: (string * EpochMetrics list) list) : Chart list =
        let curve (run: string) (epochs: EpochMetrics list) (name: string) : string * Series =
            let group, part =
                match name.IndexOf '/' with
                | -1 -> name, ""
                | slash -> name.Substring(0, slash), name.Substring(slash + 1)

            let names = [
                if runs.Length > 1 || part = "" then run
                if part <> "" then part
            ]

            group,
            {
                Name = String.concat ": " names
                Points =
                    epochs |> List.choose (fun m -> m.Reported.TryFind name |> Option.map (fun y -> float m.Epoch, y))
            }

        runs
        |> List.collect (fun (run, epochs) ->
            epochs |> List.collect (_.Reported.Keys >> List.ofSeq) |> List.distinct |> List.map (curve run epochs)
        )
        |> List.groupBy fst
        |> List.map (fun (group, curves) ->
            let title, label = titled group

            {
                Chart.defaults with
                    Title = title
                    XLabel = "epoch"
                    YLabel = label
                    Series = List.map snd curves
            }
        )

    /// The charts of one run's page or of a comparison's, those without data left out; lambda is drawn of runs that learn T, and
    /// T over the images of runs that are `spreadOf`, each in a chart of its own.
    let page (spreadOf: (string * EpochMetrics list) list) (runs: (string * EpochMetrics list) list) : Chart list =
        let learning = runs |> List.filter (snd >> List.exists _.SlopeT.IsSome)

        [
            accuracy runs
            chart "Validation accuracy" "top-1 %" _.ValTop1 runs
            loss runs
            temperature runs
            gradient runs
            curriculum learning
            yield! reported runs |> List.map Some
            learningRate runs
            accuracyByTime runs
            yield! List.map spread spreadOf
        ]
        |> List.choose id

    /// lambda by epoch under a schedule, from epoch 1 to the last.
    let planned (name: string) (epochs: int) (schedule: Schedule) : Series = {
        Name = name
        Points = [ for epoch in 1..epochs -> float epoch, Schedule.at epoch schedule ]
    }
