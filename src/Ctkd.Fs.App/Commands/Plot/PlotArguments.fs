namespace Ctkd.Fs.App

open Argu
open Ctkd.Fs

/// The flags of `plot`.
[<RequireQualifiedAccess; HelpFlags("--help", "-h", "help")>]
type PlotArgs =
    | [<MainCommand>] Figure of FIGURE_AND_RUNS: string list
    | [<Unique>] Out of FILE: string
    | [<Unique>] Width of PIXELS: int
    | [<Unique>] Quantiles
    | [<Unique>] Epochs of COUNT: int
    | [<Unique>] Curriculum_Start of LAMBDA: string
    | [<Unique>] Curriculum_Stop of LAMBDA: string
    | [<Unique>] Curriculum_Epochs of COUNT: int
    | [<Unique>] Weights of FILE: string
    | [<Unique>] Model of NAME: string
    | [<Unique>] Teacher_Weights of FILE: string
    | [<Unique>] Teacher of NAME: string
    | [<Unique>] Data of NAME: string
    | [<Unique>] Data_Dir of DIR: string
    | [<Unique>] Mean of NUMBER: string list
    | [<Unique>] Std of NUMBER: string list
    | [<Unique>] Images of COUNT: int
    | [<Unique>] Classes of COUNT: int
    | [<Unique>] Perplexity of NUMBER: string
    | [<Unique>] Seed of NUMBER: int
    | [<Unique>] Device of NAME: string
    | [<Unique>] Threads of COUNT: int
    | [<Unique>] Json

    interface IArgParserTemplate with
        member this.Usage =
            let s = Settings.defaults

            match this with
            | Figure _ ->
                "what to draw: curriculum [RUN...] (lambda), temperature RUN... (T), correlation (the \
                 student's class correlations less the teacher's), tsne (a student's features); needed"
            | Out _ -> "the picture, .svg or .png (for PNG Debian's librsvg2-bin) [FIGURE.svg]"
            | Width _ -> "width of the picture in pixels [720, correlation 560]"
            | Quantiles -> "temperature of one run: quantiles over the images instead of the mean [no]"
            | Epochs _ -> $"curriculum without runs: epochs to draw [{s.Epochs}]"
            | Curriculum_Start _ -> $"curriculum without runs: lambda at epoch 0 [{s.CurriculumStart}]"
            | Curriculum_Stop _ -> $"curriculum without runs: lambda at its end [{s.CurriculumStop}]"
            | Curriculum_Epochs _ -> $"curriculum without runs: its length [{s.CurriculumEpochs}]"
            | Weights _ -> "correlation, tsne: the student's weights; needed"
            | Model _ -> "correlation, tsne: the student's model [the one that its weights name or fit]"
            | Teacher_Weights _ -> "correlation: the teacher's weights; needed"
            | Teacher _ -> "correlation: the teacher's model [the one that its weights name or fit]"
            | Data _ -> "correlation, tsne: data set of the test images [the one the weights were trained on]"
            | Data_Dir _ -> "correlation, tsne: folder (or file) of the data set [as trained]"
            | Mean _ -> "correlation, tsne: mean of each channel [as trained]"
            | Std _ -> "correlation, tsne: standard deviation of each channel [as trained]"
            | Images _ -> "correlation, tsne: the most test images that are used [all, tsne 1000]"
            | Classes _ -> $"tsne: the number of classes, the first ones, at most {Scatter.mostClasses} [10]"
            | Perplexity _ -> $"tsne: how many neighbours of a point count [{Tsne.defaults.Perplexity}]"
            | Seed _ -> $"tsne: seed of the start [{Tsne.defaults.Seed}]"
            | Device _ -> $"correlation, tsne: cpu, cuda or cuda:N [{s.Device}]"
            | Threads _ -> $"correlation, tsne: {Command.threadsHelp}"
            | Json -> "what was drawn as one JSON object"
