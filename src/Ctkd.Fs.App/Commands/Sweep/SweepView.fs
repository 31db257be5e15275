namespace Ctkd.Fs.App

open System.Globalization
open FsToolkit.ErrorHandling
open Ctkd.Fs

/// A run of a sweep as `sweep --json` prints it.
type SweptRun = {
    Name: string
    /// done, waiting, begun or failed.
    State: string
    Epochs: int
    Top1: float option
    BestTop1: float option
    Problem: string
}

/// A figure of a sweep as `sweep --json` prints it.
type SweptFigure = {
    Figure: string
    Run: string
    File: string
    /// Why it was not drawn; empty where it was.
    Problem: string
}

/// What `sweep --json` prints.
type SweepResult = { Folder: string; Runs: SweptRun list; Figures: SweptFigure list }

/// A run of a plan as `sweep --dry-run --json` prints it.
type PlannedTime = { Name: string; Teacher: string; Seconds: float option }

/// What is shown of a sweep: its plan, and how far its runs are.
module SweepView =

    /// A percentage as tables show it.
    let points (value: float) : string = value.ToString("F2", CultureInfo.InvariantCulture)

    /// How far a run is.
    let swept (folder: string) (run: PlannedRun) : SweptRun =
        let numbers =
            match NewestCheckpoint.read (SweepRun.folder folder run) with
            | Ok { Checkpoint = { Info = info } } when info.Epoch > 1 ->
                Some info.Top1, Some info.Best.Top1, info.Epoch - 1
            | _ -> None, None, 0

        let top1, best, epochs = numbers

        let state, problem =
            match SweepRun.state folder run with
            | RunState.Done -> "done", ""
            | RunState.Waiting -> "waiting", ""
            | RunState.Begun _ -> "begun", ""
            | RunState.Failed error -> "failed", error.What

        {
            Name = run.Name
            State = state
            Epochs = epochs
            Top1 = top1
            BestTop1 = best
            Problem = problem
        }

    /// The runs as a table.
    let table (runs: SweptRun list) : Table =
        let cell = Option.map points >> Option.defaultValue "-"

        {
            Caption = ""
            Header = [ "run"; "state"; "epochs"; "top-1 %"; "best top-1 %" ]
            Rows = [ for run in runs -> [ run.Name; run.State; string run.Epochs; cell run.Top1; cell run.BestTop1 ] ]
        }

    /// What decides the time of a run: not the seed, nor places of files.
    let private timed (s: Settings) : Settings = {
        s with
            Seed = 1
            TeacherWeights = (if s.Teacher = "" then "" else "drawn")
    }

    /// Prints the plan, with the time of each run from a few measured steps, and what is told of it beside.
    let dryRun (terminal: Terminal) (folder: string) (jobs: int) (remarks: string list) (runs: PlannedRun list) =
        result {
            let kinds = runs |> List.map (_.Settings >> timed) |> List.distinct

            let! times =
                terminal.Counting
                    "measuring steps"
                    (fun progress ->
                        kinds
                        |> List.indexed
                        |> List.traverseResultM (fun (i, s) ->
                            progress i kinds.Length
                            // A teacher that is a program has no drawn weights.
                            if List.contains s.Teacher NetworkFile.names then
                                Ok(s, None)
                            else
                                StepTime.measure s |> Result.map (fun time -> s, Some time.Run)
                        )
                    )

            let seconds (run: PlannedRun) = times |> List.find (fst >> (=) (timed run.Settings)) |> snd

            terminal.Table {
                Caption = ""
                Header = [ "no."; "run"; "teacher"; "state"; "about" ]
                Rows = [
                    for i, run in List.indexed runs ->
                        let teacher = if run.TeacherRun <> "" then run.TeacherRun else run.Settings.TeacherWeights

                        [
                            string (i + 1)
                            run.Name
                            (if teacher = "" then "-" else teacher)
                            (swept folder run).State
                            seconds run |> Option.map Duration.words |> Option.defaultValue "-"
                        ]
                ]
            }

            let isOpen (run: PlannedRun) = SweepRun.state folder run <> RunState.Done
            let total = runs |> List.filter isOpen |> List.sumBy (seconds >> Option.defaultValue 0.0)

            terminal.Say
                $"{runs.Length} runs into {folder}; about {Duration.words (total / float jobs)} for what is open, at {jobs} at once, from a few steps of each kind on this machine"

            remarks |> List.iter terminal.Say

            if List.exists (snd >> Option.isNone) times then
                terminal.Say "not counted: runs whose teacher is a TorchScript or ONNX file"

            terminal.Json [ for run in runs -> { Name = run.Name; Teacher = run.TeacherRun; Seconds = seconds run } ]
        }
