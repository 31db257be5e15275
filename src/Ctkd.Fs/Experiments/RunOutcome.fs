namespace Ctkd.Fs

open System
open System.IO
open FsToolkit.ErrorHandling

/// How far a run has come.
[<RequireQualifiedAccess>]
type RunProgress =
    /// All its epochs are done.
    | Whole
    /// It ended before, as its patience says.
    | StoppedEarly
    /// Epochs are left.
    | Unfinished

/// A run as its folder tells it: settings, metrics, circumstances.
type RunOutcome = {
    /// The folder, whole.
    Folder: string
    /// The folder as it was given or found, which messages and tables show.
    Name: string
    Settings: Settings
    /// None in runs of earlier versions.
    Record: RunRecord option
    Epochs: EpochMetrics list
    Progress: RunProgress
} with

    /// The latest whole epoch; None before the first.
    member run.Last: EpochMetrics option = List.tryLast run.Epochs

    /// Seconds of training, evaluation not counted.
    member run.Seconds: float = run.Epochs |> List.sumBy _.Seconds

    /// Training images a second over the whole run; None before the first epoch.
    member run.ImagesPerSecond: float option =
        if run.Seconds > 0.0 then
            Some((run.Epochs |> List.sumBy (fun m -> m.ImagesPerSecond * m.Seconds)) / run.Seconds)
        else
            None

