module Ctkd.Fs.Tests.RunTests

open System
open System.IO
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Folders

// ---- interrupted and resumed ----

/// A run that is stopped at each of the given numbers of batches, then resumed to its end, leaves what the
/// undisturbed one leaves.
let private resumesIdentically (settings: Settings) (stops: int list) : unit =
    inFolder (fun folder ->
        let undisturbed = Path.Combine(folder, "undisturbed")
        Runs.finish undisturbed settings |> ignore
        let expected = Runs.outcome undisturbed

        for stop in stops do
            let out = Path.Combine(folder, $"stop-{stop}")
            let interrupted = Run.start (Runs.stopAfter stop) out settings |> Error.orRaise
            Must.equal Interrupted interrupted.Ending
            let info, _ = Runs.contents interrupted.Checkpoint
            Must.equal stop (4 * (info.Epoch - 1) + info.Step)
            let resumed = Run.resume Hooks.none out |> Error.orRaise
            Must.equal (Finished, 2) (resumed.Ending, resumed.Epochs.Length)

            Expect.isTrue (Runs.outcome out = expected) $"the run differs that was stopped after {stop} batches"
    )

// ---- resumed after a crash, from elsewhere, from an older checkpoint ----

/// Runs a test with a finished run and a copy of its checkpoint after the first epoch.
let private withOlder (body: string -> string -> unit) : unit =
    inFolder (fun folder ->
        let older = Path.Combine(folder, "older.safetensors")

        let keep (m: EpochMetrics) = if m.Epoch = 1 then File.Copy(Runs.last folder, older)
        let hooks = { Hooks.none with OnEpoch = keep }
        Run.start hooks (Runs.run folder) (Runs.taught "ctkd-global" Runs.small) |> Error.orRaise |> ignore
        body folder older
    )

