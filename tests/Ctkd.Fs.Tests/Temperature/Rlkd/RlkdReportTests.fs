/// The numbers of an epoch against a plain computation, and how reports show them.
module Ctkd.Fs.Tests.RlkdReportTests

open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Parts

let private sums () : Tensor = Tensor.zeros DType.Float64 Device.Cpu [| int64 RlkdSums.length |]

/// A batch's uncertainties, temperatures, policy means and logarithms of the deviation.
type private Rows = { U: float[]; T: float[]; Mean: float[]; Log: float[] }

let private rows (seed: int) (count: int) : Rows =
    let numbers part = Rng.ofSeed seed |> Rng.split part |> Rng.uniforms 0.5 count

    {
        U = numbers "u" |> Array.map (fun x -> x + 0.5)
        T = numbers "t" |> Array.map (fun x -> 5.0 + 8.0 * x)
        Mean = numbers "mean"
        Log = numbers "log"
    }

let private addRows (sums: Tensor) (rows: Rows) : unit =
    RlkdSums.addChoice
        {
            Uncertainty = row rows.U
            T = row rows.T
            Policy = { Mean = row rows.Mean; LogDeviation = row rows.Log }
        }
        sums

let tests =
    testList "RlkdReport" [
        test "means, correlation and the policy by tenths of the uncertainty equal those of all images" {
            Tensor.scoped (fun () ->
                let sums, batches = sums (), [ rows 1 37; rows 2 20; { rows 3 2 with U = [| 0.0; 1.0 |] } ]
                List.iter (addRows sums) batches
                let all pick = batches |> Seq.collect pick |> Array.ofSeq
                let u, t, mean = all _.U, all _.T, all _.Mean
                let deviation = Array.map exp (all _.Log)
                let report = RlkdSums.read sums

                let correlation =
                    let du, dt = Array.map (fun x -> x - Array.average u) u, Array.map (fun x -> x - Array.average t) t

                    let dot a b = Array.fold2 (fun sum x y -> sum + x * y) 0.0 a b
                    dot du dt / sqrt (dot du du * dot dt dt)

                Must.beNear 1e-9 1e-12 correlation report["correlation"]
                Must.beNear 1e-12 0.0 (Array.average u) report["uncertainty"]
                Must.beNear 1e-12 1e-12 (Array.average mean) report["policyMean"]
                Must.beNear 1e-12 0.0 (Array.average deviation) report["policySpread"]

                for tenth in 0..9 do
                    let isIn i = min 9 (int (10.0 * u[i])) = tenth

                    match [ 0 .. u.Length - 1 ] |> List.filter isIn with
                    | [] -> Must.notHold (report.ContainsKey $"policyMean.{tenth}")
                    | places ->
                        Must.beNear
                            1e-12
                            1e-12
                            (places |> List.averageBy (Array.get mean))
                            report[$"policyMean.{tenth}"]

                        Must.beNear
                            1e-12
                            0.0
                            (places |> List.averageBy (Array.get deviation))
                            report[$"policySpread.{tenth}"]

                Must.hold (report.ContainsKey "policyMean.0" && report.ContainsKey "policyMean.9")
                Must.notHold (report.ContainsKey "reward")
            )
        }

        test "one deviation that all states share is that of every tenth" {
            Tensor.scoped (fun () ->
                let sums, rows = sums (), rows 4 30

                RlkdSums.addChoice
                    {
                        Uncertainty = row rows.U
                        T = row rows.T
                        Policy = { Mean = row rows.Mean; LogDeviation = Plain.number -0.5 }
                    }
                    sums

                let report = RlkdSums.read sums

                for name, value in Map.toList report do
                    if name.StartsWith("policySpread", System.StringComparison.Ordinal) then
                        Must.beNear 1e-12 0.0 (exp -0.5) value
            )
        }

        test "what updates were is their mean, and the rewards' size their root mean square" {
            Tensor.scoped (fun () ->
                let sums = sums ()

                let update reward : RlkdUpdate = {
                    Reward = Plain.number reward
                    Advantages = row [| reward; -3.0 * reward |]
                    Mask = row [| 0.25; 0.75 |]
                    CorrectorLoss = Plain.number (2.0 * reward)
                    UpdaterLoss = Plain.number 3.0
                    EstimatorLoss = Plain.number 4.0
                    CriticLoss = Plain.number 5.0
                    ActorLoss = Plain.number 6.0
                }

                for reward in [ 3.0; -4.0 ] do
                    RlkdSums.addUpdate (update reward) sums

                let expected =
                    Map [
                        "updates", 2.0
                        "reward", -0.5
                        "rewardSize", sqrt 12.5
                        "advantage", 0.5
                        "advantageSize", sqrt 5.0 * 3.5
                        "mask", 0.5
                        "correctorLoss", -1.0
                        "updaterLoss", 3.0
                        "estimatorLoss", 4.0
                        "criticLoss", 5.0
                        "actorLoss", 6.0
                    ]

                let report = RlkdSums.read sums
                Must.equal (List.ofSeq expected.Keys) (List.ofSeq report.Keys)

                for name, value in Map.toList expected do
                    Must.beNear 1e-12 0.0 value report[name]
            )
        }

        test "the table and the figures show numbers that the agent reports" {
            Tensor.scoped (fun () ->
                let sums = sums ()
                addRows sums (rows 1 200)
                let one = Plain.number 1.0

                RlkdSums.addUpdate
                    {
                        Reward = one
                        Advantages = row [| 1.0 |]
                        Mask = one
                        CorrectorLoss = one
                        UpdaterLoss = one
                        EstimatorLoss = one
                        CriticLoss = one
                        ActorLoss = one
                    }
                    sums

                let report = RlkdSums.read sums

                for _, key, _ in RlkdReport.table.Columns do
                    Must.hold (report.ContainsKey key)

                let figures = RlkdReport.figures "run" [ 1, Map.empty; 2, report; 3, Map.empty ]

                Must.equal
                    [
                        "T and the student's uncertainty"
                        "The agent's policy: run"
                        "The agent's T by uncertainty: run, epoch 2"
                    ]
                    (figures |> List.map _.Title)

                Must.equal [ "run", [ 2.0, report["correlation"] ] ] figures.Head.Curves
                let mean = figures[1].Curves.Head |> snd
                Must.equal [ 2.0, report["policyMean"] ] mean

                for _, points in figures[2].Curves do
                    Must.equal 10 points.Length
            )
        }
    ]
