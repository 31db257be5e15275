module Ctkd.Fs.Tests.CommandReportTests

open System
open System.IO
open System.Text.Json.Nodes
open System.Xml.Linq
open Expecto
open Ctkd.Fs
open Ctkd.Fs.App
open Ctkd.Fs.Tests.Child
open Ctkd.Fs.Tests.Folders

/// Runs of two policies with three seeds each, in the folder `runs`.
let private inRuns (body: string -> unit) : unit =
    inFolder (fun folder ->
        let place = Path.Combine(folder, "runs")

        for seed in 1..3 do
            MadeRuns.ofPolicy place "fixed" seed [ 50.0; 60.0 + float seed ] |> ignore
            MadeRuns.ofPolicy place "cosine" seed [ 50.0; 61.0 + 1.25 * float seed ] |> ignore

        body folder
    )

/// The fields of CSV's lines, by RFC 4180.
let private csv (text: string) : string list list =
    let rec field (taken: string) (quoted: bool) (rest: char list) =
        match rest with
        | '"' :: '"' :: rest when quoted -> field (taken + "\"") true rest
        | '"' :: rest -> field taken (not quoted) rest
        | c :: rest when quoted || (c <> ',' && c <> '\r') -> field (taken + string c) quoted rest
        | rest -> taken, rest

    let rec go (line: string list) (lines: string list list) (rest: char list) =
        match field "" false rest with
        | taken, ',' :: rest -> go (taken :: line) lines rest
        | taken, '\r' :: '\n' :: rest -> go [] (List.rev (taken :: line) :: lines) rest
        | "", [] -> List.rev lines
        | taken, rest -> failtest $"no RFC 4180: '{taken}', {rest}"

    go [] [] (List.ofSeq text)

