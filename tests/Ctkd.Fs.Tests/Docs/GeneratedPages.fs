/// The pages that are made from what the program prints. Used by the tests and by `build.fsx docs`.
module Ctkd.Fs.Tests.GeneratedPages

open System
open System.Text.RegularExpressions

/// A heading of a help text with its entries: a name and what it means.
type private Section = { Heading: string; Entries: (string * string) list }

/// The sections of a help text. An entry begins after four spaces; its meaning goes on at a fixed column.
let private sections (help: string) : Section list =
    let add (found: Section list) (line: string) : Section list =
        let heading = Regex.Match(line, "^([A-Z]+):$")
        // One space is enough after a name that fills its column.
        let full = Regex.Match(line, @"^    (\S.{19}\S) ([^<\[\s].*)$")
        let entry = if full.Success then full else Regex.Match(line, @"^    (\S.*?)(?:  +(\S.*))?$")

        match found with
        | _ when heading.Success -> { Heading = heading.Groups[1].Value; Entries = [] } :: found
        | section :: rest when entry.Success ->
            let entry = entry.Groups[1].Value, entry.Groups[2].Value
            { section with Entries = entry :: section.Entries } :: rest
        | { Entries = (name, meaning) :: entries } as section :: rest when
            line.StartsWith("     ", StringComparison.Ordinal)
            ->
            let meaning = $"{meaning} {line.Trim()}".Trim()
            { section with Entries = (name, meaning) :: entries } :: rest
        | found -> found

    help.Replace("\r", "").Split '\n'
    |> Array.fold add []
    |> List.rev
    |> List.map (fun section ->
        // A sentence below a list is an entry without a meaning.
        {
            section with
                Entries = List.rev section.Entries |> List.filter (snd >> (<>) "")
        })

let private inTable (text: string) : string = Regex.Replace(text, @"([|_*<\[\]])", @"\$1")

let private table (sections: Section list) : string list =
    let isOwn (name: string, _) = not (name.StartsWith("--help", StringComparison.Ordinal))

    match sections |> List.collect _.Entries |> List.filter isOwn with
    | [] -> []
    | entries ->
        [ ""; "| flag | meaning, and default in brackets |"; "| --- | --- |" ]
        @ [ for name, meaning in entries -> $"| `{name}` | {inTable meaning} |" ]

/// The page of the commands, from `ctkd COMMAND --help`.
let private commands (ctkd: string list -> string) : string =
    let help name = ctkd [ name; "--help" ]

    let all =
        sections (ctkd [ "--help" ])
        |> List.filter (fun section -> section.Heading = "SUBCOMMANDS")
        |> List.collect _.Entries
        |> List.map (fun (name, meaning) -> (name.Split ' ')[0], meaning)

    let sentence (text: string) = $"{Char.ToUpperInvariant text[0]}{text[1..]}."

    /// The flags of a command; those that it shares with an earlier one are shown there.
    let flags shown (name: string) : string list * (string * string list) list =
        let own = if name = "version" then [] else table (sections (help name))

        match List.tryFind (fun (_, flags) -> flags = own && not own.IsEmpty) shown with
        | Some(other, _) -> [ ""; $"The flags are those of [ctkd {other}](#ctkd-{other})." ], shown
        | None -> own, (name, own) :: shown

    let flagsOfAll = all |> List.map fst |> List.mapFold flags [] |> fst

    [
        "# Commands"
        ""
        "Made from `ctkd COMMAND --help` by `dotnet fsi build.fsx docs`."
        ""
        "Exit codes: 0 done, 1 failed or diverged, 2 wrong usage, 130 and 143 interrupted."
        for (name, meaning), flags in List.zip all flagsOfAll do
            yield! [ ""; $"## ctkd {name}"; ""; sentence meaning ]
            yield! flags
        ""
    ]
    |> String.concat "\n"

/// The page of the settings, from `ctkd reference`, whose first table they are.
let private settings (ctkd: string list -> string) : string =
    let isRow (line: string) = line.StartsWith('|')

    let table =
        (ctkd [ "reference" ]).Replace("\r", "").Split '\n' |> Array.skipWhile (isRow >> not) |> Array.takeWhile isRow

    [
        "# Settings"
        ""
        "Every setting of a run by its name in `settings.json`. `--set NAME=VALUE` sets any of them, and so do the options of"
        "C#; most have a flag of `ctkd teach` and `ctkd distill`. Made from the table of the settings by"
        "`dotnet fsi build.fsx docs`."
        ""
        yield! table
        ""
    ]
    |> String.concat "\n"

/// The pages by the names of their files in docs. `ctkd` runs the program and returns its output.
let pages (ctkd: string list -> string) : (string * string) list = [
    "commands.md", commands ctkd
    "settings.md", settings ctkd
]
