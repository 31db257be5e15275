/// Runs of the program that are interrupted, fail or meet a full disk.
module Ctkd.Fs.Tests.CommandRunTests

open System
open System.IO
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Child
open Ctkd.Fs.Tests.Folders

let private last (folder: string) : string = Path.Combine(folder, "a", "last.safetensors")

// ---- signals ----

/// A run that a signal interrupts after its first epoch exits with the code, and goes on to its end.
let private resumesAfter (signal: int) (code: int) : unit =
    inFolder (fun folder ->
        let ended =
            interrupted signal "epoch 1/" folder "teach --model resnet8 --per-class 20 --batch 16 --epochs 12 --out a"

        Must.equal (code, "") (ended.Code, ended.Err)
        Must.contain $"interrupted; go on with: ctkd teach --resume {folder}/a" ended.Out
        let info, _ = Runs.contents (last folder)
        Must.lie 2 12 info.Epoch
        Must.equal info.MetricLines (info.Epoch - 1)
        Must.equal info.MetricLines ((Runs.lines (Path.Combine(folder, "a"))).Length)

        let resumed = expect 0 folder "teach --resume a"
        Must.contain "epoch 12/12" resumed.Out
        Must.equal [ 1..12 ] (Runs.lines (Path.Combine(folder, "a")) |> List.map _.Epoch)

        // Once more: it is finished, and nothing but the report is written again.
        let before = Runs.files (Path.Combine(folder, "a"))
        let again = expect 0 folder "teach --resume a/last.safetensors"
        Must.lack "teach  epoch" again.Out
        Must.contain "all 12 epochs are done: nothing was trained" again.Out
        Must.equal before (Runs.files (Path.Combine(folder, "a")))
    )

