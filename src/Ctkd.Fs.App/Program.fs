module Ctkd.Fs.App.Program

open System
open System.Reflection
open Argu
open Ctkd.Fs

let private version () : string =
    Assembly.GetExecutingAssembly().GetName().Version
    |> Option.ofObj
    |> Option.map (fun v -> v.ToString 3)
    |> Option.defaultValue "unknown"

let private run (command: CtkdArgs) : int =
    match command with
    | Quickstart args -> Quickstart.command args
    | Teach args -> Commands.teach args
    | Distill args -> Commands.distill args
    | CtkdArgs.Eval args -> Eval.command args
    | CtkdArgs.Plot args -> Plot.command args
    | CtkdArgs.Export args -> Export.command args
    | Models args -> Models.command args
    | CtkdArgs.Recipes args -> RecipeList.command args
    | Inspect args -> Convert.inspect args
    | CtkdArgs.Convert args -> Convert.convert args
    | Doctor args -> Doctor.command args
    | Bench args -> BenchCommand.command args
    | Version ->
        printfn "ctkd %s" (version ())
        ExitCode.ok

/// The flags of a command, or the commands where there is no such command.
let private known (command: string) : string * string list =
    let names (cases: ArgumentCaseInfo list) = cases |> List.collect (fun case -> case.CommandLineNames.Value)

    match command with
    | "teach"
    | "distill" -> "flag", names (ArgumentParser.Create<TrainArgs>().GetArgumentCases())
    | "eval" -> "flag", names (ArgumentParser.Create<EvalArgs>().GetArgumentCases())
    | "plot" -> "flag", names (ArgumentParser.Create<PlotArgs>().GetArgumentCases())
    | "export" -> "flag", names (ArgumentParser.Create<ExportArgs>().GetArgumentCases())
    | "quickstart" -> "flag", names (ArgumentParser.Create<QuickstartArgs>().GetArgumentCases())
    | "bench" -> "flag", names (ArgumentParser.Create<BenchArgs>().GetArgumentCases())
    | "models" -> "flag", names (ArgumentParser.Create<ModelsArgs>().GetArgumentCases())
    | "recipes" -> "flag", names (ArgumentParser.Create<RecipesArgs>().GetArgumentCases())
    | "inspect" -> "flag", names (ArgumentParser.Create<InspectArgs>().GetArgumentCases())
    | "convert" -> "flag", names (ArgumentParser.Create<ConvertArgs>().GetArgumentCases())
    | "doctor" -> "flag", names (ArgumentParser.Create<DoctorArgs>().GetArgumentCases())
    | _ -> "command", names (ArgumentParser.Create<CtkdArgs>().GetArgumentCases())

/// Argu's complaint without its page of usage, with the nearest names and where the rest stands.
let private complaint (arguments: string[]) (message: string) : Error =
    let first = (message.Split '\n')[0]
    let command = Array.tryHead arguments |> Option.defaultValue ""
    let kind, names = known command
    let help = if kind = "flag" then $"ctkd {command} --help" else "ctkd --help"
    let quoted = Text.RegularExpressions.Regex.Match(first, "unrecognized argument: '([^']*)'")

    if quoted.Success then
        let unknown = Error.unknown kind names quoted.Groups[1].Value

        { unknown with Next = unknown.Next + $" (all of them: {help})" }
    else
        Error.create ErrorKind.Usage (first.Replace("ERROR: ", "")) "" $"see: {help}"

[<EntryPoint>]
let main (arguments: string[]) : int =
    let parser =
        ArgumentParser.Create<CtkdArgs>(
            programName = "ctkd",
            helpTextMessage =
                "ctkd: knowledge distillation with dynamic temperatures.\n\n\
                 Start with: ctkd quickstart\n\
                 Exit codes: 0 done, 1 failed or diverged, 2 wrong usage, 130 and 143 interrupted."
        )

    try
        match parser.ParseCommandLine(arguments, raiseOnUsage = true).GetAllResults() with
        | [ command ] -> run command
        | _ ->
            eprintfn "%s" (parser.PrintUsage())
            ExitCode.usage
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
        eprintfn
            "error: there is not enough memory\n  next: a smaller --batch or model, or a machine with more memory"

        ExitCode.failed
