module Ctkd.Fs.Tests.MetricsTests

open System
open System.IO
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Folders

let private line (epoch: int) : EpochMetrics = {
    Epoch = epoch
    LearningRate = 0.05
    Loss = 1.0 / 3.0
    Terms = Map [ "ce", 0.1; "kd", 1e-300 ]
    T = Some 4.0
    SmallestT = Some 3.5
    LargestT = None
    SpreadT = Some { Q05 = 3.6; Q25 = 3.8; Median = 4.0; Q75 = 4.2; Q95 = 4.4 }
    GradientT = Some -0.01
    SlopeT = Some 0.2
    Lambda = Some 0.1
    Reported = Map [ "sharpness/student", 2.5; "temperature/teacher", 5.25 ]
    Agent = Map [ "reward", -0.01; "correlation", 0.5 ]
    TrainTop1 = 100.0
    Top1 = 12.5
    Top5 = 50.0
    TestLoss = 2.3
    ValTop1 = Some 12.0
    ValLoss = Some 2.4
    ImagesPerSecond = 1e5
    Seconds = 0.25
    Waited = Some 12.5
    Warning = None
}

/// Runs a test with the path of a metrics file that holds so many lines.
let private withLines (count: int) (body: string -> EpochMetrics list -> unit) : unit =
    inFolder (fun folder ->
        let path = Path.Combine(folder, "metrics.jsonl")
        let lines = List.init count (fun i -> line (i + 1))
        lines |> List.iter (Metrics.append path >> Error.orRaise)
        body path lines
    )

/// A line as versions before photographs, validations and reported numbers wrote it.
let private older (line: EpochMetrics) : string =
    let json = (System.Text.Json.Nodes.JsonNode.Parse(Json.write line) |> nonNull).AsObject()

    for name in [ "waited"; "valTop1"; "valLoss"; "reported" ] do
        Must.hold (json.Remove name)

    json.ToJsonString()

