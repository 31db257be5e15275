module Ctkd.Fs.Tests.ComparisonTests

open System
open System.IO
open System.Text.Json.Nodes
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Folders
open Ctkd.Fs.Tests.MadeRuns

let private compare (options: ComparisonOptions) (folders: string list) : Comparison =
    Comparison.create options (read folders) |> Error.orRaise

let private plain = compare Comparison.defaults

let private against (baseline: string) = compare { Comparison.defaults with Baseline = baseline }

let private group (name: string) (c: Comparison) : GroupResult = c.Groups |> List.find (fun g -> g.Group.Name = name)

/// A policy's runs with the seeds from 1 on, one for each last top-1.
let private ofPolicy (folder: string) (policy: string) (top1s: float list) : string list =
    top1s |> List.mapi (fun i top1 -> MadeRuns.ofPolicy folder policy (i + 1) [ 40.0; top1 ])

/// A student's runs under a policy.
let private ofPair (folder: string) (student: string) (policy: string) (top1s: float list) : string list =
    top1s
    |> List.mapi (fun i top1 ->
        let s = { settings with Student = student; Policy = Runs.policy policy; Seed = i + 1 }
        write (Path.Combine(folder, $"{student}-{policy}-{i}")) s [ 40.0; top1 ]
    )

let private fixedTop1s, private globalTop1s = [ 60.0; 61.5; 60.5; 62.0 ], [ 60.9; 61.8; 61.9; 62.4 ]

