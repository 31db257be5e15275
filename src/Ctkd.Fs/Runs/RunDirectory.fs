namespace Ctkd.Fs

open System
open System.IO

/// The folder of a run, held by one process.
[<ReferenceEquality>]
type RunDirectory = {
    Path: string
    Lock: IDisposable
} with

    /// The latest checkpoint.
    member run.Last: string = Path.Combine(run.Path, "last.safetensors")

    /// The checkpoint of the best test accuracy.
    member run.Best: string = Path.Combine(run.Path, "best.safetensors")

    /// One JSON object per epoch.
    member run.Metrics: string = Path.Combine(run.Path, "metrics.jsonl")

    /// The settings, for people and tools; the checkpoints carry their own.
    member run.Settings: string = Path.Combine(run.Path, "settings.json")

    /// The report, written at the end.
    member run.Report: string = Path.Combine(run.Path, "report.html")

    interface IDisposable with
        member run.Dispose() = run.Lock.Dispose()

/// Opening run folders.
[<RequireQualifiedAccess>]
module RunDirectory =

    let private unwritable (path: string) (problem: string) : Error =
        Error.create
            Unwritable
            $"the run's folder cannot be used: {problem}"
            path
            "give a folder that you may write to with --out"

    let private lock (path: string) : Result<RunDirectory, Error> =
        let file = Path.Combine(path, ".lock")

        try
            let path = Path.GetFullPath path
            Directory.CreateDirectory path |> ignore
            let stream = new FileStream(file, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None)
            // The lock is held: no other process writes here.
            Files.removeLeftovers path
            Ok { Path = path; Lock = stream }
        with
        | :? UnauthorizedAccessException
        | :? ArgumentException
        | :? NotSupportedException as problem -> Result.Error(unwritable path problem.Message)
        | :? IOException as problem ->
            if File.Exists file then
                Error.fail
                    Unwritable
                    "another process is using this run's folder"
                    path
                    "wait for it to end, or give another folder with --out"
            else
                Result.Error(unwritable path problem.Message)

    /// Opens a folder for a new run: makes it when absent, refuses it when it holds a run.
    let create (path: string) : Result<RunDirectory, Error> =
        lock path
        |> Result.bind (fun run ->
            // Without a checkpoint there is nothing to resume: lines of an epoch that was never saved are dropped.
            if not (File.Exists run.Last || File.Exists run.Best) then
                File.Delete run.Metrics
                Ok run
            else
                run.Lock.Dispose()

                Error.fail
                    Usage
                    "this folder already holds a run"
                    run.Path
                    "go on with it by --resume, or give another folder with --out"
        )

    /// Opens the folder of an existing run.
    let reopen (path: string) : Result<RunDirectory, Error> = lock path

    /// Returns the checkpoint that a path names: the file, or the latest one of a folder.
    let checkpointOf (path: string) : Result<string, Error> =
        if File.Exists path then
            Ok path
        else
            let last = Path.Combine(path, "last.safetensors")

            if File.Exists last then
                Ok last
            else
                Error.fail
                    Missing
                    (if Directory.Exists path then
                         "there is no checkpoint in this folder"
                     else
                         "there is no such file or folder")
                    path
                    "give a file, or the folder of a run: it holds last.safetensors"

    /// Returns the path of weights: as given, or with the latest checkpoint of a folder.
    let weightsOf (text: string) : Result<WeightsPath, Error> =
        let path = WeightsPath.parse text
        checkpointOf path.File |> Result.map (fun file -> { path with File = file })