let tests =
    testList "CommandRun" [
        test "Ctrl-C finishes the step, writes a checkpoint and exits with 130, and --resume completes the run" {
            resumesAfter interrupt 130
        }

        test "SIGTERM finishes the step, writes a checkpoint and exits with 143, and --resume completes the run" {
            resumesAfter terminate 143
        }

        test "a closed terminal finishes the step as Ctrl-C does, and under nohup nothing stops" {
            inFolder (fun folder ->
                let ended =
                    interrupted
                        hangUp
                        "epoch 1/"
                        folder
                        "teach --model resnet8 --per-class 5 --batch 16 --epochs 40 --out a"

                Must.equal 129 ended.Code
                Must.contain "interrupted; go on with: ctkd teach --resume" ended.Out

                let quoted =
                    ctkdCommand "teach --model resnet8 --subset 50 --batch 16 --epochs 3 --out b" |> String.concat " "

                let script =
                    $"nohup {quoted} > out 2>&1 & p=$!; until grep -q 'epoch 1/' out; do sleep 0.05; done; kill -HUP $p; wait $p"

                Must.equal 0 ((runCommand folder [] [ "bash"; "-c"; script ]).Code)
                Must.equal [ 1; 2; 3 ] (Runs.lines (Path.Combine(folder, "b")) |> List.map _.Epoch)
            )
        }

        test "a line to go on with is one that a shell takes, whatever the folder is named" {
            for path, word in
                [
                    "runs/a-1", "runs/a-1"
                    "my runs/a", "'my runs/a'"
                    "it's", @"'it'\''s'"
                    "", "''"
                    "a;b", "'a;b'"
                ] do
                Must.equal word (Ctkd.Fs.App.Shell.word path)
        }

        test "a second Ctrl-C a second after the first ends the process at once, in words" {
            inFolder (fun folder ->
                let child =
                    startCommand folder [] (ctkdCommand "teach --model wrn_40_2 --batch 1900 --epochs 1 --out a")

                let rec readTo (text: string) =
                    match child.StandardOutput.ReadLine() with
                    | null -> failtest "it ended"
                    | line when line.Contains text -> ()
                    | _ -> readTo text

                readTo "digits: "
                send interrupt child
                // Time passes, and the step does not end meanwhile.
                System.Threading.Thread.Sleep 200
                send pause child
                System.Threading.Thread.Sleep 1200
                send interrupt child
                send proceed child
                let ended = wait child ""
                Must.equal 130 ended.Code
                Must.startWith "stopped at once by the second signal" ended.Err
                Must.notHold (File.Exists(last folder))
            )
        }

        test "SIGTERM ends at once what has nothing to keep" {
            let child = startCommand "/" [] (ctkdCommand "bench overheads")
            System.Threading.Thread.Sleep 2000
            let watch = Diagnostics.Stopwatch.StartNew()
            send terminate child
            let ended = wait child ""
            Must.equal 143 ended.Code
            Must.lie 0.0 5.0 watch.Elapsed.TotalSeconds
        }

        test
            "Ctrl-C in the middle of an agent's epoch of learning, then --resume: to the bit what an undisturbed run leaves" {
            inFolder (fun folder ->
                // Every epoch is one of learning, and from the second on images are mixed.
                let flags =
                    $"distill --weights {Runs.teacher.Value} --student resnet8 --per-class 30 --batch 16 --epochs 4 "
                    + "--policy rlkd --rl-warm-up 1 --rl-every 1 --rl-ramp 3 --rl-mix-until 4 --out "

                expect 0 folder (flags + "whole") |> ignore
                let ended = interrupted interrupt "epoch 2/" folder (flags + "a")
                Must.equal (130, "") (ended.Code, ended.Err)
                let info, tensors = Runs.contents (last folder)
                Must.lie 3 4 info.Epoch

                tensors |> Must.haveOne (fun (name, _, _, _) -> name.StartsWith("agent/", StringComparison.Ordinal))

                expect 0 folder "distill --resume a" |> ignore
                let outcome name = Runs.outcome (Path.Combine(folder, name))

                Expect.isTrue (outcome "a" = outcome "whole") $"stopped after batch {info.Step} of epoch {info.Epoch}"
            )
        }

        test "a run that stopped early says so, is resumed for its table alone, and goes on with other patience" {
            inFolder (fun folder ->
                let small = "--model resnet8 --subset 50 --batch 16 --epochs 12 --milestones 1 --decay 1e-6"
                let first = expect 0 folder $"teach {small} --patience 1 --out a"
                Must.contain "stopped early after epoch" first.Out
                Must.contain "report.html" first.Out
                let before = Runs.files (Path.Combine(folder, "a"))
                let again = expect 0 folder "teach --resume a"
                Must.contain "nothing was trained" again.Out
                Must.contain "for more epochs: ctkd teach --resume a --patience COUNT" again.Out
                Must.equal before (Runs.files (Path.Combine(folder, "a")))
                let more = expect 0 folder "teach --resume a --patience 0"
                Must.contain "epoch 12/12" more.Out
                Must.lack "stopped early" more.Out
            )
        }

        test "an interrupted quickstart says how to go on" {
            inFolder (fun folder ->
                let ended = interrupted interrupt "a teacher (resnet20)" folder "quickstart --out q"
                Must.equal 130 ended.Code
                Must.contain $"interrupted; go on with: ctkd quickstart --out {folder}/q" ended.Out
                let teacher = Path.Combine(folder, "q", "teacher", "last.safetensors")
                let info, _ = Runs.contents teacher
                Must.equal ("resnet20", 1) (info.Settings.Student, info.Epoch)
                Must.notHold (File.Exists(Path.Combine(folder, "q", "report.html")))
                let other = expect 2 folder "quickstart --out q --seed 2"
                Must.contain "error: the run 'teacher' was begun with other flags" other.Err
                Must.equal info (fst (Runs.contents teacher))
            )
        }

        // ---- the terminal ----

        test "on a terminal progress is a bar in colour, and with NO_COLOR it is plain lines" {
            inFolder (fun folder ->
                let onTerminal (name: string) (variables: (string * string) list) : string =
                    let run =
                        ctkdCommand $"teach --model resnet8 --subset 50 --batch 16 --epochs 2 --out {name}"
                        |> String.concat " "

                    let command = [ "bash"; "-c"; $"script -qec '{run}' {name}.log > /dev/null" ]
                    let ended = runCommand folder (("TERM", "xterm") :: variables) command
                    Expect.isTrue (ended.Code = 0) ended.Err
                    File.ReadAllText(Path.Combine(folder, $"{name}.log"))

                let coloured, plain =
                    match
                        [ "coloured", []; "plain", [ "NO_COLOR", "1" ] ]
                        |> twoAtATime (fun (name, variables) -> onTerminal name variables)
                    with
                    | [ coloured; plain ] -> coloured, plain
                    | others -> failtest $"%A{others}"

                Must.contain "\u001b[38;5;" coloured
                Must.contain "━" coloured
                // .NET itself sets the keypad's mode of a terminal: no colour and no bar is what plain means.
                Must.lack "\u001b[3" plain
                Must.lack "━" plain
                Must.contain "teach  epoch 2/2  loss " plain
            )
        }

        // ---- failures ----

        test "a run that diverges fails with the term and the step" {
            inFolder (fun folder ->
                let ended = expect 1 folder "teach --model resnet8 --subset 50 --batch 16 --epochs 2 --lr 1e30 --out a"

                Must.contain "error: the term 'ce' was not finite in epoch 1, step 2" ended.Err

                Must.contain
                    "next: no checkpoint was written yet; try a smaller --lr in a new run, with another --out"
                    ended.Err
            )
        }

        test "a folder that is in use, holds a run or cannot be written fails, and a missing run too" {
            inFolder (fun folder ->
                let start = "teach --model resnet8 --subset 50 --batch 16 --epochs 1 --out"
                use holder = RunDirectory.create (Path.Combine(folder, "held")) |> Error.orRaise

                Must.contain "another process is using this run's folder" ((expect 1 folder $"{start} held").Err)

                Must.hold (Directory.Exists holder.Path)
                File.WriteAllText(Path.Combine(folder, "file"), "kept")

                for out in [ "file"; "file/run"; "/proc/run" ] do
                    let ended = expect 1 folder $"{start} {out}"
                    Must.startWith "error: the run's folder cannot be used" ended.Err
                    Must.contain "--out" ended.Err

                expect 0 folder $"{start} a" |> ignore
                let before = Runs.files (Path.Combine(folder, "a"))
                Directory.CreateDirectory(Path.Combine(folder, "odd", "metrics.jsonl")) |> ignore
                Must.startWith "error: the run's folder cannot be used" ((expect 1 folder $"{start} odd").Err)
                Must.contain "this folder already holds a run" ((expect 2 folder $"{start} a").Err)

                let changed = expect 2 folder "teach --resume a --lr 0.1"
                Must.contain "--resume keeps the run's own settings, and --lr would change them" changed.Err
                Must.contain "--epochs" changed.Err

                Must.contain "there is no such file" ((expect 1 folder "teach --resume none").Err)
                Must.equal before (Runs.files (Path.Combine(folder, "a")))
            )
        }

        test "a full disk fails with the remedy, and what was written before is whole and goes on" {
            inFolder (fun folder ->
                let run = "teach --model resnet8 --subset 50 --batch 16 --epochs 3"
                expect 0 folder $"{run} --out a" |> ignore
                let size = FileInfo(last folder).Length

                // Room for the last and best checkpoints, and not for the temporary one of the second epoch.
                let kilobytes = int (2L * size / 1024L) + 300
                let ended = onSmallDisk folder kilobytes $"{run} --out disk/a"
                Must.equal 1 ended.Code

                Must.matchRegex
                    "^error: '(best|last).safetensors' cannot be written: No space left on device"
                    ended.Err

                Must.contain "next: free space on the disk" ended.Err

                let copy = Path.Combine(folder, "copy", "a")

                let names =
                    Directory.GetFiles copy |> Array.map (fun path -> string (Path.GetFileName path)) |> Array.sort

                Must.equal
                    [| ".lock"; "best.safetensors"; "last.safetensors"; "metrics.jsonl"; "run.json"; "settings.json" |]
                    names

                let info, _ = Runs.contents (Path.Combine(copy, "last.safetensors"))
                Must.equal (2, 1) (info.Epoch, info.MetricLines)

                // On a larger disk it goes on, and ends like the run that met no full disk.
                expect 0 folder "teach --resume copy/a" |> ignore
                Must.equal (Runs.outcome (Path.Combine(folder, "a"))) (Runs.outcome copy)
            )
        }

        test "a disk that is full from the start fails without a trace" {
            inFolder (fun folder ->
                let ended = onSmallDisk folder 8 "teach --model resnet8 --subset 50 --batch 16 --epochs 1 --out disk/a"

                Must.equal 1 ended.Code
                Must.contain "No space left on device" ended.Err
                Must.contain "\n  next: " ended.Err
            )
        }
    ]
