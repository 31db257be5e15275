/// The sides of `ctkd bench`: this program, another one of it, TorchSharp as its users write it, and PyTorch. Each is a
/// process of its own that takes commands on its standard input and sleeps while another one works.
module Ctkd.Fs.App.BenchSides

open System
open System.ComponentModel
open System.Diagnostics
open System.IO
open System.Runtime.InteropServices
open Ctkd.Fs

/// Whose code a side runs.
type Program =
    | Ours
    /// Another ctkd, by its file.
    | Beside of program: string
    | TorchSharp
    | PyTorch

/// What is timed: its name, whose code with which options, and the precision that it multiplies in.
type Side = {
    Name: string
    Program: Program
    Options: string list
    /// For the process: malloc's settings.
    Environment: (string * string) list
    Precision: string
}

// glibc's malloc as our engine tunes it (Natives.cs), for programs of others.
let private tunedMalloc = [
    "MALLOC_MMAP_MAX_", "0"
    "MALLOC_TRIM_THRESHOLD_", string (1 <<< 30)
    "MALLOC_TOP_PAD_", string (64 <<< 20)
]

// Malloc has its defaults unless a side tunes it; what our engine sets in this process does not reach other programs.
let private cleared = [ "GOMP_SPINCOUNT"; "CUBLAS_WORKSPACE_CONFIG" ] @ List.map fst tunedMalloc

/// All sides on a device: ours as the library trains, another ctkd's if one is named, TorchSharp's and PyTorch's with
/// malloc with its defaults and tuned as ours, PyTorch's as published and as fast as eager code can be.
let all (device: Device) (beside: string option) : Side list =
    let on name program precision options = {
        Name = name
        Program = program
        Options = "--device" :: string device :: options
        Environment = []
        Precision = precision
    }

    let bf16 = [ "--precision"; "bf16" ]
    let tuned side = { side with Environment = tunedMalloc }

    [
        on "ours-f32" Ours "f32" []
        if Engine.records device then on "ours-tf32" Ours "f32" [ "--tf32" ]
        on "ours-bf16" Ours "bf16" bf16
        for program in Option.toList beside do
            on "beside-f32" (Beside program) "f32" []
            on "beside-bf16" (Beside program) "bf16" bf16
        on "torchsharp-f32" TorchSharp "f32" []
        on "torchsharp-bf16" TorchSharp "bf16" [ "--bf16" ]
        tuned (on "torchsharp-tuned-f32" TorchSharp "f32" [])
        tuned (on "torchsharp-tuned-bf16" TorchSharp "bf16" [ "--bf16" ])
        on "pytorch-published-f32" PyTorch "f32" []
        on "pytorch-f32" PyTorch "f32" [ "--channels-last" ]
        on "pytorch-bf16" PyTorch "bf16" [ "--channels-last"; "--bf16" ]
        tuned (on "pytorch-tuned-published-f32" PyTorch "f32" [])
        tuned (on "pytorch-tuned-f32" PyTorch "f32" [ "--channels-last" ])
        tuned (on "pytorch-tuned-bf16" PyTorch "bf16" [ "--channels-last"; "--bf16" ])
    ]

/// What is compared where nothing is chosen.
let usual: string list = [ "ours"; "pytorch-published"; "pytorch-f32"; "pytorch-bf16" ]

/// The sides that bear one of some names, or whose name begins with it (`torchsharp` is all four of TorchSharp's), in one
/// precision or in all.
let choose (names: string list) (precision: string option) (sides: Side list) : Result<Side list, Error> =
    let bears (side: Side) (name: string) = side.Name = name || side.Name.StartsWith $"{name}-"

    match names |> List.tryFind (fun name -> not (List.exists (fun side -> bears side name) sides)) with
    | Some unknown ->
        let known = sides |> List.collect (fun side -> [ side.Name; side.Name.Split('-')[0] ])
        Result.Error(Error.unknown "side" known unknown)
    | None ->
        let chosen =
            sides
            |> List.filter (fun side -> List.exists (bears side) names && Option.forall ((=) side.Precision) precision)

        if chosen.IsEmpty then
            Error.create
                Usage
                "no side is left to measure"
                (String.concat " " names)
                "leave --precision or --sides out, or see: ctkd bench --help"
            |> Result.Error
        else
            Ok chosen

