module Ctkd.Fs.Tests.RunReportTests

open System.Globalization
open System.IO
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Folders

/// The metrics of an epoch: of a student with a teacher or without, with a learned T or without.
let line (taught: bool) (learned: bool) (epoch: int) : EpochMetrics =
    let only value = if taught then Some value else None

    {
        Epoch = epoch
        LearningRate = 0.05
        Loss = 1.0 / float epoch
        Terms = Map [ "ce", 0.1 ]
        T = only (15.0 + float epoch)
        SmallestT = only 15.0
        LargestT = only 20.0
        SpreadT = None
        GradientT = if learned then Some -0.0123 else None
        SlopeT = if learned then Some 0.18 else None
        Lambda = only (0.1 * float epoch)
        Reported = Map.empty
        Agent = Map.empty
        TrainTop1 = 90.0
        Top1 = 80.0 + float epoch
        Top5 = 99.0
        TestLoss = 0.51234
        ValTop1 = None
        ValLoss = None
        ImagesPerSecond = 1000.0
        Seconds = 1.0
        Waited = None
        Warning = None
    }

/// A run of so many epochs; no policy is a student alone.
let summary (policy: string) (epochs: int) : Summary =
    let taught = policy <> ""

    {
        Ending = Finished
        Settings = {
            Runs.small with
                Teacher = (if taught then "resnet20" else "")
                TeacherWeights = (if taught then "t.safetensors" else "")
                Policy = (if taught then Runs.policy policy else Settings.defaults.Policy)
        }
        Best = { Epoch = 2; Top1 = 82.5; ValTop1 = None }
        Top1 = if epochs = 0 then None else Some (line taught false epochs).Top1
        Teacher = None
        Epochs =
            List.init epochs (fun i -> line taught (policy.StartsWith("ctkd", System.StringComparison.Ordinal)) (i + 1))
        Folder = "/runs/x"
        Checkpoint = "/runs/x/last.safetensors"
    }

let private runs: (string * Summary) list = [
    "alone", summary "" 3
    "kd", summary "fixed" 3
    "ctkd", summary "ctkd-global" 2
]

let private charts (runs: (string * Summary) list) : Chart list =
    (RunReport.create "title" runs).Sections
    |> List.collect snd
    |> List.collect (
        function
        | Section.Charts charts -> charts
        | _ -> []
    )

let private names (chart: Chart) : string list = chart.Series |> List.map _.Name

