namespace Ctkd.Fs.App

open System.IO
open Argu
open FSharp.Reflection
open FsToolkit.ErrorHandling
open Ctkd.Fs

/// The command `plot`: pictures for papers and lectures.
module Plot =

    /// The figures, and the flags that each knows beside --out, --width and --json.
    let private figures = [
        "curriculum", [ "epochs"; "curriculum-start"; "curriculum-stop"; "curriculum-epochs" ]
        "temperature", [ "quantiles" ]
        "correlation", [ "weights"; "model"; "teacher-weights"; "teacher"; "data"; "images" ]
        "tsne", [ "weights"; "model"; "data"; "images"; "classes"; "perplexity"; "seed" ]
    ]

    /// Which group of flags a flag belongs to; None when every figure knows it.
    let private group (flag: PlotArgs) : string option =
        match flag with
        | PlotArgs.Figure _
        | PlotArgs.Out _
        | PlotArgs.Width _
        | PlotArgs.Json -> None
        | PlotArgs.Data_Dir _
        | PlotArgs.Mean _
        | PlotArgs.Std _
        | PlotArgs.Threads _
        | PlotArgs.Device _ -> Some "data"
        | flag ->
            let case, _ = FSharpValue.GetUnionFields(flag, typeof<PlotArgs>)
            Some(case.Name.ToLowerInvariant().Replace('_', '-'))

    let private checkFlags (figure: string) (known: string list) (flags: PlotArgs list) : Result<unit, Error> =
        match flags |> List.choose group |> List.tryFind (fun name -> not (List.contains name known)) with
        | None -> Ok()
        | Some name ->
            let flags =
                if name = "data" then
                    "--data, --data-dir, --mean, --std, --device or --threads"
                else
                    $"--{name}"

            Command.usage $"the figure '{figure}' takes no {flags}" "see: ctkd plot --help"

    /// A run's folder as the name that tells it from the others, and its metrics.
    let private readRun (path: string) : Result<string * EpochMetrics list, Error> =
        let metrics = Path.Combine(path, "metrics.jsonl")

        if not (File.Exists metrics) then
            Error.fail
                Missing
                "there are no metrics of a run"
                path
                "give the folder of a run: it holds metrics.jsonl once an epoch is done"
        else
            let name = Path.GetFullPath path |> Path.TrimEndingDirectorySeparator |> Path.GetFileName |> string

            Metrics.read metrics |> Result.map (fun lines -> name, lines)

    let private readRuns (paths: string list) : Result<(string * EpochMetrics list) list, Error> =
        paths
        |> List.traverseResultM readRun
        |> Result.map (fun runs ->
            let names = List.map fst runs

            // Two folders of one name are told apart by their paths.
            if List.distinct names = names then
                runs
            else
                List.map2 (fun path (_, lines) -> path, lines) paths runs
        )

    let private drawChart figure (out: string) (width: int) (chart: Chart option) : Result<PlotResult, Error> =
        match chart with
        | None ->
            Command.usage
                $"these runs have no {figure} to draw"
                "give runs of `ctkd distill`; quantiles need a policy with a T for each image"
        | Some chart ->
            Chart.standalone width (width / 2) chart
            |> Picture.write out
            |> Result.map (fun () -> PlotModels.drawn figure out (chart.Series |> List.map (fun (s: Series) -> s.Name)))

    let private curriculum (args: ParseResults<PlotArgs>) (runs: string list) (out: string) (width: int) =
        result {
            let s = Settings.defaults

            if not runs.IsEmpty then
                do! checkFlags "curriculum" [] (args.GetAllResults())
                let! runs = readRuns runs
                return! Curves.curriculum runs |> drawChart "curriculum" out width
            else
                let number flag text = Command.setting flag (Option.map List.singleton text)
                let! start = number "curriculum-start" (args.TryGetResult PlotArgs.Curriculum_Start)
                let! stop = number "curriculum-stop" (args.TryGetResult PlotArgs.Curriculum_Stop)

                let! s =
                    Settings.validate {
                        s with
                            Epochs = args.GetResult(PlotArgs.Epochs, s.Epochs)
                            CurriculumStart = Option.defaultValue s.CurriculumStart start
                            CurriculumStop = Option.defaultValue s.CurriculumStop stop
                            CurriculumEpochs = args.GetResult(PlotArgs.Curriculum_Epochs, s.CurriculumEpochs)
                    }

                do! PlotModels.within 1 100_000 "epochs" s.Epochs
                let series = (Policy.strength (Settings.policy s)) |> Curves.planned "lambda" s.Epochs

                return!
                    Some {
                        Chart.defaults with
                            Title = "Curriculum"
                            XLabel = "epoch"
                            YLabel = "lambda"
                            Series = [ series ]
                    }
                    |> drawChart "curriculum" out width
        }

    let private temperature (args: ParseResults<PlotArgs>) (runs: string list) (out: string) (width: int) =
        result {
            let! runs = readRuns runs

            match args.Contains PlotArgs.Quantiles, runs with
            | _, [] -> return! Command.usage "temperature needs runs" "give one or more: ctkd plot temperature RUN..."
            | true, [ run ] -> return! Curves.spread run |> drawChart "temperature" out width
            | true, _ -> return! Command.usage "--quantiles draws one run" "give one run, or leave --quantiles out"
            | false, _ -> return! Curves.temperature runs |> drawChart "temperature" out width
        }

    let private draw (args: ParseResults<PlotArgs>) (figure: string) (runs: string list) =
        result {
            match List.tryFind (fun (name, _) -> name = figure) figures with
            | None -> return! Result.Error(Error.unknown "figure" (List.map fst figures) figure)
            | Some(_, known) ->
                do! checkFlags figure known (args.GetAllResults())
                let out = args.GetResult(PlotArgs.Out, $"{figure}.svg")
                let width = args.GetResult(PlotArgs.Width, (if figure = "correlation" then 560 else 720))
                do! Picture.checkPath out
                do! PlotModels.within 240 20_000 "width" width

                match figure, runs with
                | "curriculum", runs -> return! curriculum args runs out width
                | "temperature", runs -> return! temperature args runs out width
                | _, _ :: _ -> return! Command.usage $"{figure} takes no runs" "give the weights with --weights"
                | "correlation", [] -> return! PlotModels.correlation args out width
                | _ -> return! PlotModels.tsne args out width
        }

    /// Draws a figure.
    let command (args: ParseResults<PlotArgs>) : int =
        let terminal = Terminal(args.Contains PlotArgs.Json)

        terminal.Guarded(fun () ->
            match args.GetResult(PlotArgs.Figure, []) with
            | [] ->
                let names = figures |> List.map fst |> String.concat ", "
                Command.usage "plot needs a figure" $"give one of: {names}"
            | figure :: _ when figure.StartsWith '-' ->
                let flags = args.Parser.GetArgumentCases() |> List.collect _.CommandLineNames.Value
                Result.Error(Error.unknown "flag" flags figure)
            | figure :: runs ->
                draw args figure runs
                |> Result.map (fun result ->
                    terminal.Say $"{result.Figure}: {result.File}"
                    terminal.Json result
                )
        )
