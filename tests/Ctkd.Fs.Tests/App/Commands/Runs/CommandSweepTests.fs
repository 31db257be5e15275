/// Sweeps by the command: their plans, runs in processes of their own, scripts.
module Ctkd.Fs.Tests.CommandSweepTests

open System.Diagnostics
open System.IO
open System.Text.Json
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Child
open Ctkd.Fs.Tests.Folders

/// Two students and their teacher, of four steps an epoch.
let private json =
    """{ "about": "a try", "teacher": "resnet8", "policy": ["fixed", "ctkd-global"], "subset": 50, "batch": 16, "epochs": 2 }"""

let private names = [ "teacher-resnet8"; "policy=fixed"; "policy=ctkd-global" ]

let private writeFile (folder: string) (text: string) : unit = File.WriteAllText(Path.Combine(folder, "s.json"), text)

let private states (text: string) : (string * string) list =
    let json = JsonDocument.Parse text
    let text (run: JsonElement) (name: string) = string (run.GetProperty(name).GetString())

    [
        for run in json.RootElement.GetProperty("runs").EnumerateArray() -> text run "name", text run "state"
    ]

/// What a run's latest checkpoint holds.
let private tensors (folder: string) (name: string) =
    snd (Runs.contents (Path.Combine(folder, "runs", "s", name, "last.safetensors")))

/// The epochs of all runs whose metrics are written.
let private epochsDone (folder: string) : int =
    names
    |> List.map (fun name -> WatchedRun.look name (Path.Combine(folder, "runs", "s", name)) |> Error.orRaise)
    |> List.sumBy _.Lines.Length

