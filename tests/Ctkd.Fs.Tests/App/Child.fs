/// The built `ctkd`: its entry point called in this process, and its program as a child process where the process itself
/// is what a test is about (signals, variables, memory, what it loads).
module Ctkd.Fs.Tests.Child

open System
open System.Diagnostics
open System.IO
open System.Runtime.InteropServices
open Expecto

/// What a process printed, and its exit code.
type Ended = { Code: int; Out: string; Err: string }

/// The folder of the program, which the tests' project builds first: beside that of the tests.
let programFolder: string =
    AppContext.BaseDirectory.Replace(Path.Combine("tests", "Ctkd.Fs.Tests"), Path.Combine("src", "Ctkd.Fs.App"))

let private program = Path.Combine(programFolder, "ctkd.dll")

[<DllImport("libc", SetLastError = true)>]
extern int private kill(int pid, int signal)

/// Ctrl-C's signal, and that of `kill`.
let interrupt, terminate = 2, 15

/// The signal of a terminal that was closed.
let hangUp = 1

/// The signals that stop a process where it is, and let it go on.
let pause, proceed = 19, 18

/// Sends a signal to a process.
let send (signal: int) (child: Process) : unit = Must.equal 0 (kill (child.Id, signal))

/// What every program is told: wait shortly for the other threads. Threads that wait busily for one another beside other
/// work take most of the processors.
let private sharing: (string * string) list = [ "GOMP_SPINCOUNT", "1000" ]

/// Starts a command in a folder, with variables set.
let startCommand (folder: string) (variables: (string * string) list) (command: string list) : Process =
    let info =
        ProcessStartInfo(
            command.Head,
            command.Tail,
            WorkingDirectory = folder,
            RedirectStandardOutput = true,
            RedirectStandardError = true
        )

    // A test machine's own settings must not decide what the program sees.
    for name in [ "NO_COLOR" ] do
        info.Environment.Remove name |> ignore

    for name, value in sharing @ variables do
        info.Environment[name] <- value

    Process.Start info |> nonNull

/// What the program prints to a pipe holds no escape codes, and never a stack trace.
let private clean (ended: Ended) : Ended =
    for text in [ ended.Out; ended.Err ] do
        for never in [ "\u001b"; "   at "; "Unhandled" ] do
            Must.lack never text

    ended

/// Waits for a process.
let wait (child: Process) (already: string) : Ended =
    let err = child.StandardError.ReadToEndAsync()
    let out = child.StandardOutput.ReadToEndAsync()

    if not (child.WaitForExit 240_000) then
        child.Kill()
        failwith "the program did not end within four minutes"

    let ended = { Code = child.ExitCode; Out = already + out.Result; Err = err.Result }
    child.Dispose()
    clean ended

/// Runs a command to its end.
let runCommand (folder: string) (variables: (string * string) list) (command: string list) : Ended =
    wait (startCommand folder variables command) ""

