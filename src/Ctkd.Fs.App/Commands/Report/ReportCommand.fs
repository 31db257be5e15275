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

    let private formatOf (json: bool) (name: string option) (out: string option) : Result<ReportFormat, Error> =
        match name, out with
        | Some name, _ when json && name <> Names.name ReportFormat.Json ->
            Command.usage $"--json and --format {name} exclude each other" "leave one of them out"
        | Some name, _ -> Names.find "format" name
        | None, _ when json -> Ok ReportFormat.Json
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

    /// A report as text, and what a reader should know of it.
    let private written (format: ReportFormat) (options: ComparisonOptions) (runs: RunOutcome list) =
        let comparing (write: Comparison -> string) =
            Comparison.create options runs |> Result.map (fun c -> write c, c.Warnings)

        match format with
        | ReportFormat.Table -> comparing ReportText.plain
        | ReportFormat.Markdown -> comparing ReportText.markdown
        | ReportFormat.Csv -> comparing ReportText.csv
        | ReportFormat.Latex -> comparing ReportText.latex
        | ReportFormat.Json -> comparing (fun c -> Json.writeIndented (ReportJson.ofComparison c) + "\n")
        | ReportFormat.Html -> comparing (ComparisonReport.create >> Report.html)
        | ReportFormat.Reproductions ->
            Reproductions.create options.Metric options.Level runs
            |> Result.map (fun r -> ReproductionPage.markdown r, r.Warnings)

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

    let private show (terminal: Terminal) format (out: string option) (options: ComparisonOptions) runs =
        match out with
        | None when format = ReportFormat.Table ->
            Comparison.create options runs
            |> Result.map (fun c ->
                ReportText.tables c |> List.iter terminal.Table
                ReportText.remarks c |> List.iter terminal.Say
            )
        | None ->
            written format options runs
            |> Result.map (fun (text, warnings) ->
                Console.Out.Write text
                // The other formats say them themselves.
                if format = ReportFormat.Csv then warnings |> List.iter (eprintfn "warning: %s")
            )
        | Some file ->
            result {
                let! text, warnings = written format options runs
                let bytes = Encoding.UTF8.GetBytes text
                do! Files.replace file (fun stream -> stream.Write(ReadOnlySpan bytes))
                warnings |> List.iter (fun warning -> terminal.Say $"warning: {warning}")
                terminal.Say $"report {file}"
            }

    /// Refuses what a report of recipes has no use for, and a file that it would destroy.
    let private checkReproductions (args: ParseResults<ReportArgs>) (out: string option) : Result<unit, Error> =
        if args.Contains ReportArgs.Baseline || args.Contains ReportArgs.Unfinished then
            Command.usage
                "reproductions take neither --baseline nor --unfinished: ended runs are compared with published numbers"
                "leave it out, or give another --format"
        else
            out |> Option.map ReproductionPage.checkFile |> Option.defaultValue (Ok())

    /// Reports on runs.
    let command (args: ParseResults<ReportArgs>) : int =
        let json = args.Contains ReportArgs.Json
        let terminal = Terminal json

        terminal.Guarded(fun () ->
            result {
                let out = args.TryGetResult ReportArgs.Out
                let! format = formatOf json (args.TryGetResult ReportArgs.Format) out
                let! options = options args

                match args.GetResult(ReportArgs.Runs, []) with
                | [] -> return! Command.usage "report needs runs" "give folders: ctkd report RUN..."
                | flag :: _ when flag.StartsWith '-' ->
                    let flags = args.Parser.GetArgumentCases() |> List.collect _.CommandLineNames.Value
                    return! Result.Error(Error.unknown "flag" flags flag)
                | folders ->
                    do! out |> Option.map Files.checkWritable |> Option.defaultValue (Ok())

                    do! if format = ReportFormat.Reproductions then checkReproductions args out else Ok()

                    let! options = ofSweep folders options
                    let! runs, problems = RunOutcome.readAll folders

                    for problem in problems do
                        eprintfn "warning: a run was left out: %s: %s" problem.Where problem.What

                    return! show terminal format out options runs
            }
        )
