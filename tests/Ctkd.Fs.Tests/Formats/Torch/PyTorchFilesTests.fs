/// Files that PyTorch wrote: every prefix, wrapper and format that people have, in all pairs.
module Ctkd.Fs.Tests.PyTorchFilesTests

open System
open System.IO
open System.Text.RegularExpressions
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Child
open Ctkd.Fs.Tests.Folders

/// A file: its name, its path for `ctkd`, how to load it, and its wrapper where it is the first with it.
type private Written = { Name: string; Path: string; Role: string; Wrapper: string }

let private written (output: string) : Written list =
    output.Split('\n', StringSplitOptions.RemoveEmptyEntries)
    |> List.ofArray
    |> List.map (fun line ->
        match line.Split '\t' with
        | [| name; path; role; wrapper |] -> { Name = name; Path = path; Role = role; Wrapper = wrapper }
        | _ -> failwith $"not a line of the script: {line}"
    )

let private options (file: Written) : WeightsOptions = {
    WeightsFit.strict with
        Role = (if file.Role = "teacher" then WeightsRole.Teacher else WeightsRole.Any)
        IgnoreExtra = (file.Role = "extra")
}

let private fingerprint (options: WeightsOptions) (path: string) : Result<string, Error> =
    Tensor.scoped (fun () ->
        LoadedModel.loadWith options Device.Cpu (Some "resnet8") path
        |> Result.map (fun (loaded, _) -> LoadedModel.fingerprint loaded.Weights)
    )

/// The code in an error's advice.
let private code (error: Error) : string =
    let save = Regex.Match(error.Next, @"torch\.save\(.*?, 'weights\.pt'\)")

    if save.Success then
        save.Value
    else
        error.Next.Substring(error.Next.IndexOf("d['", StringComparison.Ordinal))

let private differing (folder: string) (expected: string) (file: Written) : string option =
    if file.Role = "refused" then
        match fingerprint (options file) file.Path with
        | Ok _ -> Some $"{file.Name}: not refused"
        | Error error ->
            PyTorch.run PyTorchFiles.following [ file.Path; code error ] [] |> ignore

            // PyTorch rounds quantised numbers: the file is right if it loads.
            match fingerprint (options file) (Path.Combine(folder, "weights.pt")) with
            | Ok actual when actual = expected || file.Name = "quantised" -> None
            | Ok _ -> Some $"{file.Name}: the advice gives other weights: {error.Next}"
            | Error again -> Some $"{file.Name}: the advice does not help: {error.Next}: {again}"
    else
        match fingerprint (options file) file.Path with
        | Ok actual when actual = expected -> None
        | Ok _ -> Some $"{file.Name}: other weights"
        | Error error -> Some $"{file.Name}: {error}"

let peer =
    testList "PyTorchFiles" [
        test "files that people have load with the fingerprint of the plain file, or are refused with advice that works" {
            inFolder (fun folder ->
                let plain = Path.Combine(folder, "plain.pt")

                Checkpoint.read Runs.teacher.Value
                |> Error.orRaise
                |> Checkpoint.studentTensors
                |> TorchFile.write plain
                |> Error.orRaise

                let expected = fingerprint WeightsFit.strict plain |> Error.orRaise
                let files = PyTorch.run PyTorchFiles.writing [ folder ] [] |> written
                Must.lie 250 400 files.Length
                Must.beEmpty (files |> List.choose (differing folder expected))

                // `inspect` on each wrapper: what it is, what was taken, what else is there.
                let inspected (wrapper: string) =
                    let file = files |> List.find (fun file -> file.Wrapper = wrapper)
                    (expect 0 folder $"inspect {file.Path}").Out

                for wrapper, texts in
                    [
                        "alone", [ "fits        resnet8" ]
                        "state_dict", [ "under 'state_dict'"; "also there  'optimizer'" ]
                        "namespace", [ "under 'model'"; "'opt', argparse.Namespace" ]
                        "objects", [ "under 'net'"; "'cfg', __main__.Config"; "'optimizer', torch.optim.adam.Adam" ]
                        "teacher", [ "under 'teacher'" ]
                        "both", [ "under 'student'"; "'teacher', 56 tensors" ]
                        "ema", [ "under 'state_dict'"; "#state_dict_ema" ]
                        "list", [ "under '0'" ]
                        "tuple", [ "under '1.model'" ]
                        "key", [ "under 'first.weights'" ]
                        "beside", [ "'buffers.sparse', a sparse tensor"; "'buffers.quantised', a quantised tensor" ]
                        "whole", [ "of an object of the class __main__.Box" ]
                        "lightning", [ "without the prefix 'model.'"; "'hyper_parameters', __main__.Config" ]
                    ] do
                    let out = inspected wrapper

                    for text in texts do
                        Must.contain text out
            )
        }
    ]
