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
    let temperature (runs: (string * EpochMetrics list) list) : Chart option =
        chart "Temperature" "T" _.T runs

    /// lambda, the strength of the adversary.
    let curriculum (runs: (string * EpochMetrics list) list) : Chart option =
        chart "Curriculum" "lambda" _.Lambda runs

    /// dL/dT.
    let gradient (runs: (string * EpochMetrics list) list) : Chart option =
        chart "Gradient of T" "dL/dT" _.GradientT runs

    /// Correlation of an agent's temperatures with the student's uncertainty.
    let agentCorrelation (runs: (string * EpochMetrics list) list) : Chart option =
        chart "T and the student's uncertainty" "correlation" (_.Agent >> Map.tryFind "correlation") runs

    /// Mean of the agent's policy over the draws z, and its spread.
    let agentPolicy (name: string, epochs: EpochMetrics list) : Chart option =
        let of' (label: string) (key: string) =
            chart "" "" (_.Agent >> Map.tryFind key) [ label, epochs ]
            |> Option.map _.Series
            |> Option.defaultValue []

        match of' "mean" "policyMean" @ of' "spread" "policySpread" with
        | [] -> None
        | series ->
            Some {
                Chart.defaults with
                    Title = $"The agent's policy: {name}"
                    XLabel = "epoch"
                    YLabel = "z"
                    Series = series
            }

    /// T at the mean of the agent's policy, and one deviation beside it, against the student's uncertainty in the latest
    /// epoch in which the agent chose.
    let agentByUncertainty (name: string, epochs: EpochMetrics list) : Chart option =
        let tenths (m: EpochMetrics) = [
            for tenth in 0 .. RlkdSums.tenths - 1 do
                match m.Agent.TryFind $"policyMean.{tenth}", m.Agent.TryFind $"policySpread.{tenth}" with
                | Some mean, Some spread -> (float tenth + 0.5) / float RlkdSums.tenths, mean, spread
                | _ -> ()
        ]

        let chart (epoch: int, tenths: (float * float * float) list) =
            let curve label sign : Series = {
                Name = label
                Points =
                    tenths
                    |> List.map (fun (u, mean, spread) ->
                        u, RlkdConfig.hottest / (1.0 + exp -(mean + sign * spread))
                    )
            }

            {
                Chart.defaults with
                    Title = $"The agent's T by uncertainty: {name}, epoch {epoch}"
                    XLabel = "student's uncertainty"
                    YLabel = "T"
                    Series = [ curve "mean" 0.0; curve "mean + spread" 1.0; curve "mean - spread" -1.0 ]
                    YRange = Some(0.0, RlkdConfig.hottest)
            }

        epochs
        |> List.map (fun m -> m.Epoch, tenths m)
        |> List.filter (fun (_, tenths) -> tenths.Length > 1)
        |> List.tryLast
        |> Option.map chart

    /// Mean and quantiles of T over the images of each epoch, of one run; None where all images have one T.
    let spread (name: string, epochs: EpochMetrics list) : Chart option =
        let of' (label: string) (value: Spread -> float) =
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
                            of' "95 %" _.Q95
                            of' "75 %" _.Q75
                            of' "median" _.Median
                            of' "25 %" _.Q25
                            of' "5 %" _.Q05
                        ]
                        |> List.concat
            }

    /// lambda by epoch under a schedule, from epoch 1 to the last.
    let planned (name: string) (epochs: int) (schedule: Schedule) : Series = {
        Name = name
        Points = [ for epoch in 1..epochs -> float epoch, Schedule.at epoch schedule ]
    }
