/// TensorBoard's event files of runs, read by a reader of the tests' own.
module Ctkd.Fs.Tests.EventLogTests

open System
open System.IO
open System.Text
open System.Text.Json
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.EventReader
open Ctkd.Fs.Tests.Folders

let private events (folder: string) : string = Path.Combine(folder, "events")

let private logged (s: Settings) : Settings = { s with Log = [ LogName.Tensorboard ] }

let private now () : float = float (DateTimeOffset.UtcNow.ToUnixTimeMilliseconds()) / 1000.0

/// The scalars that a line of `metrics.jsonl` asks for, from its JSON.
let private expected (line: string) : (string * float32) list =
    let json = JsonDocument.Parse(line).RootElement

    let number (tag: string) (field: string) =
        match json.GetProperty field with
        | value when value.ValueKind = JsonValueKind.Number -> [ tag, float32 (value.GetDouble()) ]
        | _ -> []

    let group (tag: string) (field: string) = [
        for item in json.GetProperty(field).EnumerateObject() -> $"{tag}/{item.Name}", float32 (item.Value.GetDouble())
    ]

    List.concat [
        number "accuracy/top1" "top1"
        number "accuracy/top5" "top5"
        number "accuracy/train_top1" "trainTop1"
        number "accuracy/validation_top1" "valTop1"
        number "loss/train" "loss"
        number "loss/test" "testLoss"
        number "loss/validation" "valLoss"
        group "loss_parts" "terms"
        number "learning_rate" "learningRate"
        number "temperature/T" "t"
        number "temperature/smallest" "smallestT"
        number "temperature/largest" "largestT"
        number "temperature/gradient" "gradientT"
        number "temperature/slope" "slopeT"
        number "temperature/lambda" "lambda"
        [
            for item in json.GetProperty("reported").EnumerateObject() -> item.Name, float32 (item.Value.GetDouble())
        ]
        group "agent" "agent"
        number "speed/images_per_second" "imagesPerSecond"
        number "speed/seconds" "seconds"
        number "speed/waited_percent" "waited"
    ]
    |> List.sort

let private scalars (values: (string * Value) list) : (string * float32) list =
    [
        for tag, value in values do
            match value with
            | Number number -> tag, number
            | Spread _ -> ()
    ]
    |> List.sort

let private spreads (values: (string * Value) list) : (string * Counts) list = [
    for tag, value in values do
        match value with
        | Spread counts -> tag, counts
        | Number _ -> ()
]

/// The events of a run's folder are its lines of metrics: each epoch once, with the same numbers.
let private areItsMetrics (folder: string) : (int * float * (string * Value) list) list =
    let lines = File.ReadAllLines(Path.Combine(folder, "metrics.jsonl")) |> List.ofArray
    let shown = shown (events folder)
    Must.equal [ for i in 1 .. lines.Length -> i ] [ for step, _, _ in shown -> step ]

    for line, (_, _, values) in List.zip lines shown do
        Must.equal (expected line) (scalars values)

    shown

let private resume (path: string) : Summary = Run.resume Hooks.none path |> Error.orRaise