/// The part that a side calls so: other programs have no recorded step and remember nothing.
let partOf (side: Side) (part: string) : string =
    match side.Program with
    | Ours
    | Beside _ -> part
    | TorchSharp
    | PyTorch -> BenchWork.twin part

// ---- processes ----

/// A process that answers each line with a line. It ends when this process does: its input closes then.
type Server(failure: string -> Error, environment: (string * string) list, command: string list) =
    let info =
        ProcessStartInfo(
            command.Head,
            command.Tail,
            UseShellExecute = false,
            RedirectStandardInput = true,
            RedirectStandardOutput = true
        )

    let server = new Process(StartInfo = info)

    do
        for name in cleared do
            info.Environment.Remove name |> ignore

        for name, value in environment do
            info.Environment[name] <- value

        try
            server.Start() |> ignore
        with :? Win32Exception as error ->
            failure error.Message |> Error.raise

    /// The answer to a command.
    member _.Ask(line: string) : string =
        let answer =
            try
                server.StandardInput.WriteLine line
                server.StandardInput.Flush()
                server.StandardOutput.ReadLine() |> Option.ofObj
            with :? IOException ->
                None

        answer
        |> Option.defaultWith (fun () ->
            server.WaitForExit()
            let line = String.concat " " command
            failure $"{line}\n  exit code: {server.ExitCode}" |> Error.raise
        )

    /// Seconds that a number of batches of a part take.
    member server.Time (part: string) (count: int) : float = server.Ask $"run {part} {count}" |> float

    /// Ends the process: asked to, it removes its temporary files.
    member _.Stop() : unit =
        try
            server.StandardInput.WriteLine "quit"
            server.StandardInput.Close()
        with :? IOException ->
            ()

        if not (server.WaitForExit 10_000) then
            server.Kill()
            server.WaitForExit()

        server.Dispose()

/// The command line of a .NET program: assemblies run on the runtime that runs this one.
let private dotnet (program: string) : string list =
    if Path.GetExtension program = ".dll" then
        [
            Path.GetFullPath(Path.Combine(RuntimeEnvironment.GetRuntimeDirectory(), "../../../dotnet"))
            program
        ]
    else
        [ program ]

/// TorchSharp's program: beside this one, or where a build of this repository puts it.
let private torchSharp () : string =
    let name = "torchsharp_step.dll"

    let rec upwards (folder: DirectoryInfo | null) = [
        match folder with
        | null -> ()
        | folder ->
            Path.Combine(folder.FullName, "bench/TorchSharp/bin/Release/net10.0", name)
            yield! upwards folder.Parent
    ]

    Path.Combine(AppContext.BaseDirectory, name) :: upwards (DirectoryInfo AppContext.BaseDirectory)
    |> List.tryFind File.Exists
    |> Option.defaultWith (fun () ->
        Error.create
            Missing
            $"{name} is not there, TorchSharp's side of the benchmark"
            AppContext.BaseDirectory
            "dotnet fsi build.fsx build, in the repository that this program is from"
        |> Error.raise
    )

let private python () : string =
    Environment.GetEnvironmentVariable "CTKD_PYTHON" |> Option.ofObj |> Option.defaultValue "/usr/bin/python3"

/// Starts a side's process.
let start (side: Side) : Server =
    let served program = dotnet program @ [ "bench"; "--serve" ]

    let command, what, next =
        match side.Program with
        | Ours -> served (Environment.GetCommandLineArgs()[0]), "our side of the benchmark has ended", "ctkd doctor"
        | Beside program ->
            served program,
            "the other ctkd of the benchmark cannot be run",
            "give --beside the file ctkd or ctkd.dll of a program that was built or published"
        | TorchSharp -> dotnet (torchSharp ()), "TorchSharp's side of the benchmark has ended", "ctkd doctor"
        | PyTorch ->
            [ python (); Path.Combine(AppContext.BaseDirectory, "torch_step.py") ],
            "PyTorch cannot be run, to which ctkd bench compares",
            "set CTKD_PYTHON to a Python that has PyTorch, install python3-torch, or choose others: --sides ours torchsharp"

    let failure where = Error.create Engine what where next
    new Server(failure, side.Environment, command @ side.Options)