let tests =
    testList "Comparison" [
        test "a comparison's numbers are those computed anew from the metrics files" {
            inFolder (fun folder ->
                let folders = ofPolicy folder "fixed" fixedTop1s @ ofPolicy folder "ctkd-global" globalTop1s
                let found = plain folders |> group "policy=ctkd-global"

                // From the text of the files, with plain sums and the density's integral.
                let last (policy: string) (seed: int) =
                    let lines = File.ReadAllLines(Path.Combine(folder, $"{policy}-{seed}", "metrics.jsonl"))
                    let json = (JsonNode.Parse(Array.last lines) |> nonNull).AsObject()
                    (nonNull json["top1"]).GetValue<float>()

                let moments (xs: float[]) =
                    let n = float xs.Length
                    let mean = Array.sum xs / n
                    n, mean, sqrt (Array.sum (xs |> Array.map (fun x -> (x - mean) ** 2.0)) / (n - 1.0))

                let own, others =
                    Array.init 4 (fun i -> last "ctkd-global" (i + 1)), Array.init 4 (fun i -> last "fixed" (i + 1))

                let n, mean, sd = moments own
                let _, difference, spread = moments (Array.map2 (-) own others)
                let t = StudentT.quantile (n - 1.0) 0.95
                let sample = found.Sample.Value
                Must.beNear 1e-12 0.0 mean sample.Mean
                Must.beNear 1e-9 0.0 sd sample.Deviation.Value
                Must.beNear 1e-7 0.0 (mean - t * sd / sqrt n) sample.Interval.Value.Low
                let versus = found.Versus.Value
                let test = versus.Difference.Value.Test.Value
                Must.equal ("policy=fixed", 4, true) (versus.Baseline, versus.Pairs, versus.IsPaired)
                Must.beNear 1e-9 0.0 difference versus.Mean
                Must.beNear 1e-7 0.0 (difference + t * spread / sqrt n) versus.Difference.Value.Interval.High
                Must.beNear 1e-9 0.0 (difference / (spread / sqrt n)) test.T
                Must.beNear 1e-6 0.0 (StudentT.beyond (n - 1.0) test.T) test.P
                Must.equal (Some test.P) versus.Adjusted
            )
        }

        test "the metric decides which number is compared" {
            inFolder (fun folder ->
                let folders = [ MadeRuns.ofPolicy folder "fixed" 1 [ 61.0; 60.0 ] ]

                let mean metric =
                    (compare { Comparison.defaults with Metric = metric } folders |> group "all runs")
                        .Sample.Value.Mean

                Must.equal
                    [ 60.0; 61.0; 70.0; 1.8 ]
                    ([ Metric.Last; Metric.Best; Metric.Top5; Metric.Loss ] |> List.map mean)

                let error =
                    Comparison.create { Comparison.defaults with Metric = Metric.BestVal } (read folders) |> errorOf

                Must.contain "no run has the number best-val" error.What
            )
        }

        test "one run has its number, and neither spread nor difference" {
            inFolder (fun folder ->
                let c = plain [ MadeRuns.ofPolicy folder "fixed" 1 [ 59.0; 60.0 ] ]
                let g = group "all runs" c
                Must.equal { Count = 1; Mean = 60.0; Deviation = None; Interval = None } g.Sample.Value
                Must.equal (None, 0) (g.Versus, c.Tests)
                Must.equal [] c.Warnings
            )
        }

        test "groups are compared with the fixed temperature of the same student, and dtkd's own methods do not matter" {
            inFolder (fun folder ->
                let c =
                    plain [
                        yield! ofPair folder "resnet8" "fixed" [ 60.0; 61.0 ]
                        yield! ofPair folder "resnet8" "ctkd-global" [ 62.0; 62.5 ]
                        yield! ofPair folder "resnet14" "fixed" [ 70.0; 71.0 ]
                        yield! ofPair folder "resnet14" "ctkd-global" [ 70.5; 71.9 ]
                        yield! ofPair folder "resnet20" "ctkd-global" [ 72.5; 72.9 ]
                    ]

                let versus name = (group name c).Versus |> Option.map (fun v -> v.Baseline, v.Mean)
                Must.equal (Some("student=resnet8 policy=fixed", 1.75)) (versus "student=resnet8 policy=ctkd-global")
                let other = versus "student=resnet14 policy=ctkd-global"
                Must.equal (Some "student=resnet14 policy=fixed") (Option.map fst other)
                Must.beNear 1e-9 0.0 0.7 (snd other.Value)
                Must.equal None (versus "student=resnet8 policy=fixed")
                Must.equal None (versus "student=resnet20 policy=ctkd-global")

                Must.haveOne
                    (fun (note: string) -> note.EndsWith "fields for: student=resnet20 policy=ctkd-global")
                    c.Notes

                Must.equal 2 c.Tests

                let ps =
                    c.Groups
                    |> List.choose (fun g ->
                        g.Versus |> Option.bind _.Difference |> Option.bind _.Test |> Option.map _.P
                    )

                Must.equal (Statistics.holm ps) (c.Groups |> List.choose (fun g -> g.Versus |> Option.bind _.Adjusted))
            )
        }

        test "a baseline is named by conditions: one group of all, or one for each of the other values" {
            inFolder (fun folder ->
                let folders = [
                    yield! ofPair folder "resnet8" "fixed" [ 60.0; 61.0 ]
                    yield! ofPair folder "resnet8" "cosine" [ 62.0; 62.5 ]
                    yield! ofPair folder "resnet14" "fixed" [ 70.0; 71.0 ]
                    yield! ofPair folder "resnet14" "cosine" [ 70.5; 71.9 ]
                ]

                let baselines text = [
                    for g in (against text folders).Groups ->
                        g.Versus |> Option.map _.Baseline |> Option.defaultValue ""
                ]

                let a, b = "student=resnet8 policy=cosine", "student=resnet14 policy=cosine"
                Must.equal [ a; ""; b; "" ] (baselines "policy=cosine")
                Must.equal [ a; ""; a; a ] (baselines "policy=cosine student=resnet8")
                Must.equal [ a; ""; a; a ] (baselines " student=resnet8,policy=cosine")

                Must.equal
                    [ ""; ""; "student=resnet8 policy=fixed"; "student=resnet8 policy=cosine" ]
                    (baselines "student=resnet8")
            )
        }

        test "a baseline that no group meets is refused with what there is" {
            inFolder (fun folder ->
                let folders = ofPolicy folder "fixed" [ 60.0 ] @ ofPolicy folder "cosine" [ 61.0 ]

                let refused text =
                    Comparison.create { Comparison.defaults with Baseline = text } (read folders) |> errorOf

                for text, what, next in
                    [
                        "policy=dtkd", "no group of runs has policy=dtkd", "policy is in these runs: fixed, cosine"
                        "policy", "'policy' is no condition", "--baseline FIELD=VALUE"
                        "polcy=fixed", "unknown field 'polcy'", "policy"
                        "seed=1", "seed makes no group", "policy=fixed"
                        "device=cpu", "device makes no group", "policy=fixed"
                        "epochs=3 policy=fixed", "no group of runs has epochs=3", "epochs is in these runs: 2"
                    ] do
                    let error = refused text
                    Must.equal Usage error.Kind
                    Must.contain what error.What
                    Must.contain next error.Next

                let level = Comparison.create { Comparison.defaults with Level = 1.0 } (read folders) |> errorOf
                Must.contain "from 0.5 to 0.999" level.What
            )
        }

        test "methods are named in a baseline with or without their weights" {
            inFolder (fun folder ->
                let of' name (methods: string) seed =
                    let s = Settings.withMethods [ methods ] { settings with Seed = seed }
                    write (Path.Combine(folder, name)) s [ 50.0; 60.0 + float seed ]

                let folders = [ of' "a" "kd" 1; of' "b" "kd" 2; of' "c" "dkd" 1; of' "d" "dkd" 2 ]

                for text in [ "methods=kd"; "methods=kd:0.9"; "methods=kd:0.90" ] do
                    Must.equal
                        (Some "methods=kd")
                        ((against text folders |> group "methods=dkd").Versus |> Option.map _.Baseline)
            )
        }

        test "without common seeds the difference is of the means, by Welch's test; one common seed has no test" {
            inFolder (fun folder ->
                let seeds policy list =
                    list |> List.map (fun (seed, top1) -> MadeRuns.ofPolicy folder policy seed [ 40.0; top1 ])

                let c = plain (seeds "fixed" [ 1, 60.0; 2, 61.0 ] @ seeds "cosine" [ 3, 62.0; 4, 64.0 ])
                let versus = (group "policy=cosine" c).Versus.Value
                Must.equal (0, false, 2.5) (versus.Pairs, versus.IsPaired, versus.Mean)
                Must.equal (Statistics.welch 0.95 [ 62.0; 64.0 ] [ 60.0; 61.0 ]) versus.Difference
                Must.haveOne (fun (note: string) -> note.Contains "Welch") c.Notes

                let c = plain (seeds "fixed" [ 5, 60.0 ] @ seeds "linear" [ 5, 62.0 ])
                let versus = (group "policy=linear" c).Versus.Value
                Must.equal (1, true, 2.0, None) (versus.Pairs, versus.IsPaired, versus.Mean, versus.Difference)
            )
        }

        test "pairs are the seeds that both have" {
            inFolder (fun folder ->
                let c = plain (ofPolicy folder "fixed" [ 60.0; 61.0; 62.0 ] @ ofPolicy folder "cosine" [ 61.0; 63.0 ])
                let versus = (group "policy=cosine" c).Versus.Value
                Must.equal (2, 1.5) (versus.Pairs, versus.Mean)
                Must.equal (Some 62.0) ((group "policy=cosine" c).Sample |> Option.map _.Mean)
            )
        }

        test "unfinished runs are listed, and count only when asked" {
            inFolder (fun folder ->
                let whole = ofPolicy folder "fixed" [ 60.0; 61.0 ]
                let begun = MadeRuns.ofPolicy folder "fixed" 3 [ 10.0 ]
                let count options = (compare options (begun :: whole) |> group "all runs").Values.Length
                Must.equal 2 (count Comparison.defaults)
                Must.equal 3 (count { Comparison.defaults with Unfinished = true })
                Must.equal [ begun ] ((plain (begun :: whole)).Unfinished |> List.map _.Folder)
                let error = Comparison.create Comparison.defaults (read [ begun ]) |> errorOf
                Must.contain "none of 1 runs has finished" error.What
                Must.contain "--unfinished" error.Next
            )
        }

        test "a seed that is there twice counts once, with a warning" {
            inFolder (fun folder ->
                let again = write (Path.Combine(folder, "again")) settings [ 40.0; 90.0 ]
                let c = plain (ofPolicy folder "fixed" [ 60.0; 61.0 ] @ [ again ])
                Must.equal [ 1, 60.0; 2, 61.0 ] (group "all runs" c).Values
                Must.contain "has seed 1 2 times" (Must.single c.Warnings)
            )
        }

        test "the published number stands beside, with what differs from its recipe" {
            inFolder (fun folder ->
                let of' name recipe (change: Settings -> Settings) =
                    let s = (Recipes.find recipe |> Error.orRaise).Settings
                    let s = change { s with TeacherWeights = "/t"; DataDir = "/cifar"; Device = "cuda"; Seed = 5 }
                    let epochs = List.init s.Epochs (fun _ -> 70.0)
                    writeWith (Some { record with Recipe = recipe }) (Path.Combine(folder, name)) s epochs

                let kd, ctkd = "ctkd/resnet56-resnet20/kd/fixed", "ctkd/resnet56-resnet20/kd/ctkd-global"
                let c = plain [ of' "a" kd id; of' "b" ctkd id ]
                let g = group "policy=ctkd-global" c
                Must.equal (Some { Recipe = ctkd; Value = 71.19; Differs = [] }) g.Published
                Must.beNear 1e-9 0.0 0.53 g.Versus.Value.Published.Value
                Must.equal [] c.Warnings

                let c = plain [ of' "c" kd (fun s -> { s with Subset = 500; Epochs = 3; Milestones = [ 2 ] }) ]
                let g = group "all runs" c
                Must.equal (Some [ "subset"; "epochs"; "milestones" ]) (g.Published |> Option.map _.Differs)
                Must.contain "is of other settings: subset, epochs, milestones" (Must.single c.Warnings)

                Must.equal
                    None
                    (compare { Comparison.defaults with Metric = Metric.Loss } [ Path.Combine(folder, "c") ]
                     |> group "all runs")
                        .Published

                // A recipe's file may hold any settings under the name of a published one.
                let own = { record with Recipe = "mine.json" }
                let d = writeWith (Some own) (Path.Combine(folder, "d")) settings [ 1.0; 2.0 ]
                Must.equal None (plain [ d ] |> group "all runs").Published
            )
        }

        test "other teachers, machines, devices, versions and start weights are warned of, and data of other runs too" {
            let other = {
                session with
                    Processor = "another"
                    Device = "cuda"
                    Ctkd = "9.9.9"
                    Libtorch = "9.9"
                    Epoch = 2
            }

            let cases = [
                "teachers",
                {
                    record with
                        Teacher = record.Teacher |> Option.map (fun t -> { t with Hash = "9999999999" })
                }
                "data", { record with DataHash = "9999999999" }
                "machines", { record with Sessions = [ other ] }
                "devices", { record with Sessions = [ session; other ] }
                "versions of ctkd", { record with Sessions = [ other ] }
                "versions of libtorch", { record with Sessions = [ other ] }
            ]

            for what, record in cases do
                inFolder (fun folder ->
                    let s = { settings with Policy = PolicyName.Cosine }

                    let c =
                        plain (
                            ofPolicy folder "fixed" [ 60.0 ]
                            @ [ writeWith (Some record) (Path.Combine(folder, "x")) s [ 50.0; 60.0 ] ]
                        )

                    Must.haveOne
                        (fun (warning: string) -> warning.StartsWith $"different {what} in policy=cosine (")
                        c.Warnings
                )

            inFolder (fun folder ->
                let started seed hash = { settings with StudentHash = hash; Seed = seed }
                let at name s = write (Path.Combine(folder, name)) s [ 50.0; 60.0 ]
                let c = plain [ at "a" (started 1 "aaaa"); at "b" (started 2 "bbbb") ]
                Must.contain "different weights that the student starts from (aaaa; bbbb)" (Must.single c.Warnings)
                let c = plain [ writeWith None (Path.Combine(folder, "c")) settings [ 50.0; 60.0 ] ]
                Must.contain "1 of 1 runs have no run.json" (Must.single c.Warnings)
                Must.equal [] (plain (ofPolicy folder "fixed" [ 60.0 ] @ ofPolicy folder "cosine" [ 61.0 ])).Warnings
            )
        }

        test "tables leave out the columns that no group fills, and show the others in full" {
            inFolder (fun folder ->
                let whole = ofPolicy folder "fixed" fixedTop1s @ ofPolicy folder "ctkd-global" globalTop1s
                let table = plain whole |> ComparisonReport.table

                Must.equal
                    [
                        "policy"
                        "n"
                        "top-1 %"
                        "sd"
                        "95 % interval"
                        "difference"
                        "95 % of difference"
                        "p"
                        "pairs"
                    ]
                    table.Header

                Must.equal [ "fixed"; "4"; "61.00"; "0.91"; "59.55 to 62.45"; "-"; "-"; "-"; "-" ] table.Rows[0]
                Must.equal [ "ctkd-global"; "4"; "61.75" ] (List.truncate 3 table.Rows[1])
                Must.equal "+0.75" (List.item 5 table.Rows[1])
                let one = plain [ whole.Head ] |> ComparisonReport.table
                Must.equal ([ "runs"; "n"; "top-1 %" ], [ [ "all runs"; "1"; "60.00" ] ]) (one.Header, one.Rows)
                let runs = plain whole |> ComparisonReport.runs |> ComparisonReport.runsTable
                Must.have "best on test %" runs.Header
                Must.equal 8 runs.Rows.Length
            )
        }
    ]
