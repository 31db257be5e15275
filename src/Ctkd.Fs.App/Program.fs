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
    | CtkdArgs.Eval args -> Eval.command args
    | CtkdArgs.Plot args -> Plot.command args
    | CtkdArgs.Export args -> Export.command args
    | CtkdArgs.Models args -> Models.command args
    | CtkdArgs.Recipes args -> RecipeList.command args
    | CtkdArgs.Inspect args -> Inspect.command args
    | CtkdArgs.Convert args -> Convert.command args
    | CtkdArgs.Doctor args -> Doctor.command args
    | CtkdArgs.Bench args -> BenchCommand.command args
    | CtkdArgs.Version -> Version.command ()
    | CtkdArgs.Reference ->
        printf "%s" (Reference.markdown ())
        ExitCode.ok

/// Argu's complaint without its page of usage, with the nearest names and the command that prints the page.
let private complaint (arguments: string[]) (message: string) : Error =
    let first = (message.Split '\n')[0]
    let command = Array.tryHead arguments |> Option.defaultValue ""

    let kind, names, help =
        match Reference.commands () |> List.tryFind (fun (name, _, _) -> name = command) with
        | Some(_, _, flags) -> "flag", flags, $"ctkd {command} --help"
        | None -> "command", Reference.commandNames (), "ctkd --help"

    let quoted = Regex.Match(first, "unrecognized argument: '([^']*)'")

    if quoted.Success then
        let unknown = Error.unknown kind names quoted.Groups[1].Value
        { unknown with Next = unknown.Next + $" (all of them: {help})" }
    else
        Error.create ErrorKind.Usage (first.Replace("ERROR: ", "")) "" $"see: {help}"

let private parsed (arguments: string[]) : int =
    match Reference.parser.ParseCommandLine(arguments, raiseOnUsage = true).GetAllResults() with
    | [ command ] -> run command
    | _ ->
        eprintfn "%s" (Reference.parser.PrintUsage())
        ExitCode.usage

[<EntryPoint>]
let main (arguments: string[]) : int =
    try
        match List.ofArray arguments with
        | ("teach" | "distill" as command) :: words when Flags.asksForHelp words ->
            printfn "%s" (Reference.trainHelp command)
            ExitCode.ok
        | "teach" :: words -> Train.teach words
        | "distill" :: words -> Train.distill words
        | _ -> parsed arguments
    with
    | :? ArguParseException as problem when problem.ErrorCode = ErrorCode.HelpText ->
        printfn "%s" problem.Message
        ExitCode.ok
    | :? ArguParseException as problem ->
        eprintfn "error: %O" (complaint arguments problem.Message)
        ExitCode.usage
    | CtkdException error ->
        eprintfn "error: %O" error
        ExitCode.failed
    | :? OutOfMemoryException ->
        eprintfn "error: there is not enough memory\n  next: a smaller --batch or model, or a machine with more memory"

        ExitCode.failed
