/// Whole runs with the options of training.
module Ctkd.Fs.Tests.RunOptionsTests

open System
open System.IO
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Folders

let private adamw (s: Settings) : Settings = Settings.withOptimiser OptimiserName.Adamw s

/// Every option by its name, and all at once.
let private options: (string * (Settings -> Settings)) list =
    let each = [
        "adamw", adamw
        "cosine", (fun s -> { s with LrSchedule = RateSchedule.Cosine; LrStop = 1e-4; LrWarmUp = 1 })
        "labels", (fun s -> { s with LabelSmoothing = 0.1 })
        "mixup", (fun s -> { s with Mixup = 0.4 })
        "clip", (fun s -> { s with ClipGradients = 0.5 })
        "ema", (fun s -> { s with Ema = 0.7 })
        "patience", (fun s -> { s with Patience = 5 })
    ]

    each @ [ "all", List.fold (fun change (_, next) -> change >> next) id each ]

/// A run that is interrupted after so many batches, and goes on.
let private interrupted (settings: Settings) (batches: int) (folder: string) : unit =
    let stopped = Run.start (Runs.stopAfter batches) folder settings |> Error.orRaise
    Must.equal Interrupted stopped.Ending
    Must.equal Finished ((Run.resume Hooks.none folder |> Error.orRaise).Ending)

/// A run with what it said.
let private saying (body: Hooks -> Result<Summary, Error>) : Summary * string list =
    let said = ResizeArray<string>()
    let summary = body { Hooks.none with Say = said.Add } |> Error.orRaise
    summary, List.ofSeq said

/// Settings under which the accuracy soon stops rising, and the epoch after which patience of 2 ends the run, from the
/// accuracies of the run without it.
let private stalling (folder: string) : Settings * int * Summary =
    let settings = { Runs.small with Epochs = 12; Milestones = [ 1 ]; Decay = 1e-6 }
    let whole = Runs.finish folder settings

    let rec stop (best: float) (since: int) (lines: EpochMetrics list) =
        match lines with
        | line :: rest ->
            if line.Top1 > best then stop line.Top1 0 rest
            elif since = 1 then line.Epoch
            else stop best (since + 1) rest
        | [] -> Int32.MaxValue

    let last = stop 0.0 0 whole.Epochs
    Must.lie 3 11 last
    settings, last, whole

