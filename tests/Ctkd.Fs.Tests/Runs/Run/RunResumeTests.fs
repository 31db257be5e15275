/// Runs that go on after something was moved, lost or damaged, or for more epochs.
module Ctkd.Fs.Tests.RunResumeTests

open System
open System.IO
open System.Text.Json.Nodes
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Folders

/// Resumes with changed settings: the summary, and what it said.
let resumeWith (change: Settings -> Settings) (path: string) : Result<Summary, Error> * string list =
    let said = ResizeArray<string>()
    let hooks = { Hooks.none with Say = said.Add }
    Prepare.ofSettings hooks Settings.defaults |> Run.resumeChanged path change, List.ofSeq said

/// A small run that was interrupted after five of eight batches, with a copy of its teacher beside it.
let private interruptedOf (small: Settings) (body: string -> string -> unit) : unit =
    inFolder (fun folder ->
        let weights = Path.Combine(folder, "teacher.safetensors")
        File.Copy(Runs.teacher.Value, weights)
        let settings = { Runs.taught "ctkd-global" small with TeacherWeights = weights }
        Run.start (Runs.stopAfter 5) (Runs.run folder) settings |> Error.orRaise |> ignore
        body folder weights
    )

let interrupted: (string -> string -> unit) -> unit = interruptedOf Runs.small

/// The outcome of an undisturbed run of the settings, without where files were.
let located (settings: Settings) (folder: string) =
    let ((last, tensors), (best, bestTensors), lines) = Runs.outcome folder
    let at (info: CheckpointInfo) = { info with Settings = settings }
    (at last, tensors), (at best, bestTensors), lines

