module Ctkd.Fs.Tests.CommandPlotTests

open System
open System.IO
open System.Text.Json.Nodes
open System.Xml.Linq
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Child
open Ctkd.Fs.Tests.Folders

let private field (ended: Ended) (name: string) : string =
    let node = JsonNode.Parse ended.Out |> nonNull

    match node[name] with
    | null -> ""
    | value -> value.ToJsonString()

let private isSvg (folder: string) (name: string) : unit =
    let root = XDocument.Load(Path.Combine(folder, name)).Root |> nonNull
    Must.equal "svg" root.Name.LocalName

let private distilled (folder: string) (name: string) (policy: string) : unit =
    Runs.finish (Path.Combine(folder, name)) (Runs.taught policy Runs.small) |> ignore

let tests =
    testList "CommandPlot" [
        test "plot draws the curves of several runs in one figure, and the quantiles of one" {
            inFolder (fun folder ->
                distilled folder "a" "ctkd-instance"
                distilled folder "b" "fixed"
                let drawn = expect 0 folder "plot temperature a b --out t.svg --json"
                Must.equal ("""["a","b"]""") (field drawn "series")
                isSvg folder "t.svg"
                expect 0 folder "plot curriculum a b" |> ignore
                isSvg folder "curriculum.svg"
                expect 0 folder "plot temperature a --quantiles" |> ignore
                Must.contain ">median<" (File.ReadAllText(Path.Combine(folder, "temperature.svg")))
                Must.contain "for each image" ((expect 2 folder "plot temperature b --quantiles").Err)
                Must.contain "one run" ((expect 2 folder "plot temperature a b --quantiles").Err)
                File.AppendAllText(Path.Combine(folder, "a", "metrics.jsonl"), "{}\n")
                Must.contain "line 3 holds no metrics" ((expect 1 folder "plot temperature a").Err)
            )
        }

        test "plot draws a curriculum from flags, correlations and features from weights" {
            inFolder (fun folder ->
                expect 0 folder "plot curriculum --epochs 20 --curriculum-epochs 10 --out c.svg" |> ignore
                isSvg folder "c.svg"
                let weights = Runs.teacher.Value

                let same =
                    expect
                        0
                        folder
                        $"plot correlation --weights {weights} --teacher-weights {weights} --images 200 --json"

                Must.equal "0" (field same "distance")
                isSvg folder "correlation.svg"

                let tsne =
                    expect 0 folder $"plot tsne --weights {weights} --images 60 --perplexity 10 --classes 4 --json"

                Must.hold (float (field tsne "divergence") >= 0.0)
                isSvg folder "tsne.svg"
                Must.contain ">3<" (File.ReadAllText(Path.Combine(folder, "tsne.svg")))
            )
        }

        test "what plot cannot draw is refused with the remedy, and leaves no file" {
            inFolder (fun folder ->
                let refused (code: int) (arguments: string) (message: string) =
                    Must.contain message ((expect code folder $"plot {arguments}").Err)

                refused 2 "" "plot needs a figure"
                refused 2 "temperatur" "did you mean one of: temperature"
                refused 2 "temperature" "temperature needs runs"
                refused 2 "temperature x --perplexity 3" "takes no --perplexity"
                refused 1 "temperature x" "there are no metrics of a run"
                refused 2 "curriculum --out x.gif" "neither .svg nor .png"
                refused 2 "tsne" "needs a student's weights"
                refused 2 $"tsne --weights {Runs.teacher.Value} --images 5" "perplexity must be"
                refused 2 $"tsne --weights {Runs.teacher.Value} --classes 201" "at most 200 classes"
                refused 2 $"correlation --weights {Runs.teacher.Value}" "needs a teacher's weights"
                refused 2 "correlation run" "takes no runs"
                Must.beEmpty (Directory.GetFileSystemEntries folder)
            )
        }

        test "a file or folder that cannot be written is told before any work for what goes there" {
            inFolder (fun folder ->
                for arguments in
                    [
                        "plot tsne --weights none --out no/x.svg"
                        "plot correlation --weights none --out no/x.svg"
                        "export --weights none --onnx no/x.onnx"
                        "bench scaling --out /proc/x"
                    ] do
                    let ended = expect 1 folder arguments
                    Must.contain "cannot be written" ended.Err
                    Must.contain "choose another" ended.Err

                Must.beEmpty (Directory.GetFileSystemEntries folder)
            )
        }

        test "a PNG goes through rsvg-convert, and without it the error names Debian's package" {
            inFolder (fun folder ->
                // A stand-in that answers what it was given: the tests need no librsvg.
                let bin = Directory.CreateDirectory(Path.Combine(folder, "bin")).FullName
                let dotnet = Path.GetDirectoryName(nonNull Environment.ProcessPath)
                let path = $"{bin}:{dotnet}:/usr/bin:/bin"
                let program = Path.Combine(bin, "rsvg-convert")
                File.WriteAllText(program, "#!/bin/sh\necho \"$@\"\ncat\n")
                File.SetUnixFileMode(program, UnixFileMode.UserRead ||| UnixFileMode.UserExecute)
                let ended = ctkdWith [ "PATH", path ] folder "plot curriculum --out c.png"
                Must.equal 0 ended.Code
                let text = File.ReadAllText(Path.Combine(folder, "c.png"))
                Must.startWith "--format=png" text
                Must.contain "<svg" text

                File.SetUnixFileMode(
                    program,
                    UnixFileMode.UserRead ||| UnixFileMode.UserWrite ||| UnixFileMode.UserExecute
                )

                File.WriteAllText(program, "#!/bin/sh\ncat > /dev/null\necho no memory >&2\nexit 3\n")
                let broken = ctkdWith [ "PATH", path ] folder "plot curriculum --out d.png"
                Must.equal 1 broken.Code
                Must.contain "exit code 3): no memory" broken.Err

                let none = Directory.CreateDirectory(Path.Combine(folder, "none")).FullName

                let child = [ nonNull Environment.ProcessPath ] @ (ctkdCommand "plot curriculum --out d.png").Tail

                let absent = runCommand folder [ "PATH", none ] child
                Must.equal 1 absent.Code
                Must.contain "librsvg2-bin" absent.Err
                Must.notHold (File.Exists(Path.Combine(folder, "d.png")))
            )
        }
    ]
