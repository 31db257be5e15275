/// Runs without training for the pages of reports, as long and as uneven as real ones.
module Ctkd.Fs.Tests.PageRuns

open System
open Ctkd.Fs

/// An epoch of a run as they look: the loss falls with steps of the learning rate, T spreads and moves.
let private epochOf (epochs: int) (policy: string) (seed: int) (random: Random) (epoch: int) : EpochMetrics =
    let taught = policy <> ""
    let learned = policy.StartsWith("ctkd", StringComparison.Ordinal)
    let share = float epoch / float epochs
    let drops = [ 0.62; 0.75; 0.87 ] |> List.filter (fun drop -> share > drop) |> List.length
    let noise size = size * (random.NextDouble() - 0.5)
    let top1 = 70.0 - 45.0 * exp (-6.0 * share) + 3.0 * float drops + float (seed % 5) * 0.4 + noise 3.0
    let t = if learned then 4.0 + 3.0 * share + 0.2 * float (seed % 4) + noise 0.1 else 4.0
    let wide = 0.3 + share

    {
        RunReportTests.line taught learned epoch with
            LearningRate = 0.05 * Math.Pow(0.1, float drops)
            Loss = 3.5 * exp (-3.0 * share) + 0.6 - 0.12 * float drops + noise 0.06
            T = if taught then Some t else None
            SpreadT =
                if policy = "ctkd-instance" then
                    Some {
                        Q05 = t - 2.0 * wide + noise 0.02
                        Q25 = t - wide
                        Median = t + noise 0.01
                        Q75 = t + wide
                        Q95 = t + 2.1 * wide + noise 0.02
                    }
                else
                    None
            Reported =
                if policy = "dtkd" then
                    Map [
                        "temperature/student", 4.0 - 0.5 * share + noise 0.1
                        "temperature/teacher", 4.0 + 0.5 * share + noise 0.1
                        "sharpness/student", 5.0 + 6.0 * share + noise 0.2
                        "sharpness/teacher", 12.0 + noise 0.2
                    ]
                else
                    Map.empty
            GradientT = if learned then Some(-0.02 * share + noise 0.004) else None
            Lambda = if taught then Some(min 1.0 (float epoch / 10.0)) else None
            Top1 = Math.Round(top1, 2)
            Seconds = 10.0 + noise 1.0 + (if learned then 1.5 else 0.0)
    }

let private run (name: string) (policy: string) (epochs: int) (seed: int) : string * Summary =
    let random = Random seed

    name,
    {
        RunReportTests.summary policy 1 with
            Epochs = [ for epoch in 1..epochs -> epochOf epochs policy seed random epoch ]
    }

let private policies = [ "fixed"; "ctkd-global"; "ctkd-instance"; "dtkd" ]

/// So many runs of 240 epochs, of these policies in turn.
let manyOf (policies: string list) (count: int) : (string * Summary) list = [
    for i in 0 .. count - 1 ->
        let policy = policies[i % policies.Length]
        run $"resnet20-{policy}-seed-{i / policies.Length + 1}" policy 240 (i + 1)
]

/// So many runs of four policies.
let many: int -> (string * Summary) list = manyOf policies

/// The page of runs.
let pageOf (runs: (string * Summary) list) : string = RunReport.create "Four policies" runs |> Report.html

/// A page with one curve in "Test accuracy", and with a name that has to be escaped.
let few: (string * Summary) list = [
    run "alone" "" 40 1
    run "kd" "fixed" 40 2
    run "ctkd & <friends>" "ctkd-instance" 40 3
]

/// Its text.
let fewPage: string = pageOf few