let tests =
    testList "Run" [
        // ---- a run ----

        test "a run writes its settings, a line an epoch, and its last and best checkpoints" {
            inFolder (fun folder ->
                let seen = ResizeArray<int * int * int>()
                let epochs = ResizeArray<EpochMetrics>()
                let said = ResizeArray<string>()

                let hooks = {
                    Hooks.none with
                        OnBatch = fun epoch step steps -> seen.Add((epoch, step, steps))
                        OnEpoch = epochs.Add
                        Say = said.Add
                }

                let settings = Runs.small |> Runs.onAllTests |> Runs.taught "ctkd-global"
                let summary = Run.start hooks (Runs.run folder) settings |> Error.orRaise

                Must.equal
                    [
                        for e in 1..2 do
                            for s in 1..4 -> e, s, 4
                    ]
                    (List.ofSeq seen)

                Must.equal
                    (Finished, settings, Runs.run folder, Runs.last folder)
                    (summary.Ending, summary.Settings, summary.Folder, summary.Checkpoint)

                Must.equal (List.ofSeq epochs) summary.Epochs

                Must.equal
                    summary.Epochs
                    (Metrics.read (Path.Combine(Runs.run folder, "metrics.jsonl")) |> Error.orRaise)

                Must.equal [ 1; 2 ] (summary.Epochs |> List.map _.Epoch)
                let json = File.ReadAllText(Path.Combine(Runs.run folder, "settings.json"))
                Must.equal (Ok settings) (Json.read<Settings> "" json)

                let info, _ = Runs.contents (Runs.last folder)
                let best, _ = Runs.contents (Path.Combine(Runs.run folder, "best.safetensors"))

                Must.equal
                    (3, 0, 2, 10, 64)
                    (info.Epoch, info.Step, info.MetricLines, info.Classes, info.DataHash.Length)

                Must.equal (summary.Epochs[1].Top1, summary.Best) (info.Top1, info.Best)
                Must.equal (summary.Epochs |> List.map _.Top1 |> List.max) summary.Best.Top1

                Must.equal
                    (summary.Best, summary.Best.Top1, summary.Best.Epoch)
                    (best.Best, best.Top1, best.MetricLines)

                Must.equal 64 info.TeacherHash.Length
                Must.equal 3 said.Count
                Must.equal "digits: 50 training and 1797 test images" said[0]
                Must.startWith "warning: the last batch of each epoch has 2 images" said[1]
                Must.matchRegex @"^teacher resnet8: \d+\.\d\d % top-1 on 1797 test images$" said[2]
                Must.equal ((Runs.contents Runs.teacher.Value |> fst).Top1) summary.Teacher.Value.Top1
            )
        }

        test "two runs of one seed are identical to the bit, and another seed differs" {
            inFolder (fun folder ->
                let of' name seed =
                    let out = Path.Combine(folder, name)
                    Runs.finish out { Runs.taught "ctkd-instance" Runs.small with Seed = seed } |> ignore
                    Runs.lines out, Runs.contents (Path.Combine(out, "last.safetensors")) |> snd

                let first = of' "a" 1
                Must.equal first (of' "b" 1)
                Must.differ first (of' "c" 2)
            )
        }

        test "a run leaves no tensor behind, also when it fails" {
            inFolder (fun folder ->
                let settings = Runs.taught "ctkd-global" Runs.small
                // What oneDNN arranged for a weight goes with that weight, when it is collected.
                Must.leaveNothing (fun () -> Runs.finish (Runs.run folder) settings |> ignore)

                Must.leaveNothing (fun () -> Run.start Hooks.none (Runs.run folder) settings |> errorOf |> ignore)
            )
        }

        test "a run alone resumes identical to the bit from every batch" {
            resumesIdentically Runs.small [ 0 .. Runs.batches - 1 ]
        }

        test "a run under a fixed T resumes identical to the bit" {
            resumesIdentically (Runs.taught "fixed" Runs.small) [ 1; 4; 6 ]
        }

        test "a run under CTKD's global T resumes identical to the bit from every batch" {
            resumesIdentically (Runs.taught "ctkd-global" Runs.small) [ 0 .. Runs.batches - 1 ]
        }

        test "a run under CTKD's instance-wise T resumes identical to the bit" {
            resumesIdentically (Runs.taught "ctkd-instance" Runs.small) [ 3; 4; 7 ]
        }

        test "a run under RLKD's agent resumes identical to the bit from every batch" {
            resumesIdentically (Runs.taught "rlkd" Runs.small) [ 0 .. Runs.batches - 1 ]
        }

        test "a run in bfloat16 with the channels outermost resumes identical to the bit" {
            let settings = { Runs.small with Precision = Bf16; ChannelsLast = false; Nesterov = true }
            resumesIdentically settings [ 2; 5 ]
        }

        test "a run under RLKD's agent in bfloat16 resumes identical to the bit" {
            resumesIdentically { Runs.taught "rlkd" Runs.small with Precision = Bf16 } [ 2; 6 ]
        }

        test "a run that is interrupted after every batch ends like the undisturbed one" {
            inFolder (fun folder ->
                let settings = Runs.taught "ctkd-global" Runs.small
                let undisturbed = Path.Combine(folder, "undisturbed")
                Runs.finish undisturbed settings |> ignore

                let rec go (summary: Summary) (interruptions: int) =
                    match summary.Ending with
                    | Finished -> interruptions
                    | Interrupted ->
                        go (Run.resume (Runs.stopAfter 1) (Runs.run folder) |> Error.orRaise) (interruptions + 1)

                let first = Run.start (Runs.stopAfter 1) (Runs.run folder) settings |> Error.orRaise
                Must.equal (Runs.batches - 1) (go first 0)
                Must.equal (Runs.outcome undisturbed) (Runs.outcome (Runs.run folder))
            )
        }

        test "a crash between the metrics and the checkpoint is healed" {
            withOlder (fun folder older ->
                let expected = Runs.outcome (Runs.run folder)
                File.Copy(older, Runs.last folder, true)
                let metrics = Path.Combine(Runs.run folder, "metrics.jsonl")
                Must.equal 2 ((Runs.lines (Runs.run folder)).Length)
                File.AppendAllText(metrics, "{\"epoch\":3,\"lear")
                Run.resume Hooks.none (Runs.run folder) |> Error.orRaise |> ignore
                Must.equal expected (Runs.outcome (Runs.run folder))
            )
        }

        test "a crash in the first epoch after its line is healed, twice over" {
            inFolder (fun folder ->
                let undisturbed = Path.Combine(folder, "undisturbed")
                Runs.finish undisturbed Runs.small |> ignore
                Run.start (Runs.stopAfter 2) (Runs.run folder) Runs.small |> Error.orRaise |> ignore
                let line = Runs.lines undisturbed |> List.head |> Json.write
                File.WriteAllText(Path.Combine(Runs.run folder, "metrics.jsonl"), line + "\n")
                Run.resume (Runs.stopAfter 1) (Runs.run folder) |> Error.orRaise |> ignore
                Must.beEmpty (Runs.lines (Runs.run folder))
                Run.resume Hooks.none (Runs.run folder) |> Error.orRaise |> ignore
                Must.equal (Runs.outcome undisturbed) (Runs.outcome (Runs.run folder))
            )
        }

        test "a run whose hook raises releases its folder and goes on from its last checkpoint" {
            inFolder (fun folder ->
                let undisturbed = Path.Combine(folder, "undisturbed")
                Runs.finish undisturbed Runs.small |> ignore
                let fail epoch step _ = if epoch = 2 && step = 3 then raise (TimeoutException "a power cut")
                let hooks = { Hooks.none with OnBatch = fail }

                Must.throw<TimeoutException>(fun () -> Run.start hooks (Runs.run folder) Runs.small |> ignore)
                |> ignore

                Run.resume Hooks.none (Runs.run folder) |> Error.orRaise |> ignore
                Must.equal (Runs.outcome undisturbed) (Runs.outcome (Runs.run folder))
            )
        }

        test "resuming an older checkpoint drops the lines after it, and ends alike" {
            withOlder (fun folder older ->
                let expected = Runs.outcome (Runs.run folder)
                let inside = Path.Combine(Runs.run folder, "older.safetensors")
                File.Copy(older, inside)
                let stopped = Run.resume (Runs.stopAfter 0) inside |> Error.orRaise
                Must.equal (Interrupted, 1) (stopped.Ending, stopped.Epochs.Length)
                Must.equal 1 ((Runs.lines (Runs.run folder)).Length)
                // What the folder resumes from is now the older checkpoint too: lines and checkpoint agree.
                Must.equal (Runs.contents older) (Runs.contents (Runs.last folder))
                // What came after it is kept beside.
                let checkpoint, _, lines = expected
                Must.equal checkpoint (Runs.contents (Runs.last folder + ".old"))
                let kept = Metrics.read (Path.Combine(Runs.run folder, "metrics.jsonl.old")) |> Error.orRaise
                Must.equal (lines |> List.map _.Epoch) (kept |> List.map _.Epoch)
                Run.resume Hooks.none (Runs.run folder) |> Error.orRaise |> ignore
                Must.equal expected (Runs.outcome (Runs.run folder))
            )
        }

        test "resuming the best checkpoint ends alike" {
            withOlder (fun folder older ->
                let expected = Runs.outcome (Runs.run folder)
                let best = Path.Combine(Runs.run folder, "best.safetensors")
                File.Copy(older, best, true)
                Must.equal Finished ((Run.resume Hooks.none best |> Error.orRaise).Ending)
                Must.equal expected (Runs.outcome (Runs.run folder))
            )
        }

        test "a checkpoint that was carried elsewhere goes on there" {
            withOlder (fun folder older ->
                let elsewhere = Directory.CreateDirectory(Path.Combine(folder, "elsewhere")).FullName
                let carried = Path.Combine(elsewhere, "c.safetensors")
                File.Copy(older, carried)
                let before = Runs.files (Runs.run folder)
                let summary = Run.resume Hooks.none carried |> Error.orRaise
                Must.equal (elsewhere, [ 2 ]) (summary.Folder, summary.Epochs |> List.map _.Epoch)
                let tensors path = Runs.contents path |> snd

                Must.equal (tensors (Runs.last folder)) (tensors (Path.Combine(elsewhere, "last.safetensors")))

                Must.equal ((Runs.lines (Runs.run folder)).Tail) (Runs.lines elsewhere)
                Must.equal before (Runs.files (Runs.run folder))
            )
        }

        test "a finished run that is resumed says so and changes nothing" {
            inFolder (fun folder ->
                let finished = Runs.finish (Runs.run folder) Runs.small
                let before = Runs.files (Runs.run folder)
                let never _ = failwith "no epoch was to be run"
                let again = Run.resume { Hooks.none with OnEpoch = never } (Runs.run folder) |> Error.orRaise
                Must.equal finished again
                Must.equal before (Runs.files (Runs.run folder))
            )
        }

        // ---- trained weights ----

        test "trained weights have the accuracy that their checkpoint recorded, in batches of any size" {
            Tensor.scoped (fun () ->
                let trained = LoadedModel.load ignore Device.Cpu None Runs.teacher.Value |> Error.orRaise
                let info = Option.get trained.Info
                Must.equal "resnet8" trained.Model.Name

                for batch in [ 100; 250; 1797; 5000 ] do
                    let accuracy =
                        LoadedModel.accuracy Device.Cpu { info.Settings with Batch = batch } trained |> Error.orRaise

                    Must.equal (1797, info.Top1) (accuracy.Images, accuracy.Top1)
            )
        }
    ]