/// Reads and finds the folders of runs.
[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module RunOutcome =

    // ---- single epochs ----

    /// The epoch of the highest score, the first of several; None where no epoch has one.
    let bestBy (score: EpochMetrics -> float option) (run: RunOutcome) : EpochMetrics option =
        let scored = run.Epochs |> List.choose (fun m -> score m |> Option.map (fun value -> m, value))
        if scored.IsEmpty then None else Some(scored |> List.maxBy snd |> fst)

    /// The epoch of the best top-1 on the test images. It is chosen on them, and so too good.
    let bestOnTest (run: RunOutcome) : EpochMetrics option = bestBy (fun m -> Some m.Top1) run

    /// The epoch of the best top-1 on the validation images; None without any.
    let bestOnValidation (run: RunOutcome) : EpochMetrics option = bestBy _.ValTop1 run

    // ---- one run ----

    let private settingsFile, private metricsFile, private recordFile =
        "settings.json", "metrics.jsonl", "run.json"

    let private isIn (folder: string) (name: string) : bool = File.Exists(Path.Combine(folder, name))

    /// Whether a folder holds a run: settings, and something that only a run has.
    let private isRun (folder: string) : bool =
        isIn folder settingsFile
        && List.exists (isIn folder) [ metricsFile; recordFile; "last.safetensors"; "best.safetensors" ]

    /// Refuses numbers that no run has: statistics of them would be NaN.
    let private plausible (path: string) (epochs: EpochMetrics list) : Result<unit, Error> =
        let isPercent x = x >= 0.0 && x <= 100.0
        let isNumber x = abs x <= float Single.MaxValue

        let holds (m: EpochMetrics) =
            m.Epoch >= 1
            && isPercent m.Top1
            && isPercent m.Top5
            && List.forall (fun x -> x >= 0.0 && isNumber x) [ m.TestLoss; m.Seconds; m.ImagesPerSecond ]
            && Option.forall isPercent m.ValTop1
            && Option.forall isNumber m.ValLoss
            && Option.forall isNumber m.T
            && Map.forall (fun _ x -> isNumber x) m.Reported
            && isNumber m.Loss

        let rises = epochs |> List.pairwise |> List.forall (fun (a, b) -> a.Epoch < b.Epoch)

        match epochs |> List.tryFind (holds >> not) with
        | None when rises -> Ok()
        | None -> Error.fail Damaged "the epochs of the metrics do not rise" path "run it again in another folder"
        | Some m ->
            Error.fail
                Damaged
                $"epoch {m.Epoch} of the metrics holds numbers that no run has"
                path
                "run it again in another folder"

    let private readSettings (path: string) : Result<Settings, Error> =
        Files.readText path
        |> Result.bind (fun text ->
            SettingsTable.readHolder<{| Settings: Settings |}> path ("{\"settings\":" + text + "}")
        )
        |> Result.map _.Settings

    /// How far a run has come, by its settings and metrics.
    let private progress (s: Settings) (epochs: EpochMetrics list) : RunProgress =
        let best = epochs |> List.map Metrics.candidate |> List.fold Best.better Best.none

        match List.tryLast epochs with
        | Some last when last.Epoch >= s.Epochs -> RunProgress.Whole
        | Some last when Metrics.isLast s best last -> RunProgress.StoppedEarly
        | _ -> RunProgress.Unfinished

    /// More than 10^5 epochs have.
    let private mostMetrics = 256

    let private readEpochs (path: string) : Result<EpochMetrics list, Error> =
        result {
            if File.Exists path && FileInfo(path).Length > 0L then
                do! Files.atMost mostMetrics path

            let! epochs = Metrics.read path
            do! plausible path epochs
            return epochs
        }

    let private readAs (name: string) (folder: string) : Result<RunOutcome, Error> =
        let file name = Path.Combine(folder, name)

        result {
            let! settings = readSettings (file settingsFile)
            let! epochs = readEpochs (file metricsFile)
            let! record = RunRecord.read (file recordFile)

            return {
                Folder = Path.GetFullPath folder |> Path.TrimEndingDirectorySeparator
                Name = name
                Settings = settings
                Record = record
                Epochs = epochs
                Progress = progress settings epochs
            }
        }

    /// Reads a run from its folder: `settings.json`, `metrics.jsonl`, and `run.json` where there is one.
    let read (folder: string) : Result<RunOutcome, Error> =
        if isRun folder then
            readAs (Path.TrimEndingDirectorySeparator folder) folder
        else
            Error.fail
                Missing
                "there is no run in this folder"
                folder
                "give the folder of a run: it holds settings.json and metrics.jsonl"

    // ---- many runs ----

    /// Folders below each other that are searched, at most.
    let private deepest = 16

    /// The folders of runs in a folder, itself among them, in the order of their names. Hidden folders and links are left out.
    let private runsIn (folder: string) : Result<string list, Error> =
        let options =
            EnumerationOptions(
                AttributesToSkip = (FileAttributes.Hidden ||| FileAttributes.ReparsePoint),
                IgnoreInaccessible = false
            )

        let rec search (depth: int) (folder: string) : string list = [
            if isRun folder then folder

            if depth < deepest then
                for inner in
                    Directory.GetDirectories(folder, "*", options)
                    |> Array.sortWith (fun a b -> String.CompareOrdinal(a, b)) do
                    yield! search (depth + 1) inner
        ]

        try
            Ok(search 0 folder)
        with
        | :? IOException
        | :? UnauthorizedAccessException as problem ->
            Error.fail Missing $"the folder cannot be searched: {problem.Message}" folder "give the folders of its runs"

    let private found (folder: string) : Result<(RunOutcome list * Error list), Error> =
        let noRun what next = Error.fail Missing what folder next

        if not (Directory.Exists folder) then
            noRun "there is no such folder" "give folders of runs, or folders that hold runs"
        elif isRun folder then
            // Named by the user: what is wrong with it ends the command.
            read folder |> Result.map (fun run -> [ run ], [])
        else
            runsIn folder
            |> Result.bind (fun folders ->
                if folders.IsEmpty then
                    noRun "there is no run in this folder" "a run's folder holds settings.json and metrics.jsonl"
                else
                    let read = folders |> List.map (fun folder -> readAs folder folder)

                    Ok(
                        read |> List.choose Result.toOption,
                        read
                        |> List.choose (
                            function
                            | Ok _ -> None
                            | Error error -> Some error
                        )
                    )
            )

    /// <summary>Reads all runs of folders, each a run's or one that holds runs at any depth.</summary>
    /// <param name="folders">The folders; a run that is in several of them is read once.</param>
    /// <returns>The runs, and the errors of those that were found and cannot be read; an error where a folder that was named
    /// cannot be read, or none.</returns>
    let readAll (folders: string list) : Result<RunOutcome list * Error list, Error> =
        folders
        |> List.traverseResultM found
        |> Result.bind (fun found ->
            match
                found |> List.collect fst |> List.distinctBy _.Folder, found |> List.collect snd |> List.distinct
            with
            | [], problem :: _ -> Error problem
            | runs, problems -> Ok(runs, problems)
        )
