/// Runs of the program that SIGKILL ends at random moments.
module Ctkd.Fs.Tests.CommandKillTests

open System
open System.Diagnostics
open System.IO
open System.Threading
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Child
open Ctkd.Fs.Tests.Folders

/// Kills of the test: the variable CTKD_KILLS, or a few.
let private kills: int =
    match Environment.GetEnvironmentVariable "CTKD_KILLS" with
    | null -> 3
    | text -> int text

/// Where a kill waits for its moment, a random share of the time that an undisturbed run took there.
type private Moment =
    /// After the start of the process, up to a little after its first epoch: while .NET starts, data and checkpoint are read, the
    /// first steps are made.
    | InStart of share: float
    /// After the line of an epoch, up to two epochs on: in their steps, or in the writing of their metrics and checkpoints.
    | InEpochs of share: float

/// The moments of a seed, half of each kind.
let private moments (seed: int) (count: int) : Moment list =
    let rng = Rng.ofSeed seed

    [
        for i in 0 .. count - 1 do
            let share = Rng.uniform i rng
            if i % 2 = 0 then InEpochs share else InStart share
    ]

/// Reads what a process prints up to a line that contains a text, or to its end.
let rec private readTo (text: string) (child: Process) : unit =
    match child.StandardOutput.ReadLine() with
    | null -> ()
    | line when line.Contains text -> ()
    | _ -> readTo text child

/// The line of an epoch.
let private epoch = "  epoch "

/// Runs the program to its end: the times until its first epoch's line, and from there on.
let private timed (folder: string) (arguments: string) : TimeSpan * TimeSpan =
    let watch = Stopwatch.StartNew()
    let child = startCommand folder [] (ctkdCommand arguments)
    readTo epoch child
    let start = watch.Elapsed
    let ended = wait child ""
    Must.equal (0, "") (ended.Code, ended.Err)
    start, watch.Elapsed - start

/// Starts the program and kills it at a moment, unless it has ended before: whether it was killed.
let private killAt (start: TimeSpan, epochs: TimeSpan) (moment: Moment) (folder: string) (arguments: string) : bool =
    use child = startCommand folder [] (ctkdCommand arguments)
    let err = child.StandardError.ReadToEndAsync()

    match moment with
    | InStart share -> Thread.Sleep(1.1 * share * start)
    | InEpochs share ->
        readTo epoch child
        Thread.Sleep(share * epochs)

    child.Kill()
    // The rest of what it printed: a full pipe would keep it from ending.
    child.StandardOutput.ReadToEnd() |> ignore
    child.WaitForExit()

    match child.ExitCode with
    | 0 -> false
    | code ->
        // 128 + SIGKILL.
        Expect.equal code 137 $"killed, not ended by itself: {err.Result}"
        Must.equal "" err.Result
        true

let private checkpoints: string list = [ "last.safetensors"; "best.safetensors" ]

/// What must hold of a folder after a kill: its checkpoints are whole and their metrics are there, line by line those of the
/// run that nothing disturbed. Returns the epochs that are done.
let private soundEpochs (expected: EpochMetrics list) (run: string) : int =
    let epochs (name: string) =
        let path = Path.Combine(run, name)

        if File.Exists path then
            let info, _ = Runs.contents path
            Must.equal (info.Epoch - 1, 0) (info.MetricLines, info.Step)
            Must.equal (List.truncate info.MetricLines expected) (Runs.lines run |> List.truncate info.MetricLines)
            info.MetricLines
        else
            0

    checkpoints |> List.map epochs |> List.max

let tests =
    testList "CommandKill" [
        test
            "a run that is killed at random moments and goes on each time ends as one that nothing disturbed, to the bit" {
            inFolder (fun folder ->
                // More epochs than the kills let pass.
                let epochs = 4 + 4 * kills

                let flags =
                    $"teach --model resnet8 --subset 50 --batch 16 --epochs {epochs} --threads 1 --val-split 0.01 --out "

                let start, training = timed folder (flags + "whole")
                let at name = Path.Combine(folder, name)
                let expected = Runs.lines (at "whole")

                let next () =
                    if checkpoints |> List.exists (fun name -> File.Exists(Path.Combine(at "a", name))) then
                        "teach --resume a"
                    else
                        flags + "a"

                let killed =
                    moments 16 kills
                    |> List.takeWhile (fun moment ->
                        let killed = killAt (start, 2.0 * training / float epochs) moment folder (next ())
                        let passed = soundEpochs expected (at "a")

                        if kills > 20 then
                            printfn
                                "%A: %d epochs, %d files half written"
                                moment
                                passed
                                (Directory.GetFiles(at "a", "*.tmp").Length)

                        killed
                    )

                // Another machine may train faster than it did at first, but not that much.
                Must.lie (kills - kills / 4) kills killed.Length
                timed folder (next ()) |> ignore
                Must.equal (Runs.outcome (at "whole")) (Runs.outcome (at "a"))
                // What was half written is gone.
                Must.beEmpty (Directory.GetFiles(at "a", "*.tmp"))
            )
        }
    ]
