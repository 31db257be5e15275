namespace Ctkd.Fs.App

open System
open System.Diagnostics
open System.Globalization
open System.Threading
open Argu
open FsToolkit.ErrorHandling
open Ctkd.Fs

/// A run as `watch --json` prints it.
type WatchedResult = {
    Name: string
    Folder: string
    /// waiting, begun, done or failed.
    State: string
    /// The epochs that are whole, and those that are to be.
    Epoch: int
    Epochs: int option
    Loss: float option
    Top1: float option
    BestTop1: float option
    T: float option
    ImagesPerSecond: float option
    SecondsLeft: float option
    Problem: string
}

/// What `watch --json` prints.
type WatchResult = { Folder: string; Runs: WatchedResult list }

/// The command `watch`: follows runs that other processes train.
module Watch =

    /// Between two looks at the folders.
    let private pause = TimeSpan.FromSeconds 1.0

    let private state (run: WatchedRun) : string * string =
        match run.State with
        | WatchState.Waiting -> "waiting", ""
        | WatchState.Begun -> "begun", ""
        | WatchState.Done -> "done", ""
        | WatchState.Failed what -> "failed", what

    let private resultOf (run: WatchedRun) : WatchedResult =
        let last = List.tryLast run.Lines
        let name, problem = state run

        {
            Name = run.Name
            Folder = run.Folder
            State = name
            Epoch = last |> Option.map _.Epoch |> Option.defaultValue 0
            Epochs = run.Epochs
            Loss = last |> Option.map _.Loss
            Top1 = last |> Option.map _.Top1
            BestTop1 = if run.Lines.IsEmpty then None else Some(run.Lines |> List.map _.Top1 |> List.max)
            T = last |> Option.bind _.T
            ImagesPerSecond = last |> Option.map _.ImagesPerSecond
            SecondsLeft = WatchedRun.secondsLeft run
            Problem = problem
        }

    let private table (runs: WatchedRun list) : Table =
        let digits (count: int) (value: float option) =
            match value with
            | Some value -> value.ToString($"F{count}", CultureInfo.InvariantCulture)
            | None -> "-"

        let ago (run: WatchedRun) =
            match run.Written with
            | Some written -> Duration.words (max 0.0 (DateTime.UtcNow - written).TotalSeconds)
            | None -> "-"

        {
            Caption = ""
            Header = [ "run"; "state"; "epoch"; "loss"; "top-1 %"; "best %"; "T"; "images/s"; "left"; "last epoch ago" ]
            Rows = [
                for run in runs ->
                    let shown = resultOf run
                    let epochs = shown.Epochs |> Option.map (fun epochs -> $"/{epochs}") |> Option.defaultValue ""

                    [
                        shown.Name
                        shown.State
                        $"{shown.Epoch}{epochs}"
                        digits 4 shown.Loss
                        digits 2 shown.Top1
                        digits 2 shown.BestTop1
                        digits 2 shown.T
                        digits 0 shown.ImagesPerSecond
                        shown.SecondsLeft |> Option.map Duration.words |> Option.defaultValue "-"
                        ago run
                    ]
            ]
        }

    /// The runs of a path as they are now; those whose files have not changed are not read again. Of several runs one that cannot
    /// be read is told as failed.
    let private look (before: (string list * WatchedRun) list) (path: string) =
        result {
            let! found = WatchedRun.find path

            let read (name: string, folder: string) =
                let stamp = WatchedRun.stamp folder

                match before |> List.tryFind (fun (earlier, run) -> earlier = stamp && run.Folder = folder) with
                | Some seen -> Ok seen
                | None ->
                    match WatchedRun.look name folder with
                    | Result.Error error when found.Length > 1 -> Ok(stamp, WatchedRun.unreadable name folder error)
                    | run -> run |> Result.map (fun run -> stamp, run)

            return! found |> List.traverseResultM read
        }

    /// What a look at a run shows that the one before did not.
    let private news (before: WatchedRun option) (now: WatchedRun) : string list =
        let title = now.Name

        let known, wasState =
            match before with
            | Some run -> run.Lines, Some run.State
            // The first look shows where the run is, not all that was.
            | None -> List.truncate (now.Lines.Length - 1) now.Lines, None

        let same = Seq.zip known now.Lines |> Seq.takeWhile (fun (a, b) -> a = b) |> Seq.length
        let left (m: EpochMetrics) = if m = List.last now.Lines then WatchedRun.secondsLeft now else None

        [
            if same < known.Length then
                $"{title}  goes on after epoch {same}: it was resumed from there"

            for m in List.skip same now.Lines do
                EpochLine.text title now.Epochs (left m) m
                yield! m.Warning |> Option.map (fun warning -> $"warning: {warning}") |> Option.toList

            if wasState <> Some now.State then
                match now.State with
                | WatchState.Waiting -> $"{title}  has not begun"
                | WatchState.Begun when wasState.IsSome && now.Lines.IsEmpty -> $"{title}  has begun"
                | WatchState.Begun -> ()
                | WatchState.Done -> $"{title}  done"
                | WatchState.Failed what -> $"{title}  FAILED: {what}"
        ]

    let private follow (terminal: Terminal) (path: string) : Result<WatchedRun list, Error> =
        let rest () =
            let watch = Stopwatch.StartNew()

            while watch.Elapsed < pause && not (Signals.stop ()) do
                Thread.Sleep 50

        terminal.Redrawing(fun show ->
            let rec go (before: (string list * WatchedRun) list) =
                match look before path with
                | Result.Error error -> Result.Error error
                | Ok seen ->
                    let runs = List.map snd seen

                    for run in runs do
                        let earlier = before |> List.map snd |> List.tryFind (fun other -> other.Folder = run.Folder)
                        news earlier run |> List.iter terminal.Say

                    show (table runs)

                    if List.forall WatchedRun.hasEnded runs || Signals.stop () then
                        Ok runs
                    else
                        rest ()
                        go seen

            go []
        )

    /// Follows runs until they are done, or says once how far they are.
    let command (args: ParseResults<WatchArgs>) : int =
        let terminal = Terminal(args.Contains WatchArgs.Json)

        terminal.Stoppable(fun () ->
            result {
                let! path =
                    match args.TryGetResult WatchArgs.Run with
                    | Some path -> Ok path
                    | None -> Command.usage "watch needs a folder" "give that of a run: ctkd watch runs/student"

                let! runs =
                    if args.Contains WatchArgs.Once then
                        look [] path |> Result.map (List.map snd)
                    else
                        follow terminal path

                terminal.Table(table runs)
                terminal.Json { Folder = path; Runs = List.map resultOf runs }
            }
        )
