/// Scripts that run in PyTorch, which the tests of the list `Peer` compare with.
module Ctkd.Fs.Tests.PyTorch

open System
open System.Diagnostics
open System.IO
open Expecto

/// The interpreter that has PyTorch: Debian's, or another one's path.
let private python: string =
    Environment.GetEnvironmentVariable "CTKD_PYTHON"
    |> Option.ofObj
    |> Option.defaultValue "/usr/bin/python3"

/// What the script prints when it has these arguments and is given these lines.
let run (script: string) (arguments: string list) (lines: string list) : string =
    let missing problem = failtest $"{problem}: PyTorch is needed here, run: dotnet fsi build.fsx test --peer"

    if not (File.Exists python) then missing $"{python} is not there"

    let start =
        ProcessStartInfo(
            python,
            [ "-c"; script ] @ arguments,
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true
        )

    use child = Process.Start start |> Option.ofObj |> Option.get
    let output, errors = child.StandardOutput.ReadToEndAsync(), child.StandardError.ReadToEndAsync()
    lines |> List.iter (fun line -> child.StandardInput.WriteLine line)
    child.StandardInput.Close()
    child.WaitForExit()

    if child.ExitCode <> 0 then missing $"{python} says {errors.Result.Trim()}"

    output.Result
