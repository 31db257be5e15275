/// Which native libraries the engine loads, and its messages for those it cannot load.
module Ctkd.Fs.Tests.NativesTests

open System
open System.IO
open Expecto
open FsCheck
open Ctkd.Engine
open Ctkd.Fs.Tests.Child
open Ctkd.Fs.Tests.Folders

let private nameOf (path: string) : string = Path.GetFileName path |> nonNull

let private facts: Lazy<EngineFacts> = lazy (Natives.Load())

/// TorchSharp's native library from its package.
let private sharp: string =
    Path.Combine(AppContext.BaseDirectory, "runtimes", "linux-x64", "native", "libLibTorchSharp.so")

let private whole: byte[] = File.ReadAllBytes sharp

/// A library for another processor: with the architecture number of Arm64.
let private foreign: byte[] =
    let bytes = Array.copy whole
    bytes[18] <- 183uy
    bytes

let private random: byte[] =
    let bytes = Array.zeroCreate 4096
    Random(7).NextBytes bytes
    bytes

/// Files that are not libraries of this machine, and the engine's message for each.
let private bad: (string * byte[] * string) list = [
    "empty", [||], "it is damaged: 0 bytes"
    "cut in its header", whole[..40], "it is damaged: 41 bytes"
    "cut in its middle", whole[.. whole.Length / 2], "it is damaged: its header does not fit"
    "random", random, "it is no native library"
    "a text", Text.Encoding.UTF8.GetBytes(String.replicate 20 "version https://git-lfs\n"), "it is no native library"
    "of Windows", Array.append "MZ"B (Array.zeroCreate 200), "it is a library of Windows, not of Linux"
    "of macOS", Array.append [| 0xCFuy; 0xFAuy; 0xEDuy; 0xFEuy |] (Array.zeroCreate 200), "it is a library of macOS"
    "of another processor", foreign, "it is made for another processor than X64"
]

/// A libtorch in PyTorch's folder layout: links to the package's files, except one with other bytes, or missing.
let private libtorch (folder: string) (name: string) (bytes: byte[] option) : string =
    let lib = Directory.CreateDirectory(Path.Combine(folder, "torch", "lib")).FullName
    File.WriteAllText(Path.Combine(folder, "torch", "version.py"), "__version__ = '2.10.9+test'\n")

    for file in Directory.GetFiles facts.Value.Folder do
        if nameOf file <> name then
            File.CreateSymbolicLink(Path.Combine(lib, nameOf file), file) |> ignore

    bytes |> Option.iter (fun bytes -> File.WriteAllBytes(Path.Combine(lib, name), bytes))
    Path.Combine(folder, "torch")

/// A copy of the program elsewhere, with links to its native libraries; TorchSharp's has other bytes, or is missing.
let private programWith (folder: string) (bytes: byte[] option) : string =
    let native = Path.Combine("runtimes", "linux-x64", "native")
    Directory.CreateDirectory(Path.Combine(folder, native)) |> ignore

    for file in Directory.GetFiles programFolder do
        File.Copy(file, Path.Combine(folder, nameOf file))

    for file in Directory.GetFiles(Path.Combine(programFolder, native)) do
        if nameOf file <> nameOf sharp then
            File.CreateSymbolicLink(Path.Combine(folder, native, nameOf file), file) |> ignore

    bytes |> Option.iter (fun bytes -> File.WriteAllBytes(Path.Combine(folder, native, nameOf sharp), bytes))

    Path.Combine(folder, "ctkd.dll")

let private doctor (variables: (string * string) list) : Ended = ctkdWith variables "/" "doctor"

/// Checks that the program ended with one error that says what is wrong and what to do, without a crash or stack trace.
let private refused (what: string) (ended: Ended) : unit =
    Must.equal 1 ended.Code
    Must.contain what (ended.Out + ended.Err)

