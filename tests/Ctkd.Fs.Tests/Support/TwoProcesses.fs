/// The whole suite in two processes at once. Within one its tests run one after the other, which leaves half of two
/// processors idle: the operators of networks so small gain nothing from a second thread.
module Ctkd.Fs.Tests.TwoProcesses

open System
open System.Diagnostics
open System.IO
open System.Text.RegularExpressions
open System.Threading.Tasks
open System.Xml.Linq

/// A part of the suite, for `--part NAME`. Its variables hold where the user has not set them.
type Part = { Name: string; Variables: (string * string) list }

let private summary = "--junit-summary"

/// Whether the arguments ask for the whole suite. What selects tests or lists them stays in one process.
let rec isMeant (arguments: string list) : bool =
    match arguments with
    | [] -> true
    | ("--colours" | "--junit-summary") :: _ :: rest -> isMeant rest
    | ("--no-spinner" | "--summary" | "--debug") :: rest -> isMeant rest
    | _ -> false

/// The file of a part's results, beside that of all.
let private resultsOf (part: Part) (path: string) : string = $"{path}.{part.Name}"

/// The arguments of a part's process.
let argumentsOf (part: Part) (arguments: string list) : string list =
    let rec own (arguments: string list) =
        match arguments with
        | name :: path :: rest when name = summary -> name :: resultsOf part path :: own rest
        | argument :: rest -> argument :: own rest
        | [] -> []

    [ "--part"; part.Name ] @ own (List.except [ "--no-spinner" ] arguments) @ [ "--no-spinner" ]

/// JUnit's results in one document.
let merged (results: XDocument list) : XDocument =
    XDocument(XElement(XName.Get "testsuites", [| for r in results -> box ((nonNull r.Root).Elements()) |]))

/// Puts the parts' files of results, if there are any, into the one that was asked for.
let rec private keepResults (parts: Part list) (arguments: string list) : unit =
    match arguments with
    | name :: path :: _ when name = summary ->
        let files = parts |> List.map (fun part -> resultsOf part path) |> List.filter File.Exists
        (files |> List.map XDocument.Load |> merged).Save path
        List.iter File.Delete files
    | _ :: rest -> keepResults parts rest
    | [] -> ()

/// The counts of a runner's last line: passed and failed. Expecto ends its colours before it.
let counts (line: string) : (int * int) option =
    let found = Regex.Match(line, @"^(?:\u001b\[[0-9;]*m)*(\d+) passed, (\d+) failed\s*$")
    if found.Success then Some(int found.Groups[1].Value, int found.Groups[2].Value) else None

/// A part's process: the counts that it ended with, if it came so far, and its exit code.
let private runPart (arguments: string list) (part: Part) : (int * int) option * int =
    let host = nonNull Environment.ProcessPath

    // Either .NET's host, which is given the program, or the program's own.
    let program =
        if Path.GetFileNameWithoutExtension host = "dotnet" then
            [ Reflection.Assembly.GetExecutingAssembly().Location ]
        else
            []

    let info = ProcessStartInfo(host, program @ argumentsOf part arguments, RedirectStandardOutput = true)

    for name, value in part.Variables do
        if isNull (Environment.GetEnvironmentVariable name) then
            info.Environment[name] <- value

    use child = Process.Start info |> nonNull
    // Whoever stops the suite stops its parts.
    let stop = EventHandler(fun _ _ -> child.Kill())
    AppDomain.CurrentDomain.ProcessExit.AddHandler stop

    let rec pass (ended: (int * int) option) =
        match child.StandardOutput.ReadLine() with
        | null -> ended
        | line ->
            match counts line with
            | None ->
                Console.Out.WriteLine line
                pass ended
            | some -> pass some

    let ended = pass None
    child.WaitForExit()
    AppDomain.CurrentDomain.ProcessExit.RemoveHandler stop
    ended, child.ExitCode

/// Runs all parts at once and says how many tests passed and failed. Returns 0 if every part did, or the first other
/// exit code.
let run (parts: Part list) (arguments: string list) : int =
    let ended =
        parts
        |> List.map (fun part -> Task.Run(fun () -> runPart arguments part))
        |> Task.WhenAll
        |> _.GetAwaiter().GetResult()
        |> List.ofArray

    keepResults parts arguments

    for part, (counts, code) in List.zip parts ended do
        if counts.IsNone then
            eprintfn
                $"error: the part '{part.Name}' ended with exit code {code} before its tests did\n  next: run it alone, with --part {part.Name}"

    let sum count = ended |> List.choose fst |> List.sumBy count
    printfn $"{sum fst} passed, {sum snd} failed"

    ended
    |> List.map (fun (counts, code) -> if counts.IsNone && code = 0 then 1 else code)
    |> List.tryFind ((<>) 0)
    |> Option.defaultValue 0
