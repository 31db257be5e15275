/// Runs scripts in PyTorch, for the comparisons of the list `Peer`.
module Ctkd.Fs.Tests.PyTorch

open System
open System.Diagnostics
open System.IO
open Expecto

/// The interpreter with PyTorch: Debian's, or another path.
let private python: string =
    Environment.GetEnvironmentVariable "CTKD_PYTHON" |> Option.ofObj |> Option.defaultValue "/usr/bin/python3"

/// Returns the script's output for these arguments and input lines.
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