let tests =
    testList "CommandReport" [
        test "report prints the groups of a folder's runs, and what the numbers mean" {
            inRuns (fun folder ->
                let out = (expect 0 folder "report runs").Out
                Must.matchRegex @"(?m)^policy +n +top-1 %.*p +pairs$" out
                Must.matchRegex @"(?m)^fixed +3 +62\.00 +1\.00 +59\.52 to 64\.48 +-" out
                Must.matchRegex @"(?m)^cosine +3 +63\.50 .*\+1\.50 .* 3$" out
                Must.contain "baseline: policy=fixed" out
                Must.contain "optimistic" ((expect 0 folder "report runs --metric best").Out)
            )
        }

        test "report of one run prints its numbers, best on test by its name" {
            inRuns (fun folder ->
                let out = (expect 0 folder "report runs/fixed-2").Out
                Must.contain "best on test %" out
                Must.contain "62.00 (epoch 2)" out
                Must.lack "interval" out
            )
        }

        test "each format is written by the ending of --out, or printed by its name" {
            inRuns (fun folder ->
                for format, ending in
                    [ "table", "txt"; "markdown", "md"; "csv", "csv"; "json", "json"; "latex", "tex"; "html", "html" ] do
                    Must.equal "report r." ((expect 0 folder $"report runs --out r.{ending}").Out.Substring(0, 9))
                    let written = File.ReadAllText(Path.Combine(folder, $"r.{ending}"))

                    if format <> "table" then
                        Must.equal written ((expect 0 folder $"report runs --format {format}").Out)

                    Must.contain (if List.contains format [ "csv"; "json" ] then "1.5" else "1.50") written

                expect 0 folder "report runs --format csv --out r.md" |> ignore
                Must.startWith "policy,metric,n," (File.ReadAllText(Path.Combine(folder, "r.md")))
            )
        }

        test "JSON holds every seed and every run with its record" {
            inRuns (fun folder ->
                let text = (expect 0 folder "report runs --format json").Out
                let report = Json.read<ReportJson> "" text |> Error.orRaise
                Must.equal ("last", 0.95, 1) (report.Metric, report.Level, report.Tests)
                let cosine = report.Groups |> List.find (fun g -> g.Group = "policy=cosine")
                Must.equal [ 1, 62.25; 2, 63.5; 3, 64.75 ] (cosine.Values |> List.map (fun v -> v.Seed, v.Value))
                Must.beNear 1e-12 0.0 1.5 cosine.Versus.Value.Difference
                Must.equal 6 report.Runs.Length
                Must.equal [ Some MadeRuns.record ] (report.Runs |> List.map _.Record |> List.distinct)
            )
        }

        test "--json is the same as --format json, also of an error, and excludes other formats" {
            inRuns (fun folder ->
                let expected = (expect 0 folder "report runs --format json").Out
                Must.equal expected ((expect 0 folder "report runs --json").Out)
                Must.equal expected ((expect 0 folder "report runs --json --format json").Out)
                Must.equal "" ((expect 0 folder "report runs --json --out r.md").Out)
                Must.equal expected (File.ReadAllText(Path.Combine(folder, "r.md")))
                let other = expect 2 folder "report runs --json --format csv"
                Must.contain "--json and --format csv exclude each other" other.Err
                let error = JsonNode.Parse((expect 1 folder "report none --json").Out) |> nonNull
                Must.contain "there is no such folder" (error.ToJsonString())
            )
        }

        test "reproductions are a page with the published number beside ours, machines and commands, by source" {
            inFolder (fun folder ->
                let runs = Path.Combine(folder, "runs")
                let made name = MadeRuns.ofRecipe (Path.Combine(runs, name))
                let ctkd = "ctkd/resnet56-resnet20/kd/ctkd-global"
                made "a-1" ctkd id 1 [ 71.0 ] |> ignore
                made "a-2" ctkd id 2 [ 71.6 ] |> ignore
                made "short" ctkd (Scale.settings 0.01) 1 [ 9.5 ] |> ignore
                made "d" "dtkd/resnet32x4-resnet8x4/kd/dtkd" id 1 [ 75.0 ] |> ignore
                MadeRuns.ofPolicy runs "fixed" 1 [ 50.0; 60.0 ] |> ignore

                Must.equal
                    "report page.md\n"
                    ((expect 0 folder "report runs --format reproductions --out page.md").Out)

                let page = File.ReadAllText(Path.Combine(folder, "page.md"))
                Must.equal page ((expect 0 folder "report runs --format reproductions").Out)
                let start = "resnet56 | resnet20 | kd | ctkd-global | 71.19 |"

                for part in
                    [
                        "## CTKD (arXiv:2211.16231)"
                        $"| 1 | {start} 71.30 | 0.42 | 2 | 67.49 to 75.11 | +0.11 | whole | 72.34 | 75.00 |"
                        $"| 2 | {start} 9.50 | - | 1 | - | - | short: 2 of 240 epochs, 5 of 500 images a class | 72.34 |"
                        "## DTKD (arXiv:2404.12711)"
                        "| 3 | resnet32x4 | resnet8x4 | kd | dtkd | - | 75.00 | - | 1 | - | - | whole | - | 75.00 |"
                        "- 1, 2: a processor, 2 cores; Linux; cpu, 1 threads, f32; ctkd 0.1.0, libtorch 2.10.0"
                        "# 1\nfor seed in 1 2; do ctkd distill --recipe "
                        " --data-dir DIR --set epochs=2 --set perClass=5 --set curriculumEpochs=1 --seed 1\n"
                        "## Left out"
                        "- runs/fixed-1: no recipe"
                    ] do
                    Must.contain part page

                // A machine's own paths have no place in a repository.
                Must.lack "/teacher" page
                let best = (expect 0 folder "report runs --format reproductions --metric best --level 0.9").Out
                Must.contain "optimistic" best
                Must.contain "90 % interval" best
            )
        }

        test "reproductions replace a page of their own, and nothing else" {
            inFolder (fun folder ->
                let file = Path.Combine(folder, "page.md")
                let run = Path.Combine(folder, "runs", "a")
                MadeRuns.ofRecipe run "ctkd/resnet56-resnet20/kd/ctkd-global" id 1 [ 71.0 ] |> ignore
                let report = "report runs --format reproductions --out page.md"

                for text in [ ""; "# My own page\n"; "<!-- Written" ] do
                    File.WriteAllText(file, text)
                    Must.contain "'page.md' was written by something else" ((expect 2 folder report).Err)
                    Must.equal text (File.ReadAllText file)

                File.Delete file
                expect 0 folder report |> ignore
                let first = File.ReadAllText file
                File.AppendAllText(file, "more\n")
                expect 0 folder report |> ignore
                Must.equal first (File.ReadAllText file)
                Must.equal [| file |] (Directory.GetFiles folder)

                Must.contain "take neither --baseline" ((expect 2 folder $"{report} --baseline policy=fixed").Err)
                Must.contain "take neither" ((expect 2 folder $"{report} --unfinished").Err)
            )
        }

        test "CSV is RFC 4180's with numbers in full, also where names hold commas and quotes" {
            inRuns (fun folder ->
                let odd = { MadeRuns.settings with Student = "a \"b\", c" }
                MadeRuns.write (Path.Combine(folder, "runs", "odd")) odd [ 1.0; 2.0 / 3.0 ] |> ignore
                let lines = csv ((expect 0 folder "report runs --format csv").Out)
                Must.equal [ 4 ] [ lines.Length ]
                Must.equal [ lines.Head.Length ] (lines |> List.map List.length |> List.distinct)
                let line = lines |> List.find (List.contains "a \"b\", c")
                let cell name = line[List.findIndex ((=) name) lines.Head]
                Must.equal (2.0 / 3.0) (float (cell "mean"))
                Must.equal "" (cell "sd")
            )
        }

        test "Markdown and LaTeX escape what their readers would take for marks" {
            inRuns (fun folder ->
                let odd = { MadeRuns.settings with Student = "wrn_40_2|x*&%$#{}~^\\<b>" }
                MadeRuns.write (Path.Combine(folder, "runs", "odd")) odd [ 1.0; 2.0 ] |> ignore
                let markdown = (expect 0 folder "report runs --format markdown").Out
                Must.contain @"| wrn\_40\_2\|x\*&%$#{}~^\\\<b> |" markdown
                let latex = (expect 0 folder "report runs --format latex").Out

                Must.contain
                    @"wrn\_40\_2|x*\&\%\$\#\{\}\textasciitilde{}\textasciicircum{}\textbackslash{}\textless{}b\textgreater{} & "
                    latex

                Must.contain @"\toprule" latex
                Must.contain "$+1.50$" latex
                let rows = latex.Split '\n' |> Array.filter _.EndsWith(@"\\")
                Must.equal 1 (rows |> Array.distinctBy (fun row -> row.Split(" & ").Length) |> Array.length)
            )
        }

        test "the page is well-formed, with the table, the curves and the circumstances" {
            inRuns (fun folder ->
                expect 0 folder "report runs --out r.html" |> ignore
                let page = File.ReadAllText(Path.Combine(folder, "r.html"))
                XDocument.Parse page |> ignore

                for part in [ "6 runs in 2 groups"; "+1.50"; "Test accuracy"; "a processor, 2 cores"; "<svg" ] do
                    Must.contain part page

                Must.lack "http://" (page.Replace("http://www.w3.org", ""))
            )
        }

        test "unfinished runs and teachers are listed below the table" {
            inRuns (fun folder ->
                let runs = Path.Combine(folder, "runs")
                MadeRuns.ofPolicy runs "fixed" 9 [ 10.0 ] |> ignore
                let alone = { MadeRuns.settings with Teacher = ""; TeacherWeights = "" }
                MadeRuns.write (Path.Combine(runs, "teacher")) alone [ 70.0; 75.0 ] |> ignore
                let out = (expect 0 folder "report runs").Out
                Must.contain "runs/fixed-9: unfinished, 1 of 2 epochs, left out" out
                Must.contain "runs/teacher: teacher of these runs, 75.00 % top-1" out
                Must.contain "counted as it is" ((expect 0 folder "report runs --unfinished").Out)
            )
        }

        test "a run that cannot be read is told on the standard error, and the others are reported" {
            inRuns (fun folder ->
                File.WriteAllText(Path.Combine(folder, "runs", "fixed-3", "metrics.jsonl"), "[]\n")
                let ended = expect 0 folder "report runs"
                Must.contain "warning: a run was left out: runs/fixed-3/metrics.jsonl" ended.Err
                Must.matchRegex @"(?m)^fixed +2 " ended.Out
                Must.contain "line 1 holds no metrics" ((expect 1 folder "report runs/fixed-3").Err)
            )
        }

        test "a level, a metric and a baseline are flags of the statistics" {
            inRuns (fun folder ->
                Must.contain "99 % interval" ((expect 0 folder "report runs --level 0.99").Out)
                Must.contain "test loss" ((expect 0 folder "report runs --metric loss").Out)
                let out = (expect 0 folder "report runs --baseline policy=cosine").Out
                Must.matchRegex @"(?m)^fixed +3 .*-1\.50" out
            )
        }

        test "what report cannot do is refused with the remedy, and leaves no file" {
            inFolder (fun folder ->
                let refused (code: int) (arguments: string) (message: string) =
                    Must.contain message ((expect code folder $"report {arguments}").Err)

                refused 2 "" "report needs runs"
                refused 2 "--metrik best" "did you mean one of: --metric"
                refused 2 "x --metric first" "unknown metric 'first'"
                refused 2 "x --format pdf" "unknown format 'pdf'"
                refused 2 "x --out r.pdf" "'r.pdf' names no format"
                refused 2 "x --level 95" "level must be finite and from 0.5 to 0.999"
                refused 2 "x --level 0,95" "0.95 with a decimal comma"
                refused 1 "x --out no/r.md" "choose another"
                refused 1 "x" "there is no such folder"
                refused 1 "." "there is no run in this folder"
                Must.beEmpty (Directory.GetFileSystemEntries folder)
            )
        }

        test "a recipe is recorded by its name where --recipe gives it" {
            inFolder (fun folder ->
                let weights = Runs.teacher.Value
                let recipe = "ctkd/resnet56-resnet20/kd/ctkd-global"

                let flags = "--data digits --model resnet8 --subset 50 --epochs 1 --batch 16 --out r --teacher resnet8"

                expect 0 folder $"distill --recipe {recipe} --weights {weights} {flags}" |> ignore
                let record = RunRecord.read (Path.Combine(folder, "r", "run.json")) |> Error.orRaise
                Must.equal recipe record.Value.Recipe
                let out = (expect 0 folder "report r --format markdown").Out
                Must.contain "71.19" out
                Must.contain "is of other settings: " out
            )
        }
    ]
