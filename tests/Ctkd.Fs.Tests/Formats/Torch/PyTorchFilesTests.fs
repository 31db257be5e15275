/// Files that PyTorch wrote: every prefix, wrapper and format that people have, in all pairs.
module Ctkd.Fs.Tests.PyTorchFilesTests

open System
open System.IO
open System.Text.Json.Nodes
open System.Text.RegularExpressions
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Child
open Ctkd.Fs.Tests.Folders

/// A file: its name, its path for `ctkd`, how to load it, and what is in it.
type private Written = {
    Name: string
    Path: string
    Role: string
    Prefix: string
    Wrapper: string
    Format: string
}

let private written (output: string) : Written list =
    output.Split('\n', StringSplitOptions.RemoveEmptyEntries)
    |> List.ofArray
    |> List.map (fun line ->
        match line.Split '\t' with
        | [| name; path; role; prefix; wrapper; format |] -> {
            Name = name
            Path = path
            Role = role
            Prefix = prefix
            Wrapper = wrapper
            Format = format
          }
        | _ -> failwith $"not a line of the script: {line}"
    )

let private options (file: Written) : WeightsOptions = {
    WeightsFit.strict with
        Role = (if file.Role = "teacher" then WeightsRole.Teacher else WeightsRole.Any)
        IgnoreExtra = (file.Role = "extra")
}

let private fingerprint (options: WeightsOptions) (model: string option) (path: string) : Result<string, Error> =
    Tensor.scoped (fun () ->
        LoadedModel.loadWith options Device.Cpu model path
        |> Result.map (fun (loaded, _) -> LoadedModel.fingerprint loaded.Weights)
    )

/// The code in an error's advice.
let private code (error: Error) : string =
    let save = Regex.Match(error.Next, @"torch\.save\(.*?, 'weights\.pt'\)")

    if save.Success then
        save.Value
    else
        error.Next.Substring(error.Next.IndexOf("d['", StringComparison.Ordinal))

/// The files that no code makes readable, and what is said of them.
let private hopeless = Map [ "meta", "give a file that was saved after the model was loaded" ]

let private refusal (folder: string) (expected: string) (file: Written) : string option =
    match fingerprint (options file) (Some "resnet8") file.Path, Map.tryFind file.Name hopeless with
    | Ok _, _ -> Some $"{file.Name}: not refused"
    | Error error, Some advice -> if error.Next.Contains advice then None else Some $"{file.Name}: {error.Next}"
    | Error error, None ->
        // Of a file in an archive, that file, as if unpacked.
        let unpacked = Path.Combine(folder, (file.Path.Split ':' |> Array.last |> Path.GetFileName |> string))
        PyTorch.run PyTorchFiles.following [ unpacked; code error ] [] |> ignore

        // PyTorch rounds quantised numbers: the file is right if it loads.
        match fingerprint (options file) (Some "resnet8") (Path.Combine(folder, "weights.pt")) with
        | Ok actual when actual = expected || file.Name = "quantised" -> None
        | Ok _ -> Some $"{file.Name}: the advice gives other weights: {error.Next}"
        | Error again -> Some $"{file.Name}: the advice does not help: {error.Next}: {again}"

/// The weights with the model's name, and for most files without it.
let private differing (expected: string) (file: Written) : string list = [
    for model in [ Some "resnet8"; None ] do
        match fingerprint (options file) model file.Path with
        | Ok actual when actual = expected -> ()
        | Ok _ -> $"{file.Name}, model {model}: other weights"
        | Error error -> $"{file.Name}, model {model}: {error}"
]

// ---- inspection

let private formats =
    Map [
        "safetensors", "safetensors"
        "legacy", "PyTorch (before 1.6)"
        "legacy4", "PyTorch (before 1.6)"
        "tar", "PyTorch (zip) in a tar archive"
        "tar.gz", "PyTorch (zip) in a compressed archive (gzip)"
        "zip-of-pth", "PyTorch (zip) in a zip archive"
    ]

/// The groups that lead to the weights.
let private groups =
    Map [
        "state_dict", "state_dict"
        "namespace", "model"
        "objects", "net"
        "teacher", "teacher"
        "both", "student"
        "ema", "state_dict"
        "list", "0"
        "tuple", "1.model"
        "key", "first.weights"
        "strange", "model"
        "beside", "model"
        "numpy", "model"
        "lightning", "state_dict"
    ]

/// What is stripped from names, and what is left out within them.
let private strippings =
    Map [
        "bare", ("", "")
        "orig_mod", ("_orig_mod.", "")
        "module", ("module.", "")
        "module.orig_mod", ("module._orig_mod.", "")
        "orig_mod.module", ("_orig_mod.module.", "")
        "mixed", ("", "module")
        "inner-orig_mod", ("", "_orig_mod")
        "inner-module", ("", "module")
        "inner-fsdp", ("", "_fsdp_wrapped_module")
        "fabric", ("_forward_module.module.", "")
        "backbone", ("backbone.", "")
        "net", ("net.", "")
        "model.orig_mod", ("model._orig_mod.", "")
        "student", ("student.", "")
        "module.encoder", ("module.encoder.", "")
        "averaged", ("module.", "")
    ]

