module Ctkd.Fs.Tests.RunRecordTests

open System
open System.IO
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Folders

let private path (folder: string) : string = Path.Combine(Runs.run folder, "run.json")

let private recorded (folder: string) : RunRecord = (RunRecord.read (path folder) |> Error.orRaise).Value

let private begun (folder: string) : unit =
    Run.start (Runs.stopAfter 5) (Runs.run folder) (Runs.taught "ctkd-global" Runs.small)
    |> Error.orRaise
    |> ignore

let private resume (folder: string) : string list =
    let said = ResizeArray<string>()
    Run.resume { Hooks.none with Say = said.Add } (Runs.run folder) |> Error.orRaise |> ignore
    List.ofSeq said

let tests =
    testList "RunRecord" [
        test "a run records its recipe, student, teacher, data and where it was trained" {
            inFolder (fun folder ->
                let experiment = Prepare.ofSettings Hooks.none (Runs.small |> Runs.onAllTests |> Runs.taught "fixed")

                let summary =
                    Run.startExperiment (Runs.run folder) { experiment with Recipe = "a/recipe" } |> Error.orRaise

                let record, teacher = recorded folder, summary.Teacher.Value
                let info = Runs.contents (Runs.last folder) |> fst

                Must.equal
                    ("a/recipe", 78042L, info.DataHash, 50, 1797)
                    (record.Recipe, record.StudentParameters, record.DataHash, record.TrainImages, record.TestImages)

                Must.equal
                    (Some {
                        Top1 = teacher.Top1
                        Top5 = teacher.Top5
                        Loss = teacher.Loss
                        Images = teacher.Images
                        Hash = info.TeacherHash
                    })
                    record.Teacher

                let session = Must.single record.Sessions
                Must.equal (1, "cpu", Environment.ProcessorCount) (session.Epoch, session.Device, session.Cores)
                Must.equal ((Engine.facts ()).Version, Engine.threads ()) (session.Libtorch, session.Threads)
                Must.matchRegex @"^\d+\.\d+\.\d+$" session.Ctkd
                Must.beNonEmpty session.Processor
                Must.beNonEmpty session.Os
            )
        }

        test "a run from labels alone records no teacher and no recipe" {
            inFolder (fun folder ->
                Runs.finish (Runs.run folder) Runs.small |> ignore
                Must.equal ("", None) ((recorded folder).Recipe, (recorded folder).Teacher)
            )
        }

        test "a resume on the same machine leaves the record as it is to the byte" {
            inFolder (fun folder ->
                begun folder
                let before = File.ReadAllText(path folder)
                resume folder |> ignore
                Must.equal before (File.ReadAllText(path folder))
            )
        }

        test "a resume elsewhere adds where the run goes on, and from which epoch" {
            inFolder (fun folder ->
                begun folder
                let here = recorded folder
                let there = { here.Sessions.Head with Processor = "another"; Libtorch = "1.0.0" }
                File.WriteAllText(path folder, Json.writeIndented { here with Sessions = [ there ] })
                resume folder |> ignore
                Must.equal { here with Sessions = [ there; { here.Sessions.Head with Epoch = 2 } ] } (recorded folder)
            )
        }

        test "a run of an earlier version without a record gets one from the epoch on in which it is resumed" {
            inFolder (fun folder ->
                begun folder
                let before = recorded folder
                File.Delete(path folder)
                Must.equal (Ok None) (RunRecord.read (path folder))
                resume folder |> ignore
                Must.equal { before with Sessions = [ { before.Sessions.Head with Epoch = 2 } ] } (recorded folder)
            )
        }

        test "a damaged record ends no run: it stays as it is, with a warning" {
            inFolder (fun folder ->
                begun folder
                File.WriteAllText(path folder, "{")
                let said = resume folder
                Must.haveOne (fun (line: string) -> line.StartsWith $"warning: {path folder} is left as it is") said
                Must.equal "{" (File.ReadAllText(path folder))
                Must.equal Damaged (errorOf (RunRecord.read (path folder))).Kind
            )
        }

        test "a record with a field too many, too few or of another kind is refused by name" {
            inFolder (fun folder ->
                let file = Path.Combine(folder, "run.json")
                let text = Json.write MadeRuns.record

                for before, after, what in
                    [
                        "\"recipe\":\"\",", "", "the field 'recipe' is missing"
                        "\"recipe\"", "\"recipee\"", "unknown field 'recipee'"
                        "\"cores\":2", "\"cores\":\"2\"", "cores"
                        "\"dataHash\":\"2222222222\"", "\"dataHash\":null", "dataHash"
                    ] do
                    Must.contain before text
                    File.WriteAllText(file, text.Replace(before, after))
                    let error = errorOf (RunRecord.read file)
                    Must.equal (Damaged, file) (error.Kind, error.Where)
                    Must.contain what error.What
            )
        }
    ]
