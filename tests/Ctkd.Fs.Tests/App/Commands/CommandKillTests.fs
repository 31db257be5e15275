/// Runs of the program that SIGKILL ends at random moments.
module Ctkd.Fs.Tests.CommandKillTests

open System
open System.IO
open System.Threading
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Child
open Ctkd.Fs.Tests.Folders

/// Kills of the test: the variable CTKD_KILLS, or a few.
let private kills: int =
    match Environment.GetEnvironmentVariable "CTKD_KILLS" with
    | null -> 4
    | text -> int text

/// Where a kill waits for its moment, a random time after what it waits for, in milliseconds.
type private Moment =
    /// After the start of the process: while .NET starts, data and checkpoint are read, the first steps are made.
    | AfterStart of int
    /// After the line of an epoch: in the steps of the next ones, or in the writing of their metrics and checkpoints.
    | AfterEpoch of int

/// The moments of a seed, half of each kind.
let private moments (seed: int) (count: int) : Moment list =
    let rng = Rng.ofSeed seed

    [
        for i in 0 .. count - 1 do
            if i % 2 = 0 then AfterEpoch(Rng.below 120 i rng) else AfterStart(Rng.below 2500 i rng)
    ]

/// Starts the program and kills it at a moment, unless it has ended before: whether it was killed.
let private killAt (moment: Moment) (folder: string) (arguments: string) : bool =
    use child = startCommand folder sharing (ctkdCommand arguments)
    let err = child.StandardError.ReadToEndAsync()

    let rec readTo (text: string) : unit =
        match child.StandardOutput.ReadLine() with
        | null -> ()
        | line when line.Contains text -> ()
        | _ -> readTo text

    match moment with
    | AfterStart wait -> Thread.Sleep wait
    | AfterEpoch wait ->
        readTo "  epoch "
        Thread.Sleep wait

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
/// run that nothing disturbed.
let private isSound (expected: EpochMetrics list) (run: string) : unit =
    for name in checkpoints do
        let path = Path.Combine(run, name)

        if File.Exists path then
            let info, _ = Runs.contents path
            Must.equal (info.Epoch - 1, 0) (info.MetricLines, info.Step)
            Must.equal (List.truncate info.MetricLines expected) (Runs.lines run |> List.truncate info.MetricLines)

let tests =
    testList "CommandKill" [
        test
            "a run that is killed at random moments and goes on each time ends as one that nothing disturbed, to the bit" {
            inFolder (fun folder ->
                // More epochs than the kills let pass.
                let flags =
                    $"teach --model resnet8 --per-class 5 --batch 16 --epochs {8 + 6 * kills} --threads 1 --val-split 0.05 --out "

                (ctkdWith sharing folder (flags + "whole")).Code |> Must.equal 0
                let at name = Path.Combine(folder, name)
                let expected = Runs.lines (at "whole")

                let next () =
                    if checkpoints |> List.exists (fun name -> File.Exists(Path.Combine(at "a", name))) then
                        "teach --resume a"
                    else
                        flags + "a"

                let killed =
                    moments 16 kills
                    |> List.map (fun moment ->
                        let killed = killAt moment folder (next ())
                        isSound expected (at "a")
                        killed
                    )

                // None of them came after the end.
                Must.equal (List.replicate kills true) killed
                let ended = ctkdWith sharing folder (next ())
                Must.equal (0, "") (ended.Code, ended.Err)
                Must.equal (Runs.outcome (at "whole")) (Runs.outcome (at "a"))
                // What was half written is gone.
                Must.beEmpty (Directory.GetFiles(at "a", "*.tmp"))
            )
        }
    ]