let tests =
    testList "RunResume" [
        test "a run whose teacher was moved goes on to the bit when its new place is given" {
            interrupted (fun folder weights ->
                let moved = Path.Combine(folder, "moved.safetensors")
                File.Move(weights, moved)
                let error = fst (resumeWith id (Runs.run folder)) |> errorOf
                Must.equal (Missing, weights) (error.Kind, error.Where)
                Must.contain "--weights" error.Next

                let summary, _ = resumeWith (fun s -> { s with TeacherWeights = moved }) (Runs.run folder)
                Must.equal (Finished, moved) (summary |> Error.orRaise |> fun s -> s.Ending, s.Settings.TeacherWeights)
                let whole = Path.Combine(folder, "whole")
                let settings = { Runs.taught "ctkd-global" Runs.small with TeacherWeights = moved }
                Runs.finish whole settings |> ignore
                Must.equal (located settings whole) (located settings (Runs.run folder))
                let json = File.ReadAllText(Path.Combine(Runs.run folder, "settings.json"))
                Must.equal moved ((Json.read<Settings> "" json |> Error.orRaise).TeacherWeights)
            )
        }

        test "another teacher in the new place is refused, and the run stays as it is" {
            interrupted (fun folder _ ->
                let other = (Runs.finish (Path.Combine(folder, "other")) { Runs.small with Seed = 9 }).Checkpoint
                let before = Runs.files (Runs.run folder)
                let error = resumeWith (fun s -> { s with TeacherWeights = other }) (Runs.run folder) |> fst |> errorOf
                Must.equal (Mismatch, other) (error.Kind, error.Where)
                Must.equal before (Runs.files (Runs.run folder))
            )
        }

        test "a run whose data set was moved goes on when its new place is given" {
            inFolder (fun folder ->
                let own, moved = Path.Combine(folder, "own.safetensors"), Path.Combine(folder, "moved.safetensors")
                Run.start (Runs.stopAfter 3) (Runs.run folder) (Runs.ownSet own 60 8) |> Error.orRaise |> ignore
                File.Move(own, moved)
                Must.contain "--data-dir" ((fst (resumeWith id (Runs.run folder)) |> errorOf).Next)
                let summary, _ = resumeWith (fun s -> { s with DataDir = moved }) (Runs.run folder)
                Must.equal Finished ((summary |> Error.orRaise).Ending)
            )
        }

        test "only places, threads, logs, patience and more epochs may change, and everything else is refused by name" {
            interrupted (fun folder _ ->
                let refused change names =
                    let before = Runs.files (Runs.run folder)
                    let error = resumeWith change (Runs.run folder) |> fst |> errorOf
                    Must.equal Usage error.Kind
                    Must.contain names error.What
                    Must.equal before (Runs.files (Runs.run folder))

                refused (fun s -> { s with LearningRate = 0.1; Batch = 8 }) "batch, learningRate would change"
                refused (fun s -> { s with Seed = 2 }) "seed would change"
                refused (fun s -> { s with Epochs = 1 }) "2 epochs, and 1 are fewer"

                let mayChange = SettingsTable.all |> List.filter _.MayChange |> List.map _.Name |> Set

                Must.equal
                    (Set [
                        "teacherWeights"
                        "teaching.others"
                        "teaching.classes"
                        "dataDir"
                        "photos.decodeThreads"
                        "photos.decodedGb"
                        "epochs"
                        "patience"
                        "device"
                        "threads"
                        "teacherCache"
                        "teacherCacheGb"
                        "log"
                    ])
                    mayChange
            )
        }

        test "a finished run goes on for more epochs as if it had been begun with them" {
            inFolder (fun folder ->
                Runs.finish (Runs.run folder) Runs.small |> ignore
                let longer = { Runs.small with Epochs = 3 }
                let summary, said = resumeWith (fun s -> { s with Epochs = 3 }) (Runs.run folder)
                Must.equal [ 1..3 ] ((summary |> Error.orRaise).Epochs |> List.map _.Epoch)
                said |> Must.haveOne (fun text -> text.Contains "3 epochs in place of 2: the milestones stay at 1")
                let whole = Path.Combine(folder, "whole")
                Runs.finish whole longer |> ignore
                Must.equal (located longer whole) (located longer (Runs.run folder))
            )
        }

        test "a finished run needs neither its teacher nor its data, and says how to go on" {
            interrupted (fun folder weights ->
                Run.resume Hooks.none (Runs.run folder) |> Error.orRaise |> ignore
                File.Delete weights
                let before = Runs.files (Runs.run folder)
                let summary, said = resumeWith id (Runs.run folder)
                Must.equal (Finished, 2) (summary |> Error.orRaise |> fun s -> s.Ending, s.Epochs.Length)
                Must.equal [ "all 2 epochs are done: nothing was trained" ] said
                Must.equal before (Runs.files (Runs.run folder))
            )
        }

        test "a disk that filled before the first latest checkpoint leaves the best one, from which the run goes on" {
            inFolder (fun folder ->
                Runs.finish (Runs.run folder) Runs.small |> ignore
                let expected = Runs.outcome (Runs.run folder)
                let other = Path.Combine(folder, "other")
                Run.start (Runs.stopAfter 5) other Runs.small |> Error.orRaise |> ignore
                File.Delete(Path.Combine(other, "last.safetensors"))
                Must.contain "--resume" ((RunDirectory.create other |> errorOf).Next)
                let summary, said = resumeWith id other
                Must.equal Finished ((summary |> Error.orRaise).Ending)
                said |> Must.haveOne (fun text -> text.StartsWith "going on from epoch 2")
                Must.equal expected (Runs.outcome other)
            )
        }

        test "a checkpoint of a version without the options of later ones means their defaults" {
            // Those had no subsets.
            interruptedOf
                (Runs.onAllTests Runs.small)
                (fun folder _ ->
                    let file = Safetensors.readSealed (Runs.last folder) |> Error.orRaise

                    let rec remove (json: JsonObject) (path: string list) : unit =
                        match path with
                        | [] -> ()
                        | [ name ] -> Must.hold (json.Remove name)
                        | name :: rest ->
                            let inner = (nonNull json[name]).AsObject()
                            remove inner rest
                            // Earlier versions lack the whole record.
                            if inner.Count = 0 then Must.hold (json.Remove name)

                    let without (json: JsonObject) (field: Field) =
                        remove json (List.ofArray (field.Name.Split '.'))
                        json

                    let older (key: string, text: string) =
                        if key <> "state" then
                            key, text
                        else
                            let state = (JsonNode.Parse text |> nonNull).AsObject()

                            SettingsTable.all
                            |> List.filter _.IsNew
                            |> List.fold without ((nonNull state["settings"]).AsObject())
                            |> ignore

                            Must.hold (state.Remove "classNames")
                            Must.hold ((nonNull state["images"]).AsObject().Remove "shortSide")
                            key, state.ToJsonString()

                    let metadata = file.Metadata |> List.map older
                    Must.differ file.Metadata metadata

                    for field in
                        [ "dropLast"; "optimiser"; "lrSchedule"; "patience"; "teaching"; "photos"; "classNames" ] do
                        Must.lack field (String.concat "" (List.map snd metadata))

                    Safetensors.writeSealed (Runs.last folder) { file with Metadata = metadata } |> Error.orRaise
                    let summary, _ = resumeWith id (Runs.run folder)
                    let s = (summary |> Error.orRaise).Settings
                    Must.equal (0, false, OptimiserName.Sgd, 0) (s.Threads, s.DropLast, s.Optimiser, s.Patience)
                    let whole = Path.Combine(folder, "whole")
                    Runs.finish whole s |> ignore
                    Must.equal (located s whole) (located s (Runs.run folder))
                )
        }

        test "a teacher whose outputs are not finite is refused before training, by its file" {
            inFolder (fun folder ->
                let weights = Path.Combine(folder, "teacher.safetensors")

                Tensor.scoped (fun () ->
                    let trained = LoadedModel.load ignore Device.Cpu None Runs.teacher.Value |> Error.orRaise

                    // Finite weights whose products overflow.
                    let enlarged w = w / Tensor.max (Tensor.abs w) |> Tensor.scale 3e38

                    let spoilt =
                        trained.Weights |> Tree.map (fun name w -> if name = "fc.weight" then enlarged w else w)

                    let tensors = Tree.toList spoilt |> List.map (fun (name, w) -> Weights.store name w)
                    Safetensors.write weights { Metadata = []; Tensors = tensors } |> Error.orRaise
                )

                let settings = { Runs.taught "fixed" Runs.small with TeacherWeights = weights }
                let error = Run.start Hooks.none (Runs.run folder) settings |> errorOf
                Must.equal (Mismatch, weights) (error.Kind, error.Where)
                Must.contain "numbers that are not finite" error.What
                Must.lack "--lr" error.Next
                Must.notHold (Directory.Exists(Runs.run folder))
            )
        }

        test "a folder that cannot be used is told before the teacher is looked at" {
            inFolder (fun folder ->
                let settings = {
                    Runs.taught "fixed" Runs.small with
                        TeacherWeights = Path.Combine(folder, "none")
                }

                let file = Path.Combine(folder, "file")
                File.WriteAllText(file, "")

                for out in [ file; ""; String('x', 5000); "/proc/run" ] do
                    let error = Run.start Hooks.none out settings |> errorOf
                    Must.equal Unwritable error.Kind
                    Must.contain "--out" error.Next
            )
        }

        test
            "--drop-last leaves out the rest of an epoch, and a rest that is too small for batch normalisation warns of it" {
            inFolder (fun folder ->
                let train name (s: Settings) =
                    let said = ResizeArray<string>()
                    let steps = ResizeArray<int>()

                    let hooks = { Hooks.none with Say = said.Add; OnBatch = fun _ _ total -> steps.Add total }

                    Run.start hooks (Path.Combine(folder, name)) s |> Error.orRaise |> ignore
                    List.ofSeq said |> List.filter _.Contains("--drop-last"), Set steps, steps.Count

                // 50 images: batches of 16, 16, 16 and 2; of 49 and 1; of 10.
                let warned, steps, count = train "a" Runs.small
                Must.equal (1, Set [ 4 ], 8) (warned.Length, steps, count)
                Must.contain "has 2 images, too few for batch normalisation" warned.Head
                Must.equal ([], Set [ 3 ], 6) (train "b" { Runs.small with DropLast = true })

                Must.contain
                    "has one image"
                    ((train "c" { Runs.small with Batch = 49 }) |> fun (warned, _, _) -> warned.Head)

                Must.equal ([], Set [ 5 ], 10) (train "d" { Runs.small with Batch = 10; DropLast = true })

                let taught = {
                    Runs.taught "ctkd-instance" Runs.small with
                        DropLast = true
                        TeacherAhead = 2
                }

                Must.equal ([], Set [ 3 ], 6) (train "e" taught)

                Must.equal
                    ([], Set [ 1 ], 2)
                    (train "f" { Runs.small with Student = "vgg8"; Batch = 49; DropLast = true })
            )
        }

        test "--threads sets the threads of the processor that compute" {
            inFolder (fun folder ->
                let before = Engine.threads ()
                let other = if before = 1 then 2 else 1

                try
                    Runs.finish (Runs.run folder) { Runs.small with Threads = other } |> ignore
                    Must.equal other (Engine.threads ())
                finally
                    Engine.setThreads before
            )
        }
    ]
