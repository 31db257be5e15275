/// Markdown as far as the documentation needs it: headings, code, links. Used by the tests and by `build.fsx docs`.
module Ctkd.Fs.Tests.Markdown

open System
open System.IO
open System.Text.RegularExpressions

let private lines (text: string) : string list = text.Replace("\r", "").Split '\n' |> List.ofArray

let private isFence (line: string) : bool = line.TrimStart().StartsWith("```", StringComparison.Ordinal)

/// Each line with whether it belongs to a fenced block.
let private fenced (text: string) : (string * bool) list =
    (false, lines text)
    ||> List.mapFold (fun inside line ->
        let fence = isFence line
        (line, inside || fence), (if fence then not inside else inside)
    )
    |> fst

/// The anchor of a heading's text, as code hosts make it: "Overheads a step" is "overheads-a-step".
let slug (heading: string) : string =
    let plain = Regex.Replace(heading.Trim(), @"\[([^\]]*)\]\([^)]*\)", "$1")

    let kept =
        plain.ToLowerInvariant() |> String.filter (fun c -> Char.IsLetterOrDigit c || " -_".Contains c)

    kept.Replace(' ', '-')

let private heading (line: string) : string option =
    let found = Regex.Match(line, @"^#{1,6} +(.*?)\s*#*$")
    if found.Success then Some found.Groups[1].Value else None

/// Applies a change to each heading's line, given its anchor; the second heading of the same text is "text-1".
let mapHeadings (change: string -> string -> string) (text: string) : string =
    (Map.empty, fenced text)
    ||> List.mapFold (fun seen (line, inside) ->
        match (if inside then None else heading line) with
        | None -> line, seen
        | Some title ->
            let slug = slug title
            let before = Map.tryFind slug seen |> Option.defaultValue 0
            let anchor = if before = 0 then slug else $"{slug}-{before}"
            change anchor line, Map.add slug (before + 1) seen
    )
    |> fst
    |> String.concat "\n"

/// The anchors of a page's headings.
let anchors (text: string) : Set<string> =
    let found = ResizeArray<string>()

    mapHeadings
        (fun anchor line ->
            found.Add anchor
            line
        )
        text
    |> ignore

    Set.ofSeq found

/// The contents of the fenced blocks of a language, such as "fsharp".
let blocks (language: string) (text: string) : string list list =
    let rec go (found: string list list) (rest: string list) =
        match List.skipWhile (isFence >> not) rest with
        | [] -> List.rev found
        | opening :: rest ->
            let body = List.takeWhile (isFence >> not) rest
            let isMeant = opening.Trim() = $"```{language}"

            go (if isMeant then body :: found else found) (rest |> List.skip (min rest.Length (body.Length + 1)))

    go [] (lines text)

/// A link: `[Text](Target)`, or an image.
type Link = { Line: int; Text: string; Target: string }

let private linkPattern = Regex @"\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)"
let private codePattern = Regex "`[^`]*`"

/// Replaces the links outside of code by what `change` makes of a link and its own text.
let mapLinks (change: Link -> string -> string) (text: string) : string =
    fenced text
    |> List.mapi (fun i (line, inside) ->
        // Code hides brackets, and may itself be a link's text: hidden characters keep their places.
        let hidden = codePattern.Replace(line, fun code -> String('`', code.Length))

        let replace (line: string) (found: Match) =
            let own = line.Substring(found.Index, found.Length)
            let group = found.Groups[1]
            let text = line.Substring(group.Index, group.Length)
            let link = { Line = i + 1; Text = text; Target = found.Groups[2].Value }
            line.Remove(found.Index, found.Length).Insert(found.Index, change link own)

        if inside then line else linkPattern.Matches hidden |> Seq.rev |> Seq.fold replace line
    )
    |> String.concat "\n"

/// The links outside of code.
let links (text: string) : Link list =
    let found = ResizeArray<Link>()

    mapLinks
        (fun link own ->
            found.Add link
            own
        )
        text
    |> ignore

    List.ofSeq found

let private externalMistake (target: string) : string option =
    match Uri.TryCreate(target, UriKind.Absolute) with
    | true, NonNull uri when uri.Scheme = "https" && uri.Host.Contains '.' && uri.UserInfo = "" -> None
    | _ -> Some "is not a well-formed https address"

let private anchorMistake (file: string) (anchor: string) : string option =
    if not (file.EndsWith(".md", StringComparison.Ordinal)) then
        Some "has an anchor but is no page"
    elif Set.contains anchor (anchors (File.ReadAllText file)) then
        None
    else
        Some $"has no heading '{anchor}'"

let private relativeMistake (root: string) (page: string) (target: string) : string option =
    let path, anchor =
        match target.IndexOf '#' with
        | -1 -> target, None
        | at -> target.Substring(0, at), Some(target.Substring(at + 1))

    let file =
        if path = "" then
            page
        else
            Path.GetFullPath(Path.Combine(string (Path.GetDirectoryName page), path))

    if path.StartsWith '/' || path.Contains '\\' then
        Some "is no relative path"
    elif not (file.StartsWith(root, StringComparison.Ordinal)) then
        Some "leaves the repository"
    elif not (File.Exists file || Directory.Exists file) then
        Some "does not exist"
    else
        anchor |> Option.bind (anchorMistake file)

/// What is wrong with the links of a page of the repository in `root`: targets that do not exist, anchors without a
/// heading, external addresses that are not well-formed. Nothing is asked of the network.
let brokenLinks (root: string) (page: string) : string list = [
    for link in links (File.ReadAllText page) do
        let mistake =
            if Regex.IsMatch(link.Target, "^[a-z]+:") then
                externalMistake link.Target
            else
                relativeMistake root page link.Target

        match mistake with
        | Some mistake -> $"{Path.GetRelativePath(root, page)}:{link.Line}: {link.Target} {mistake}"
        | None -> ()
]

/// The pages of the repository whose links are checked.
let pages (root: string) : string list =
    let inDocs = Directory.GetFiles(Path.Combine(root, "docs"), "*.md", SearchOption.AllDirectories)

    [ "README.md"; "CHANGELOG.md"; "bench/README.md" ]
    |> List.map (fun page -> Path.Combine(root, page))
    |> fun top -> top @ (inDocs |> Array.sort |> List.ofArray)