let tests =
    testList "RunOptions" [
        for name, change in options do
            test $"a run with {name} resumes identical to the bit" {
                inFolder (fun folder ->
                    let at name = Path.Combine(folder, name)
                    let settings = change (Runs.taught "ctkd-global" Runs.small)
                    Runs.finish (at "whole") settings |> ignore
                    let plain = Runs.taught "ctkd-global" Runs.small

                    for batches in (if name = "all" then [ 1; 4; 6 ] else [ 5 ]) do
                        interrupted settings batches (at $"run{batches}")
                        Must.equal (Runs.outcome (at "whole")) (Runs.outcome (at $"run{batches}"))

                    if name <> "patience" then
                        Runs.finish (at "plain") plain |> ignore
                        let tensors name = snd (Runs.contents (Path.Combine(at name, "last.safetensors")))
                        Must.differ (tensors "plain") (tensors "whole")
                )
            }

        test "from labels alone all options at once resume identical to the bit, in bfloat16 too" {
            inFolder (fun folder ->
                for precision in [ F32; Bf16 ] do
                    let at name = Path.Combine(folder, $"{precision}-{name}")
                    let settings = { (snd (List.last options)) Runs.small with Precision = precision }
                    Runs.finish (at "whole") settings |> ignore
                    interrupted settings 5 (at "run")
                    Must.equal (Runs.outcome (at "whole")) (Runs.outcome (at "run"))
            )
        }

        // ---- averaged weights ----

        test "the average is evaluated, is the best checkpoint's and is what a model is loaded from" {
            inFolder (fun folder ->
                let settings = { Runs.small with Ema = 0.5; Epochs = 3 }
                let summary = Runs.finish (Runs.run folder) settings

                for file, top1 in [ "last", summary.Top1.Value; "best", summary.Best.Top1 ] do
                    Tensor.scoped (fun () ->
                        let path = Path.Combine(Runs.run folder, $"{file}.safetensors")
                        let loaded = LoadedModel.load ignore Device.Cpu None path |> Error.orRaise
                        let accuracy = LoadedModel.accuracy Device.Cpu settings loaded |> Error.orRaise
                        Must.equal top1 accuracy.Top1
                        let checkpoint = Checkpoint.read path |> Error.orRaise

                        let stored prefix =
                            checkpoint.Tensors
                            |> List.find (fun t -> t.Name = $"{prefix}fc.weight")
                            |> fun t -> Convert.ToHexString t.Bytes.Span

                        let fc = Tree.find "fc.weight" loaded.Weights |> Tensor.toBytes |> Convert.ToHexString
                        Must.equal (stored "average/weights/") fc
                        Must.differ (stored "student/") fc
                    )

                let best = summary.Epochs |> List.maxBy _.Top1
                Must.equal best.Top1 summary.Best.Top1
            )
        }

        // ---- early stopping ----

        test "a run ends as finished when its best accuracy has not risen for the epochs of its patience, and says so" {
            inFolder (fun folder ->
                let settings, last, whole = stalling (Path.Combine(folder, "whole"))
                let settings = { settings with Patience = 2 }
                let summary, said = saying (fun hooks -> Run.start hooks (Runs.run folder) settings)
                Must.equal (Finished, true, last) (summary.Ending, summary.StoppedEarly, summary.Epochs.Length)
                Must.notHold whole.StoppedEarly
                Must.equal (List.truncate last (Runs.lines whole.Folder)) (Runs.lines (Runs.run folder))

                let expected =
                    $"stopped early after epoch {last}: the best top-1, %.2f{summary.Best.Top1} %% of epoch {summary.Best.Epoch}, has not risen for 2 epochs"

                Must.equal expected (List.last said)
                Must.equal (last - 2) summary.Best.Epoch
            )
        }

        test "resumed it trains nothing and says why, and with more patience it goes on as a run that never stopped" {
            inFolder (fun folder ->
                let settings, last, whole = stalling (Path.Combine(folder, "whole"))
                Runs.finish (Runs.run folder) { settings with Patience = 2 } |> ignore
                let before = Runs.files (Runs.run folder)
                let summary, said = saying (fun hooks -> Run.resume hooks (Runs.run folder))
                Must.equal (Finished, true, last) (summary.Ending, summary.StoppedEarly, summary.Epochs.Length)
                Must.startWith $"stopped early after epoch {last}" said.Head
                Must.contain "--patience" (List.last said)
                Must.equal before (Runs.files (Runs.run folder))
                let experiment hooks = Prepare.ofSettings hooks Settings.defaults
                let more (s: Settings) = { s with Patience = 0 }
                let ended, _ = saying (fun hooks -> experiment hooks |> Run.resumeChanged (Runs.run folder) more)
                Must.equal (Finished, false, 12) (ended.Ending, ended.StoppedEarly, ended.Epochs.Length)
                Must.equal (Runs.outcome whole.Folder) (Runs.outcome (Runs.run folder))
            )
        }

        test "less patience given in the middle of an epoch ends the run after that epoch" {
            inFolder (fun folder ->
                let settings, last, _ = stalling (Path.Combine(folder, "whole"))
                Run.start (Runs.stopAfter (4 * last + 2)) (Runs.run folder) settings |> Error.orRaise |> ignore
                let experiment hooks = Prepare.ofSettings hooks Settings.defaults
                let less (s: Settings) = { s with Patience = 1 }
                let ended, _ = saying (fun hooks -> experiment hooks |> Run.resumeChanged (Runs.run folder) less)

                // The best may rise in that epoch; then patience counts anew.
                Must.equal (Finished, true) (ended.Ending, ended.StoppedEarly)
                Must.hold (ended.Epochs.Length > last)
                let checkpoint = Checkpoint.read (Runs.last folder) |> Error.orRaise
                Must.equal (ended.Epochs.Length + 1, 0) (checkpoint.Info.Epoch, checkpoint.Info.Step)
            )
        }

        test "a report shows the options that are on, and that a run stopped early" {
            inFolder (fun folder ->
                let settings, last, whole = stalling (Path.Combine(folder, "whole"))
                let summary = Runs.finish (Runs.run folder) { settings with Patience = 2 }

                let html (s: Summary) =
                    let path = Path.Combine(folder, "report.html")
                    RunReport.write path "title" [ "a", s ] |> Error.orRaise
                    File.ReadAllText path

                Must.contain $"stopped early</dt><dd>after epoch {last}: the best" (html summary)
                Must.lack "stopped early" (html whole)
                Must.lack "label smoothing" (html whole)
                let all = (snd (List.last options)) settings

                for text in [ "adamw"; "half a cosine"; "label smoothing"; "mixup"; "moving average"; "patience" ] do
                    Must.contain text (html { whole with Settings = all })
            )
        }

        test "mixup beside the agent of a policy of the program's own is refused before training" {
            inFolder (fun folder ->
                let experiment = {
                    Prepare.ofSettings Hooks.none { Runs.taught "fixed" Runs.small with Mixup = 0.2 } with
                        Policy = Some(Rlkd.policy Plans.eager 4.0)
                }

                let error = Run.startExperiment (Runs.run folder) experiment |> errorOf
                Must.equal Usage error.Kind
                Must.contain "mixup" error.Next
            )
        }
    ]
