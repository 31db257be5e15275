module Ctkd.Fs.Tests.RunDivergenceTests

open System
open System.IO
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Folders

/// Settings whose rate explodes after the first epoch.
let private exploding: Settings = { Runs.small with Decay = 1e30 }

/// What a run says that diverges in its second epoch; it must leave the files of the first as they were.
let private diverging (settings: Settings) : string =
    inFolder (fun folder ->
        let mutable before = []
        let keep (m: EpochMetrics) = if m.Epoch = 1 then before <- Runs.files (Runs.run folder)
        let error = Run.start { Hooks.none with OnEpoch = keep } (Runs.run folder) settings |> errorOf
        Must.equal (Diverged, Runs.run folder) (error.Kind, error.Where)
        Must.equal before (Runs.files (Runs.run folder))
        Must.equal 1 ((Runs.lines (Runs.run folder)).Length)
        Must.startWith $"the last good checkpoint is {Runs.last folder}; try a smaller --lr" error.Next
        let info, _ = Runs.contents (Runs.last folder)
        Must.equal (2, 0) (info.Epoch, info.Step)
        error.What
    )

let tests =
    testList "RunDivergence" [
        test "a loss that is not finite names its term, the step and the last good checkpoint, which stays" {
            let expected term = $"the term '{term}' was not finite in epoch 2, step 2: the run was stopped"
            Must.equal (expected "ce") (diverging exploding)
            Must.equal (expected "ce") (diverging (Runs.taught "ctkd-global" exploding))
        }

        test "weights that the last batch of an epoch ruined are not written" {
            let what = diverging { exploding with Batch = 50 }
            Must.startWith "the term 'test loss' was not finite in epoch 2, step 1" what
        }

        test "weights that the batch before an interruption ruined are not written" {
            inFolder (fun folder ->
                Run.start (Runs.stopAfter 1) (Runs.run folder) Runs.small |> Error.orRaise |> ignore

                // Velocities so large that the next step, whose loss is still a number, makes the weights infinite.
                let file = Safetensors.readSealed (Runs.last folder) |> Error.orRaise

                let huge (bytes: ReadOnlyMemory<byte>) =
                    Array.init (bytes.Length / 4) (fun _ -> BitConverter.GetBytes 3e38f)

                let tensors =
                    file.Tensors
                    |> List.map (fun t ->
                        if t.Name.StartsWith "velocity/" then
                            { t with Bytes = ReadOnlyMemory(Array.concat (huge t.Bytes)) }
                        else
                            t
                    )

                let state (value: string) = value.Replace("\"learningRate\":0.05", "\"learningRate\":1000")
                let metadata = file.Metadata |> List.map (fun (key, value) -> key, state value)

                Safetensors.writeSealed (Runs.last folder) { Metadata = metadata; Tensors = tensors } |> Error.orRaise

                let before = Runs.files (Runs.run folder)
                let error = Run.resume (Runs.stopAfter 1) (Runs.run folder) |> errorOf
                Must.startWith "the term 'weights' was not finite in epoch 1, step 2" error.What
                Must.equal before (Runs.files (Runs.run folder))
            )
        }

        test "a run that diverges before its first checkpoint says that there is none" {
            inFolder (fun folder ->
                let error = Run.start Hooks.none (Runs.run folder) { Runs.small with LearningRate = 1e30 } |> errorOf

                Must.equal Diverged error.Kind
                Must.startWith "the term 'ce' was not finite in epoch 1, step 2" error.What
                Must.startWith "no checkpoint was written yet; try a smaller --lr" error.Next
                Must.notHold (File.Exists(Runs.last folder))
            )
        }
    ]