/// What else is there: groups, and their numbers of tensors.
let private others =
    Map [
        "state_dict", [ "optimizer", 6 ]
        "both", [ "teacher", 56 ]
        "ema", [ "state_dict_ema", 56 ]
        "beside", [ "buffers", 4 ]
        "objects", [ "optimizer", 8 ]
    ]

let private othersOf (file: Written) : (string * int) list =
    match file.Wrapper, fst strippings[file.Prefix] with
    // Beside stripped names; otherwise they are among the weights.
    | "strange", "" when file.Prefix <> "inner-fsdp" -> []
    | "strange", _ -> [ "model.zz", 4 ]
    // With its counter.
    | "both", _ when file.Prefix = "averaged" -> [ "teacher", 57 ]
    | wrapper, _ -> Map.tryFind wrapper others |> Option.defaultValue []

let private strange = [ "complex64"; "sparse"; "quantised"; "uint16" ]

let private skipped (file: Written) : string list = [
    match file.Wrapper with
    | "strange" ->
        for name in strange do
            "zz." + name
    | "beside" ->
        for name in strange do
            "buffers." + name
    | _ -> ()

    match file.Prefix, file.Wrapper with
    | "averaged", "both" -> ()
    // Without the prefix of the others it keeps its whole name.
    | "averaged", "lightning" -> "model.n_averaged"
    | "averaged", _ -> "n_averaged"
    | _ -> ()
]

/// What the weights are said to be under, without and of.
let private foundOf (file: Written) : string =
    let prefix, within =
        match file.Wrapper with
        | "both" -> "module.", ""
        | "lightning" ->
            let prefix, within = strippings[file.Prefix]
            "model." + prefix, within
        | _ -> strippings[file.Prefix]

    [
        match Map.tryFind file.Wrapper groups with
        | Some group -> $"under '{group}'"
        | None -> ()

        if file.Wrapper = "whole" then "of an object of the class __main__.Box"
        if prefix <> "" then $"without the prefix '{prefix}'"
        if within <> "" then $"without '{within}' within names"
    ]
    |> String.concat ", "

let private inspected (folder: string) (file: Written) : string list =
    let found = JsonNode.Parse (expect 0 folder $"inspect {file.Path} --json").Out |> nonNull
    let field (name: string) (node: JsonNode) : JsonNode = nonNull node[name]

    let rows (name: string) (row: JsonNode -> 'T) = [ for node in (field name found).AsArray() -> row (nonNull node) ]

    let wrong what expected actual =
        if expected = actual then
            None
        else
            Some $"{file.Name}: {what} %A{actual} instead of %A{expected}"

    let text = string (field "found" found)

    List.choose id [
        wrong
            "the format"
            (Map.tryFind file.Format formats |> Option.defaultValue "PyTorch (zip)")
            (string (field "format" found))
        wrong
            "others"
            (othersOf file)
            (rows "others" (fun row -> string (field "key" row), (field "tensors" row).GetValue<int>()))
        wrong "not read" (List.sort (skipped file)) (List.sort (rows "skipped" (field "name" >> string)))

        // Readable tensors beside the weights, of any number.
        if file.Wrapper <> "strange" then
            wrong "weights" (foundOf file) text
            wrong "models" [ "resnet8" ] (rows "fits" string)
    ]

/// What `inspect` says of a refused file: an error, or which tensor is not read.
let private inspectedRefused (folder: string) (file: Written) : string option =
    let ended = ctkd folder $"inspect {file.Path} --json"

    match ended.Code with
    | 1 when ended.Err.Contains "next: " -> None
    | 0 ->
        let found = JsonNode.Parse ended.Out |> nonNull
        let rows = (nonNull found["skipped"]).AsArray()
        if rows.Count = 1 then None else Some $"{file.Name}: {rows.Count} tensors not read"
    | code -> Some $"{file.Name}: exit code {code}: {ended.Err}"

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

                let expected = fingerprint WeightsFit.strict None plain |> Error.orRaise
                let files = PyTorch.run PyTorchFiles.writing [ folder ] [] |> written
                Must.lie 250 400 files.Length
                let refused, read = files |> List.partition (fun file -> file.Role = "refused")
                Must.beEmpty (read |> List.collect (differing expected))
                Must.beEmpty (refused |> List.choose (refusal folder expected))
                Must.beEmpty (read |> List.collect (inspected folder))
                Must.beEmpty (refused |> List.choose (inspectedRefused folder))
            )
        }
    ]
