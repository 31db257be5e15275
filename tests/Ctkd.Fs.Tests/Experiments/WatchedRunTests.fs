/// Runs as they look from outside while other processes train them.
module Ctkd.Fs.Tests.WatchedRunTests

open System
open System.IO
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Folders

let private look (folder: string) : WatchedRun = WatchedRun.look "run" folder |> Error.orRaise

let private at (folder: string) (name: string) : string = Path.Combine(folder, name)

/// What a run's folder looks like at each moment in which it tells something.
let private moments (settings: Settings) (run: string) : WatchedRun list =
    let seen = ResizeArray<WatchedRun>()

    let hooks = {
        Hooks.none with
            OnBatch = fun _ _ _ -> seen.Add(look run)
            OnEpoch = fun _ -> seen.Add(look run)
    }

    Run.start hooks run settings |> Error.orRaise |> ignore
    List.ofSeq seen

let private facts (run: WatchedRun) = run.State, run.Epochs, run.Lines.Length

let tests =
    testList "WatchedRun" [
        test "a run is waiting, begun and done, with the lines that are whole, and a look changes nothing" {
            inFolder (fun folder ->
                let run = Runs.run folder
                Must.equal (WatchState.Waiting, None, 0) (facts (look run))
                Directory.CreateDirectory run |> ignore
                Must.equal (WatchState.Waiting, None, 0) (facts (look run))
                Must.beEmpty (Directory.GetFileSystemEntries run)

                let expected = [
                    yield! List.replicate 4 (WatchState.Begun, Some 2, 0)
                    yield! List.replicate 5 (WatchState.Begun, Some 2, 1)
                    // The last epoch's line and its checkpoint are written.
                    WatchState.Done, Some 2, 2
                ]

                Must.equal expected (moments Runs.small run |> List.map facts)
                let before = Runs.files run

                Must.equal
                    (Runs.lines run)
                    ((look run).Lines |> List.map (fun m -> { m with Seconds = 0.0; ImagesPerSecond = 0.0 }))

                Must.equal before (Runs.files run)
            )
        }

        test "a run whose last line is written and whose checkpoint is not is not done yet" {
            inFolder (fun folder ->
                let run = Runs.run folder
                let earlier = at folder "earlier"

                let hooks = {
                    Hooks.none with
                        OnEpoch = fun m -> if m.Epoch = 1 then File.Copy(at run "last.safetensors", earlier)
                }

                Run.start hooks run Runs.small |> Error.orRaise |> ignore
                Must.equal WatchState.Done (look run).State
                File.Copy(earlier, at run "last.safetensors", true)
                Must.equal WatchState.Begun (look run).State
            )
        }

        test "a run that its patience has ended is done, and is not with more epochs" {
            inFolder (fun folder ->
                let run = Runs.run folder
                let settings = { Runs.small with Epochs = 12; Milestones = [ 1 ]; Decay = 1e-6; Patience = 1 }
                Must.hold (Runs.finish run settings).StoppedEarly
                Must.equal WatchState.Done (look run).State
                let path = at run "settings.json"
                File.WriteAllText(path, File.ReadAllText(path).Replace("\"patience\": 1", "\"patience\": 0"))
                Must.equal WatchState.Begun (look run).State
            )
        }

        test "a line that is half written is left out at whatever byte it is cut" {
            inFolder (fun folder ->
                let run = Runs.run folder
                Runs.finish run Runs.small |> ignore
                let path = at run "metrics.jsonl"
                let bytes = File.ReadAllBytes path
                let first = Array.IndexOf(bytes, byte '\n') + 1

                for length in [ 0; 1; first - 2; first - 1; first; first + 1; first + 100; bytes.Length - 1 ] do
                    File.WriteAllBytes(path, bytes[.. length - 1])
                    // A line without its end is whole where nothing but the line feed lacks.
                    let whole =
                        if length >= bytes.Length - 1 then 2
                        elif length >= first - 1 then 1
                        else 0

                    Must.equal (length, whole) (length, (look run).Lines.Length)
            )
        }

        test "the time left is that of the epochs left at the mean of the last five" {
            inFolder (fun folder ->
                let line = (Runs.finish folder Runs.small).Epochs.Head
                let seconds = [ 100.0; 1.0; 2.0; 3.0; 4.0; 5.0 ]

                let run = {
                    Name = "run"
                    Folder = folder
                    State = WatchState.Begun
                    Epochs = Some 10
                    Lines = seconds |> List.mapi (fun i seconds -> { line with Epoch = i + 1; Seconds = seconds })
                    Written = None
                }

                Must.equal (Some 12.0) (WatchedRun.secondsLeft run)
                Must.equal None (WatchedRun.secondsLeft { run with State = WatchState.Done })
                Must.equal None (WatchedRun.secondsLeft { run with Lines = [] })
                Must.equal None (WatchedRun.secondsLeft { run with Epochs = None })
            )
        }

        test "a run whose files are damaged or too large is an error that names them" {
            inFolder (fun folder ->
                let run = Runs.run folder
                Runs.finish run Runs.small |> ignore

                for name, text in
                    [
                        "metrics.jsonl", "{}\n"
                        "settings.json", "{"
                        "settings.json", "[1]"
                        "settings.json", """{ "epochs": 1e99 }"""
                        "failed.json", "[]"
                        "last.safetensors", "short"
                        "last.safetensors", "\002\000\000\000\000\000\000\000{}"
                        "last.safetensors",
                        "\041\000\000\000\000\000\000\000{ \"__metadata__\": { \"state\": \"\\ud800\" } }"
                        "last.safetensors", "\001\000\000\000\000\000\000\127{}"
                    ] do
                    let path = at run name
                    let was = if File.Exists path then Some(File.ReadAllBytes path) else None
                    File.WriteAllText(path, text)
                    let error = errorOf (WatchedRun.look "run" run)
                    Must.equal path error.Where

                    match was with
                    | Some bytes -> File.WriteAllBytes(path, bytes)
                    | None -> File.Delete path

                Must.equal WatchState.Done (look run).State
                use large = new FileStream(at run "metrics.jsonl", FileMode.Open)
                large.SetLength 10_000_000_000L
                Must.contain "no size of such a file" (errorOf (WatchedRun.look "run" run)).What
            )
        }

        test "a folder is a run, a sweep with what is planned, or holds runs; what is not there is an error" {
            inFolder (fun folder ->
                let names path = WatchedRun.find path |> Error.orRaise |> List.map fst
                let error = errorOf (WatchedRun.find (at folder "none"))
                Must.equal (Missing, at folder "none") (error.Kind, error.Where)
                Must.equal [ Path.GetFileName folder ] (names folder)

                for name in [ "a"; "b/c"; "b/c/d" ] do
                    Directory.CreateDirectory(at folder name) |> ignore

                File.WriteAllText(at folder "a/settings.json", "{}")
                File.WriteAllText(at folder "b/c/.lock", "")
                Must.equal [ "a"; "b/c" ] (names folder)
                Must.equal [ "a" ] (names (at folder "a"))

                let json = """{ "perClass": 5, "seeds": 2 }"""
                let planned = Sweep.parse "s.json" json |> Result.bind (SweepPlan.create id) |> Error.orRaise
                SweepPlan.write folder planned |> Error.orRaise
                Must.equal (planned |> List.map _.Name) (names folder)
            )
        }
    ]
