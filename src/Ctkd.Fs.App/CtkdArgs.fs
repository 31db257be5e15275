namespace Ctkd.Fs.App

open Argu

/// The commands. `teach` and `distill` have the flags of `TrainFlags`.
[<RequireQualifiedAccess; CliPrefix(CliPrefix.None); HelpFlags("--help", "-h", "help")>]
type CtkdArgs =
    | [<SubCommand>] Quickstart of ParseResults<QuickstartArgs>
    | [<SubCommand>] Teach
    | [<SubCommand>] Distill
    | [<SubCommand>] Sweep of ParseResults<SweepArgs>
    | [<SubCommand>] Watch of ParseResults<WatchArgs>
    | [<SubCommand>] Eval of ParseResults<EvalArgs>
    | [<SubCommand>] Predict of ParseResults<PredictArgs>
    | [<SubCommand>] Plot of ParseResults<PlotArgs>
    | [<SubCommand>] Report of ParseResults<ReportArgs>
    | [<SubCommand>] Export of ParseResults<ExportArgs>
    | [<SubCommand>] Models of ParseResults<ModelsArgs>
    | [<SubCommand>] Recipes of ParseResults<RecipesArgs>
    | [<SubCommand>] Inspect of ParseResults<InspectArgs>
    | [<SubCommand>] Convert of ParseResults<ConvertArgs>
    | [<SubCommand>] Data of ParseResults<DataArgs>
    | [<SubCommand>] Doctor of ParseResults<DoctorArgs>
    | [<SubCommand>] Bench of ParseResults<BenchArgs>
    | [<SubCommand>] Version of ParseResults<VersionArgs>
    | [<SubCommand; Hidden>] Reference

    interface IArgParserTemplate with
        member this.Usage =
            match this with
            | Quickstart _ ->
                "train a teacher on handwritten digits and distil students from it: the tour, under 3 minutes"
            | Teach -> "train a model from labels alone"
            | Distill -> "train a student from a teacher: methods under a temperature policy, or a published recipe"
            | Sweep _ -> "do many runs, every combination of values: resumable, several at once, or as a job array"
            | Watch _ -> "follow a run, a sweep or a folder of runs from another terminal"
            | Eval _ -> "classify a test set with trained weights: accuracy, calibration, likeness to a teacher"
            | Predict _ -> "say what is on image files: classes with probabilities"
            | Plot _ -> "draw curves of runs, class correlations or a t-SNE of features as SVG or PNG"
            | Report _ ->
                "compare finished runs: mean and spread over seeds, differences with their intervals, published numbers"
            | Export _ -> "write trained weights as a network that other runtimes read: ONNX"
            | Models _ ->
                "list the models with their parameters, multiply-accumulates and features, or print the layers of one"
            | Recipes _ -> "list published experiments with their accuracies, or print one as JSON"
            | Inspect _ -> "what a file of weights holds, and which model it fits"
            | Convert _ -> "write weights in another format: PyTorch's, or safetensors"
            | Data _ -> "check a folder of photographs, or pack it into one file"
            | Doctor _ -> "what the engine is, what is missing and the command that mends it"
            | Bench _ -> "time the training step: beside PyTorch's, its overheads, its scaling"
            | Version _ -> "print the version"
            | Reference -> "print the reference of commands and settings as Markdown"
