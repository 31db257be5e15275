namespace Ctkd.Fs.App

open Argu
open Ctkd.Fs

/// How a report is written.
[<RequireQualifiedAccess>]
type ReportFormat =
    | Table
    | Markdown
    | Csv
    | Json
    | Latex
    | Html
    /// Runs of recipes beside their published numbers.
    | Reproductions

/// The flags of `report`.
[<RequireQualifiedAccess; HelpFlags("--help", "-h", "help")>]
type ReportArgs =
    | [<MainCommand>] Runs of RUN: string list
    | [<Unique>] Metric of NAME: string
    | [<Unique>] Baseline of CONDITIONS: string
    | [<Unique>] Level of NUMBER: string
    | [<Unique>] Format of NAME: string
    | [<Unique>] Out of FILE: string
    | [<Unique>] Unfinished
    | [<Unique>] Cost
    | [<Unique>] Json

    interface IArgParserTemplate with
        member this.Usage =
            let listed (names: string list) = String.concat ", " names
            let d = Comparison.defaults

            match this with
            | Runs _ ->
                "folders of runs, or folders that hold runs; needed. Such as: ctkd report runs/a; \
                 ctkd report runs --baseline policy=fixed; ctkd report runs --metric best --out table.tex"
            | Metric _ ->
                $"what is compared, one of {listed (Names.all<Metric>())}: top-1 after the last epoch, in the epoch that is \
                  best on the test images or on the validation images, top-5 or loss after the last epoch \
                  [{Names.name d.Metric}]"
            | Baseline _ ->
                "what groups are compared with: FIELD=VALUE, several in quotes; with several such groups, the one that is \
                 equal in all other fields [that of the sweep, else policy=fixed, where there are such runs]"
            | Level _ -> $"confidence level of intervals, {Statistics.levels.Words} [{string d.Level}]"
            | Format _ ->
                $"one of {listed (Names.all<ReportFormat>())} [by the ending of --out: .txt, .md, .csv, .json, .tex, .html; \
                  else table]; reproductions is a page of Markdown, runs of recipes beside the numbers that their papers publish"
            | Out _ -> "write the report to this file [the standard output]"
            | Unfinished -> "count runs as they are that have epochs left [they are listed, and left out]"
            | Cost ->
                "add what the groups cost: multiply-accumulates of one image in a training step, those of the policy's network \
                 among them, and seconds of training an epoch [left out]"
            | Json -> $"the same as --format {Names.name ReportFormat.Json}"
