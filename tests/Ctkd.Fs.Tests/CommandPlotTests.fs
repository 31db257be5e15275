module Ctkd.Fs.Tests.CommandPlotTests

open System
open System.IO
open System.Text.Json.Nodes
open System.Xml.Linq
open Ctkd.Fs
open Ctkd.Fs.Tests.Child
open Ctkd.Fs.Tests.Folders
open Xunit

let private field (ended: Ended) (name: string) : string =
    let node = JsonNode.Parse ended.Out |> nonNull

    match node[name] with
    | null -> ""
    | value -> value.ToJsonString()

let private isSvg (folder: string) (name: string) : unit =
    let root = XDocument.Load(Path.Combine(folder, name)).Root |> nonNull
    Assert.Equal("svg", root.Name.LocalName)

let private distilled (folder: string) (name: string) (policy: string) : unit =
    Runs.finish (Path.Combine(folder, name)) (Runs.taught policy Runs.small) |> ignore

[<Fact>]
let ``plot draws the curves of several runs in one figure, and the quantiles of one`` () =
    inFolder (fun folder ->
        distilled folder "a" "ctkd-instance"
        distilled folder "b" "fixed"
        let drawn = expect 0 folder "plot temperature a b --out t.svg --json"
        Assert.Equal("""["a","b"]""", field drawn "series")
        isSvg folder "t.svg"
        expect 0 folder "plot curriculum a b" |> ignore
        isSvg folder "curriculum.svg"
        expect 0 folder "plot temperature a --quantiles" |> ignore
        Assert.Contains(">median<", File.ReadAllText(Path.Combine(folder, "temperature.svg")))
        Assert.Contains("for each image", (expect 2 folder "plot temperature b --quantiles").Err)
        Assert.Contains("one run", (expect 2 folder "plot temperature a b --quantiles").Err)
        File.AppendAllText(Path.Combine(folder, "a", "metrics.jsonl"), "{}\n")
        Assert.Contains("line 3 holds no metrics", (expect 1 folder "plot temperature a").Err)
    )

[<Fact>]
let ``plot draws a curriculum from flags, correlations and features from weights`` () =
    inFolder (fun folder ->
        expect 0 folder "plot curriculum --epochs 20 --curriculum-epochs 10 --out c.svg" |> ignore
        isSvg folder "c.svg"
        let weights = Runs.teacher.Value

        let same =
            expect
                0
                folder
                $"plot correlation --weights {weights} --teacher-weights {weights} --images 200 --json"

        Assert.Equal("0", field same "distance")
        isSvg folder "correlation.svg"

        let tsne =
            expect 0 folder $"plot tsne --weights {weights} --images 60 --perplexity 10 --classes 4 --json"

        Assert.True(float (field tsne "divergence") >= 0.0)
        isSvg folder "tsne.svg"
        Assert.Contains(">class 3<", File.ReadAllText(Path.Combine(folder, "tsne.svg")))
    )

[<Fact>]
let ``what plot cannot draw is refused with the remedy, and leaves no file`` () =
    inFolder (fun folder ->
        let refused (code: int) (arguments: string) (message: string) =
            Assert.Contains(message, (expect code folder $"plot {arguments}").Err)

        refused 2 "" "plot needs a figure"
        refused 2 "temperatur" "did you mean one of: temperature"
        refused 2 "temperature" "temperature needs runs"
        refused 2 "temperature x --perplexity 3" "takes no --perplexity"
        refused 1 "temperature x" "there are no metrics of a run"
        refused 2 "curriculum --out x.gif" "neither .svg nor .png"
        refused 2 "tsne" "needs a student's weights"
        refused 2 $"tsne --weights {Runs.teacher.Value} --images 5" "perplexity must be"
        refused 2 $"tsne --weights {Runs.teacher.Value} --classes 25" "at most 24 classes"
        refused 2 $"correlation --weights {Runs.teacher.Value}" "needs a teacher's weights"
        refused 2 "correlation run" "takes no runs"
        Assert.Empty(Directory.GetFileSystemEntries folder)
    )

[<Fact>]
let ``a PNG goes through rsvg-convert, and without it the error names Debian's package`` () =
    inFolder (fun folder ->
        // A stand-in that answers what it was given: the tests need no librsvg.
        let bin = Directory.CreateDirectory(Path.Combine(folder, "bin")).FullName
        let dotnet = Path.GetDirectoryName(nonNull Environment.ProcessPath)
        let path = $"{bin}:{dotnet}:/usr/bin:/bin"
        let program = Path.Combine(bin, "rsvg-convert")
        File.WriteAllText(program, "#!/bin/sh\necho \"$@\"\ncat\n")
        File.SetUnixFileMode(program, UnixFileMode.UserRead ||| UnixFileMode.UserExecute)
        let ended = ctkdWith [ "PATH", path ] folder "plot curriculum --out c.png"
        Assert.Equal(0, ended.Code)
        let text = File.ReadAllText(Path.Combine(folder, "c.png"))
        Assert.StartsWith("--format=png", text)
        Assert.Contains("<svg", text)

        File.SetUnixFileMode(
            program,
            UnixFileMode.UserRead ||| UnixFileMode.UserWrite ||| UnixFileMode.UserExecute
        )

        File.WriteAllText(program, "#!/bin/sh\ncat > /dev/null\necho no memory >&2\nexit 3\n")
        let broken = ctkdWith [ "PATH", path ] folder "plot curriculum --out d.png"
        Assert.Equal(1, broken.Code)
        Assert.Contains("exit code 3): no memory", broken.Err)

        let none = Directory.CreateDirectory(Path.Combine(folder, "none")).FullName
        let child = [ nonNull Environment.ProcessPath ] @ (ctkdCommand "plot curriculum --out d.png").Tail
        let absent = runCommand folder [ "PATH", none ] child
        Assert.Equal(1, absent.Code)
        Assert.Contains("librsvg2-bin", absent.Err)
        Assert.False(File.Exists(Path.Combine(folder, "d.png")))
    )
