namespace Ctkd.Fs.App

open System
open System.IO
open Argu
open Ctkd.Fs

/// Looks at the engine and the machine.
module Doctor =
    let private fine name value = { Name = name; Value = value; Mend = None }

    let private wrong name value mend = { Name = name; Value = value; Mend = Some mend }

    /// Libraries that the process has loaded: the engine's own configuration names only what it was built for.
    let private loaded () : string list =
        File.ReadAllLines "/proc/self/maps"
        |> Array.choose (fun line ->
            match line.IndexOf '/' with
            | -1 -> None
            | at -> Some(line.Substring at)
        )
        |> Array.distinct
        |> List.ofArray

    let private blas () : Finding =
        let libraries = loaded ()

        let has (part: string) =
            libraries
            |> List.exists (fun library -> library.Contains(part, StringComparison.OrdinalIgnoreCase))

        if has "openblas" then
            fine "BLAS" "OpenBLAS"
        elif has "libmkl" then
            fine "BLAS" "MKL"
        elif has "libblas" then
            wrong "BLAS" "the reference BLAS: slow" "apt-get install libopenblas0-openmp"
        else
            fine "BLAS" "inside libtorch"

    let private cpu () : Finding =
        let lines = File.ReadAllLines "/proc/cpuinfo"

        let field (name: string) =
            lines
            |> Array.tryFind (fun line -> line.StartsWith(name, StringComparison.Ordinal))
            |> Option.map (fun line -> (line.Split(':', 2)[1]).Trim())

        let name = field "model name" |> Option.defaultValue "unknown"
        let flags = field "flags" |> Option.defaultValue ""

        let has =
            [ "avx2"; "avx512f"; "avx512_bf16"; "amx_bf16" ]
            |> List.filter (fun flag -> flags.Split(' ') |> Array.contains flag)

        fine "processor" (name + " (" + String.concat ", " has + ")")

    let private operators () : Finding =
        match Engine.missingOperators () with
        | [] -> fine "operators" $"all {Engine.operators ()} found"
        | missing ->
            wrong
                "operators"
                (String.concat "; " missing)
                "use libtorch 1.13 or later, then: dotnet fsi build.fsx native"

    let private threads () : Finding =
        let count, processors = Engine.threads (), Environment.ProcessorCount

        if count < processors then
            wrong "threads" $"{count} of {processors} processors" "unset OMP_NUM_THREADS"
        else
            fine "threads" (string count)

    let private oneDnn () : Finding =
        if Engine.hasOneDnn () then
            fine
                "oneDNN"
                (if Engine.fuses () then
                     "yes, with fused convolutions"
                 else
                     "yes, without fused convolutions")
        else
            wrong
                "oneDNN"
                "absent: convolutions are slow"
                "use a libtorch that was built with oneDNN (Debian's libtorch-dev)"

    let private devices () : Finding list =
        match Engine.cudaDevices () with
        | 0 -> [
            fine "CUDA devices" "none (set LIBTORCH to a libtorch with CUDA to use one)"
            fine "TF32" "absent: no CUDA device"
            fine "CUDA graphs" "absent: no CUDA device"
          ]
        | count -> [
            fine "CUDA devices" (string count)
            fine "TF32" "on in float32, unless --no-tf32 is given"
            fine "CUDA graphs" "the step is recorded, unless --no-graph is given"
          ]

    let private findings () : Finding list =
        try
            let version = Engine.version ()

            [
                fine "engine" $"libtorch {version}"
                operators ()
                threads ()
                blas ()
                oneDnn ()
                yield! devices ()
                cpu ()
            ]
        with CtkdException error -> [
            wrong "engine" $"{error.What}: {error.Where}" "dotnet fsi build.fsx native"
            cpu ()
        ]

    /// The command: 0 when nothing is missing, else 1.
    let command (args: ParseResults<DoctorArgs>) : int =
        let terminal = Terminal(args.Contains DoctorArgs.Json)

        let report (findings: Finding list) : int =
            terminal.Table {
                Caption = ""
                Header = [ "what"; "found"; "to mend it" ]
                Rows = findings |> List.map (fun f -> [ f.Name; f.Value; f.Mend |> Option.defaultValue "" ])
            }

            terminal.Json findings
            if findings |> List.exists _.Mend.IsSome then ExitCode.failed else ExitCode.ok

        match args.TryGetResult DoctorArgs.Device with
        | None -> report (findings ())
        | Some name ->
            match Engine.device name with
            | Result.Error error -> terminal.Fail error
            | Ok device -> report (findings () @ Engine.guarded (fun () -> SelfCheck.findings device))
