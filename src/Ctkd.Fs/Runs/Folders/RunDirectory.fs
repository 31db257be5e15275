namespace Ctkd.Fs

open System
open System.IO
open FsToolkit.ErrorHandling

/// What photographs are for in a run.
[<RequireQualifiedAccess>]
type PhotoPurpose =
    | Train
    | Validation
    | Test

/// The folder of a run, held by one process.
[<ReferenceEquality>]
type RunDirectory = {
    Path: string
    Lock: IDisposable
    /// The highest folder that was made for this run, if any: the run's own one, or one that it lies in.
    Made: string option
} with

    /// The latest checkpoint.
    member run.Last: string = Path.Combine(run.Path, "last.safetensors")

    /// The checkpoint of the best accuracy, on the validation images where there are any, else on the test images.
    member run.Best: string = Path.Combine(run.Path, "best.safetensors")

    /// One JSON object per epoch.
    member run.Metrics: string = Path.Combine(run.Path, "metrics.jsonl")

    /// Event files for TensorBoard, where they are asked for.
    member run.Events: string = Path.Combine(run.Path, "events")

    /// The list of the images for a purpose, where they are photographs. The test images are those of the folder `val`.
    member run.Index(purpose: PhotoPurpose) : string =
        let name =
            match purpose with
            | PhotoPurpose.Train -> "images-train.txt"
            | PhotoPurpose.Validation -> "images-val-split.txt"
            | PhotoPurpose.Test -> "images-val.txt"

        Path.Combine(run.Path, name)

    /// The settings, for people and tools; the checkpoints carry their own.
    member run.Settings: string = Path.Combine(run.Path, "settings.json")

    /// The run's circumstances (`RunRecord`).
    member run.Record: string = Path.Combine(run.Path, "run.json")

    /// The report, written at the end.
    member run.Report: string = Path.Combine(run.Path, "report.html")

    interface IDisposable with
        member run.Dispose() = run.Lock.Dispose()