let tests =
    testList "EventLog" [
        test "the checksum is CRC-32C: of 123456789 it is E3069283" {
            Must.equal 0xE3069283u (EventRecord.crc32c (Encoding.ASCII.GetBytes "123456789"))
            Must.equal 0u (EventRecord.crc32c [||])
        }

        testProperty
            "the checksum is that of the definition, bit by bit"
            (fun (bytes: byte[]) -> EventRecord.crc32c bytes = crc32c bytes)

        test "a histogram counts every number once, between its smallest and its largest" {
            let numbers = [| 4.0; 1.0; 2.5; 1.0; 3.0; 2.0 |]
            let counts = Histogram.ofNumbers 3 numbers |> Option.get
            Must.equal [| 2.0; 3.0; 4.0 |] counts.Limits
            Must.equal [| 3.0; 2.0; 1.0 |] counts.Counts
            Must.equal (1.0, 4.0, 13.5) (counts.Smallest, counts.Largest, counts.Sum)
            Must.equal (numbers |> Array.sumBy (fun x -> x * x)) counts.SumOfSquares
            let same = Histogram.ofNumbers 30 [| 2.0; 2.0 |] |> Option.get
            Must.equal ([| 2.0 |], [| 2.0 |]) (same.Limits, same.Counts)
            Must.equal None (Histogram.ofNumbers 30 [||])
        }

        test "a run writes event files only where it is asked to, and metrics.jsonl always" {
            inFolder (fun folder ->
                Runs.finish (Runs.run folder) Runs.small |> ignore
                Must.notHold (Directory.Exists(events (Runs.run folder)))
                let other = Path.Combine(folder, "other")
                Runs.finish other (logged Runs.small) |> ignore
                Must.equal (Runs.lines (Runs.run folder)) (Runs.lines other)
                Must.equal 1 (files (events other)).Length
                areItsMetrics other |> ignore
            )
        }

        for policy in [ "fixed"; "ctkd-instance"; "rlkd"; "dtkd" ] do
            test
                $"each epoch's event has the numbers of metrics.jsonl under {policy}, and the time at which it was written" {
                inFolder (fun folder ->
                    let before = now ()

                    Runs.finish (Runs.run folder) (logged (Runs.taught policy { Runs.small with ValSplit = 0.1 }))
                    |> ignore

                    let after = now ()
                    let shown = areItsMetrics (Runs.run folder)
                    let times = [ for _, time, _ in shown -> time ]
                    Must.equal (List.sort times) times
                    times |> List.iter (Must.lie before after)

                    for line, (_, _, values) in List.zip (Runs.lines (Runs.run folder)) shown do
                        if line.SmallestT = line.LargestT then
                            Must.beEmpty (spreads values)
                        else
                            let tag, counts = Must.single (spreads values)
                            Must.equal "temperature/over_images" tag

                            match counts.Facts with
                            | [ smallest; largest; number; sum; squares ] ->
                                Must.beNear 1e-6 0.0 line.SmallestT.Value smallest
                                Must.beNear 1e-6 0.0 line.LargestT.Value largest
                                // Five images of each of the ten digits.
                                Must.equal (50.0, 50.0) (number, Array.sum counts.Counts)
                                Must.beNear 1e-6 0.0 line.T.Value (sum / number)
                                Must.hold (squares >= sum * sum / number)
                            | other -> failtest $"%A{other}"

                            Must.equal (Array.sort counts.Limits) counts.Limits
                            Must.equal counts.Facts[1] (Array.last counts.Limits)

                    if policy = "dtkd" then
                        for _, _, values in shown do
                            for tag in [ "temperature/teacher"; "sharpness/student" ] do
                                Must.have tag (List.map fst (scalars values))

                    if policy = "ctkd-instance" then
                        Must.hold (shown |> List.forall (fun (_, _, values) -> not (spreads values).IsEmpty))
                )
            }

        test "a run that was interrupted and goes on writes each step once, in a file that follows the first" {
            inFolder (fun folder ->
                let settings = logged { Runs.small with Epochs = 3 }
                Run.start (Runs.stopAfter 6) (Runs.run folder) settings |> Error.orRaise |> ignore
                Must.equal [ 1 ] [ for step, _, _ in shown (events (Runs.run folder)) -> step ]
                resume (Runs.run folder) |> ignore
                Must.equal 2 (files (events (Runs.run folder))).Length
                areItsMetrics (Runs.run folder) |> ignore
            )
        }

        test "events after the checkpoint that a run resumes from no longer count, also where the clock went back" {
            inFolder (fun folder ->
                let run, at = Runs.run folder, Path.Combine(folder, "earlier.safetensors")

                let hooks = {
                    Hooks.none with
                        OnEpoch = fun m -> if m.Epoch = 1 then File.Copy(Path.Combine(run, "last.safetensors"), at)
                }

                Run.start hooks run (logged { Runs.small with Epochs = 3 }) |> Error.orRaise |> ignore
                // As if the process had ended before it wrote the second epoch's checkpoint, on a machine whose clock was ahead.
                File.Copy(at, Path.Combine(run, "last.safetensors"), true)
                let written = Must.single (files (events run))
                File.Move(written, Path.Combine(events run, "events.out.tfevents.9000000000.ctkd"))
                resume run |> ignore
                Must.equal 2 (files (events run)).Length
                let second = fst (parse (File.ReadAllBytes(List.last (files (events run)))))
                Must.equal (Session 1UL, 2) (second[1].Content, second[1].Step)
                areItsMetrics run |> ignore
            )
        }

        test "a file that is cut anywhere has its whole records, and a run that resumes leaves it as it is" {
            inFolder (fun folder ->
                let run = Runs.run folder
                Runs.finish run (logged Runs.small) |> ignore
                let path = Must.single (files (events run))
                let bytes = File.ReadAllBytes path
                let whole, torn = parse bytes
                Must.equal (3, 0) (whole.Length, torn)

                for length in 0 .. bytes.Length do
                    let read, torn = parse bytes[.. length - 1]
                    Must.equal (List.truncate read.Length whole) read
                    Must.equal (length = bytes.Length) (read.Length = 3 && torn = 0)

                let cut = bytes[.. bytes.Length - 20]
                File.WriteAllBytes(path, cut)

                Run.resumeChanged
                    run
                    (fun s -> { s with Epochs = 3 })
                    (Prepare.ofSettings Hooks.none Settings.defaults)
                |> Error.orRaise
                |> ignore

                Must.equal cut (File.ReadAllBytes path)
                Must.equal [ 1; 3 ] [ for step, _, _ in shown (events run) -> step ]
            )
        }

        test "--log may change when a run is resumed" {
            inFolder (fun folder ->
                let run = Runs.run folder
                Run.start (Runs.stopAfter 4) run Runs.small |> Error.orRaise |> ignore

                Run.resumeChanged run logged (Prepare.ofSettings Hooks.none Settings.defaults)
                |> Error.orRaise
                |> ignore

                Must.equal [ 2 ] [ for step, _, _ in shown (events run) -> step ]
            )
        }

        test "options of C# ask for event files by the setting's name" {
            let options = TrainingOptions()
            options["log"] <- "jsonl tensorboard"
            Must.equal [ LogName.Jsonl; LogName.Tensorboard ] (options.ToSettings()).Log
            Must.equal "jsonl,tensorboard" options["log"]
            Must.contain "no such name" (Must.throw<CtkdException>(fun () -> options["log"] <- "csv")).Error.What
        }

        test "where events cannot be written the run ends with an error that says so, and its checkpoints are whole" {
            inFolder (fun folder ->
                let run = Runs.run folder
                Directory.CreateDirectory run |> ignore
                File.WriteAllText(events run, "a file in the way")
                let error = errorOf (Run.start Hooks.none run (logged Runs.small))
                Must.equal Unwritable error.Kind
                Must.contain "the events for TensorBoard cannot be written" error.What
                Must.contain "--log jsonl" error.Next
            )
        }
    ]