let tests =
    testList "RunReport" [
        test "the table has a row a run, in every culture with a decimal point" {
            let before = CultureInfo.CurrentCulture
            let commas = CultureInfo.InvariantCulture.Clone() :?> CultureInfo
            commas.NumberFormat.NumberDecimalSeparator <- ","

            try
                CultureInfo.CurrentCulture <- commas
                let table = RunReport.table runs

                Must.equal [ "run"; "last top-1 %"; "best on test %"; "top-5 %"; "test loss"; "T" ] table.Header

                Must.equal [ "alone"; "83.00"; "82.50 (epoch 2)"; "99.00"; "0.5123"; "-" ] table.Rows[0]

                Must.equal [ "ctkd"; "82.00"; "82.50 (epoch 2)"; "99.00"; "0.5123"; "17.00" ] table.Rows[2]
            finally
                CultureInfo.CurrentCulture <- before
        }

        test
            "beside a validation the table has its best epoch, and apart the best on test, which is said to be chosen on it" {
            let name, alone = runs.Head

            let validated = {
                alone with
                    Best = { Epoch = 2; Top1 = 82.0; ValTop1 = Some 71.25 }
                    Epochs =
                        alone.Epochs |> List.map (fun m -> { m with ValTop1 = Some(70.0 - float (abs (m.Epoch - 2))) })
            }

            let shown = [ name, validated; runs[1] ]
            let table = RunReport.table shown

            Must.equal
                [ "run"; "last top-1 %"; "best on validation %"; "best on test %"; "top-5 %"; "test loss"; "T" ]
                table.Header

            Must.equal
                [ "alone"; "83.00"; "82.00 (epoch 2, validation 71.25)"; "83.00 (epoch 3)"; "99.00"; "0.5123"; "-" ]
                table.Rows[0]

            Must.equal [ "kd"; "83.00"; "-"; "82.50 (epoch 2)"; "99.00"; "0.5123"; "18.00" ] table.Rows[1]
            Must.contain "the best on test is chosen on these images" table.Caption
            let chart = charts shown |> List.find (fun chart -> chart.Title = "Validation accuracy")
            Must.equal [ 1.0, 69.0; 2.0, 70.0; 3.0, 69.0 ] (Must.single chart.Series).Points
        }

        test "the numbers that a policy reports are a chart for each group, with a curve for each run and side" {
            let reporting (name: string, summary: Summary) =
                let reported (m: EpochMetrics) =
                    let epoch = float m.Epoch

                    Map [
                        "temperature/student", 3.0 + epoch
                        "temperature/teacher", 5.0 - epoch
                        // As in an epoch that was resumed from a checkpoint of an earlier version.
                        if m.Epoch > 1 then "sharpness/student", epoch
                        "own", 0.5
                    ]

                name,
                {
                    summary with
                        Epochs = summary.Epochs |> List.map (fun m -> { m with Reported = reported m })
                }

            let shown (runs: (string * Summary) list) =
                charts runs
                |> List.filter (fun chart ->
                    List.contains chart.Title [ "Temperatures of teacher and student"; "Sharpness"; "Own" ]
                )
                |> List.map (fun chart -> chart.Title, chart.YLabel, [ for s in chart.Series -> s.Name, s.Points ])

            let dtkd = reporting ("dtkd", summary "dtkd" 2)

            Must.equal
                [
                    "Own", "own", [ "dtkd", [ 1.0, 0.5; 2.0, 0.5 ] ]
                    "Temperatures of teacher and student",
                    "T",
                    [ "student", [ 1.0, 4.0; 2.0, 5.0 ]; "teacher", [ 1.0, 4.0; 2.0, 3.0 ] ]
                    "Sharpness", "sharpness", [ "student", [ 2.0, 2.0 ] ]
                ]
                (shown [ dtkd ])

            let several = shown [ runs[1]; dtkd; reporting ("again", summary "dtkd" 1) ]

            Must.equal [ "dtkd: student"; "dtkd: teacher"; "again: student"; "again: teacher" ] [
                for title, _, curves in several do
                    if title.StartsWith("Temperatures", System.StringComparison.Ordinal) then
                        yield! List.map fst curves
            ]

            Must.beEmpty (shown runs)
        }

        test "a run that was stopped in its first epoch has dashes and no curve" {
            let none = [ "begun", summary "ctkd-global" 0 ]
            Must.equal [ [ "begun"; "-"; "-"; "-"; "-"; "-" ] ] ((RunReport.table none).Rows)
            Must.beEmpty (charts none)
            Must.hold ((RunReport.temperatureChart none).IsNone)
        }

        test
            "the curves are accuracy, loss, rate and time, T where there is a teacher, gradient and lambda where it is learned" {
            let charts = charts runs

            Must.equal
                [
                    "Test accuracy"
                    "Training loss"
                    "Temperature"
                    "Gradient of T"
                    "Curriculum"
                    "Learning rate"
                    "Test accuracy by time"
                ]
                (charts |> List.map _.Title)

            Must.equal [ "alone"; "kd"; "ctkd" ] (names charts[0])
            Must.equal [ "kd"; "ctkd" ] (names charts[2])
            Must.equal [ "ctkd" ] (names charts[3])
            Must.equal [ "ctkd" ] (names charts[4])
            Must.equal [ 1.0, 16.0; 2.0, 17.0 ] (charts[2].Series[1].Points)
            Must.equal [ 1.0, 0.05; 2.0, 0.05 ] (charts[5].Series[2].Points)
            Must.equal [ "kd"; "ctkd" ] (names (RunReport.temperatureChart runs).Value)
        }

        test "a student alone has no curriculum, whatever policy its settings name" {
            let titles = charts [ "alone", summary "" 3 ] |> List.map _.Title
            Must.equal [ "Test accuracy"; "Training loss"; "Learning rate"; "Test accuracy by time" ] titles
        }

        test "accuracy by time counts the seconds of all epochs so far" {
            let epochs = [
                for epoch, seconds in [ 1, 2.0; 2, 0.5; 4, 1.25 ] -> { line false false epoch with Seconds = seconds }
            ]

            let chart = (Curves.accuracyByTime [ "run", epochs; "begun", [] ]).Value
            Must.equal [ 2.0, 81.0; 2.5, 82.0; 3.75, 84.0 ] ((Must.single chart.Series).Points)
            Must.equal "seconds of training" chart.XLabel
            Must.hold (Curves.accuracyByTime [ "begun", [] ]).IsNone
        }

        test "the last epoch's temperatures stand in a table, and warnings below it" {
            let spread = { Q05 = 15.1; Q25 = 15.2; Median = 15.3; Q75 = 15.4; Q95 = 15.5 }

            let name, taught = List.last runs

            let epochs =
                taught.Epochs
                |> List.map (fun m -> {
                    m with
                        SpreadT = Some spread
                        Warning = if m.Epoch = 2 then Some "it is saturated" else None
                })

            let runs = [ runs.Head; name, { taught with Epochs = epochs } ]
            let sections = (RunReport.create "title" runs).Sections |> Map.ofList

            match sections["Temperature"] with
            | [ Section.Table table; Section.Text text ] ->
                Must.equal
                    [
                        [
                            "ctkd"
                            "17.00"
                            "15.00"
                            "15.10"
                            "15.20"
                            "15.30"
                            "15.40"
                            "15.50"
                            "20.00"
                            "0.200"
                            "-1.2e-2"
                            "1.8e-1"
                        ]
                    ]
                    table.Rows

                Must.equal table.Header.Length table.Rows.Head.Length
                Must.equal "Warning: ctkd, epoch 2: it is saturated." text
            | other -> failtest $"a table and a text were expected, not {other}"

            let alone = (RunReport.create "title" [ runs.Head ]).Sections |> Map.ofList
            Must.notHold (alone.ContainsKey "Temperature")
        }

        test "the report is one file that needs nothing else" {
            inFolder (fun folder ->
                let path = Path.Combine(folder, "report.html")
                RunReport.write path "Digits <1>" runs |> Error.orRaise
                let html = File.ReadAllText path
                Must.startWith "<!DOCTYPE html>" html
                Must.contain "Digits &lt;1&gt;" html

                for part in [ "<svg"; "83.00 %"; "Settings: ctkd"; "ctkd-global" ] do
                    Must.contain part html

                for part in [ "<script src"; " src="; "href=\"http"; "url(" ] do
                    Must.lack part html

                let error = RunReport.write (Path.Combine(folder, "none", "r.html")) "x" runs |> errorOf
                Must.equal Unwritable error.Kind
            )
        }

        test "the report of a real run is written from what it left" {
            inFolder (fun folder ->
                let out = Path.Combine(folder, "run")
                let summary = Runs.finish out (Runs.taught "ctkd-instance" Runs.small)
                RunReport.write (Path.Combine(out, "report.html")) "run" [ "run", summary ] |> Error.orRaise
                let charts = charts [ "run", summary ]

                Must.equal
                    [
                        "Test accuracy"
                        "Training loss"
                        "Temperature"
                        "Gradient of T"
                        "Curriculum"
                        "Learning rate"
                        "Test accuracy by time"
                        "Temperature over the images: run"
                    ]
                    (charts |> List.map _.Title)

                for chart in charts do
                    Must.equal 2 chart.Series.Head.Points.Length
            )
        }

        test "an agent's epochs of learning stand in a table, its correlation and policy in curves" {
            let plain = summary "rlkd" 3

            let agents = [
                Map.empty
                Map [ "correlation", 0.25; "policyMean", 0.1; "policySpread", 0.6; "updates", 7.0; "reward", -0.00125 ]
                Map [
                    "correlation", 0.5
                    "policyMean", 0.2
                    "policySpread", 0.5
                    "policyMean.0", 0.0
                    "policySpread.0", log 4.0
                    "policyMean.7", log 4.0
                    "policySpread.7", log 4.0
                ]
            ]

            let epochs = List.map2 (fun (m: EpochMetrics) agent -> { m with Agent = agent }) plain.Epochs agents

            let runs = [ "kd", summary "fixed" 3; "rlkd", { plain with Epochs = epochs } ]
            let titles = charts runs |> List.map _.Title

            Must.equal
                [
                    "T and the student's uncertainty"
                    "The agent's policy: rlkd"
                    "The agent's T by uncertainty: rlkd, epoch 3"
                ]
                (List.skip 5 titles)

            Must.equal [ 2.0, 0.25; 3.0, 0.5 ] ((List.item 5 (charts runs)).Series.Head.Points)

            let byUncertainty = (List.item 7 (charts runs)).Series |> List.map (fun s -> s.Name, s.Points)
            // 10 sigmoid(0) = 5, 10 sigmoid(+-log 4) = 8 and 2.
            let expected = [ "mean", 5.0, 8.0; "mean + spread", 8.0, 160.0 / 17.0; "mean - spread", 2.0, 5.0 ]

            for (name, low, high), (drawn, points) in List.zip expected byUncertainty do
                Must.equal name drawn

                Must.beClose 1e-12 0.0 [| 0.05; low; 0.75; high |] [|
                    for u, t in points do
                        yield! [ u; t ]
                |]

            let sections = (RunReport.create "title" runs).Sections

            match sections |> List.tryFind (fst >> (=) "Agent") with
            | Some(_, [ Section.Table table ]) ->
                Must.equal "epoch" table.Header.Head

                Must.equal
                    [ [ "2"; "7"; "-0.00125"; "-"; "-"; "0.250"; "0.100"; "0.600"; "-"; "-"; "-"; "-" ] ]
                    table.Rows
            | other -> failtest $"one table was expected, got %A{other}"

            let facts = sections |> List.find (fst >> (=) "Settings: rlkd") |> snd
            Must.contain "paper, from epoch 1 on, learning in epochs divisible by 1" $"%A{facts}"
        }
    ]