/// Answers of processes that do not disturb each other, two at a time.
let twoAtATime (run: 'A -> 'B) (cases: 'A list) : 'B list =
    try
        cases |> List.chunkBySize 2 |> List.collect (Array.ofList >> Array.Parallel.map run >> List.ofArray)
    with :? AggregateException as errors ->
        Runtime.ExceptionServices.ExceptionDispatchInfo.Throw(nonNull errors.InnerException)
        failwith "unreachable"

let private words (arguments: string) : string list =
    arguments.Split(' ', StringSplitOptions.RemoveEmptyEntries) |> List.ofArray

/// The command line of the program with these arguments.
let ctkdCommand (arguments: string) : string list = [ "dotnet"; program ] @ words arguments

/// Runs the program as a process in a folder, with variables set.
let ctkdWith (variables: (string * string) list) (folder: string) (arguments: string) : Ended =
    runCommand folder variables (ctkdCommand arguments)

/// Calls the program's entry point in a folder: hundreds of questions, and one start of .NET. That a pipe gets no colours
/// and that no exception ends a process, only the calls that start one can tell.
let ctkd (folder: string) (arguments: string) : Ended =
    let out, err = new StringWriter(), new StringWriter()

    let was =
        Console.Out, Console.Error, Environment.CurrentDirectory, Environment.GetEnvironmentVariable "NO_COLOR"

    try
        Console.SetOut out
        Console.SetError err
        Environment.CurrentDirectory <- folder
        // As in a pipe, also where the tests run on a terminal.
        Environment.SetEnvironmentVariable("NO_COLOR", "1")
        let code = Ctkd.Fs.App.Program.main (Array.ofList (words arguments))
        clean { Code = code; Out = string out; Err = string err }
    finally
        let wasOut, wasErr, wasFolder, wasColour = was
        Console.SetOut wasOut
        Console.SetError wasErr
        Environment.CurrentDirectory <- wasFolder
        Environment.SetEnvironmentVariable("NO_COLOR", wasColour)

let private ended (code: int) (arguments: string) (ended: Ended) : Ended =
    Expect.isTrue (ended.Code = code) $"ctkd {arguments}: exit code {ended.Code}, not {code}\n{ended.Out}\n{ended.Err}"

    ended

/// Calls the program, which must end with this exit code.
let expect (code: int) (folder: string) (arguments: string) : Ended = ended code arguments (ctkd folder arguments)

/// Runs the program as a process, which must end with this exit code.
let expectProcess (code: int) (folder: string) (arguments: string) : Ended =
    ended code arguments (ctkdWith [] folder arguments)

/// Starts the program, sends it a signal when it has printed a line that contains the text, and waits.
let interrupted (signal: int) (line: string) (folder: string) (arguments: string) : Ended =
    let child = startCommand folder [] (ctkdCommand arguments)

    let rec read (already: string) =
        match child.StandardOutput.ReadLine() with
        | null -> already
        | text when text.Contains line ->
            send signal child
            already + text + "\n"
        | text -> read (already + text + "\n")

    wait child (read "")

/// Runs the program with its folder `disk` on a disk of so many kilobytes; `copy` is a copy of it afterwards.
let onSmallDisk (folder: string) (kilobytes: int) (arguments: string) : Ended =
    Directory.CreateDirectory(Path.Combine(folder, "disk")) |> ignore
    let quoted = ctkdCommand arguments |> List.map (fun word -> $"'{word}'") |> String.concat " "

    let mount = $"mount -t tmpfs -o size={kilobytes}k none disk"
    let script = $"{mount} && {{ {quoted}; code=$?; cp -r disk copy; exit $code; }}"

    let ended = runCommand folder [] [ "unshare"; "-rm"; "bash"; "-c"; script ]

    Expect.isTrue (Directory.Exists(Path.Combine(folder, "copy"))) $"no small disk could be mounted: {ended.Err}"

    ended

/// Each command line is wrong usage: it says what and what to do next, and leaves nothing behind.
let isWrongUsage (wrong: (string * string) list) : unit =
    Folders.inFolder (fun folder ->
        for arguments, what in wrong do
            let ended = expect 2 folder arguments
            Must.equal "" ended.Out
            Must.contain what ended.Err
            Must.contain "\n  next: " ended.Err

        Must.beEmpty (Directory.GetFileSystemEntries folder)
    )

/// Runs the program, which must end with this exit code: its peak of memory in bytes, as Linux tells while it lives.
let peak (code: int) (arguments: string) : int64 =
    let child = startCommand "/" [] (ctkdCommand arguments)

    /// The highest so far; none when the process has just ended.
    let highest () : int64 option =
        try
            File.ReadAllLines $"/proc/{child.Id}/status"
            |> Array.tryFind _.StartsWith("VmHWM:")
            |> Option.map (fun line -> 1024L * int64 (line.Replace("VmHWM:", "").Replace("kB", "").Trim()))
        with :? IOException ->
            None

    let rec watch (seen: int64) : int64 =
        if child.WaitForExit 1 then seen else highest () |> Option.defaultValue seen |> watch

    let seen = watch 0L
    let ended = wait child ""
    Expect.equal ended.Code code $"ctkd {arguments}: {ended.Err}"
    seen
