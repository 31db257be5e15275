/// The site as fsdocs reads it: the pages of the repository in one folder, with their links. Used by `build.fsx docs`.
module Ctkd.Fs.Tests.Site

open System
open System.IO
open System.Text.RegularExpressions

/// The pages by category in the order of the menu: the file in the repository and its name on the site.
let private menu: (string * (string * string) list) list =
    let docs names = names |> List.map (fun name -> $"docs/{name}.md", $"{name}.md")
    let guide name = $"docs/guides/{name}.md", $"{name}.md"

    [
        "Start", [ "README.md", "index.md"; yield! docs [ "getting-started"; "concepts" ] ]
        "Guides",
        List.map guide [
            "own-data"
            "photos"
            "own-model"
            "own-teacher"
            "own-policy"
            "methods"
            "gpu"
            "resume"
            "export"
            "report"
            "experiments"
            "watching"
        ]
        "Reference", docs [ "commands"; "settings"; "diagnostics"; "engine" ]
        "Results",
        [
            yield! docs [ "results"; "reproductions"; "performance"; "rlkd"; "rlkd-notes" ]
            "bench/README.md", "benchmarks.md"
        ]
        "Project", [ yield! docs [ "contributing" ]; "CHANGELOG.md", "changelog.md" ]
    ]

let private named: Map<string, string> = menu |> List.collect snd |> Map.ofList

/// Pages of `docs` that the menu does not know.
let forgotten (root: string) : string list =
    Markdown.pages root
    |> List.map (fun page -> Path.GetRelativePath(root, page))
    |> List.filter (fun page -> not (named.ContainsKey page))

/// A link as the site has it. The site is flat: figures keep their folder. What is not on it becomes plain text.
let private link (root: string) (page: string) (link: Markdown.Link) (own: string) : string =
    let path, anchor =
        match link.Target.IndexOf '#' with
        | -1 -> link.Target, ""
        | at -> link.Target.Substring(0, at), link.Target.Substring at

    let file =
        Path.GetRelativePath(root, Path.GetFullPath(Path.Combine(root, string (Path.GetDirectoryName page), path)))

    if path = "" || Regex.IsMatch(link.Target, "^[a-z]+:") then
        own
    elif file.StartsWith "docs/figures/" then
        $"[{link.Text}]({file.Substring 5})"
    else
        match Map.tryFind file named with
        | Some name ->
            let html = Path.ChangeExtension(name, ".html")
            $"[{link.Text}]({html}{anchor})"
        | None -> link.Text

/// Writes the site's pages and figures into a folder.
let stage (root: string) (folder: string) : unit =
    if Directory.Exists folder then Directory.Delete(folder, true)
    Directory.CreateDirectory(Path.Combine(folder, "figures")) |> ignore
    File.Copy(Path.Combine(root, "docs", "_template.html"), Path.Combine(folder, "_template.html"))

    for figure in Directory.GetFiles(Path.Combine(root, "docs", "figures")) do
        File.Copy(figure, Path.Combine(folder, "figures", string (Path.GetFileName figure)))

    for categoryIndex, (category, pages) in List.indexed menu do
        for index, (page, name) in List.indexed pages do
            let text = File.ReadAllText(Path.Combine(root, page))
            let first = text.Substring(0, text.IndexOf '\n')
            let title = first.TrimStart('#', ' ')

            let header = [
                "---"
                $"title: {title}"
                $"category: {category}"
                $"categoryindex: {categoryIndex + 1}"
                $"index: {index + 1}"
                "---"
                ""
            ]

            let body =
                text
                |> Markdown.mapLinks (link root page)
                // fsdocs names headings its own way.
                |> Markdown.mapHeadings (fun anchor line -> "<a id=\"" + anchor + "\"></a>\n\n" + line)

            File.WriteAllText(Path.Combine(folder, name), String.concat "\n" header + body)

