namespace Ctkd.Fs

open System
open System.Globalization

/// Comparisons as tables and as a page.
[<RequireQualifiedAccess>]
module ComparisonReport =

    /// A number with so many decimals.
    let fixedPoint (digits: int) (value: float) : string = value.ToString($"F{digits}", CultureInfo.InvariantCulture)

    /// A difference with its sign.
    let signed (digits: int) (value: float) : string = (if value > 0.0 then "+" else "") + fixedPoint digits value

    /// A value, or a dash without one.
    let orDash (write: 'T -> string) (value: 'T option) : string = value |> Option.map write |> Option.defaultValue "-"

    let private chance (p: float) : string = if p < 0.001 then "< 0.001" else fixedPoint 3 p

    /// An interval from its lower to its upper end.
    let interval (write: float -> string) (interval: Interval) : string =
        $"{write interval.Low} to {write interval.High}"

    // ---- groups ----

    /// The groups: n, mean, standard deviation and interval, difference to the baseline, published number, and their costs where
    /// they are asked for. Columns that no group fills are left out.
    let table (c: Comparison) : Table =
        let digits = Metric.digits c.Options.Metric
        let number, change = fixedPoint digits, signed digits
        let level = Comparison.percent c.Options.Level
        let has (part: GroupResult -> 'T option) = c.Groups |> List.exists (fun g -> (part g).IsSome)
        let sampled (part: Sample -> 'T option) (g: GroupResult) = g.Sample |> Option.bind part
        let compared (part: Versus -> 'T option) (g: GroupResult) = g.Versus |> Option.bind part
        let difference = compared _.Difference
        let test (g: GroupResult) = difference g |> Option.bind _.Test

        let columns: (string * (GroupResult -> string)) list = [
            match c.Groups with
            | { Group = { Fields = _ :: _ as fields } } :: _ ->
                for i, (name, _) in List.indexed fields do
                    name, (fun g -> snd g.Group.Fields[i])
            | _ -> "runs", (fun g -> g.Group.Name)

            "n", (fun g -> string g.Values.Length)
            Metric.title c.Options.Metric, (fun g -> g.Sample |> orDash (_.Mean >> number))

            if has (sampled _.Deviation) then
                "sd", sampled _.Deviation >> orDash number
                $"{level} interval", sampled _.Interval >> orDash (interval number)

            if has _.Versus then
                "difference", (fun g -> g.Versus |> orDash (_.Mean >> change))

            if has difference then
                $"{level} of difference", difference >> orDash (_.Interval >> interval change)

            if has test then "p", test >> orDash (_.P >> chance)
            if c.Tests > 1 then "p (Holm)", compared _.Adjusted >> orDash chance
            if has _.Versus then "pairs", (fun g -> g.Versus |> orDash (_.Pairs >> string))
            if has _.Published then
                "published", (fun g -> g.Published |> orDash (_.Value >> number))
            if has (compared _.Published) then
                "published difference", compared _.Published >> orDash change

            if c.Options.Cost then
                let cost (part: Cost -> 'T option) (g: GroupResult) = g.Cost |> Option.bind part
                let millions (macs: StepMacs) = fixedPoint 2 (float macs.Total / 1e6)
                "MACs (M)", cost (_.Macs >> Result.toOption) >> orDash millions
                "s/epoch", cost _.Seconds >> orDash (fixedPoint 2)
                "sd of s", cost _.Deviation >> orDash (fixedPoint 2)
        ]

        {
            Caption = Metric.meaning c.Options.Metric
            Header = List.map fst columns
            Rows = c.Groups |> List.map (fun group -> columns |> List.map (fun (_, cell) -> cell group))
        }

    // ---- runs ----

    /// How far a run is, in words.
    let progress (run: RunOutcome) : string =
        let doneEpochs = run.Last |> Option.map _.Epoch |> Option.defaultValue 0

        match run.Progress with
        | RunProgress.Whole -> "finished"
        | RunProgress.StoppedEarly -> $"stopped early after epoch {doneEpochs}"
        | RunProgress.Unfinished -> $"unfinished, {doneEpochs} of {run.Settings.Epochs} epochs"

    /// Every run: those of the groups, and those that were set apart.
    let runs (c: Comparison) : RunOutcome list =
        (c.Groups |> List.collect _.Group.Runs) @ c.Unfinished @ c.Teachers |> List.distinctBy _.Folder

    /// Single runs with their last and best numbers, each labelled by what its epoch is chosen on.
    let runsTable (runs: RunOutcome list) : Table =
        let last (part: EpochMetrics -> 'T) (run: RunOutcome) = run.Last |> Option.map part
        let ofEpoch (m: EpochMetrics) = $"{fixedPoint 2 m.Top1} (epoch {m.Epoch})"

        let columns: (string * (RunOutcome -> string)) list = [
            "run", _.Name
            "seed", _.Settings.Seed >> string
            "top-1 %", last _.Top1 >> orDash (fixedPoint 2)
            "best on test %", RunOutcome.bestOnTest >> orDash ofEpoch

            if runs |> List.exists (fun run -> (RunOutcome.bestOnValidation run).IsSome) then
                "best on validation %", RunOutcome.bestOnValidation >> orDash ofEpoch

            "top-5 %", last _.Top5 >> orDash (fixedPoint 2)
            "test loss", last _.TestLoss >> orDash (fixedPoint 4)
            "T", last _.T >> Option.flatten >> orDash (fixedPoint 2)
            "seconds", _.Seconds >> fixedPoint 1
            "images/s", _.ImagesPerSecond >> orDash (fixedPoint 0)
            "state", progress
        ]

        {
            Caption = "Single runs; best on test is chosen on the test images"
            Header = List.map fst columns
            Rows = runs |> List.map (fun run -> columns |> List.map (fun (_, cell) -> cell run))
        }

    // ---- page ----

    let private circumstances (runs: RunOutcome list) : (string * string) list =
        let records = runs |> List.choose _.Record
        let sessions = records |> List.collect _.Sessions

        let distinct (name: string) (values: string list) =
            match values |> List.filter ((<>) "") |> List.distinct with
            | [] -> []
            | values -> [ name, String.concat "; " values ]

        let teacher (t: RecordedTeacher) = $"%.2f{t.Top1} %% top-1, %.2f{t.Top5} %% top-5 on {t.Images} test images"

        List.concat [
            distinct "recipe" (records |> List.map _.Recipe)
            distinct "teacher" (records |> List.choose (_.Teacher >> Option.map teacher))
            distinct "student's parameters" (records |> List.map (_.StudentParameters >> string))
            distinct
                "images"
                (records |> List.map (fun r -> $"{r.TrainImages} for training, {r.TestImages} for the test"))
            distinct "machine" (sessions |> List.map (fun s -> $"{s.Processor}, {s.Cores} cores, {s.Os}"))
            distinct "GPU" (sessions |> List.collect _.Gpus)
            distinct "device" (sessions |> List.map _.Device)
            distinct "versions" (sessions |> List.map (fun s -> $"ctkd {s.Ctkd}, libtorch {s.Libtorch}"))
        ]

    /// The folder in which all of several names lie, with what ends it; empty without one.
    let private commonFolder (names: string list) : string =
        match names with
        | first :: _ :: _ ->
            let isShared (folder: string) = names |> List.forall _.StartsWith(folder, StringComparison.Ordinal)

            [ for i in first.Length - 1 .. -1 .. 0 -> first.Substring(0, i + 1) ]
            |> List.filter (fun folder -> folder.EndsWith '/' || folder.EndsWith '\\')
            |> List.tryFind isShared
            |> Option.defaultValue ""
        | _ -> ""

    /// The comparison as a page with the runs' learning curves.
    let create (c: Comparison) : Report =
        let all, grouped = runs c, c.Groups |> List.collect _.Group.Runs
        let common = commonFolder (all |> List.map _.Name)

        let metrics = List.map (fun (run: RunOutcome) -> run.Name.Substring common.Length, run.Epochs)

        // How T is spread over the images hardly differs between seeds, and takes a chart for each run: of each group one.
        let firsts = c.Groups |> List.map (fun g -> g.Group.Runs |> List.minBy _.Settings.Seed)

        let curves = Curves.page (metrics firsts) (metrics grouped)

        let warnings = c.Warnings |> List.map (fun warning -> $"Warning: {warning}.")
        let paragraphs = (c.Notes |> List.map (fun note -> $"{note}.")) @ warnings |> String.concat "\n\n"

        {
            Title = if all.Length = 1 then "One run" else $"{grouped.Length} runs in {c.Groups.Length} groups"
            Subtitle = Metric.meaning c.Options.Metric
            Sections = [
                "Result", [ Section.Table(table c); Section.Text paragraphs ]
                if not curves.IsEmpty then "Curves", [ Section.Charts curves ]
                "Runs", [ Section.Table(runsTable all) ]
                match circumstances all with
                | [] -> ()
                | facts -> "Circumstances", [ Section.Facts facts ]
            ]
        }
