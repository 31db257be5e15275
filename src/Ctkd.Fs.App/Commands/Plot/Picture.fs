namespace Ctkd.Fs.App

open System
open System.ComponentModel
open System.Diagnostics
open System.IO
open Ctkd.Fs

/// SVG text as a file: as it is, or through `rsvg-convert` as PNG.
module Picture =
    let private program = "rsvg-convert"

    let private absent (path: string) : Error =
        Error.create
            Missing
            $"a PNG needs the program {program}, which is not there"
            path
            "install Debian's package librsvg2-bin (apt-get install librsvg2-bin), or give --out FILE.svg"

    /// PNG bytes at twice the size on the screen, so that a line stays sharp in print.
    let private png (path: string) (svg: string) : Result<byte[], Error> =
        let info =
            ProcessStartInfo(
                program,
                [ "--format=png"; "--zoom=2" ],
                RedirectStandardInput = true,
                RedirectStandardOutput = true,
                RedirectStandardError = true
            )

        try
            use child = Process.Start info |> nonNull
            let complaint = child.StandardError.ReadToEndAsync()
            use bytes = new MemoryStream()
            let read = child.StandardOutput.BaseStream.CopyToAsync bytes

            // A program that ends early closes the pipe: its own words say why.
            try
                child.StandardInput.BaseStream.Write(ReadOnlySpan(Text.Encoding.UTF8.GetBytes svg))
                child.StandardInput.Close()
            with :? IOException ->
                ()

            read.Wait()
            child.WaitForExit()

            if child.ExitCode = 0 && bytes.Length > 0L then
                Ok(bytes.ToArray())
            else
                let reason = Files.printable (complaint.Result.Trim())

                Error.fail
                    Unwritable
                    $"{program} made no picture (exit code {child.ExitCode}): {reason}"
                    path
                    "give --out FILE.svg"
        with :? Win32Exception ->
            Result.Error(absent path)

    let private ending (path: string) : string = (string (Path.GetExtension path)).ToLowerInvariant()

    let private isThere () : bool =
        let info =
            ProcessStartInfo(program, [ "--version" ], RedirectStandardInput = true, RedirectStandardOutput = true)

        try
            use child = Process.Start info |> nonNull
            child.StandardInput.Close()
            child.StandardOutput.ReadToEnd() |> ignore
            child.WaitForExit()
            true
        with :? Win32Exception ->
            false

    /// Refuses a file that cannot be written, before the work for its picture: its ending tells no format, a PNG's program
    /// is absent, or its folder is no place to write.
    let checkPath (path: string) : Result<unit, Error> =
        match ending path with
        | ".svg" -> Files.checkWritable path
        | ".png" -> if isThere () then Files.checkWritable path else Result.Error(absent path)
        | other ->
            Error.fail
                ErrorKind.Usage
                $"the ending '{other}' of the picture is neither .svg nor .png"
                path
                "give --out FILE.svg or FILE.png"

    /// Writes a picture, by the path's ending.
    let write (path: string) (svg: string) : Result<unit, Error> =
        let bytes = if ending path = ".png" then png path svg else Ok(Text.Encoding.UTF8.GetBytes svg)

        bytes |> Result.bind (fun bytes -> Files.replace path (fun stream -> stream.Write(ReadOnlySpan bytes)))
