module Ctkd.Fs.Tests.RunDirectoryTests

open System
open System.IO
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Folders

let tests =
    testList "RunDirectory" [
        test "a new folder is made with its parents, and names its files" {
            inFolder (fun folder ->
                let path = Path.Combine(folder, "a", "b")
                use run = RunDirectory.create path |> Error.orRaise
                Must.hold (Directory.Exists path)
                Must.equal path run.Path

                let names =
                    [ run.Last; run.Best; run.Metrics; run.Settings; run.Record; run.Report ]
                    |> List.map (fun path -> string (Path.GetFileName path))

                Must.equal
                    [
                        "last.safetensors"
                        "best.safetensors"
                        "metrics.jsonl"
                        "settings.json"
                        "run.json"
                        "report.html"
                    ]
                    names
            )
        }

        test "a relative path becomes an absolute one" {
            inFolder (fun folder ->
                let relative = Path.GetRelativePath(Environment.CurrentDirectory, Path.Combine(folder, "run"))

                use run = RunDirectory.create relative |> Error.orRaise
                Must.equal (Path.Combine(folder, "run")) run.Path
            )
        }

        test "a folder that holds a run is refused and left free" {
            for name in [ "last.safetensors"; "best.safetensors" ] do
                inFolder (fun folder ->
                    File.WriteAllText(Path.Combine(folder, name), "kept")
                    let error = errorOf (RunDirectory.create folder)
                    Must.equal (Usage, folder) (error.Kind, error.Where)
                    Must.contain "--resume" error.Next
                    Must.equal "kept" (File.ReadAllText(Path.Combine(folder, name)))
                    use _ = RunDirectory.reopen folder |> Error.orRaise
                    ()
                )
        }

        test "a folder for a run that does not begin is removed with those that were made for it, and nothing else" {
            inFolder (fun folder ->
                let discard path = RunDirectory.create path |> Error.orRaise |> RunDirectory.discard
                discard (Path.Combine(folder, "a", "b", "c"))
                Must.beEmpty (Directory.GetFileSystemEntries folder)

                let existing = Directory.CreateDirectory(Path.Combine(folder, "own")).FullName
                discard existing
                discard (Path.Combine(existing, "d"))
                Must.equal [| existing |] (Directory.GetDirectories folder)

                use run = RunDirectory.create (Path.Combine(folder, "e", "f")) |> Error.orRaise
                File.WriteAllText(Path.Combine(run.Path, "note"), "kept")
                RunDirectory.discard run
                Must.equal "kept" (File.ReadAllText(Path.Combine(run.Path, "note")))
            )
        }

        test "files of a run without a checkpoint, or of someone else, hold no folder, and are kept aside" {
            inFolder (fun folder ->
                let file name = Path.Combine(folder, name)

                for name in [ "metrics.jsonl"; "settings.json"; "run.json"; "report.html" ] do
                    File.WriteAllText(file name, name)

                use run = RunDirectory.create folder |> Error.orRaise
                Must.hold (File.Exists run.Metrics)
                RunDirectory.keepEarlier run |> Error.orRaise

                for name in [ "metrics.jsonl"; "settings.json"; "run.json"; "report.html" ] do
                    Must.notHold (File.Exists(file name))
                    Must.equal name (File.ReadAllText(file (name + ".old")))
            )
        }

        test "what a killed process had half written is removed by the next that holds the folder, and nothing else" {
            inFolder (fun folder ->
                let file name = Path.Combine(folder, name)
                let killed = file $"last.safetensors.{Guid.NewGuid():N}.tmp"
                let kept = [ "last.safetensors"; "notes.tmp"; "last.safetensors.tmp"; $"{Guid.NewGuid():N}" ]
                use held = RunDirectory.reopen folder |> Error.orRaise

                for path in killed :: List.map file kept do
                    File.WriteAllText(path, "text")

                errorOf (RunDirectory.reopen folder) |> ignore
                Must.hold (File.Exists killed)
                (held :> IDisposable).Dispose()
                use _ = RunDirectory.reopen folder |> Error.orRaise
                Must.notHold (File.Exists killed)

                for name in kept do
                    Expect.isTrue (File.Exists(file name)) name
            )
        }

        test "a folder is held by one until it is released" {
            inFolder (fun folder ->
                let first = RunDirectory.create folder |> Error.orRaise

                for second in [ RunDirectory.create folder; RunDirectory.reopen folder ] do
                    let error = errorOf second
                    Must.equal (Unwritable, folder) (error.Kind, error.Where)
                    Must.contain "another process" error.What

                (first :> IDisposable).Dispose()
                use _ = RunDirectory.create folder |> Error.orRaise
                ()
            )
        }

        test "a folder that cannot be made is an error with the remedy" {
            inFolder (fun folder ->
                let file = Path.Combine(folder, "file")
                File.WriteAllText(file, "kept")

                for path in
                    [ file; Path.Combine(file, "run"); "/proc/run"; "/dev/null/run"; ""; "a\000b"; String('x', 5000) ] do
                    let error = errorOf (RunDirectory.create path)
                    Must.equal Unwritable error.Kind
                    Must.contain "--out" error.Next

                Must.equal "kept" (File.ReadAllText file)
            )
        }

        test "a checkpoint is a file itself or the latest one of a folder, or the best one where a disk was full" {
            inFolder (fun folder ->
                let last, best = Path.Combine(folder, "last.safetensors"), Path.Combine(folder, "best.safetensors")

                let error = errorOf (RunDirectory.checkpointOf folder)
                Must.equal (Missing, folder) (error.Kind, error.Where)
                File.WriteAllText(best, "")
                Must.equal (Ok best) (RunDirectory.checkpointOf best)
                Must.equal (Ok best) (RunDirectory.checkpointOf folder)
                File.WriteAllText(last, "")
                Must.equal (Ok last) (RunDirectory.checkpointOf folder)

                Must.equal Missing ((errorOf (RunDirectory.checkpointOf (Path.Combine(folder, "none")))).Kind)
            )
        }
    ]
