namespace Ctkd.Fs

open System.Globalization

/// Reports on runs: accuracy, loss, temperature and curriculum, as tables and curves.
[<RequireQualifiedAccess>]
module RunReport =
    let private fixedPoint (digits: int) (value: float) : string =
        value.ToString($"F{digits}", CultureInfo.InvariantCulture)

    let private metrics (runs: (string * Summary) list) : (string * EpochMetrics list) list =
        runs |> List.map (fun (name, summary) -> name, summary.Epochs)

    /// Charts T by epoch, one series per run.
    let temperatureChart (runs: (string * Summary) list) : Chart option = Curves.temperature (metrics runs)

    /// Whether images of the training set chose the best epoch.
    let private isValidated (_: string, summary: Summary) : bool =
        summary.Best.ValTop1.IsSome || summary.Epochs |> List.exists _.ValTop1.IsSome

    /// The cells of the best epochs: on the validation, where a column shows it, and on the test images.
    let private best (validation: bool) (run: string * Summary) : string list =
        let best = (snd run).Best
        let inEpoch (top1: float) (epoch: int) = $"{fixedPoint 2 top1} (epoch {epoch})"

        let onTest =
            match isValidated run, (snd run).BestOnTest with
            | false, _ -> inEpoch best.Top1 best.Epoch
            | true, Some line -> inEpoch line.Top1 line.Epoch
            | true, None -> "-"

        let onValidation =
            match best.ValTop1 with
            | Some top1 -> $"{fixedPoint 2 best.Top1} (epoch {best.Epoch}, validation {fixedPoint 2 top1})"
            | None -> "-"

        if validation then [ onValidation; onTest ] else [ onTest ]

    /// Whether a line is that of the run's latest epoch: of a finished run it may have been lost.
    let private isLatest (summary: Summary) (line: EpochMetrics) : bool =
        summary.Ending = Interrupted || Metrics.isLast summary.Settings summary.Best line

    let private row (validation: bool) (name: string, summary: Summary) : string list =
        let best = best validation (name, summary)

        match summary.Top1, List.tryLast summary.Epochs with
        | Some top1, Some last when last.Top1 = top1 && isLatest summary last -> [
            name
            fixedPoint 2 top1
            yield! best
            fixedPoint 2 last.Top5
            fixedPoint 4 last.TestLoss
            last.T |> Option.map (fixedPoint 2) |> Option.defaultValue "-"
          ]
        // The line of the latest epoch was lost: the checkpoint knows its accuracy alone.
        | Some top1, _ -> [ name; fixedPoint 2 top1; yield! best; "-"; "-"; "-" ]
        | None, _ -> name :: List.replicate (best.Length + 4) "-"

    /// Lists all runs: accuracy on the test images in percent in the last epoch, in the one that is best on the validation where
    /// a run has one, and in the one that is best on the test images; test loss in nats, last mean T.
    let table (runs: (string * Summary) list) : Table =
        let validation = List.exists isValidated runs

        {
            Caption = "Accuracy on the test images; the best on test is chosen on these images, and so too high"
            Header = [
                "run"
                "last top-1 %"
                if validation then "best on validation %"
                "best on test %"
                "top-5 %"
                "test loss"
                "T"
            ]
            Rows = List.map (row validation) runs
        }

    let private temperatureHeader = [
        "run"
        "mean"
        "smallest"
        "5 %"
        "25 %"
        "median"
        "75 %"
        "95 %"
        "largest"
        "lambda"
        "dL/dT"
        "sigmoid'"
    ]

    /// Lists the last epoch's temperatures; `None` if the run has none.
    let private temperatureRow (name: string, epochs: EpochMetrics list) : string list option =
        let cell (write: float -> string) (value: float option) = value |> Option.map write |> Option.defaultValue "-"

        let small (value: float) = value.ToString("0.0e+0", CultureInfo.InvariantCulture)

        List.tryLast epochs
        |> Option.filter _.T.IsSome
        |> Option.map (fun m ->
            let quantile (value: Spread -> float) = m.SpreadT |> Option.map value |> cell (fixedPoint 2)

            [
                name
                cell (fixedPoint 2) m.T
                cell (fixedPoint 2) m.SmallestT
                quantile _.Q05
                quantile _.Q25
                quantile _.Median
                quantile _.Q75
                quantile _.Q95
                cell (fixedPoint 2) m.LargestT
                cell (fixedPoint 3) m.Lambda
                cell small m.GradientT
                cell small m.SlopeT
            ]
        )

    /// Returns the runs in which an agent chose the temperatures, with the agent.
    let private agents (runs: (string * Summary) list) : (string * Agent * EpochMetrics list) list = [
        for name, summary in runs do
            // A policy of the program's own does not come back from the settings.
            if summary.Epochs |> List.exists (fun m -> not m.Agent.IsEmpty) && not summary.Settings.Policy.IsOwn then
                match Policy.agent (Settings.policy summary.Settings) with
                | Some agent -> name, agent, summary.Epochs
                | None -> ()
    ]

    let private agentTable (name: string, agent: Agent, epochs: EpochMetrics list) : Table option =
        let row (columns: (string * string * int) list) (m: EpochMetrics) =
            string m.Epoch
            :: [
                for _, key, digits in columns ->
                    m.Agent |> Map.tryFind key |> Option.map (fixedPoint digits) |> Option.defaultValue "-"
            ]

        match agent.Table with
        | Some { Caption = caption; Columns = (_, key, _) :: _ as columns } ->
            match epochs |> List.filter (_.Agent.ContainsKey(key)) with
            | [] -> None
            | shown ->
                Some {
                    Caption = $"{caption}: {name}"
                    Header = "epoch" :: [ for title, _, _ in columns -> title ]
                    Rows = List.map (row columns) shown
                }
        | _ -> None

    /// Returns the warnings of all runs, with their epochs.
    let warnings (runs: (string * Summary) list) : string list = [
        for name, summary in runs do
            for m in summary.Epochs do
                match m.Warning with
                | Some warning -> $"Warning: {name}, epoch {m.Epoch}: {warning}."
                | None -> ()
    ]

    let private methods (settings: Settings) : string =
        settings.Methods
        |> Map.toList
        |> List.map (fun (name, weight) -> $"{string weight} {name}")
        |> String.concat " + "

    /// The options of training that differ from the published recipes' habits.
    let private everyday (s: Settings) : (string * string) list = [
        if s.Optimiser <> OptimiserName.Sgd then "optimizer", Names.name s.Optimiser
        if s.LrSchedule = RateSchedule.Cosine then
            "learning rate falls", $"along half a cosine towards {string s.LrStop}"
        if s.LrWarmUp > 0 then "learning rate rises", $"over {s.LrWarmUp} epochs"
        if s.LabelSmoothing > 0.0 then "label smoothing", string s.LabelSmoothing
        if s.Mixup > 0.0 then "mixup", $"alpha {string s.Mixup}"
        if s.ClipGradients > 0.0 then
            "gradients", $"shortened to the norm {string s.ClipGradients}"
        if s.Ema > 0.0 then "weights", $"moving average, decay {string s.Ema} a step"
        if s.Patience > 0 then "patience", $"{s.Patience} epochs"
    ]

    let private settingsFacts (settings: Settings) : (string * string) list = [
        "student", settings.Student
        "teacher", (if settings.Teacher = "" then "none" else settings.Teacher)
        "policy", (if settings.Teacher = "" then "none" else Names.name settings.Policy)
        if settings.Policy = PolicyName.Rlkd then
            let agent = settings.Rlkd

            "agent",
            $"{Names.name agent.Mode}, from epoch {agent.WarmUp} on, learning in epochs divisible by {agent.Every}"
        "logits standardised", (if settings.Standardise then "yes" else "no")
        "loss",
        (if settings.Teacher = "" then
             "ce"
         else
             $"{string settings.CrossEntropy} ce + {methods settings}")
        "data", settings.Data
        if settings.ValSplit > 0.0 then
            "held out", $"{string settings.ValSplit} of each class, split seed {settings.SplitSeed}"
        "images a class", (if settings.PerClass = 0 then "all" else string settings.PerClass)
        "epochs", string settings.Epochs
        "batch", string settings.Batch
        "learning rate", string settings.LearningRate
        yield! everyday settings
        "precision", Names.name settings.Precision
        "seed", string settings.Seed
    ]

    /// Creates the report of named runs.
    let create (title: string) (runs: (string * Summary) list) : Report =
        let temperatures = metrics runs |> List.choose temperatureRow

        let temperatureSection =
            if temperatures.IsEmpty then
                []
            else
                [
                    "Temperature",
                    [
                        Section.Table {
                            Caption = "T over the training images of the last epoch"
                            Header = temperatureHeader
                            Rows = temperatures
                        }
                        Section.Text(warnings runs |> String.concat "\n\n")
                    ]
                ]

        let agents = agents runs

        let ofAgents =
            match agents |> List.choose agentTable with
            | [] -> []
            | tables -> [ "Agent", List.map Section.Table tables ]

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
                    "Curves", [ Section.Charts(Curves.page (metrics runs) (metrics runs) @ Curves.agents agents) ]
                ]
                @ temperatureSection
                @ ofAgents
                @ [
                    for name, summary in runs do
                        let early =
                            if summary.StoppedEarly then
                                let last = (List.last summary.Epochs).Epoch
                                [ "stopped early", $"after epoch {last}: the best top-1 did not rise any more" ]
                            else
                                []

                        $"Settings: {name}", [ Section.Facts(settingsFacts summary.Settings @ early) ]
                ]
        }

    /// Writes the report as a self-contained HTML file.
    let write (path: string) (title: string) (runs: (string * Summary) list) : Result<unit, Error> =
        let html = create title runs |> Report.html |> System.Text.Encoding.UTF8.GetBytes
        Files.replace path (fun stream -> stream.Write(System.ReadOnlySpan html))
