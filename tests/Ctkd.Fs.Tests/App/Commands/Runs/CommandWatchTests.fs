/// Runs that are followed from another process, and what a run says of its progress itself.
module Ctkd.Fs.Tests.CommandWatchTests

open System
open System.IO
open System.Text.Json
open System.Text.RegularExpressions
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Child
open Ctkd.Fs.Tests.Folders

let private small = "--subset 50 --batch 16"

let private states (text: string) : (string * int * int option) list = [
    for run in (JsonDocument.Parse text).RootElement.GetProperty("runs").EnumerateArray() ->
        string (run.GetProperty("state").GetString()),
        run.GetProperty("epoch").GetInt32(),
        (match run.GetProperty "epochs" with
         | epochs when epochs.ValueKind = JsonValueKind.Null -> None
         | epochs -> Some(epochs.GetInt32()))
]

let tests =
    testList "CommandWatch" [
        test "a run says with each epoch how fast it is and what is left, and after the last nothing is" {
            inFolder (fun folder ->
                let out = (expect 0 folder $"teach {small} --epochs 3 --out run").Out

                let lines =
                    out.Split '\n'
                    |> Array.filter _.StartsWith("teach  epoch ", StringComparison.Ordinal)
                    |> List.ofArray

                Must.equal 3 lines.Length

                for i, line in List.indexed lines do
                    let left = if i < 2 then "  (about [0-9]+|under 1) s left" else ""

                    Must.matchRegex
                        $"^teach  epoch {i + 1}/3  loss [0-9.]+  top-1 [0-9.]+ %%  [0-9]+ images/s{left}$"
                        line
            )
        }

        test
            "a run that trains in another process is followed from before it begins to its end, and its folder is left alone" {
            inFolder (fun folder ->
                let run = Path.Combine(folder, "run")
                Directory.CreateDirectory run |> ignore
                let watching = startCommand folder [] (ctkdCommand "watch run")
                Must.equal "run  has not begun" (string (watching.StandardOutput.ReadLine()))
                Must.beEmpty (Directory.GetFileSystemEntries run)
                expectProcess 0 folder $"teach {small} --epochs 3 --out run" |> ignore
                let before = Runs.files run
                let ended = wait watching ""
                Must.equal (0, "") (ended.Code, ended.Err)

                let epochs = [
                    for m in Regex.Matches(ended.Out, "(?m)^run  epoch ([0-9]+)/3  loss ") -> m.Groups[1].Value
                ]

                Must.equal [ "1"; "2"; "3" ] epochs
                Must.contain "\nrun  done\n" ended.Out
                Must.equal before (Runs.files run)
            )
        }

        test "a line that is half written is said when it is whole, and a run that goes back to a checkpoint is told" {
            inFolder (fun folder ->
                expect 0 folder $"teach {small} --epochs 3 --out run" |> ignore
                let run = Path.Combine(folder, "run")
                let path = Path.Combine(run, "metrics.jsonl")
                let lines = File.ReadAllLines path
                let last = Path.Combine(run, "last.safetensors")
                let checkpoint = File.ReadAllBytes last
                File.Delete last
                File.Delete(Path.Combine(run, "best.safetensors"))
                File.WriteAllText(path, $"{lines[0]}\n{lines[1]}\n{lines[2][..40]}")
                let watching = startCommand folder [] (ctkdCommand "watch run")
                let next () = string (watching.StandardOutput.ReadLine())
                // The last whole line, then what comes.
                Must.startWith "run  epoch 2/3" (next ())
                File.AppendAllText(path, lines[2][41..] + "\n")
                Must.startWith "run  epoch 3/3" (next ())
                let replaced = path + ".new"
                File.WriteAllText(replaced, lines[0] + "\n")
                File.Move(replaced, path, true)
                Must.equal "run  goes on after epoch 1: it was resumed from there" (next ())
                File.AppendAllText(path, lines[1] + "\n" + lines[2] + "\n")
                Must.startWith "run  epoch 2/3" (next ())
                Must.startWith "run  epoch 3/3" (next ())
                File.WriteAllBytes(last, checkpoint)
                Must.equal "run  done" (next ())
                Must.equal 0 (wait watching "").Code
            )
        }

        test "Ctrl-C ends it with its code and the present state" {
            inFolder (fun folder ->
                Directory.CreateDirectory(Path.Combine(folder, "run")) |> ignore
                let ended = interrupted interrupt "has not begun" folder "watch run"
                Must.equal 130 ended.Code
                Must.contain "waiting" ended.Out
                Must.beEmpty (Directory.GetFileSystemEntries(Path.Combine(folder, "run")))
            )
        }

        test "--once says how far a sweep's runs are, with those that wait, failed and are done" {
            inFolder (fun folder ->
                File.WriteAllText(
                    Path.Combine(folder, "s.json"),
                    """{ "subset": 50, "batch": 16, "epochs": 1, "cases": [{"data": "file", "dataDir": "nothing"}, {"data": "digits"}] }"""
                )

                expect 0 folder "sweep s.json --emit sh" |> ignore
                let once () = (expect 0 folder "watch runs/s --once --json").Out |> states
                Must.equal [ "waiting", 0, None; "waiting", 0, None ] (once ())
                expect 1 folder "sweep runs/s" |> ignore
                Must.equal [ "failed", 0, None; "done", 1, Some 1 ] (once ())
                // All have ended: there is nothing to follow.
                let followed = expect 0 folder "watch runs/s"
                Must.contain "FAILED: " followed.Out
                Must.contain "done" followed.Out
            )
        }

        test "no folder, one that is not there and one that cannot be read are errors" {
            inFolder (fun folder ->
                Must.contain "watch needs a folder" (expect 2 folder "watch").Err
                let ended = expect 1 folder "watch none --once --json"
                Must.contain "there is no such folder" ended.Err
                Must.contain "\"missing\"" ended.Out
                Directory.CreateDirectory(Path.Combine(folder, "run")) |> ignore
                File.WriteAllText(Path.Combine(folder, "run", "metrics.jsonl"), "{}\n")
                Must.contain "line 1 holds no metrics of this version" (expect 1 folder "watch run").Err
            )
        }
    ]