let tests =
    testList "CommandSweep" [
        test "a sweep plans, trains and tells its runs, and does none twice" {
            inFolder (fun folder ->
                writeFile folder json
                let dry = expect 0 folder "sweep s.json --dry-run"

                for name in names do
                    Must.contain name dry.Out

                Must.contain "3 runs into" dry.Out
                Must.notHold (Directory.Exists(Path.Combine(folder, "runs")))

                let ended = expect 0 folder "sweep s.json --json"
                Must.equal [ for name in names -> name, "done" ] (states ended.Out)
                Must.contain "[3/3]" ended.Err
                Must.contain "compare them with: ctkd report" ended.Err
                // A report compares with the baseline that the sweep names.
                writeFile folder (json.Replace("{ \"about\"", "{ \"baseline\": \"policy=ctkd-global\", \"about\""))
                expect 0 folder "sweep s.json" |> ignore
                let report = JsonDocument.Parse((expect 0 folder "report runs/s --format json").Out)
                Must.contain "ctkd-global" (report.RootElement.GetRawText())
                Must.contain "baseline" ((expect 0 folder "report runs/s").Out.ToLowerInvariant())
                let before = Runs.files (Path.Combine(folder, "runs", "s", "policy=fixed"))
                let again = expect 0 folder "sweep runs/s"
                Must.contain "of which 3 have ended: 0 to do" again.Out
                Must.equal before (Runs.files (Path.Combine(folder, "runs", "s", "policy=fixed")))
            )
        }

        test "a sweep that is killed twice goes on to the same end" {
            inFolder (fun folder ->
                let longer = json.Replace("\"epochs\": 2", "\"epochs\": 6")
                writeFile folder longer
                expect 0 folder "sweep s.json --jobs 2" |> ignore
                let whole = [ for name in names -> tensors folder name ]
                Directory.Move(Path.Combine(folder, "runs"), Path.Combine(folder, "whole"))

                // Killed in the teacher's epochs, and then in those of the students.
                for epochs in [ 2; 8 ] do
                    let child = startCommand folder [] (ctkdCommand "sweep s.json --jobs 2")
                    let out = child.StandardOutput.ReadToEndAsync()

                    while epochsDone folder < epochs && not (child.WaitForExit 5) do
                        ()

                    Expect.isFalse child.HasExited "the sweep ended before it could be killed"
                    child.Kill()
                    out.Wait()
                    child.WaitForExit()

                // The children of a killed process see their input end, write a checkpoint and stop.
                let plan = SweepPlan.read (Path.Combine(folder, "runs", "s")) |> Error.orRaise
                let isBusy (run: PlannedRun) = RunDirectory.isBusy (Path.Combine(folder, "runs", "s", run.Name))
                let watch = Stopwatch.StartNew()

                while List.exists isBusy plan && watch.Elapsed.TotalSeconds < 60.0 do
                    System.Threading.Thread.Sleep 100

                expect 0 folder "sweep s.json --jobs 2" |> ignore
                Must.equal whole [ for name in names -> tensors folder name ]
            )
        }

        test "one failing run does not stop the others, and is told with its error" {
            inFolder (fun folder ->
                writeFile
                    folder
                    """{ "subset": 50, "batch": 16, "epochs": 2, "cases": [{"data": "file", "dataDir": "nothing"}, {"data": "digits"}] }"""

                let ended = expect 1 folder "sweep s.json --json"
                Must.equal [ "failed"; "done" ] (states ended.Out |> List.map snd)
                Must.contain "FAILED" ended.Err
                Must.contain "nothing" ended.Err
                let again = expect 1 folder "sweep runs/s --json"
                Must.contain "1 to do" again.Err
            )
        }

        test "the task lines of both scripts do the whole sweep, each by itself" {
            inFolder (fun folder ->
                writeFile folder json
                let lines = (expect 0 folder "sweep s.json --emit sh").Out.Trim().Split '\n'
                Must.equal 3 lines.Length
                let run line = runCommand folder [] [ "/bin/sh"; "-c"; line ]
                // The second student's task comes first: it trains the teacher.
                Must.equal 0 (run lines[2]).Code
                Must.equal 0 (run lines[0]).Code

                let script = (expect 0 folder "sweep s.json --emit slurm").Out
                Must.contain "#SBATCH --array=1-3" script
                File.WriteAllText(Path.Combine(folder, "job.sh"), script)

                for task in [ 1; 2 ] do
                    let ended = runCommand folder [ "SLURM_ARRAY_TASK_ID", string task ] [ "/bin/bash"; "job.sh" ]
                    Must.equal (0, "") (ended.Code, ended.Err)

                let ended = expect 0 folder "sweep s.json --json"
                Must.equal [ for name in names -> name, "done" ] (states ended.Out)
                Must.contain "0 to do" ended.Err
            )
        }

        test "the figures of a shipped sweep are drawn once all its runs are done, again only of another checkpoint" {
            inFolder (fun folder ->
                let small = "--scale 0.01 --set data=digits --set batch=16 --set teacher=resnet8 --set student=resnet8"
                let sweep = $"sweep dtkd-tsne {small} --out s"
                let told = "when all are done: the figure tsne of 2 runs of one seed"
                Must.contain told (expect 0 folder $"{sweep} --dry-run").Out

                for form in [ "sh"; "slurm" ] do
                    let script = (expect 0 folder $"{sweep} --emit {form}").Out

                    Must.matchRegex
                        $"(?m)^# figures \\(tsne\\), when all runs are done: .* sweep .*{Path.GetFileName folder}/s$"
                        script

                let figures (ended: Ended) = [
                    for figure in JsonDocument.Parse(ended.Out).RootElement.GetProperty("figures").EnumerateArray() ->
                        string (figure.GetProperty("file").GetString()),
                        string (figure.GetProperty("problem").GetString())
                ]

                let first = expect 0 folder $"{sweep} --json"
                let files = figures first |> List.map fst
                Must.equal [ ""; "" ] (figures first |> List.map snd)
                let drawn = [ for file in files -> File.ReadAllText(Path.Combine(folder, file)) ]

                for picture in drawn do
                    Must.contain "features: 1000 test images" picture
                    Must.equal "svg" (nonNull (System.Xml.Linq.XDocument.Parse picture).Root).Name.LocalName

                Must.hold (files |> List.forall (fun file -> file.EndsWith "tsne.svg"))
                // A picture of the same checkpoint stays as it is, whatever else is in it; one of another is drawn again.
                let path = Path.Combine(folder, files.Head)
                File.WriteAllText(path, drawn.Head.Replace("t-SNE of", "own title of"))
                File.WriteAllText(Path.Combine(folder, files[1]), drawn.Head)
                let again = (expect 0 folder "sweep s").Out
                Must.lack $"tsne: {files[0]}" again
                Must.contain $"tsne: {files[1]}" again
                Must.contain "own title of" (File.ReadAllText path)
                Must.equal drawn[1] (File.ReadAllText(Path.Combine(folder, files[1])))
            )
        }

        test "a run whose figure cannot be drawn is told, and the others are drawn" {
            inFolder (fun folder ->
                writeFile
                    folder
                    """{ "figures": ["tsne"], "cases": [{"subset": 20}, {"perClass": 5}], "batch": 16, "epochs": 1 }"""

                let ended = expect 1 folder "sweep s.json --json"
                Must.equal [ "done"; "done" ] (states ended.Out |> List.map snd)
                Must.contain "failed: the figure tsne of subset=20" ended.Err
                Must.contain "perplexity must be > 1 and below 19 for 20 images" ended.Err
                Must.equal 1 (Directory.GetFiles(folder, "tsne.svg", SearchOption.AllDirectories)).Length
            )
        }

        test "what a sweep cannot do is said before anything is trained" {
            inFolder (fun folder ->
                writeFile folder json
                Directory.CreateDirectory(Path.Combine(folder, "empty")) |> ignore

                for arguments, what in
                    [
                        "sweep", "sweep needs something to vary"
                        "sweep none.json", "there is no file 'none.json'"
                        "sweep empty", "this folder holds no sweep"
                        "sweep empty --seeds 2", "would change its plan"
                        "sweep s.json --jobs 0", "jobs must be at least 1, got 0"
                        "sweep s.json --emit pbs", "unknown form of a script 'pbs'"
                        "sweep s.json --grid polcy=1", "unknown field of a sweep 'polcy'"
                        "sweep s.json --grid lr=0.1 --set epochs=x", "'x' is no value for the field 'epochs'"
                        "sweep s.json --task 9", "there is no run 9 in the plan"
                    ] do
                    let ended = ctkd folder arguments
                    Must.hold (ended.Code <> 0)
                    Must.contain what ended.Err

                Must.notHold (Directory.Exists(Path.Combine(folder, "runs")))
            )
        }
    ]