/// Opening run folders.
[<RequireQualifiedAccess>]
module RunDirectory =

    let private last, private best = "last.safetensors", "best.safetensors"

    let private unwritable (next: string) (path: string) (problem: string) : Error =
        Error.create Unwritable $"the run's folder cannot be used: {problem}" path next

    /// What to do when a folder for a new run, or that of an old one, cannot be used.
    let private another, private writable =
        "give a folder that you may write to with --out",
        "make the folder writable, or copy the run and resume the copy"

    let private held, private occupied =
        "another process is using this run's folder", "this folder already holds a run"

    /// Whether an error says that another process has the folder, or has begun a run there meanwhile.
    let isTaken (error: Error) : bool = error.What = held || error.What = occupied

    /// Whether another process holds a lock: Windows' sharing violation, or EWOULDBLOCK of Linux and macOS.
    let private isHeld (problem: IOException) : bool = List.contains (problem.HResult &&& 0xFFFF) [ 32; 11; 35 ]

    /// The highest of a folder and those that it lies in that does not exist.
    let rec private highestAbsent (path: string) : string option =
        if Directory.Exists path then
            None
        else
            Path.GetDirectoryName path |> Option.ofObj |> Option.bind highestAbsent |> Option.orElse (Some path)

    /// Whether another process works in a run's folder.
    let isBusy (path: string) : bool =
        try
            let file = Path.Combine(path, ".lock")

            if File.Exists file then
                use _ = new FileStream(file, FileMode.Open, FileAccess.ReadWrite, FileShare.None)
                false
            else
                false
        with
        | :? UnauthorizedAccessException -> false
        | :? IOException as problem -> isHeld problem

    let private lock (next: string) (path: string) : Result<RunDirectory, Error> =
        let file = Path.Combine(path, ".lock")

        try
            let path = Path.GetFullPath path
            let made = highestAbsent path
            Directory.CreateDirectory path |> ignore
            let stream = new FileStream(file, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None)
            // The lock is held: no other process writes here.
            Files.removeLeftovers path
            Ok { Path = path; Lock = stream; Made = made }
        with
        | :? UnauthorizedAccessException
        | :? ArgumentException
        | :? NotSupportedException as problem -> Result.Error(unwritable next path problem.Message)
        | :? IOException as problem when isHeld problem ->
            Error.fail Unwritable held path $"wait for it to end, or {next}"
        | :? IOException as problem -> Result.Error(unwritable next path problem.Message)

    /// Opens a folder for a new run: makes it when absent, refuses it when it holds a run.
    let create (path: string) : Result<RunDirectory, Error> =
        lock another path
        |> Result.bind (fun run ->
            if not (File.Exists run.Last || File.Exists run.Best) then
                Ok run
            else
                run.Lock.Dispose()

                Error.fail Usage occupied run.Path "go on with it by --resume, or give another folder with --out"
        )

    /// Deletes what was made for a run that did not begin, where nothing else was put there.
    let discard (run: RunDirectory) : unit =
        let files = Directory.GetFileSystemEntries run.Path |> Array.map Path.GetFileName

        let rec remove (folder: string) (highest: string) =
            if Array.isEmpty (Directory.GetFileSystemEntries folder) then
                Directory.Delete folder
                if folder <> highest then remove (string (Path.GetDirectoryName folder)) highest

        match run.Made with
        | Some highest when files = [| ".lock" |] ->
            run.Lock.Dispose()
            File.Delete(Path.Combine(run.Path, ".lock"))
            remove run.Path highest
        | _ -> ()

    /// Opens the folder of an existing run.
    let reopen (path: string) : Result<RunDirectory, Error> = lock writable path

    /// Keeps aside what a new run would replace: lines of a run without a checkpoint, or files of someone else's.
    let keepEarlier (run: RunDirectory) : Result<unit, Error> =
        try
            for file in [ run.Metrics; run.Settings; run.Record; run.Report ] do
                if File.Exists file then
                    Files.moveAside "old" file |> ignore
                elif Directory.Exists file then
                    raise (IOException $"{Path.GetFileName file} is a folder")

            Ok()
        with
        | :? IOException
        | :? UnauthorizedAccessException as problem -> Result.Error(unwritable another run.Path problem.Message)

    let private writeText (path: string) (text: string) : Result<unit, Error> =
        Files.replace path (fun stream -> stream.Write(ReadOnlySpan(Text.Encoding.UTF8.GetBytes text)))

    /// Writes the settings for people and tools.
    let writeSettings (run: RunDirectory) (s: Settings) : Result<unit, Error> =
        writeText run.Settings (Json.writeIndented s + "\n")

    /// Writes the lists of the photographs that a run uses.
    let writeIndex (run: RunDirectory) (lists: (PhotoPurpose * string) list) : Result<unit, Error> =
        lists |> List.traverseResultM (fun (purpose, list) -> writeText (run.Index purpose) list) |> Result.map ignore

    /// Returns the checkpoint that a path names: the file, or the latest one of a folder. A folder whose disk was full
    /// before the latest one was ever written has the best one alone.
    let checkpointOf (path: string) : Result<string, Error> =
        let within name = Path.Combine(path, name)

        if File.Exists path then
            Ok path
        else
            match List.tryFind File.Exists [ within last; within best ] with
            | Some file -> Ok file
            | None ->
                Error.fail
                    Missing
                    (if Directory.Exists path then
                         "there is no checkpoint in this folder"
                     else
                         "there is no such file or folder")
                    path
                    $"give a file, or the folder of a run: it holds {last}"

    /// Returns the path of weights: as given, or with the latest checkpoint of a folder.
    let weightsOf (text: string) : Result<WeightsPath, Error> =
        let path = WeightsPath.parse text
        checkpointOf path.File |> Result.map (fun file -> { path with File = file })

    /// The best checkpoint beside the latest one, where it is whole.
    let bestBeside (file: string) : Checkpoint option =
        let other = Path.Combine(string (Path.GetDirectoryName(Path.GetFullPath file)), best)

        if Path.GetFileName file = last && File.Exists other then
            Checkpoint.read other |> Result.toOption
        else
            None

    /// Adds the best checkpoint to the error of a latest one that cannot be read, where the best one can.
    let offerBest (file: string) (error: Error) : Error =
        match error.Kind, bestBeside file with
        | Damaged, Some checkpoint ->
            let next =
                $"{checkpoint.Path} is whole, of epoch {checkpoint.Info.Best.Epoch}: name it in place of the folder"

            { error with Next = next }
        | _ -> error
