/// What groups of runs cost, and how reports tell it.
module Ctkd.Fs.Tests.CostTests

open System
open System.IO
open Expecto
open Ctkd.Fs
open Ctkd.Fs.App
open Ctkd.Fs.Tests.Child
open Ctkd.Fs.Tests.Folders

let private compared (cost: bool) (folders: string list) : Comparison =
    MadeRuns.read folders |> Comparison.create { Comparison.defaults with Cost = cost } |> Error.orRaise

let private costOf (name: string) (c: Comparison) : Cost =
    (c.Groups |> List.find (fun g -> g.Group.Name = name)).Cost |> Option.get

let private folder =
    lazy
        (let folder = Directory.CreateTempSubdirectory "ctkd-cost-"
         AppDomain.CurrentDomain.ProcessExit.Add(fun _ -> folder.Delete true)
         folder.FullName)

/// The folder of trained runs in `runs`, made when the first test asks: one under a fixed T, and one under CTKD with a network of
/// 16 hidden units, two epochs of 50 digits each.
let private trained: Lazy<string> =
    lazy
        (for policy in [ "fixed"; "ctkd-instance" ] do
            Runs.finish (Path.Combine(folder.Value, "runs", policy)) (Runs.taught policy Runs.small) |> ignore

         folder.Value)

/// Multiply-accumulates of the runs' policy network: 2 x 10 logits to 16 hidden units, and these to x.
let private network = 20L * 16L + 16L