/// Mends what fsdocs makes: its API pages lie one folder deeper, and their comments have code between backticks.
let finish (site: string) : unit =
    for page in Directory.GetFiles(Path.Combine(site, "reference"), "*.html") do
        let text = File.ReadAllText(page).Replace("=\"./", "=\"../")
        File.WriteAllText(page, Regex.Replace(text, "`(?!cref:)([^`<\n]+)`", "<code>$1</code>"))

let private ids = Regex "(?:id|name)=\"([^\"]+)\""
let private references = Regex "(?:href|src)=\"([^\"]*)\""

/// Links inside the site that lead nowhere.
let brokenLinks (site: string) : string list =
    let pages = Directory.GetFiles(site, "*.html", SearchOption.AllDirectories)

    let targets =
        pages
        |> Array.map (fun page ->
            page, ids.Matches(File.ReadAllText page) |> Seq.map (fun m -> m.Groups[1].Value) |> Set.ofSeq
        )
        |> Map.ofArray

    let mistake (page: string) (target: string) : string option =
        let target = string (Net.WebUtility.HtmlDecode target)

        let path, anchor =
            match target.IndexOf '#' with
            | -1 -> target, ""
            | at -> target.Substring(0, at), target.Substring(at + 1)

        let file =
            if path = "" then
                page
            else
                Path.GetFullPath(Path.Combine(string (Path.GetDirectoryName page), Uri.UnescapeDataString path))

        match Map.tryFind file targets with
        | Some ids when anchor <> "" && not (ids.Contains(Uri.UnescapeDataString anchor)) -> Some $"has no '{anchor}'"
        | None when not (File.Exists file) -> Some "does not exist"
        | _ -> None

    [
        for page in pages do
            for reference in references.Matches(File.ReadAllText page) do
                let target = reference.Groups[1].Value

                if not (Regex.IsMatch(target, "^([a-z]+:|//)")) then
                    match mistake page target with
                    | Some mistake -> $"{Path.GetRelativePath(site, page)}: {target} {mistake}"
                    | None -> ()
    ]
    |> List.distinct

let private fsdocs (root: string) (input: string) (site: string) : string list =
    let options = "--nodefaultcontent --strict --parameters root ./ --properties Configuration=Release"

    [ "dotnet"; "fsdocs"; "build"; "--input"; input; "--output"; site ]
    @ List.ofArray (options.Split ' ')
    @ [ "--projects"; Path.Combine(root, "src", "Ctkd.Fs", "Ctkd.Fs.fsproj") ]

/// Makes the site in artifacts/docs, and before it the pages that are made from the program: its first page, or every
/// mistake. `ctkd` runs the program, `run` a command; both return the exit code and the output.
let make (root: string) (ctkd: string list -> int * string) (run: string list -> int * string) =
    let artifacts name = Path.Combine(root, "artifacts", name)
    let input, site = artifacts "docs-input", artifacts "docs"

    let output (arguments: string list) : string =
        match ctkd arguments with
        | 0, text -> text
        | code, text -> failwith $"ctkd %A{arguments} ended with exit code {code}: {text}"

    let lines (text: string) = text.Split '\n' |> List.ofArray
    let isWarning (line: string) = line.Contains("warning", StringComparison.OrdinalIgnoreCase)

    let generate () : string list =
        stage root input
        if Directory.Exists site then Directory.Delete(site, true)
        Directory.CreateDirectory site |> ignore

        match fsdocs root input site |> run with
        | 0, text -> lines text |> List.filter isWarning
        | _, text -> lines text

    let check () : string list =
        finish site
        brokenLinks site

    let forgotten = forgotten root |> List.map (fun page -> $"{page} is not in the menu (Site.fs)")

    for name, text in GeneratedPages.pages output do
        File.WriteAllText(Path.Combine(root, "docs", name), text)

    [
        fun () -> forgotten
        fun () -> Markdown.pages root |> List.collect (Markdown.brokenLinks root)
        generate
        check
    ]
    |> Seq.map (fun step -> step ())
    |> Seq.tryFind (List.isEmpty >> not)
    |> function
        | None -> Ok(Path.Combine(site, "index.html"))
        | Some problems -> Error problems
