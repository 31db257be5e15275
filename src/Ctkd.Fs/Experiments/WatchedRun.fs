namespace Ctkd.Fs

open System
open System.Buffers.Binary
open System.IO
open System.Text
open System.Text.Json
open FsToolkit.ErrorHandling

/// How far a run is, as its folder shows it.
[<RequireQualifiedAccess>]
type WatchState =
    /// It has not begun.
    | Waiting
    /// It has begun and not ended: whether a process works on it, its folder does not tell.
    | Begun
    | Done
    /// The last try of a sweep's run ended with an error.
    | Failed of what: string

/// A run that is looked at from outside.
type WatchedRun = {
    Name: string
    Folder: string
    State: WatchState
    /// The epochs that it is to train; None before it has begun.
    Epochs: int option
    /// The epochs that are whole.
    Lines: EpochMetrics list
    /// When the last of them ended, UTC.
    Written: DateTime option
}

/// Looks at runs while other processes train them: takes no lock, and writes nothing.
[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module WatchedRun =

    let private settingsFile, private metricsFile, private failedFile =
        "settings.json", "metrics.jsonl", "failed.json"

    /// The largest file of text, and header of a checkpoint, that is read.
    let private mostBytes = 100_000_000L

    /// Runs a body that reads a file, if it is there; what keeps it from being read becomes an error.
    let private reading (path: string) (body: FileStream -> Result<'T, Error>) : Result<'T option, Error> =
        let damaged reason =
            Error.fail Damaged $"'{Path.GetFileName path}' cannot be read: {reason}" path "check the file"

        try
            if File.Exists path && not (Files.isFile path) then
                damaged "it is a pipe or a device, and no file"
            else
                // Whoever writes, renames or deletes it meanwhile is not disturbed.
                use stream =
                    new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite ||| FileShare.Delete)

                body stream |> Result.map Some
        with
        | :? FileNotFoundException
        | :? DirectoryNotFoundException -> Ok None
        | :? IOException
        | :? UnauthorizedAccessException
        | :? JsonException
        // A text in JSON that is no Unicode.
        | :? InvalidOperationException as problem -> damaged problem.Message

    /// So many bytes from where a stream is, or fewer where it ends.
    let private take (count: int64) (stream: FileStream) : byte[] =
        if count < 0L || count > mostBytes then
            raise (IOException $"{count} bytes are no size of such a file")

        let bytes = Array.zeroCreate<byte>(int count)
        let read = stream.ReadAtLeast(Span bytes, bytes.Length, false)
        Array.truncate read bytes

    let private text (path: string) : Result<string option, Error> =
        reading path (fun stream -> Ok(Encoding.UTF8.GetString(take stream.Length stream)))

    /// What is at a path of names within JSON.
    let rec private at (path: string list) (json: JsonElement) : JsonElement option =
        match path with
        | [] -> Some json
        | _ when json.ValueKind <> JsonValueKind.Object -> None
        | name :: rest ->
            match json.TryGetProperty name with
            | true, value -> at rest value
            | _ -> None

    let private whole (path: string list) (json: JsonElement) : int option =
        match at path json with
        | Some value when value.ValueKind = JsonValueKind.Number ->
            match value.TryGetInt32() with
            | true, number -> Some number
            | _ -> None
        | _ -> None

    /// The epochs and the patience of `settings.json`. Only these two are read: it may be of another version.
    let private planned (folder: string) : Result<(int * int option) option, Error> =
        let path = Path.Combine(folder, settingsFile)

        let numbers (stream: FileStream) =
            use json = JsonDocument.Parse(take stream.Length stream)

            match whole [ "epochs" ] json.RootElement with
            | Some epochs when epochs >= 1 ->
                let patience = whole [ "patience" ] json.RootElement |> Option.filter (fun epochs -> epochs > 0)
                Ok(epochs, patience)
            | _ -> Error.fail Damaged $"'{settingsFile}' has no epochs" path "check the file"

        reading path numbers

    /// Whether the latest checkpoint is that of a run's end, by its header alone.
    let private isLast (folder: string) (epochs: int) (patience: int option) : Result<bool, Error> =
        let ended (stream: FileStream) =
            let noCheckpoint () : 'T = raise (IOException "it is no whole checkpoint of ctkd")
            let prefix = take 8L stream
            if prefix.Length < 8 then noCheckpoint ()
            let length = BinaryPrimitives.ReadInt64LittleEndian(ReadOnlySpan prefix)
            if length > stream.Length - 8L then noCheckpoint ()
            use header = JsonDocument.Parse(take length stream)

            let state =
                match at [ "__metadata__"; "state" ] header.RootElement with
                | Some text when text.ValueKind = JsonValueKind.String -> string (text.GetString())
                | _ -> noCheckpoint ()

            use state = JsonDocument.Parse state
            let number path = whole path state.RootElement

            match number [ "epoch" ], number [ "step" ], number [ "best"; "epoch" ] with
            | Some epoch, Some step, Some best ->
                Ok(Best.isOver epochs patience epoch step { Best.none with Epoch = best })
            | _ -> noCheckpoint ()

        match RunDirectory.checkpointOf folder with
        | Error _ -> Ok false
        | Ok file -> reading file ended |> Result.map (Option.defaultValue false)

    /// Why the last try ended; None where another has begun since.
    let private failure (folder: string) : Result<string option, Error> =
        let path = Path.Combine(folder, failedFile)
        let isOver = File.GetLastWriteTimeUtc(Path.Combine(folder, metricsFile)) > File.GetLastWriteTimeUtc path

        text path
        |> Result.bind (
            function
            | None -> Ok None
            | Some _ when isOver -> Ok None
            | Some text -> Json.read<Error> path text |> Result.map (fun error -> Some error.What)
        )

    /// Looks at a run's folder, which need not be there yet. A last line that is half written is left out.
    let look (name: string) (folder: string) : Result<WatchedRun, Error> =
        result {
            let path = Path.Combine(folder, metricsFile)
            let! planned = planned folder
            let! text = text path
            let! lines = Metrics.parse path (Option.defaultValue "" text)
            let! failure = failure folder

            let! ended =
                match planned with
                | Some(epochs, patience) when not lines.IsEmpty -> isLast folder epochs patience
                | _ -> Ok false

            return {
                Name = name
                Folder = folder
                State =
                    (match failure with
                     | _ when ended -> WatchState.Done
                     | Some what -> WatchState.Failed what
                     | None when planned.IsNone && lines.IsEmpty -> WatchState.Waiting
                     | None -> WatchState.Begun)
                Epochs = Option.map fst planned
                Lines = lines
                Written = if lines.IsEmpty then None else Some(File.GetLastWriteTimeUtc path)
            }
        }

    /// A run that cannot be read.
    let unreadable (name: string) (folder: string) (error: Error) : WatchedRun = {
        Name = name
        Folder = folder
        State = WatchState.Failed error.What
        Epochs = None
        Lines = []
        Written = None
    }

    /// Times and sizes of the files that `look` reads: equal ones are read again for nothing.
    let stamp (folder: string) : string list =
        let checkpoint = RunDirectory.checkpointOf folder |> Result.toOption |> Option.toList

        let files =
            [ settingsFile; metricsFile; failedFile ] |> List.map (fun name -> Path.Combine(folder, name))

        [
            for path in files @ checkpoint do
                let file = FileInfo path
                if file.Exists then $"{path} {file.LastWriteTimeUtc.Ticks} {file.Length}"
        ]

    let private isRun (folder: string) : bool =
        [ settingsFile; metricsFile; ".lock" ] |> List.exists (fun name -> File.Exists(Path.Combine(folder, name)))

    /// How deep runs are looked for within a folder.
    let private depth = 3

    let rec private within (depth: int) (folder: string) : string list =
        if depth = 0 then
            []
        else
            Directory.GetDirectories folder
            |> Array.sort
            |> List.ofArray
            |> List.collect (fun folder -> if isRun folder then [ folder ] else within (depth - 1) folder)

    /// The runs of a path with their names: of a sweep's folder all that are planned, of a run's folder that one, of another folder
    /// those within it, and where it is empty one that has not begun.
    let find (path: string) : Result<(string * string) list, Error> =
        let name (folder: string) =
            string (Path.GetFileName(Path.GetFullPath(folder).TrimEnd Path.DirectorySeparatorChar))

        if not (Directory.Exists path) then
            Error.fail
                Missing
                "there is no such folder"
                path
                "give the folder of a run, of a sweep, or one with runs in it"
        else
            try
                SweepPlan.read path
                |> Result.map (fun planned ->
                    match planned with
                    | _ :: _ -> planned |> List.map (fun run -> run.Name, SweepRun.folder path run)
                    | [] when isRun path -> [ name path, path ]
                    | [] ->
                        match within depth path with
                        | [] -> [ name path, path ]
                        | folders -> folders |> List.map (fun folder -> Path.GetRelativePath(path, folder), folder)
                )
            with
            | :? IOException
            | :? UnauthorizedAccessException as problem ->
                Error.fail Missing $"the folder cannot be read: {problem.Message}" path "check that you may read it"

    /// Whether nothing more is to come of a run by itself.
    let hasEnded (run: WatchedRun) : bool =
        match run.State with
        | WatchState.Done
        | WatchState.Failed _ -> true
        | WatchState.Waiting
        | WatchState.Begun -> false

    /// Seconds of training that are left, at the speed of the last five epochs; None before the first is whole.
    let secondsLeft (run: WatchedRun) : float option =
        match run.Epochs, List.tryLast run.Lines with
        | Some epochs, Some last when not (hasEnded run) ->
            let recent = run.Lines |> List.rev |> List.truncate 5
            Some(float (max 0 (epochs - last.Epoch)) * (recent |> List.averageBy _.Seconds))
        | _ -> None
