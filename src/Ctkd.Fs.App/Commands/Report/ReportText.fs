namespace Ctkd.Fs.App

open System
open System.Text.RegularExpressions
open Ctkd.Fs

/// Reports as text for other programs: Markdown, CSV, LaTeX.
module ReportText =

    /// Lines as a text, each with its end.
    let lines (lines: string list) : string = String.concat "\n" lines + "\n"

    /// A text with spaces for line breaks.
    let oneLine (text: string) : string = Regex.Replace(text, @"\s+", " ")

    // ---- Markdown ----

    /// A text in which nothing is taken for a mark of Markdown.
    let marked (text: string) : string = Regex.Replace(oneLine text, @"([\\|_*<`\[\]])", @"\$1")

    /// A table as GitHub's Markdown.
    let markdownTable (table: Table) : string list =
        let row (cells: string list) =
            let cells = cells |> List.map marked |> String.concat " | "
            $"| {cells} |"

        let rule =
            TextTable.numeric table
            |> List.map (fun isNumeric -> if isNumeric then "---:" else "---")
            |> String.concat " | "

        [ row table.Header; $"| {rule} |"; yield! List.map row table.Rows ]

    /// The groups, what the numbers mean, warnings, and the runs, as GitHub's Markdown.
    let markdown (c: Comparison) : string =
        let items (texts: string list) = texts |> List.map (fun text -> $"- {marked text}")

        lines [
            yield! markdownTable (ComparisonReport.table c)
            ""
            yield! items c.Notes
            yield! c.Warnings |> List.map (fun warning -> $"warning: {warning}") |> items
            ""
            yield! markdownTable (ComparisonReport.runsTable (ComparisonReport.runs c))
        ]

    // ---- CSV ----

    /// A cell by RFC 4180: quoted where it holds a comma, a quote or a line break.
    let private cell (text: string) : string =
        if text.IndexOfAny [| ','; '"'; '\r'; '\n' |] >= 0 then
            "\"" + text.Replace("\"", "\"\"") + "\""
        else
            text

    /// One line a group, by RFC 4180: numbers in full, an empty cell where there is none.
    let csv (c: Comparison) : string =
        let number (value: float option) = value |> Option.map string |> Option.defaultValue ""
        let fields = c.Groups |> List.tryHead |> Option.map _.Group.Fields |> Option.defaultValue []

        let header =
            (fields |> List.map fst)
            @ [
                "metric"
                "n"
                "mean"
                "sd"
                "level"
                "low"
                "high"
                "baseline"
                "pairs"
                "test"
                "difference"
                "difference_low"
                "difference_high"
                "t"
                "df"
                "p"
                "p_holm"
                "recipe"
                "published"
                "published_difference"
                if c.Options.Cost then
                    "macs"
                    "policy_macs"
                    "epoch_seconds"
                    "epoch_seconds_sd"
            ]

        let row (g: GroupResult) =
            let sampled part = g.Sample |> Option.bind part
            let compared part = g.Versus |> Option.bind part
            let difference = compared _.Difference
            let test = difference |> Option.bind _.Test
            let text value = value |> Option.defaultValue ""

            let kind (v: Versus) =
                match v.Difference |> Option.bind _.Test with
                | None -> None
                | Some _ -> Some(if v.IsPaired then "paired" else "welch")

            (g.Group.Fields |> List.map snd)
            @ [
                Names.name c.Options.Metric
                string g.Values.Length
                g.Sample |> Option.map _.Mean |> number
                sampled _.Deviation |> number
                string c.Options.Level
                sampled _.Interval |> Option.map _.Low |> number
                sampled _.Interval |> Option.map _.High |> number
                g.Versus |> Option.map _.Baseline |> text
                g.Versus |> Option.map (_.Pairs >> string) |> text
                compared kind |> text
                g.Versus |> Option.map _.Mean |> number
                difference |> Option.map _.Interval.Low |> number
                difference |> Option.map _.Interval.High |> number
                test |> Option.map _.T |> number
                test |> Option.map _.Freedom |> number
                test |> Option.map _.P |> number
                compared _.Adjusted |> number
                g.Published |> Option.map _.Recipe |> text
                g.Published |> Option.map _.Value |> number
                compared _.Published |> number
                if c.Options.Cost then
                    let cost part = g.Cost |> Option.bind part
                    let macs (part: StepMacs -> int64) = cost (_.Macs >> Result.toOption) |> Option.map (part >> string)
                    macs _.Total |> text
                    macs _.Policy |> text
                    cost _.Seconds |> number
                    cost _.Deviation |> number
            ]

        header :: List.map row c.Groups
        |> List.map (fun cells -> (cells |> List.map cell |> String.concat ",") + "\r\n")
        |> String.concat ""

    // ---- LaTeX ----

    let private escaped (text: string) : string =
        let one (c: char) =
            match c with
            | '\\' -> @"\textbackslash{}"
            | '~' -> @"\textasciitilde{}"
            | '^' -> @"\textasciicircum{}"
            | '<' -> @"\textless{}"
            | '>' -> @"\textgreater{}"
            | '&'
            | '%'
            | '$'
            | '#'
            | '_'
            | '{'
            | '}' -> $"\\{c}"
            | c -> string c

        oneLine text |> Seq.map one |> String.concat ""

    /// A cell, with signs as mathematics: a hyphen is too short for a minus.
    let private latexCell (text: string) : string =
        if Regex.IsMatch(text, @"^[+-]\d") then
            Regex.Replace(text, @"(?<![\w.])[+-]\d[\d.]*", fun m -> $"${m.Value}$")
        else
            escaped text

    /// The groups as a tabular with booktabs' rules; what the numbers mean and the warnings are comments.
    let latex (c: Comparison) : string =
        let table = ComparisonReport.table c

        let columns =
            table.Header
            |> List.mapi (fun i _ ->
                let cells = table.Rows |> List.map (List.item i)

                if cells |> List.forall (fun cell -> Regex.IsMatch(cell, @"^(-|[+-]?\d.*|< 0.*)$")) then
                    "r"
                else
                    "l"
            )
            |> String.concat ""

        let row (cells: string list) = (cells |> List.map latexCell |> String.concat " & ") + @" \\"

        lines [
            @"% \usepackage{booktabs}"
            for note in c.Notes do
                $"%% {oneLine note}"
            for warning in c.Warnings do
                $"%% warning: {oneLine warning}"
            $@"\begin{{tabular}}{{{columns}}}"
            @"\toprule"
            row table.Header
            @"\midrule"
            yield! List.map row table.Rows
            @"\bottomrule"
            @"\end{tabular}"
        ]

    // ---- plain text ----

    /// What stands below the tables: the numbers' meaning, warnings, runs that are set apart.
    let remarks (c: Comparison) : string list = [
        yield! c.Notes
        for run in c.Unfinished do
            let counts = if c.Options.Unfinished then "counted as it is" else "left out"
            $"{run.Name}: {ComparisonReport.progress run}, {counts}"
        for run in c.Teachers do
            let top1 = run.Last |> Option.map (fun m -> $", %.2f{m.Top1} %% top-1") |> Option.defaultValue ""
            $"{run.Name}: teacher of these runs{top1}"
        for warning in c.Warnings do
            $"warning: {warning}"
    ]

    /// The tables that people read: of one run its own numbers, else the groups.
    let tables (c: Comparison) : Table list =
        match ComparisonReport.runs c with
        | [ only ] when not c.Options.Cost -> [ ComparisonReport.runsTable [ only ] ]
        | _ -> [ ComparisonReport.table c ]

    /// The tables and remarks as lines of text.
    let plain (c: Comparison) : string =
        lines [
            for table in tables c do
                yield! TextTable.aligned table
            yield! remarks c
        ]
