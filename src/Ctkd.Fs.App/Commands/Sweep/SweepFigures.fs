namespace Ctkd.Fs.App

open System
open System.IO
open System.Security.Cryptography
open FsToolkit.ErrorHandling
open Ctkd.Fs

/// The figures of a sweep, each in the folder of its run.
module SweepFigures =

    /// The file of a figure.
    let private file (sweep: string) (figure: SweepFigure) (run: PlannedRun) : string =
        Path.Combine(SweepRun.folder sweep run, $"{Names.name figure}.svg")

    /// What the figures will be, in a sentence; none without figures.
    let plan (figures: SweepFigure list) (runs: PlannedRun list) : string list = [
        for figure in figures do
            let name = Names.name figure
            let count = (SweepRun.ofFigures runs).Length
            let runs = if count = 1 then "1 run" else $"{count} runs of one seed"
            $"when all are done: the figure {name} of {runs}, in each one's folder as {name}.svg"
    ]

    /// The last line of a picture, by which it is known which weights it shows.
    let private source (checkpoint: string) : string =
        use stream = File.OpenRead checkpoint
        let hash = Convert.ToHexStringLower(SHA256.HashData stream)
        $"<!-- of the checkpoint with SHA-256 {hash} -->"

    let private isDrawn (path: string) (source: string) : bool =
        File.Exists path && File.ReadAllText(path).TrimEnd().EndsWith(source, StringComparison.Ordinal)

    let private picture (say: string -> unit) (figure: SweepFigure) (checkpoint: string) (run: PlannedRun) =
        Tensor.scoped (fun () ->
            result {
                let! device = Engine.device run.Settings.Device
                let! trained = Command.load say (Command.weightsFor WeightsRole.Any false) device None checkpoint
                let! s = Eval.settings TestFlags.asTrained trained

                match figure with
                | SweepFigure.Tsne ->
                    let! picture, _, _ = PlotModels.tsneOf TsneFigure.defaults device trained s
                    return picture
            }
        )

    /// Draws a figure of a run that is done, unless its picture shows the same checkpoint.
    let private draw (terminal: Terminal) (sweep: string) (figure: SweepFigure) (run: PlannedRun) =
        result {
            let path = file sweep figure run
            let! checkpoint = RunDirectory.checkpointOf (SweepRun.folder sweep run)
            let source = source checkpoint

            if not (isDrawn path source) then
                let! picture = picture terminal.Say figure checkpoint run
                do! Picture.write path (picture + source + "\n")
                terminal.Say $"{Names.name figure}: {path}"
        }

    /// Draws the figures of a sweep whose runs are done; what is drawn stays. One that cannot be drawn does not stop the
    /// others, nor does a stop that is asked for leave half a picture.
    let drawAll
        (terminal: Terminal)
        (sweep: string)
        (figures: SweepFigure list)
        (runs: PlannedRun list)
        : SweptFigure list = [
        for figure in figures do
            for run in SweepRun.ofFigures runs do
                if not (Signals.stop ()) then
                    let outcome =
                        Engine.working
                            (file sweep figure run)
                            "check that you may read and write in the run's folder"
                            (fun () -> draw terminal sweep figure run)

                    let problem =
                        match outcome with
                        | Ok() -> ""
                        | Error error ->
                            terminal.Say $"failed: the figure {Names.name figure} of {run.Name}: {error.What}"
                            error.What

                    {
                        Figure = Names.name figure
                        Run = run.Name
                        File = file sweep figure run
                        Problem = problem
                    }
    ]
