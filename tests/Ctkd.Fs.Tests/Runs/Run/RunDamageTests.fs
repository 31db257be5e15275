/// Runs that go on after a checkpoint or the metrics were damaged.
module Ctkd.Fs.Tests.RunDamageTests

open System
open System.IO
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Folders
open Ctkd.Fs.Tests.RunResumeTests

let private flip (path: string) : unit =
    let bytes = File.ReadAllBytes path
    bytes[bytes.Length / 2] <- bytes[bytes.Length / 2] ^^^ 1uy
    File.WriteAllBytes(path, bytes)

let tests =
    testList "RunDamage" [
        test "a folder whose latest checkpoint is damaged goes on from the best one, and says so" {
            interrupted (fun folder _ ->
                let settings = (fst (Runs.contents (Runs.last folder))).Settings
                let metrics = Path.Combine(Runs.run folder, "metrics.jsonl")
                let line = File.ReadAllText metrics
                // Of an epoch after the best one: it is lost with the checkpoint.
                File.AppendAllText(metrics, line)

                for damage in [ flip; (fun path -> File.WriteAllBytes(path, [||])) ] do
                    let copy = Path.Combine(folder, Guid.NewGuid().ToString "N")
                    Directory.CreateDirectory copy |> ignore

                    for file in Directory.GetFiles(Runs.run folder) do
                        File.Copy(file, Path.Combine(copy, string (Path.GetFileName file)))

                    let last = Path.Combine(copy, "last.safetensors")
                    damage last
                    let damaged = File.ReadAllBytes last
                    let summary, said = resumeWith id copy
                    Must.equal Finished (summary |> Error.orRaise).Ending

                    said
                    |> Must.haveOne (fun text ->
                        text.StartsWith "warning: "
                        && text.EndsWith "best.safetensors, the newest checkpoint that is whole"
                    )

                    said
                    |> Must.haveOne (fun text ->
                        text.StartsWith "going on from epoch 2"
                        && text.Contains $"{last}.damaged and {copy}/metrics.jsonl.old"
                    )

                    Must.equal damaged (File.ReadAllBytes(last + ".damaged"))
                    Must.equal (line + line) (File.ReadAllText(Path.Combine(copy, "metrics.jsonl.old")))
                    let whole = Path.Combine(folder, "whole")
                    if not (Directory.Exists whole) then Runs.finish whole settings |> ignore
                    Must.equal (located settings whole) (located settings copy)
            )
        }

        test "a damaged checkpoint that is named, or of which weights are asked, is an error that names the best one" {
            interrupted (fun folder _ ->
                flip (Runs.last folder)
                let before = Runs.files (Runs.run folder)
                let best = Path.Combine(Runs.run folder, "best.safetensors")
                let error = fst (resumeWith id (Runs.last folder)) |> errorOf
                Must.equal (Damaged, Runs.last folder) (error.Kind, error.Where)
                Must.contain $"{best} is whole, of epoch 1" error.Next
                Must.contain best ((LoadedModel.load ignore Device.Cpu None (Runs.run folder) |> errorOf).Next)
                Must.equal before (Runs.files (Runs.run folder))
                Must.equal Finished ((fst (resumeWith id best) |> Error.orRaise).Ending)

                // A best one that is damaged, too, is neither taken nor offered.
                flip (Runs.last folder)
                flip best
                let before = Runs.files (Runs.run folder)
                let error = fst (resumeWith id (Runs.run folder)) |> errorOf
                Must.equal (Damaged, Runs.last folder) (error.Kind, error.Where)
                Must.lack best error.Next
                Must.equal before (Runs.files (Runs.run folder))
            )
        }

        test
            "a finished run whose latest checkpoint is damaged has the best one in its place where that has finished, too" {
            inFolder (fun folder ->
                let summary = Runs.finish (Runs.run folder) { Runs.small with Epochs = 1 }
                Must.equal 1 summary.Best.Epoch
                flip (Runs.last folder)
                let again, said = resumeWith id (Runs.run folder)
                Must.equal (Finished, summary.Top1) (again |> Result.map (fun s -> s.Ending, s.Top1) |> Error.orRaise)
                said |> Must.haveOne (fun text -> text.Contains "nothing was trained")
                let best = Path.Combine(Runs.run folder, "best.safetensors")
                Must.equal (Runs.contents best) (Runs.contents (Runs.last folder))
                Must.hold (File.Exists(Runs.last folder + ".damaged"))
            )
        }

        test "damaged metrics keep no run from going on, and are kept beside the new ones" {
            interrupted (fun folder _ ->
                let metrics = Path.Combine(Runs.run folder, "metrics.jsonl")
                File.WriteAllText(metrics, "{\"epoch\":1,")
                let summary, said = resumeWith id (Runs.run folder)
                Must.equal [ 2 ] ((summary |> Error.orRaise).Epochs |> List.map _.Epoch)

                said
                |> Must.haveOne (fun text -> text.StartsWith "warning: 1 of 1 lines of" && text.EndsWith ".damaged")

                Must.equal "{\"epoch\":1," (File.ReadAllText(metrics + ".damaged"))
            )
        }

        test "damaged metrics of a finished run are told, and stay as they are" {
            inFolder (fun folder ->
                let finished = Runs.finish (Runs.run folder) Runs.small
                let metrics = Path.Combine(Runs.run folder, "metrics.jsonl")
                let text = File.ReadAllText metrics
                File.WriteAllText(metrics, text.Substring(0, text.Length - 20))
                let before = Runs.files (Runs.run folder)
                let summary, said = resumeWith id (Runs.run folder)
                let summary = summary |> Error.orRaise
                Must.equal [ finished.Epochs.Head ] summary.Epochs
                // What the checkpoint knows is shown.
                Must.equal finished.Top1 summary.Top1

                Must.equal [ $"%.2f{finished.Top1.Value}"; "-" ] [
                    for i in [ 1; 4 ] -> (RunReport.table [ "a", summary ]).Rows.Head[i]
                ]

                Must.startWith $"warning: 1 of 2 lines of {metrics} are missing or damaged" said.Head
                Must.equal before (Runs.files (Runs.run folder))
            )
        }
    ]
