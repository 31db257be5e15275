module Ctkd.Fs.App.Program

open System
open System.Text.RegularExpressions
open Argu
open Ctkd.Fs

let private run (command: CtkdArgs) : int =
    match command with
    | CtkdArgs.Quickstart args -> Quickstart.command args
    | CtkdArgs.Teach -> Train.teach []
    | CtkdArgs.Distill -> Train.distill []
    | CtkdArgs.Sweep args -> SweepCommand.command args
    | CtkdArgs.Watch args -> Watch.command args
    | CtkdArgs.Eval args -> Eval.command args
    | CtkdArgs.Predict args -> Predict.command args
    | CtkdArgs.Plot args -> Plot.command args
    | CtkdArgs.Report args -> ReportCommand.command args
    | CtkdArgs.Export args -> Export.command args
    | CtkdArgs.Models args -> Models.command args
    | CtkdArgs.Recipes args -> RecipeList.command args
    | CtkdArgs.Inspect args -> Inspect.command args
    | CtkdArgs.Convert args -> Convert.command args
    | CtkdArgs.Data args -> Data.command args
    | CtkdArgs.Doctor args -> Doctor.command args
    | CtkdArgs.Bench args -> BenchCommand.command args
    | CtkdArgs.Version args -> Version.command (args.Contains VersionArgs.Json)
    | CtkdArgs.Reference ->
        printf "%s" (Reference.markdown ())
        ExitCode.ok

/// Argu's complaint without its page of usage, with the nearest names, both readings of a number, and the command that
/// prints the page.
let private complaint (arguments: string[]) (message: string) : Error =
    let first = (message.Split '\n')[0]
    let command = Array.tryHead arguments |> Option.defaultValue ""

    let kind, names, help =
        match Reference.commands () |> List.tryFind (fun (name, _, _) -> name = command) with
        | Some(_, _, flags) -> "flag", flags, $"ctkd {command} --help"
        | None -> "command", Reference.commandNames (), "ctkd --help"

    let quoted = Regex.Match(first, "unrecognized argument: '([^']*)'")
    let number = Regex.Match(first, "parameter '([^']*)' must be followed by <[^>]*>, but was '([^']*)'")

    if quoted.Success then
        let unknown = Error.unknown kind names quoted.Groups[1].Value
        { unknown with Next = unknown.Next + $" (all of them: {help})" }
    elif number.Success then
        let flag, text = number.Groups[1].Value, number.Groups[2].Value

        match Numbers.readWhole text with
        | Result.Error reason ->
            Error.create ErrorKind.Usage $"'{text}' is no value for {flag}: {reason}" "" "it takes a whole number"
        | Ok _ -> Error.create ErrorKind.Usage first "" $"see: {help}"
    else
        Error.create ErrorKind.Usage (first.Replace("ERROR: ", "")) "" $"see: {help}"

let private parsed (arguments: string[]) : int =
    match Reference.parser.ParseCommandLine(arguments, raiseOnUsage = true).GetAllResults() with
    | [ command ] -> run command
    | _ ->
        eprintfn "%s" (Reference.parser.PrintUsage())
        ExitCode.usage

/// The words of the command line, with "--flag=value" as two words.
let private words (arguments: string[]) : string list = [
    for word in arguments do
        let parts = word.Split('=', 2)

        if parts.Length = 2 && Regex.IsMatch(parts[0], "^--[a-z][a-z-]*$") then
            yield! parts
        else
            word
]

let private command (words: string list) : int =
    let failed = Terminal(List.contains "--json" words).Fail

    try
        match words with
        | [ "--version" ] -> Version.command false
        | [ "--version"; "--json" ] -> Version.command true
        | ("teach" | "distill" as command) :: words when Flags.asksForHelp words ->
            printfn "%s" (Reference.trainHelp command)
            ExitCode.ok
        | "teach" :: words -> Train.teach words
        | "distill" :: words -> Train.distill words
        | words -> parsed (Array.ofList words)
    with
    | :? ArguParseException as problem when problem.ErrorCode = ErrorCode.HelpText ->
        printfn "%s" problem.Message
        ExitCode.ok
    | :? ArguParseException as problem -> failed (complaint (Array.ofList words) problem.Message)
    | CtkdException error -> failed error
    | :? OutOfMemoryException ->
        failed (
            Error.create
                ErrorKind.Engine
                "there is not enough memory"
                ""
                "take a smaller --batch or model, or a machine with more memory"
        )

[<EntryPoint>]
let main (arguments: string[]) : int =
    Output.guard ()

    match Array.tryHead arguments with
    | Some("teach" | "distill" | "sweep" | "watch" | "quickstart") ->
        use _ = Signals.listen ()
        Output.exitCode (command (words arguments))
    | _ -> Output.exitCode (command (words arguments))
