namespace Ctkd.Fs.App

open System.Text.RegularExpressions
open Argu
open Ctkd.Fs

/// The reference of settings and commands, from the tables that the program itself uses.
module Reference =

    /// What `ctkd --help` and the help of each command begin with.
    let private banner =
        "ctkd: knowledge distillation with dynamic temperatures.\n\n\
         Start with: ctkd quickstart\n\
         Exit codes: 0 done, 1 failed or diverged, 2 wrong usage, 130 and 143 interrupted."

    /// The parser of the commands.
    let parser: ArgumentParser<CtkdArgs> =
        ArgumentParser.Create<CtkdArgs>(programName = "ctkd", helpTextMessage = banner)

    /// The help of `teach` or `distill`.
    let trainHelp (command: string) : string = banner + "\n" + Flags.help command TrainFlags.all

    let private words (parser: ArgumentParser) : string list =
        parser.GetArgumentCases() |> List.filter (_.IsHidden.Value >> not) |> List.collect _.CommandLineNames.Value

    /// The commands with flags: name, help and the flags of each.
    let commands () : (string * string * string list) list = [
        for command in [ "teach"; "distill" ] do
            command, trainHelp command, TrainFlags.all |> List.map (fun flag -> "--" + flag.Name)
        for sub in parser.GetSubCommandParsers() do
            let help = sub.PrintUsage()
            Regex.Match(help, @"USAGE: ctkd (\w+)").Groups[1].Value, help, words sub
    ]

    /// The names of the commands.
    let commandNames () : string list = words parser

    let private escaped (text: string) : string = text.Replace("|", "\\|")

    /// Every setting as a row of a Markdown table: name, type, default, bound, flag, meaning.
    let settings () : string =
        let code text = if text = "" then "" else $"`{text}`"

        let row (field: Field) =
            let names = not field.Kind.Names.IsEmpty && not field.Kind.IsList
            // The flag of a setting that is true by default makes it false: its meaning is that of false.
            let isOn = field.Argument = "" && field.Flag <> "" && field.Default = box true
            let value = Field.shownDefault field

            [
                code field.Name
                (if names && field.For <> Audience.WithAgent then "a name" else field.Kind.Takes)
                (if isOn then $"true: {value}" else value)
                field.Kind.Bound
                (if field.Flag = "" then "" else code ("--" + field.Flag))
                (if isOn then $"false: {field.Meaning}" else field.Meaning)
            ]
            |> List.map escaped
            |> String.concat " | "

        [
            "| Name | Type | Default | Bound | Flag | Meaning |"
            "| --- | --- | --- | --- | --- | --- |"
            for field in SettingsTable.all do
                $"| {row field} |"
        ]
        |> String.concat "\n"

    /// The reference as Markdown: settings first, then each command's help.
    let markdown () : string =
        [
            "# Settings"
            ""
            "Every setting of a training run: by its name in `settings.json`, for `--set name=value` and for the \
             options of C#, or by its flag of `ctkd teach` and `ctkd distill`."
            ""
            settings ()
            ""
            "# Commands"
            for name, help, _ in commands () do
                let text = help.Replace(banner, "").Trim()
                $"\n## ctkd {name}\n\n```text\n{text}\n```"
            ""
        ]
        |> String.concat "\n"