let tests =
    testList "Metrics" [
        test "lines of earlier versions are read, and kept when a run resumes" {
            inFolder (fun folder ->
                let path = Path.Combine(folder, "metrics.jsonl")
                let lines = [ line 1; line 2 ]
                File.WriteAllText(path, lines |> List.map (fun line -> older line + "\n") |> String.concat "")

                let expected =
                    lines
                    |> List.map (fun line -> {
                        line with
                            Waited = None
                            ValTop1 = None
                            ValLoss = None
                            Reported = Map.empty
                    })

                Must.equal (Ok expected) (Metrics.read path)
                Must.equal (Ok(expected, None)) (Metrics.readable 2 path)
                Must.equal (Ok(expected, None)) (Metrics.keep 2 path)
                Must.equal (Ok expected) (Metrics.read path)
            )
        }

        test "lines are appended one JSON object each and read back equal" {
            withLines
                3
                (fun path lines ->
                    Must.equal lines (Metrics.read path |> Error.orRaise)
                    Must.equal (lines |> List.map Json.write |> Array.ofList) (File.ReadAllLines path)
                    Must.endWith "}\n" (File.ReadAllText path)
                )
        }

        test "an absent file holds no lines, and keeping lines of it makes none" {
            inFolder (fun folder ->
                let path = Path.Combine(folder, "metrics.jsonl")
                Must.equal (Ok []) (Metrics.read path)
                let lines, warning = Metrics.keep 3 path |> Error.orRaise
                Must.beEmpty lines
                Must.contain "3 of 3 lines" (Option.get warning)
                Must.beEmpty (Directory.GetFiles folder)
            )
        }

        test "a line that a crash cut short anywhere is left out, and keeping lines removes it" {
            withLines
                2
                (fun path lines ->
                    let whole = File.ReadAllText path
                    let third = Json.write (line 3)

                    for length in 1 .. third.Length - 1 do
                        File.WriteAllText(path, whole + third.Substring(0, length))
                        Must.equal lines (Metrics.read path |> Error.orRaise)

                    Must.equal (lines, None) (Metrics.keep 2 path |> Error.orRaise)
                    Must.equal whole (File.ReadAllText path)
                    Metrics.append path (line 3) |> Error.orRaise
                    Must.equal 3 ((Metrics.read path |> Error.orRaise).Length)
                )
        }

        test "a whole line of another version is an error that says so" {
            withLines
                2
                (fun path _ ->
                    let older = (Json.write (line 1)).Replace("\"warning\":null,", "").Replace(",\"warning\":null", "")

                    File.AppendAllText(path, older + "\n")

                    let error = errorOf (Metrics.read path)
                    Must.equal (Mismatch, path) (error.Kind, error.Where)
                    Must.contain "line 3 holds no metrics of this version" error.What
                    Must.contain "warning" error.What
                    Must.contain "start a new run" error.Next
                )
        }

        test "where a line of the run is damaged the others are kept, and the file as it was stays beside them" {
            for damaged in 0..2 do
                withLines
                    3
                    (fun path lines ->
                        let texts = File.ReadAllLines path
                        texts[damaged] <- texts[damaged].Substring 10
                        let before = String.concat "\n" texts
                        File.WriteAllText(path, before)
                        let others = List.removeAt damaged lines

                        Must.equal
                            (others, Some $"1 of 3 lines of {path} are missing or damaged")
                            (Metrics.readable 3 path |> Error.orRaise)

                        Must.equal before (File.ReadAllText path)

                        let kept, warning = Metrics.keep 3 path |> Error.orRaise
                        Must.equal others kept
                        Must.contain $"{path}.damaged" (Option.get warning)
                        Must.equal before (File.ReadAllText(path + ".damaged"))
                        Must.equal others (Metrics.read path |> Error.orRaise)

                        // A second loss overwrites nothing.
                        File.WriteAllText(path, "{")
                        Metrics.keep 2 path |> Error.orRaise |> ignore
                        Must.equal before (File.ReadAllText(path + ".damaged"))
                        Must.equal "{" (File.ReadAllText(path + ".damaged-2"))
                    )
        }

        test "only the first lines are kept" {
            for count in 0..3 do
                withLines
                    3
                    (fun path lines ->
                        let kept = List.truncate count lines
                        Must.equal (kept, None) (Metrics.keep count path |> Error.orRaise)
                        Must.equal kept (Metrics.read path |> Error.orRaise)
                    )
        }

        test "a file that cannot be written is an error with the remedy" {
            for path in [ "/dev/null/metrics.jsonl"; "/proc/metrics.jsonl" ] do
                let error = errorOf (Metrics.append path (line 1))
                Must.equal (Unwritable, path) (error.Kind, error.Where)
                Must.contain "--out" error.Next
        }

        // ---- the metrics of an epoch ----

        test "an epoch's metrics are the means over its images and the schedules' values" {
            Tensor.scoped (fun () ->
                let curriculum = Schedule.linear 0.0 1.0 4

                let plan = Plans.alone |> Plans.taught (Ctkd.globalPolicy Ctkd.publishedRange curriculum)

                let plan = { plan with LearningRate = Schedule.linear 1.0 0.0 4 }
                let state = Plans.complete plan (Plans.upload 24 plan) (TrainState.start plan)
                let test = { Images = 8; Correct = 2; CorrectTop5 = 6; Loss = 1.5 }
                let means = EpochSums.means state.Sums

                // One of the three steps was done before the run was resumed: two thirds of 24 images in 2 s.
                let m = Metrics.ofEpoch plan state 1 test 2.0 None
                Must.equal (1, 0.75, 0.25) (m.Epoch, m.LearningRate, m.Lambda.Value)
                Must.equal [ "ce"; "kd" ] (m.Terms |> Map.toList |> List.map fst)
                Must.equal means.Terms[0] m.Terms["ce"]
                Must.equal means.Terms[1] m.Terms["kd"]
                Must.equal means.Terms[2] m.Loss
                Must.beNear 0.0 (1e-6) (0.1 * m.Terms["ce"] + 0.9 * m.Terms["kd"]) m.Loss
                Must.equal (25.0, 75.0, 1.5) (m.Top1, m.Top5, m.TestLoss)
                Must.equal (100.0 * means.Accuracy) m.TrainTop1
                Must.equal (8.0, 2.0) (Math.Round(m.ImagesPerSecond, 9), m.Seconds)
                Must.lie m.SmallestT.Value m.LargestT.Value m.T.Value
                Must.lie 15.0 15.7 m.SmallestT.Value
            )
        }

        test "results on the validation stand in the line where there are any, and choose the best epoch" {
            let measured = { Images = 8; Correct = 4; CorrectTop5 = 8; Loss = 1.25 }
            let m = Metrics.withValidation (Some measured) (line 3)
            Must.equal (Some 50.0, Some 1.25) (m.ValTop1, m.ValLoss)
            Must.equal { Epoch = 3; Top1 = 12.5; ValTop1 = Some 50.0 } (Metrics.candidate m)
            let without = Metrics.withValidation None m
            Must.equal (None, None) (without.ValTop1, without.ValLoss)
            Must.equal { Epoch = 3; Top1 = 12.5; ValTop1 = None } (Metrics.candidate without)
        }

        test "without a teacher there is neither T nor lambda" {
            Tensor.scoped (fun () ->
                let plan = Plans.alone
                let state = Plans.complete plan (Plans.upload 24 plan) (TrainState.start plan)
                let test = { Images = 8; Correct = 2; CorrectTop5 = 6; Loss = 1.5 }
                let m = Metrics.ofEpoch plan state 0 test 2.0 None
                Must.equal (None, None, None, None) (m.T, m.SmallestT, m.LargestT, m.Lambda)
                Must.equal [ "ce" ] (m.Terms |> Map.toList |> List.map fst)
                Must.beNear 0.0 (1e-9) m.Terms["ce"] m.Loss
                Must.contain "\"t\":null" (Json.write m)
            )
        }
    ]