let tests =
    testList "Natives" [
        test "the header of a library tells what it is" {
            inFolder (fun folder ->
                for name, bytes, what in bad do
                    let file = Path.Combine(folder, name)
                    File.WriteAllBytes(file, bytes)
                    Must.contain what (NativeFile.Fault file |> nonNull)

                Must.beNull (NativeFile.Fault sharp)
            )
        }

        testProperty
            "a header of any bytes is judged without a crash"
            (fun (bytes: byte[]) (at: NonNegativeInt) ->
                inFolder (fun folder ->
                    let file = Path.Combine(folder, "library")
                    let changed = Array.copy whole[..8191]
                    bytes |> Array.iteri (fun i byte -> changed[(at.Get + i) % 512] <- byte)
                    File.WriteAllBytes(file, changed)
                    NativeFile.Fault file |> ignore
                )
            )

        test "the relaxed copy differs in the flag of one version" {
            let relaxed = RelaxedLibrary.Relax whole |> nonNull
            Must.equal whole.Length relaxed.Length
            let changed = Seq.zip whole relaxed |> Seq.filter (fun (a, b) -> a <> b) |> List.ofSeq
            Must.equal [ 0uy, 2uy ] changed
        }

        test "a library that is cut anywhere has no relaxed copy" {
            for length in [ 0; 1; 63; 64; 4096; whole.Length / 2; whole.Length - 64 ] do
                Must.beNull (RelaxedLibrary.Relax whole[.. length - 1])

            Must.beNull (RelaxedLibrary.Relax random)
        }

        testProperty
            "tables of any bytes are read to an end"
            (fun (at: NonNegativeInt) (value: byte) ->
                // The section table is at the end, the needed versions near the start.
                let changed = Array.copy whole
                let start = if at.Get % 2 = 0 then whole.Length - 2048 else 0x28
                changed[start + at.Get % 2048] <- value
                RelaxedLibrary.Relax changed |> ignore
            )

        test "a copy that was cut or changed is made anew, and a whole one stays" {
            inFolder (fun folder ->
                let path = RelaxedLibrary.Keep(whole, "library", folder)
                let written = File.GetLastWriteTimeUtc path
                Must.equal path (RelaxedLibrary.Keep(whole, "library", folder))
                Must.equal written (File.GetLastWriteTimeUtc path)

                for bytes in [ whole[..100]; Array.rev whole; [||] ] do
                    File.WriteAllBytes(path, bytes)
                    Must.equal path (RelaxedLibrary.Keep(whole, "library", folder))
                    Must.equal whole (File.ReadAllBytes path)

                Must.equal 1 (Directory.GetFiles(Path.GetDirectoryName path |> nonNull).Length)
            )
        }

        test "a cache that cannot be written does not stop the engine" {
            let ended = doctor [ "XDG_CACHE_HOME", "/proc/none" ]
            Must.equal 0 ended.Code
            Must.contain "libtorch 2.10.0" ended.Out
        }

        test "TorchSharp's library that is absent, damaged or foreign is one clear error" {
            ("absent", None, "libLibTorchSharp.so is not there")
            :: [
                for name, bytes, what in bad do
                    if List.contains name [ "cut in its middle"; "random"; "of Windows" ] then
                        name, Some bytes, what
            ]
            |> twoAtATime (fun (_, bytes, what) ->
                inFolder (fun folder ->
                    runCommand "/" [] [ "dotnet"; programWith folder bytes; "doctor" ] |> refused what
                )
            )
            |> ignore
        }

        test "a libtorch that is absent, damaged or foreign is one clear error" {
            inFolder (fun folder ->
                let noC10 = libtorch (Path.Combine(folder, "none")) "libc10.so" None

                [
                    folder, "LIBTORCH names no libtorch"
                    noC10, "libc10.so cannot be used: it is not there"

                    for name, bytes, what in bad do
                        if List.contains name [ "cut in its middle"; "a text"; "of another processor" ] then
                            libtorch (Path.Combine(folder, name)) "libtorch_cpu.so" (Some bytes),
                            $"libtorch_cpu.so cannot be used: {what}"
                ]
                |> twoAtATime (fun (torch, what) -> doctor [ "LIBTORCH", torch ] |> refused what)
                |> ignore
            )
        }

        test "a libtorch of one's own is checked once, and again when a file changes" {
            inFolder (fun folder ->
                let torch =
                    libtorch
                        folder
                        "libtorch.so"
                        (Some(File.ReadAllBytes(Path.Combine(facts.Value.Folder, "libtorch.so"))))

                let variables = [ "LIBTORCH", torch; "XDG_CACHE_HOME", folder ]

                let verdict () =
                    Must.equal 0 (doctor variables).Code
                    (Directory.GetFiles(Path.Combine(folder, "ctkd", "checks"))).Length

                Must.equal 1 (verdict ())
                Must.equal 1 (verdict ())
                File.SetLastWriteTimeUtc(Path.Combine(torch, "lib", "libtorch.so"), DateTime.UtcNow)
                Must.equal 2 (verdict ())
            )
        }

        test "a libtorch that TorchSharp's library does not fit is refused with both versions" {
            inFolder (fun folder ->
                let other = File.ReadAllBytes(Path.Combine(facts.Value.Folder, "libc10.so"))
                let torch = libtorch folder "libtorch_cpu.so" (Some other)
                let ended = doctor [ "LIBTORCH", torch; "XDG_CACHE_HOME", folder ]

                refused
                    "the libtorch 2.10.9+test that LIBTORCH names does not pass the self-check, wanted is 2.10"
                    ended

                Must.hold (not (Directory.Exists(Path.Combine(folder, "ctkd", "checks"))))
            )
        }

        test "what a check's process says is taken only whole" {
            Must.beNull (ChildCheck.Reading("noise\nctkd-check passed\n", "", 0))

            for output, errors, code, what in
                [
                    "ctkd-check passed", "", 139, "the process ended with exit code 139"
                    "", "", 0, "the process ended with exit code 0"
                    "ctkd-check failed numel (CPU): [2] instead of [24]", "", 1, "numel (CPU): [2] instead of [24]"
                    "", "terminate called\n  what():  no kernel\nframe #1", 134, "what():  no kernel"
                    "",
                    "  what():  It failed.\nTraceback\n  line 1\nRuntimeError: why\nframe",
                    134,
                    "It failed. RuntimeError: why"
                    "the ctkd-check passed", "", 0, "the process ended with exit code 0"
                ] do
                Must.contain what (ChildCheck.Reading(output, errors, code) |> nonNull)
        }
    ]
