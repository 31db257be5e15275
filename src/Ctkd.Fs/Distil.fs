namespace Ctkd.Fs

open System.IO

/// Whole runs from a program: an experiment in, a folder with checkpoints, metrics and a report out.
///
/// `Distil.run "runs/mine" { Distil.defaults with Teacher = Some(Distil.load "teacher.safetensors"); Policy = Some mine }`
[<RequireQualifiedAccess>]
module Distil =

    let private epochLine (m: EpochMetrics) : string =
        let t = m.T |> Option.map (fun t -> $", T %.2f{t}") |> Option.defaultValue ""
        $"epoch {m.Epoch}: loss %.4f{m.Loss}{t}, top-1 %.2f{m.Top1} %%, %.0f{m.ImagesPerSecond} images/s"

    /// Hooks that print what a run says, and a line per epoch.
    let printing: Hooks = {
        Hooks.none with
            Say = fun text -> System.Console.Out.WriteLine text
            OnEpoch = fun metrics -> System.Console.Out.WriteLine(epochLine metrics)
    }

    /// An experiment of `Settings.defaults` only: resnet8 on the embedded digits, from labels alone until a
    /// teacher is given. Prints its progress.
    let defaults: Experiment = Prepare.ofSettings printing Settings.defaults

    /// Loads a trained model for a role: of a file with a teacher's and a student's weights, that role's. Tells `say` which
    /// of several weights were taken, and how to choose others. Raises `CtkdException`.
    let loadAs (role: WeightsRole) (say: string -> unit) (path: string) : LoadedModel =
        let loaded, notes =
            LoadedModel.loadWith { WeightsFit.strict with Role = role } Device.Cpu None path |> Error.orRaise

        notes |> List.iter say
        loaded

    /// Loads a trained model: a checkpoint, a run's folder, a safetensors or PyTorch file, in an archive as
    /// FILE:INNER, one of several as FILE#KEY. Of a file with a teacher's and a student's weights it takes the student's;
    /// which of several it took is said on the standard error. Raises `CtkdException`.
    let load (path: string) : LoadedModel =
        loadAs WeightsRole.Any (fun note -> System.Console.Error.WriteLine $"{path}: {note}") path

    /// A teacher from a model and its weights, such as `Model.ofLogits` gives; see also `Teacher`.
    let teacher (model: Model, weights: Tree) : LoadedModel = {
        Model = model
        Weights = weights
        Info = None
        Hash = None
    }

    /// A folder for a new run: `path`, or the first of path-2, path-3 ... that is not used yet.
    let fresh (path: string) : string =
        Seq.append [ path ] (Seq.initInfinite (fun i -> $"{path}-{i + 2}")) |> Seq.find (Directory.Exists >> not)

    /// Names the teacher's model where only its weights' file is given.
    let private completed (e: Experiment) : Experiment =
        if e.Settings.TeacherWeights <> "" && e.Settings.Teacher = "" && e.Teacher.IsNone then
            let name = LoadedModel.nameWith (Prepare.teacherOptions e) e.Settings.TeacherWeights |> Error.orRaise
            { e with Settings = { e.Settings with Teacher = name } }
        else
            e

    let private reported (hooks: Hooks) (summary: Summary) : Summary =
        if summary.Ending = Finished then
            let name = summary.Settings.Student

            match RunReport.write (Path.Combine(summary.Folder, "report.html")) name [ name, summary ] with
            | Ok() -> ()
            // The run is whole without it.
            | Result.Error error -> hooks.Say $"warning: the report was not written: {error.What}"

        summary

    /// Trains in a folder that holds no run yet, and writes the report when the run has finished. Raises `CtkdException`, which says what, where and what to do next.
    let run (folder: string) (experiment: Experiment) : Summary =
        Engine.guarded (fun () ->
            completed experiment |> Run.startExperiment folder |> Error.orRaise |> reported experiment.Hooks
        )

    /// Resumes an interrupted run from its folder or a checkpoint: bit for bit what the uninterrupted run would have done.
    /// Give the values that it began with; its settings come from the checkpoint. Raises `CtkdException`.
    let resume (path: string) (experiment: Experiment) : Summary =
        Engine.guarded (fun () -> Run.resumeExperiment path experiment |> Error.orRaise |> reported experiment.Hooks)
