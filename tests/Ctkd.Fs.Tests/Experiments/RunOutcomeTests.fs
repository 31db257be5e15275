module Ctkd.Fs.Tests.RunOutcomeTests

open System
open System.IO
open System.Text.Json.Nodes
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Folders
open Ctkd.Fs.Tests.MadeRuns

let private inRun (top1s: float list) (body: string -> unit) : unit =
    inFolder (fun folder -> write (Path.Combine(folder, "run")) settings top1s |> body)

let tests =
    testList "RunOutcome" [
        test "a run is read with its last and best numbers, times and record" {
            inRun
                [ 60.0; 55.0 ]
                (fun folder ->
                    let run = RunOutcome.read folder |> Error.orRaise
                    Must.equal (settings, Some record, folder) (run.Settings, run.Record, run.Folder)
                    Must.equal RunProgress.Whole run.Progress
                    Must.equal (Some 55.0) (run.Last |> Option.map _.Top1)
                    Must.equal (Some(1, 60.0)) (RunOutcome.bestOnTest run |> Option.map (fun m -> m.Epoch, m.Top1))
                    Must.equal None (RunOutcome.bestOnValidation run)
                    Must.equal (4.0, Some 100.0) (run.Seconds, run.ImagesPerSecond)

                    Must.equal
                        [ Some 55.0; Some 60.0; None; Some 65.0; Some(3.0 - 1.1) ]
                        ([ Metric.Last; Metric.Best; Metric.BestVal; Metric.Top5; Metric.Loss ]
                         |> List.map (fun metric -> Metric.value metric run))
                )
        }

        test "the first of several best epochs is the best" {
            inRun
                [ 60.0; 60.0 ]
                (fun folder ->
                    let run = RunOutcome.read folder |> Error.orRaise
                    Must.equal (Some 1) (RunOutcome.bestOnTest run |> Option.map _.Epoch)
                )
        }

        test "where images are held out, the best epoch and the patience are theirs" {
            inFolder (fun folder ->
                let path = write folder { settings with Epochs = 9; Patience = 1; ValSplit = 0.1 } [ 60.0; 50.0 ]
                let metrics = Path.Combine(path, "metrics.jsonl")
                let lines = Metrics.read metrics |> Error.orRaise
                File.Delete metrics

                for line, val' in List.zip lines [ 30.0; 40.0 ] do
                    Metrics.append metrics { line with ValTop1 = Some val'; ValLoss = Some 1.0 } |> Error.orRaise

                let run = RunOutcome.read path |> Error.orRaise
                Must.equal (Some 2) (RunOutcome.bestOnValidation run |> Option.map _.Epoch)
                Must.equal (Some 50.0) (Metric.value Metric.BestVal run)
                Must.equal (Some 60.0) (Metric.value Metric.Best run)
                Must.equal RunProgress.Unfinished run.Progress
            )
        }

        test "a run with epochs left is unfinished, and one that its patience has ended is not" {
            inFolder (fun folder ->
                let progress name (s: Settings) top1s =
                    (write (Path.Combine(folder, name)) s top1s |> RunOutcome.read |> Error.orRaise).Progress

                let long = { settings with Epochs = 9 }
                Must.equal RunProgress.Unfinished (progress "a" long [ 60.0; 50.0 ])
                Must.equal RunProgress.Unfinished (progress "b" long [])
                Must.equal RunProgress.Unfinished (progress "c" { long with Patience = 2 } [ 60.0; 50.0 ])
                Must.equal RunProgress.StoppedEarly (progress "d" { long with Patience = 1 } [ 60.0; 50.0 ])
                Must.equal RunProgress.Whole (progress "e" settings [ 60.0; 50.0 ])
            )
        }

        test "runs that training has written are read as their summaries tell" {
            inFolder (fun folder ->
                let summary = Runs.finish (Runs.run folder) (Runs.taught "ctkd-global" Runs.small)
                let run = RunOutcome.read (Runs.run folder) |> Error.orRaise
                Must.equal (summary.Settings, summary.Epochs) (run.Settings, run.Epochs)
                Must.equal RunProgress.Whole run.Progress
                let best = (RunOutcome.bestOnTest run).Value
                Must.equal summary.Best (Metrics.candidate best)
                Must.equal (Some summary.Teacher.Value.Top1) (run.Record.Value.Teacher |> Option.map _.Top1)
            )
        }

        test "settings of earlier versions are completed, and a run without a record has none" {
            inFolder (fun folder ->
                let path = writeWith None (Path.Combine(folder, "run")) settings [ 50.0 ]
                let file = Path.Combine(path, "settings.json")
                let json = (JsonNode.Parse(File.ReadAllText file) |> nonNull).AsObject()

                for field in SettingsTable.all |> List.filter (fun f -> f.IsNew && not (f.Name.Contains '.')) do
                    Must.hold (json.Remove field.Name)

                File.WriteAllText(file, json.ToJsonString())
                let run = RunOutcome.read path |> Error.orRaise
                Must.equal (settings, None) (run.Settings, run.Record)
            )
        }

        test "runs are found at any depth, once each, and hidden folders and links are left out" {
            inFolder (fun folder ->
                let under parts = write (Path.Combine(Array.ofList (folder :: parts))) settings [ 50.0; 51.0 ]
                let a, b = under [ "a" ], under [ "sweep"; "x"; "b" ]
                under [ ".hidden"; "c" ] |> ignore
                Directory.CreateSymbolicLink(Path.Combine(folder, "loop"), folder) |> ignore
                Directory.CreateDirectory(Path.Combine(folder, "editor")) |> ignore
                File.WriteAllText(Path.Combine(folder, "editor", "settings.json"), "{}")
                Must.equal [ a; b ] (read [ folder ] |> List.map _.Folder)
                Must.equal [ a; b ] (read [ a; folder; b + "/" ] |> List.map _.Folder)
            )
        }

        test "a damaged run that was found is told beside the others, and one that was named is an error" {
            inRun
                [ 50.0; 51.0 ]
                (fun folder ->
                    let parent = Path.GetDirectoryName folder |> string
                    let damaged = write (Path.Combine(parent, "bad")) settings [ 50.0 ]
                    let metrics = Path.Combine(damaged, "metrics.jsonl")
                    File.WriteAllText(metrics, "{}\n")
                    let runs, problems = RunOutcome.readAll [ parent ] |> Error.orRaise
                    Must.equal [ folder ] (runs |> List.map _.Folder)
                    Must.equal [ metrics ] (problems |> List.map _.Where)
                    Must.equal metrics (errorOf (RunOutcome.readAll [ parent; damaged ])).Where
                    Directory.Delete(folder, true)
                    Must.equal metrics (errorOf (RunOutcome.readAll [ parent ])).Where
                )
        }

        test "numbers that no run has, epochs that do not rise and files that are no JSON are refused by name" {
            inRun
                []
                (fun folder ->
                    let file name = Path.Combine(folder, name)
                    let metrics = file "metrics.jsonl"

                    let refused (lines: string list) =
                        File.WriteAllText(metrics, lines |> List.map (fun line -> line + "\n") |> String.concat "")
                        let error = errorOf (RunOutcome.read folder)
                        Must.equal (Damaged, metrics) (error.Kind, error.Where)
                        error.What

                    let line = Json.write (epoch 1 50.0)
                    Must.contain "epoch 1 of the metrics" (refused [ line.Replace("\"top1\":50", "\"top1\":1e999") ])
                    Must.contain "epoch 1 of the metrics" (refused [ line.Replace("\"top1\":50", "\"top1\":101") ])

                    Must.contain
                        "epoch 1 of the metrics"
                        (refused [ line.Replace("\"testLoss\":2", "\"testLoss\":2e300") ])

                    Must.contain "do not rise" (refused [ line; line ])
                    File.WriteAllText(metrics, line + "\n")

                    for name in [ "run.json"; "settings.json" ] do
                        for text in [ "{"; "null"; "{\"a\":1}"; "{}},{"; "[]" ] do
                            File.WriteAllText(file name, text)
                            let error = errorOf (RunOutcome.read folder)
                            Must.equal (Damaged, file name) (error.Kind, error.Where)

                        File.WriteAllText(file name, Json.write record)
                )
        }

        test "settings, metrics and records of many megabytes are refused before they are read" {
            for name in [ "settings.json"; "metrics.jsonl"; "run.json" ] do
                inRun
                    [ 50.0 ]
                    (fun folder ->
                        let file = Path.Combine(folder, name)
                        using (new FileStream(file, FileMode.Create)) (fun stream -> stream.SetLength 1_500_000_000L)
                        let error = errorOf (RunOutcome.read folder)
                        Must.equal (Damaged, file) (error.Kind, error.Where)
                        Must.contain "1500000000 bytes, and at most" error.What
                    )
        }

        test "folders without runs are told by what they lack" {
            inFolder (fun folder ->
                Must.contain "no run in this folder" (errorOf (RunOutcome.readAll [ folder ])).What
                Must.contain "no such folder" (errorOf (RunOutcome.readAll [ Path.Combine(folder, "x") ])).What
                Must.contain "no run in this folder" (errorOf (RunOutcome.read folder)).What
            )
        }
    ]
