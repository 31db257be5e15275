namespace Ctkd.Fs.App

open System.IO
open Ctkd.Fs

/// The runs of a sweep as scripts for schedulers of others.
module SweepScript =

    let private task (folder: string) (number: string) : string list = [
        "sweep"
        Path.GetFullPath folder
        "--task"
        number
    ]

    /// How a sweep's figures are drawn, as a comment; none without figures. No task knows whether it is the last.
    let private afterwards (folder: string) (figures: SweepFigure list) : string list = [
        if not figures.IsEmpty then
            let names = figures |> List.map Names.name |> String.concat ", "
            let command = Self.line [ "sweep"; Path.GetFullPath folder ]
            $"# figures ({names}), when all runs are done: {command}"
    ]

    /// A line for each run, in an order in which teachers come first: for `parallel < FILE` or `sh FILE`.
    let lines (folder: string) (figures: SweepFigure list) (runs: PlannedRun list) : string list =
        (runs |> List.mapi (fun i _ -> Self.line (task folder (string (i + 1))))) @ afterwards folder figures

    /// A job array for sbatch, one task for each run. A task whose teacher another one trains waits for it.
    let slurm (folder: string) (figures: SweepFigure list) (runs: PlannedRun list) : string list =
        let name = Path.GetFullPath folder |> Path.TrimEndingDirectorySeparator |> Path.GetFileName |> string
        let variable = "SLURM_ARRAY_TASK_ID"
        let command = Self.line (task folder "")

        [
            "#!/bin/bash"
            $"# {runs.Length} runs; submit with: sbatch FILE. Memory, time and devices are yours to add, such as #SBATCH --gres=gpu:1"
            yield! afterwards folder figures
            $"#SBATCH --job-name={Shell.word name}"
            $"#SBATCH --array=1-{runs.Length}"
            // A run that is told to end writes a checkpoint, and goes on when it is queued again.
            "#SBATCH --requeue --signal=TERM@120"
            $"#SBATCH --output={Path.GetFullPath folder}/slurm-%%A-%%a.txt"
            // The empty word at the end is the task's number.
            "exec " + command.Replace(" ''", "") + $" \"${variable}\""
        ]
