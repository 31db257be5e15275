namespace Ctkd.Fs.App

open System
open System.Runtime.InteropServices
open System.Runtime.Intrinsics.Arm
open System.Runtime.Intrinsics.X86
open Argu
open FsToolkit.ErrorHandling
open Ctkd.Fs

/// The flags of `doctor`.
[<RequireQualifiedAccess; HelpFlags("--help", "-h", "help")>]
type DoctorArgs =
    | [<Unique>] Device of NAME: string
    | [<Unique>] Json

    interface IArgParserTemplate with
        member this.Usage =
            match this with
            | Device _ ->
                "cpu, cuda or cuda:N: train a little there, and check that recorded steps are those of the host [none]"
            | Json -> "the findings as JSON"

/// Looks at the engine and the machine.
module Doctor =
    let private fine name value = { Name = name; Value = value; Mend = None }

    let private wrong name value mend = { Name = name; Value = value; Mend = Some mend }

    let private engine () : Finding list =
        let facts = Engine.facts ()
        let source = if facts.IsOwn then "LIBTORCH" else "the package"

        [
            fine "engine" $"libtorch {facts.Version} of {source}, in {facts.Folder}"
            fine
                "TorchSharp's library"
                (facts.Sharp + (if facts.IsRelaxed then " (a copy for this system's older libstdc++)" else ""))
            yield! facts.Check |> Option.ofObj |> Option.map (fine "self-check") |> Option.toList
        ]

    let private cpu () : Finding =
        let has =
            [ "AVX2", Avx2.IsSupported; "AVX-512", Avx512F.IsSupported; "NEON", AdvSimd.IsSupported ]
            |> List.filter snd
            |> List.map fst

        let name = $"{RuntimeInformation.ProcessArchitecture}, {Environment.ProcessorCount} processors"
        fine "processor" (if has.IsEmpty then name else name + ", " + String.concat ", " has)

    let private oneDnn () : Finding =
        let facts = Engine.facts ()

        if facts.UsesOneDnn then
            fine "oneDNN" (facts.OneDnn |> Option.ofObj |> Option.defaultValue "used as it is")
        else
            wrong "oneDNN" (nonNull facts.OneDnn) "another machine: convolutions are slow on this one"

    let private threads () : Finding =
        let count, processors = Engine.threads (), Environment.ProcessorCount

        // Fewer may be meant: on a shared machine, say.
        fine
            "threads"
            (if count < processors then
                 $"{count} of {processors} processors (OMP_NUM_THREADS)"
             else
                 string count)

    let private fusion () : Finding =
        fine
            "fused convolutions"
            (if Engine.fuses () then
                 "oneDNN's, on this processor"
             else
                 "none here: frozen networks run in steps")

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
            match Engine.recordingProblem () with
            | None -> fine "CUDA graphs" "the step is recorded, unless --no-graph is given"
            | Some why -> fine "CUDA graphs" $"none, steps run one by one: {why}"
          ]

    let private findings () : Finding list =
        try
            [
                yield! engine ()
                oneDnn ()
                fine "memory" (Engine.memory ())
                threads ()
                fusion ()
                yield! devices ()
                cpu ()
            ]
        with CtkdException error -> [ wrong "engine" $"{error.What}: {error.Where}" error.Next; cpu () ]

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

        let mutable code = ExitCode.ok

        let failed =
            terminal.Guarded(fun () ->
                match args.TryGetResult DoctorArgs.Device |> Option.traverseResult Engine.device with
                | Result.Error error -> Result.Error error
                | Ok device ->
                    let more = device |> Option.map SelfCheck.findings |> Option.defaultValue []
                    code <- report (findings () @ more)
                    Ok()
            )

        if failed = ExitCode.ok then code else failed
