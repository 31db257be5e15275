namespace Ctkd.Fs.App

open Ctkd.Fs

/// A flag of a command whose flags are a table: `teach` and `distill`.
type Flag = {
    /// Without its dashes.
    Name: string
    /// What stands for its value in help; empty for a switch.
    Argument: string
    /// Whether several values may follow.
    TakesMany: bool
    /// Whether it may be given several times.
    Repeats: bool
    Help: string
}

/// Flags that were given, in their order, with their values.
type GivenFlags = (string * string list) list

/// Parses the words of a command, and prints its help as Argu does for the other commands.
module Flags =

    /// A flag as help shows it, such as "out DIR"; a switch is its name alone.
    let one (flag: string) (help: string) : Flag =
        let words = flag.Split ' '

        {
            Name = words[0]
            Argument = Array.tryItem 1 words |> Option.defaultValue ""
            TakesMany = false
            Repeats = false
            Help = help
        }

    /// A flag with several values.
    let many (flag: string) (help: string) : Flag = { one flag help with TakesMany = true }

    let private written (flag: Flag) : string =
        match flag with
        | { Argument = "" } -> $"--{flag.Name}"
        | { TakesMany = true } -> $"--{flag.Name} [<{flag.Argument}>...]"
        | _ -> $"--{flag.Name} <{flag.Argument}>"

    let private width = 80

    /// Joins words into lines that begin with `indent` spaces, the first line apart.
    let private wrap (indent: int) (words: string list) : string =
        let rec lines (line: string) (words: string list) =
            match words with
            | [] -> [ line ]
            | word :: rest when line = "" -> lines word rest
            | word :: rest when indent + line.Length + 1 + word.Length < width -> lines $"{line} {word}" rest
            | _ -> line :: lines "" words

        lines "" words |> String.concat ("\n" + String.replicate indent " ")

    /// The help of a command.
    let help (command: string) (flags: Flag list) : string =
        let column = 26

        let entry (names: string, text: string) =
            let names = "    " + names
            let ownLine = if names.Length + 2 > column then names + "\n" else ""

            ownLine + (if ownLine = "" then names else "").PadRight column + wrap column (List.ofArray (text.Split ' '))

        let usage = $"USAGE: ctkd {command} "
        let words = "[--help]" :: (flags |> List.map (fun flag -> $"[{written flag}]"))

        [
            usage + wrap usage.Length words
            "\nOPTIONS:\n"
            for flag in flags do
                entry (written flag, flag.Help)
            entry ("--help, -h, help", "display this list of options.")
        ]
        |> String.concat "\n"

    /// Whether help is asked for.
    let asksForHelp (words: string list) : bool =
        List.contains "--help" words || List.contains (List.tryHead words) [ Some "-h"; Some "help" ]

    let private isFlag (word: string) : bool = word.StartsWith("--", System.StringComparison.Ordinal)

    /// The flags among the words, or what is wrong with them.
    let parse (command: string) (flags: Flag list) (words: string list) : Result<GivenFlags, Error> =
        let wrong what = Error.fail Usage what "" $"see: ctkd {command} --help"

        let rec go (given: GivenFlags) (words: string list) =
            match words with
            | [] -> Ok(List.rev given)
            | word :: rest ->
                match flags |> List.tryFind (fun flag -> "--" + flag.Name = word) with
                | None ->
                    let names = "--help" :: (flags |> List.map (fun flag -> "--" + flag.Name))
                    let error = Error.unknown "flag" names word
                    let next = error.Next + $" (all of them: ctkd {command} --help)"
                    Result.Error { error with Next = next }
                | Some flag when not flag.Repeats && List.exists (fun (name, _) -> name = flag.Name) given ->
                    wrong $"{word} is given more than once"
                | Some flag when flag.Argument = "" -> go ((flag.Name, []) :: given) rest
                | Some flag when flag.TakesMany ->
                    let values = rest |> List.takeWhile (isFlag >> not)
                    go ((flag.Name, values) :: given) (List.skip values.Length rest)
                | Some flag ->
                    match rest with
                    | value :: rest when not (isFlag value) -> go ((flag.Name, [ value ]) :: given) rest
                    | _ -> wrong $"{word} needs a value: {written flag}"

        go [] words

    /// The values of a flag, where it is given.
    let tryValues (name: string) (given: GivenFlags) : string list option =
        given |> List.tryFind (fun (given, _) -> given = name) |> Option.map snd

    /// The one value of a flag, where it is given.
    let tryValue (name: string) (given: GivenFlags) : string option = tryValues name given |> Option.bind List.tryHead

    /// Whether a flag is given.
    let has (name: string) (given: GivenFlags) : bool = (tryValues name given).IsSome
