namespace Ctkd.Fs.App

open System.IO
open FsToolkit.ErrorHandling
open Ctkd.Fs

/// Several runs in one folder, one after the other, that go on where they were interrupted.
module Tour =

    /// The first folder of a name that holds no finished tour: an interrupted one is resumed.
    let freeFolder (name: string) : string =
        Seq.initInfinite (fun i -> Path.Combine("runs", if i = 0 then name else $"{name}-{i + 1}"))
        |> Seq.find (fun folder -> not (File.Exists(Path.Combine(folder, "report.html"))))

    /// The settings with a number of epochs, and the learning rate's milestones for it.
    let withEpochs (epochs: int) (settings: Settings) : Settings = {
        settings with
            Epochs = epochs
            Milestones = Settings.milestones epochs
    }

    let private run (terminal: Terminal) (folder: string) (name: string) (experiment: Hooks -> Experiment) =
        let out = Path.Combine(folder, name)
        let last = Path.Combine(out, "last.safetensors")
        let settings = (experiment Hooks.none).Settings

        let resume (hooks: Hooks) (checkpoint: Checkpoint) =
            if checkpoint.Info.Settings = settings then
                Run.resumeExperiment out (experiment hooks)
            else
                Error.fail
                    ErrorKind.Usage
                    $"the run '{name}' was begun with other flags"
                    out
                    "give the same flags again, or another folder with --out"

        terminal.Progress
            name
            settings.Epochs
            (fun hooks ->
                if File.Exists last then
                    Checkpoint.read last |> Result.bind (resume hooks)
                else
                    experiment hooks |> Run.startExperiment out
            )

    /// <summary>Runs what is left of a plan, to its end or an interruption.</summary>
    /// <param name="terminal">Shows the progress.</param>
    /// <param name="folder">The folder of the runs.</param>
    /// <param name="plan">The runs by name, in their order.</param>
    /// <returns>The runs that have begun; the last one may be interrupted.</returns>
    let go (terminal: Terminal) (folder: string) (plan: (string * (Hooks -> Experiment)) list) =
        let rec next (finished: (string * Summary) list) (rest: (string * (Hooks -> Experiment)) list) =
            match rest with
            | [] -> Ok finished
            | (name, experiment) :: rest ->
                result {
                    let! summary = run terminal folder name experiment
                    let finished = finished @ [ name, summary ]

                    match summary.Ending with
                    | Interrupted -> return finished
                    | Finished -> return! next finished rest
                }

        next [] plan

    /// <summary>Shows the results; writes the report when every run has finished, and else says how to go on.</summary>
    /// <param name="terminal">Where to.</param>
    /// <param name="folder">The folder of the runs.</param>
    /// <param name="title">The report's.</param>
    /// <param name="planned">The number of runs of the whole tour.</param>
    /// <param name="command">The command that goes on, without --out.</param>
    /// <param name="runs">The runs that have begun.</param>
    /// <returns>Whether the tour has ended.</returns>
    let finish (terminal: Terminal) folder title (planned: int) command (runs: (string * Summary) list) =
        result {
            if not runs.IsEmpty then terminal.Table(RunReport.table runs)

            let isWhole = runs.Length = planned && List.forall (fun (_, s: Summary) -> s.Ending = Finished) runs

            if isWhole then
                let report = Path.Combine(folder, "report.html")
                do! RunReport.write report title runs
                terminal.Say $"report {report}"
            else
                terminal.Line $"interrupted; go on with: ctkd {command} --out {Shell.word folder}"

            return isWhole
        }
