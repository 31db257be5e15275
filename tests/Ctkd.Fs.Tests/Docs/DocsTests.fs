/// The documentation: its programs are compiled and run, its commands and links exist, its made pages are up to date.
module Ctkd.Fs.Tests.DocsTests

open System
open System.IO
open System.Text.RegularExpressions
open Expecto
open Ctkd.Fs

let private root: string =
    Path.GetFullPath(Path.Combine(Child.programFolder, "..", "..", "..", "..", ".."))

let private read (path: string) : string = File.ReadAllText(Path.Combine(root, path))
let private named (page: string) : string = Path.GetRelativePath(root, page)

/// Whether a program's lines are, further to the right, consecutive lines of a source.
let private isPartOf (source: string list) (program: string list) : bool =
    let equal (indent: string) (own: string) (line: string) = own = (if line = "" then "" else indent + line)

    source
    |> List.windowed program.Length
    |> List.exists (fun window ->
        let indent = window.Head.Substring(0, max 0 (window.Head.Length - program.Head.Length))
        String.IsNullOrWhiteSpace indent && List.forall2 (equal indent) window program
    )

/// The programs of a language in the documentation, without the lines that open namespaces.
let private programs (language: string) : (string * string list) list = [
    for page in Markdown.pages root do
        for block in Markdown.blocks language (File.ReadAllText page) do
            let opens (line: string) = line = "" || Regex.IsMatch(line, "^(open|using) [A-Za-z.]+;?$")
            named page, List.skipWhile opens block
]

let private areCompiled (language: string) (source: string) : unit =
    let lines = (read source).Split '\n' |> List.ofArray

    for page, program in programs language do
        if not (isPartOf lines program) then
            failtest $"{page}: no part of {source}:\n{program.Head}"

/// What a body prints, in a folder of its own.
let private printed (body: unit -> unit) : string =
    let out, was, folder = new StringWriter(), Console.Out, Environment.CurrentDirectory

    Folders.inFolder (fun temporary ->
        try
            Console.SetOut out
            Environment.CurrentDirectory <- temporary
            body ()
        finally
            Console.SetOut was
            Environment.CurrentDirectory <- folder
    )

    string out

/// The commands that a page shows, each on one line: in fenced blocks, and in lines that begin with four spaces.
let private commands (text: string) : string list =
    text.Replace("\\\n", " ").Split '\n'
    |> Seq.map (fun line -> line.Trim())
    |> Seq.filter (fun line -> Regex.IsMatch(line, "^ctkd [a-z]+( |$)"))
    |> List.ofSeq

/// The flags of a command as its page lists them.
let private flags: string -> Set<string> =
    let page = (read "docs/commands.md").Split "\n## ctkd " |> List.ofArray |> List.tail

    let ofSection (section: string) =
        Regex.Matches(section, "`(--[a-z0-9-]+)") |> Seq.map (fun m -> m.Groups[1].Value) |> Set.ofSeq

    let all =
        page |> List.map (fun section -> section.Substring(0, section.IndexOf '\n'), ofSection section) |> Map

    fun command -> all[if command = "distill" then "teach" else command]

let tests =
    testList "Docs" [
        test "every F# program is part of what is compiled" {
            Must.equal true (List.length (programs "fsharp") >= 7)
            areCompiled "fsharp" "tests/Ctkd.Fs.Tests/Docs/Snippets.fs"
        }

        test "every C# program is part of what is compiled" {
            Must.equal [ "README.md" ] (programs "csharp" |> List.map fst)
            areCompiled "csharp" "tests/Ctkd.Fs.CSharp/Snippets.cs"
        }

        test "the F# programs run" {
            let out =
                printed (fun () ->
                    Snippets.readme ()
                    Snippets.ownPolicy ()
                    Snippets.ownModel ()
                    Must.equal 2 (Snippets.stripes ()).Train.Classes
                    let random = Random 1

                    let pixels, classes = Array.zeroCreate<byte>(600 * 256), Array.init 600 (fun i -> byte (i % 10))

                    random.NextBytes pixels
                    Snippets.ownData pixels classes
                    let own = OwnSet.load "my-set.safetensors" |> Error.orRaise
                    Must.equal 10 own.Train.Classes
                )

            Must.contain "epoch 5: loss" out
            Must.contain "best: " out
            Must.contain "T from " out
        }

        test "the C# program runs" {
            let out = printed Ctkd.Fs.CSharp.Snippets.Readme
            Must.equal 7 (out.Trim().Split('\n').Length)
            Must.contain "best: " out
        }

        test "own models and teachers give logits" {
            Tensor.scoped (fun () ->
                let images = Tensor.zeros DType.Float32 Device.Cpu [| 2L; 3L; 8L; 8L |]
                let model, teacher = Snippets.small, Snippets.ownTeacher ()

                let weights = Initialise.tree DType.Float32 Device.Cpu (Rng.ofSeed 1) (Model.declarations model)

                for model, weights in [ model, weights; teacher.Model, teacher.Weights ] do
                    Must.equal [| 2L; 10L |] (Model.forward model false weights images).Logits.shape

                Expect.floatClose Accuracy.high (Schedule.at 3 (Policy.schedule Snippets.falling)) 3.8 "T falls"
            )
        }

        test "every command that a page shows has the flags that it uses" {
            for page in Markdown.pages root do
                for command in commands (File.ReadAllText page) do
                    let words = (command.Split '#' |> Array.head).Split ' ' |> List.ofArray

                    let used = words |> List.filter (fun word -> word.StartsWith("--", StringComparison.Ordinal))

                    let unknown = Set.difference (Set.ofList used) (flags words[1])

                    if not unknown.IsEmpty then
                        failtest $"{named page}: {command}: no such flag: %A{unknown}"
        }

        test "no link leads nowhere" {
            Must.equal [] (Markdown.pages root |> List.collect (Markdown.brokenLinks root))
            Must.equal [] (Site.forgotten root)
        }

        test "a link to nowhere is found" {
            Folders.inFolder (fun folder ->
                let page = Path.Combine(folder, "page.md")
                let write (text: string) = File.WriteAllText(page, text)

                let mistakes (text: string) =
                    write text
                    Markdown.brokenLinks folder page |> List.length

                Must.equal
                    0
                    (mistakes
                        "# A `b` c, d\n[here](#a-b-c-d) `[x](y)`\n```\n[x](y)\n```\n[out](https://arxiv.org/abs/1)")

                Must.equal 2 (mistakes "# A\n[x](#b) ![y](y.svg)")
                Must.equal 3 (mistakes "[x](http://a.org) [y](https://nowhere) [z](/etc)")
                Must.equal 1 (mistakes "# A\n# A\n[1](#a) [2](#a-1) [3](#a-2)")
            )
        }

        test "the pages of commands and settings are what the program prints" {
            Folders.inFolder (fun folder ->
                let ctkd (arguments: string list) =
                    let ended = Child.expect 0 folder (String.concat " " arguments)
                    ended.Out

                for name, text in GeneratedPages.pages ctkd do
                    if read $"docs/{name}" <> text then
                        failtest $"docs/{name} is out of date: run dotnet fsi build.fsx docs"
            )
        }
    ]
