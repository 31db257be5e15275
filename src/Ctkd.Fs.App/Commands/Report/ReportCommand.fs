namespace Ctkd.Fs.App

open System
open System.IO
open System.Text
open Argu
open FsToolkit.ErrorHandling
open Ctkd.Fs

/// The command `report`: finished runs beside each other.
module ReportCommand =

    let private endings = [
        ".txt", ReportFormat.Table
        ".md", ReportFormat.Markdown
        ".csv", ReportFormat.Csv
        ".json", ReportFormat.Json
        ".tex", ReportFormat.Latex
        ".html", ReportFormat.Html
    ]

    let private formatOf (name: string option) (out: string option) : Result<ReportFormat, Error> =
        match name, out with
        | Some name, _ -> Names.find "format" name
        | None, None -> Ok ReportFormat.Table
        | None, Some file ->
            let ending = (Path.GetExtension file |> string).ToLowerInvariant()

            match List.tryFind (fst >> (=) ending) endings with
            | Some(_, format) -> Ok format
            | None ->
                let known = endings |> List.map fst |> String.concat ", "

                Error.fail
                    ErrorKind.Usage
                    $"the ending of '{Path.GetFileName file}' names no format"
                    file
                    $"use one of {known}, or say it with --format"

    let private textOf (format: ReportFormat) (c: Comparison) : string =
        match format with
        | ReportFormat.Table -> ReportText.plain c
        | ReportFormat.Markdown -> ReportText.markdown c
        | ReportFormat.Csv -> ReportText.csv c
        | ReportFormat.Latex -> ReportText.latex c
        | ReportFormat.Json -> Json.writeIndented (ReportJson.ofComparison c) + "\n"
        | ReportFormat.Html -> ComparisonReport.create c |> Report.html

    let private options (args: ParseResults<ReportArgs>) : Result<ComparisonOptions, Error> =
        let d = Comparison.defaults

        result {
            let! metric =
                match args.TryGetResult ReportArgs.Metric with
                | None -> Ok d.Metric
                | Some name -> Names.find<Metric> "metric" name

            let level = args.TryGetResult ReportArgs.Level |> Option.map List.singleton
            let! level = Command.read<float> (FieldKind.number Statistics.levels) "level" level

            return {
                Metric = metric
                Baseline = args.GetResult(ReportArgs.Baseline, "")
                Level = level |> Option.defaultValue d.Level
                Unfinished = args.Contains ReportArgs.Unfinished
                Cost = args.Contains ReportArgs.Cost
            }
        }

    /// The options with the baseline that a sweep names, where the user names none.
    let private ofSweep (folders: string list) (o: ComparisonOptions) : Result<ComparisonOptions, Error> =
        match folders with
        | [ folder ] when o.Baseline = "" ->
            SweepPlan.readNote folder
            |> Result.map (fun note ->
                match note with
                | Some note -> { o with Baseline = note.Baseline }
                | None -> o
            )
        | _ -> Ok o

    let private show (terminal: Terminal) (format: ReportFormat) (out: string option) (c: Comparison) =
        match format, out with
        | ReportFormat.Table, None ->
            for table in ReportText.tables c do
                terminal.Table table

            ReportText.remarks c |> List.iter terminal.Say
            Ok()
        | _, None ->
            Console.Out.Write(textOf format c)
            // The other formats say them themselves.
            if format = ReportFormat.Csv then
                c.Warnings |> List.iter (eprintfn "warning: %s")

            Ok()
        | _, Some file ->
            let text = textOf format c |> Encoding.UTF8.GetBytes

            Files.replace file (fun stream -> stream.Write(ReadOnlySpan text))
            |> Result.map (fun () ->
                c.Warnings |> List.iter (fun warning -> terminal.Say $"warning: {warning}")
                terminal.Say $"report {file}"
            )

    /// Reports on runs.
    let command (args: ParseResults<ReportArgs>) : int =
        let terminal = Terminal false

        terminal.Guarded(fun () ->
            result {
                let out = args.TryGetResult ReportArgs.Out
                let! format = formatOf (args.TryGetResult ReportArgs.Format) out
                let! options = options args

                match args.GetResult(ReportArgs.Runs, []) with
                | [] -> return! Command.usage "report needs runs" "give folders: ctkd report RUN..."
                | flag :: _ when flag.StartsWith '-' ->
                    let flags = args.Parser.GetArgumentCases() |> List.collect _.CommandLineNames.Value
                    return! Result.Error(Error.unknown "flag" flags flag)
                | folders ->
                    do! out |> Option.map Files.checkWritable |> Option.defaultValue (Ok())
                    let! options = ofSweep folders options
                    let! runs, problems = RunOutcome.readAll folders

                    for problem in problems do
                        eprintfn "warning: a run was left out: %s: %s" problem.Where problem.What

                    let! comparison = Comparison.create options runs
                    return! show terminal format out comparison
            }
        )