let tests =
    testList "Cost" [
        test "a step's multiply-accumulates are the student's, as CTKD counts them, and those of the policy's network" {
            let student = Zoo.find "resnet20" 100 |> Error.orRaise
            let range, lambda = Ctkd.publishedRange, Schedule.curriculum 10
            let macs policy = Cost.macs 32 32 student policy
            let own = (Macs.ofLayer [ 3; 32; 32 ] (Model.layers student)).WithBatchNorm
            Must.equal { Student = own; Policy = 0L } (macs None)
            Must.equal { Student = own; Policy = 0L } (macs (Some(Ctkd.globalPolicy range lambda)))
            let instance = macs (Some(Ctkd.instancePolicy range 512 lambda))
            // The published extra cost is 0.06 to 0.12 millions.
            Must.equal (own, 200L * 512L + 512L) (instance.Student, instance.Policy)
            Must.equal (own + 102_912L) instance.Total
        }

        test "runs that were trained have both, from their checkpoint and their metrics" {
            let folder = trained.Value

            let folders = [ Path.Combine(folder, "runs") ]
            let c = compared true folders
            let student = Zoo.find "resnet8" 10 |> Error.orRaise
            let size = (Digits.load ()).Train.Height
            let own = (Cost.macs size size student None).Student
            let taught, learned = costOf "policy=fixed" c, costOf "policy=ctkd-instance" c
            Must.equal (Ok { Student = own; Policy = 0L }) taught.Macs
            Must.equal (Ok { Student = own; Policy = network }) learned.Macs

            for cost, name in [ taught, "fixed"; learned, "ctkd-instance" ] do
                let seconds =
                    Metrics.read (Path.Combine(folder, "runs", name, "metrics.jsonl"))
                    |> Error.orRaise
                    |> List.map _.Seconds

                Must.equal 2 cost.Epochs
                Must.beNear 1e-12 0.0 (List.average seconds) cost.Seconds.Value
                Must.beNear 1e-9 1e-12 (abs (seconds[0] - seconds[1]) / sqrt 2.0) cost.Deviation.Value

            Must.beEmpty c.Warnings
            let last = (ComparisonReport.table c).Header |> List.rev |> List.truncate 3
            Must.equal [ "sd of s"; "s/epoch"; "MACs (M)" ] last
            Must.haveOne (fun (note: string) -> note.StartsWith "MACs (M): ") c.Notes

            let plain = compared false folders
            Must.equal [ None; None ] (plain.Groups |> List.map (_.Cost >> Option.map _.Epochs))
            Must.equal (ComparisonReport.table c).Header.Length ((ComparisonReport.table plain).Header.Length + 3)
            Must.lack "MACs" (ReportText.plain plain)
        }

        test "every format tells the costs where --cost asks for them" {
            let folder = trained.Value

            let c = compared true [ Path.Combine(folder, "runs") ]
            let macs = Result.toOption (costOf "policy=ctkd-instance" c).Macs |> Option.get
            let text = (float macs.Total / 1e6).ToString("F2", System.Globalization.CultureInfo.InvariantCulture)
            Must.contain "MACs (M) | s/epoch | sd of s |" (ReportText.markdown c)
            Must.contain "MACs (M) & s/epoch & sd of s" (ReportText.latex c)

            for written in [ ReportText.plain c; ReportText.markdown c; ReportText.latex c ] do
                Must.contain text written

            Must.contain "s/epoch" (ComparisonReport.create c |> Report.html)
            let lines = (ReportText.csv c).TrimEnd().Split "\r\n" |> Array.map _.Split(',')
            let costs (line: string[]) = List.ofArray line |> List.skip (line.Length - 4)
            Must.equal [ "macs"; "policy_macs"; "epoch_seconds"; "epoch_seconds_sd" ] (costs lines[0])
            let learned = lines |> Array.find (fun line -> line[0] = "ctkd-instance") |> costs
            Must.equal [ string macs.Total; string network ] (List.truncate 2 learned)
            let seconds = (costOf "policy=ctkd-instance" c).Seconds.Value
            Must.equal seconds (float learned[2])

            let group = (ReportJson.ofComparison c).Groups |> List.find (fun g -> g.Group = "policy=ctkd-instance")
            let told = group.Cost.Value

            Must.equal
                (Some macs.Total, Some network, 2, Some seconds)
                (told.Macs, told.PolicyMacs, told.Epochs, told.EpochSeconds)

            let out = (expect 0 folder "report runs --cost").Out
            Must.matchRegex $@"(?m)^ctkd-instance .* {text} +\d+\.\d\d +\d+\.\d\d$" out
            Must.contain "MACs (M): millions of multiply-accumulates" out
            let one = (expect 0 folder "report runs/fixed --cost").Out
            Must.contain "s/epoch" one
            let json = (expect 0 folder "report runs --format json").Out
            let told = Json.read<ReportJson> "" json |> Error.orRaise
            Must.equal [ None; None ] (told.Groups |> List.map _.Cost)
        }

        test "an epoch that was resumed in its middle does not count as one" {
            inFolder (fun folder ->
                let run = MadeRuns.ofPolicy folder "fixed" 1 []

                for epoch, images, seconds in [ 1, 200.0, 4.0; 2, 75.0, 1.0; 3, 200.0, 5.0; 4, 200.0, 6.0 ] do
                    Metrics.append (Path.Combine(run, "metrics.jsonl")) {
                        MadeRuns.epoch epoch 50.0 with
                            Seconds = seconds
                            ImagesPerSecond = images / seconds
                    }
                    |> Error.orRaise

                let cost = Cost.ofRuns (MadeRuns.read [ run ])
                Must.equal (3, Some 5.0, Some 1.0) (cost.Epochs, cost.Seconds, cost.Deviation)
            )
        }

        test "where no checkpoint can be read the table has a dash, and a warning says why" {
            inFolder (fun folder ->
                let whole = MadeRuns.ofPolicy folder "fixed" 1 [ 50.0; 60.0 ]
                let damaged = MadeRuns.ofPolicy folder "cosine" 1 [ 50.0; 60.0 ]
                File.WriteAllText(Path.Combine(damaged, "last.safetensors"), "no checkpoint")
                let c = compared true [ whole; damaged ]

                for name in [ "policy=fixed"; "policy=cosine" ] do
                    Must.hold (Result.isError (costOf name c).Macs)
                    Must.equal (Some 2.0, Some 0.0) ((costOf name c).Seconds, (costOf name c).Deviation)

                    Must.haveOne
                        (fun (w: string) -> w.StartsWith $"{name}: its multiply-accumulates are not known: ")
                        c.Warnings

                let table = ComparisonReport.table c
                let column = table.Header |> List.findIndex ((=) "MACs (M)")
                Must.equal [ "-"; "-" ] (table.Rows |> List.map (List.item column))
            )
        }

        test "a group's first checkpoint that can be read tells its multiply-accumulates" {
            inFolder (fun folder ->
                let settings = Runs.taught "fixed" { Runs.small with Epochs = 1; Milestones = [] }
                let runs = [ for seed in 1..2 -> Path.Combine(folder, $"{seed}") ]
                runs |> List.iteri (fun seed out -> Runs.finish out { settings with Seed = seed } |> ignore)
                let expected = (Cost.ofRuns (MadeRuns.read runs)).Macs
                Must.hold (Result.isOk expected)
                File.Delete(Path.Combine(runs[0], "last.safetensors"))
                File.Delete(Path.Combine(runs[0], "best.safetensors"))
                Must.equal expected (Cost.ofRuns (MadeRuns.read runs)).Macs
            )
        }
    ]
