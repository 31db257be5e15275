/// Teacher caches under the program: disks that are full, runs side by side, damage, and being killed.
module Ctkd.Fs.Tests.CommandCacheTests

open System
open System.IO
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Child
open Ctkd.Fs.Tests.Folders

let private distil (out: string) (more: string) : string =
    $"distill --weights {Runs.teacher.Value} --student resnet8 --subset 100 --batch 16 --epochs 2 --policy ctkd-global --out {out} {more}"

let private tensors (folder: string) = Runs.contents (Path.Combine(folder, "last.safetensors")) |> snd

/// The run without a cache, which every other one must repeat to the bit.
let private plain (folder: string) =
    expect 0 folder (distil "plain" "") |> ignore
    tensors (Path.Combine(folder, "plain"))

let private isPlain expected (folder: string) (out: string) : unit =
    Expect.isTrue (expected = tensors (Path.Combine(folder, out))) $"{out} is another run"

let private cacheFile (folder: string) : string =
    Must.single (Directory.GetFiles(Path.Combine(folder, "cache"), "*.features"))

let private remembered (ended: Ended) : float =
    let found = Text.RegularExpressions.Regex.Match(ended.Out, @"teacher cache: ([0-9.]+) %")
    Expect.isTrue found.Success ended.Out
    float found.Groups[1].Value

let tests =
    testList "CommandCache" [
        test "on a full disk the run goes on without its cache and says so, and what was written serves the next" {
            inFolder (fun folder ->
                let expected = plain folder

                // Room for the header alone, and for some of 100 images' rows.
                for kilobytes in [ 4; 100 ] do
                    let out = $"full-{kilobytes}"
                    let cached = distil $"{folder}/{out}" "--teacher-cache disk/cache"
                    let ended = onSmallDisk folder kilobytes cached
                    Expect.isTrue (ended.Code = 0) ended.Err

                    Must.contain "warning: the teacher cache could not be written any more" ended.Out
                    Must.matchRegex "No space left on device : '.*/disk/cache/[0-9a-f]+.features'" ended.Out
                    Must.contain "free space there" ended.Out
                    isPlain expected folder out
                    let again = expect 0 folder (distil $"{out}-again" "--teacher-cache copy/cache")
                    Must.lie (if kilobytes = 4 then 0.0 else 1.0) 99.0 (remembered again)
                    isPlain expected folder $"{out}-again"
                    Directory.Delete(Path.Combine(folder, "copy"), true)
            )
        }

        test "a folder where no cache can be made fails before training with another place to give" {
            inFolder (fun folder ->
                File.WriteAllText(Path.Combine(folder, "file"), "kept")

                for place in [ "/proc/cache"; "file"; "file/cache" ] do
                    let ended = expect 1 folder (distil "a" $"--teacher-cache {place}")
                    Must.contain "error: the teacher cache cannot be opened: " ended.Err
                    Must.contain place ended.Err
                    Must.contain "--teacher-cache" ended.Err
                    Must.notHold (Directory.Exists(Path.Combine(folder, "a")))
            )
        }

        test "two processes that share a cache from its beginning both train as without it" {
            inFolder (fun folder ->
                let expected = plain folder

                let both = [
                    for out in [ "a"; "b" ] ->
                        out, startCommand folder [] (ctkdCommand (distil out "--teacher-cache cache"))
                ]

                for out, child in both do
                    let ended = wait child ""
                    Expect.isTrue (ended.Code = 0) ended.Err
                    isPlain expected folder out

                let third = expectProcess 0 folder (distil "third" "--teacher-cache cache")
                Must.equal 100.0 (remembered third)
                isPlain expected folder "third"
            )
        }

        test "a cache that was cut or damaged is repaired by computing again, and one that is no cache is refused" {
            inFolder (fun folder ->
                let expected = plain folder
                let run out = expect 0 folder (distil out "--teacher-cache cache")
                run "cold" |> ignore
                isPlain expected folder "cold"
                let path = cacheFile folder
                let whole = File.ReadAllBytes path

                let damages: (string * byte[]) list = [
                    "cut", whole[.. whole.Length / 2]
                    "short", whole[..4095]
                    "holes", Array.mapi (fun i byte -> if i >= 4096 && i % 8192 < 4096 then 0uy else byte) whole
                    "flipped", Array.mapi (fun i byte -> if i >= 4096 && i % 300 = 0 then ~~~byte else byte) whole
                    "moved", Array.append whole[..4095] (Array.append (Array.zeroCreate 4) whole[4096..])
                ]

                for name, bytes in damages do
                    File.WriteAllBytes(path, bytes)
                    let ended = run name
                    Must.lie 0.0 99.9 (remembered ended)
                    isPlain expected folder name

                Must.equal 100.0 (remembered (run "repaired"))
                isPlain expected folder "repaired"

                for bytes in [ whole[..99]; Array.append [| 1uy |] whole ] do
                    File.WriteAllBytes(path, bytes)
                    let ended = expect 1 folder (distil "refused" "--teacher-cache cache")

                    Must.contain "error: this is no teacher cache, or it is damaged at its beginning" ended.Err

                    Must.contain path ended.Err
                    Must.contain "delete the file" ended.Err
                    Must.notHold (Directory.Exists(Path.Combine(folder, "refused")))
            )
        }

        test "a run that is killed while its cache grows leaves one that serves the next to the bit" {
            inFolder (fun folder ->
                let expected = plain folder

                for attempt in 1..2 do
                    let caches () =
                        if Directory.Exists(Path.Combine(folder, "cache")) then
                            DirectoryInfo(Path.Combine(folder, "cache")).GetFiles()
                        else
                            [||]

                    let before = caches () |> Array.map _.LastWriteTimeUtc |> Array.fold max DateTime.MinValue

                    let grows () =
                        caches () |> Array.exists (fun file -> file.Length > 4096L && file.LastWriteTimeUtc > before)

                    let cached = distil $"killed-{attempt}" "--teacher-cache cache"
                    let child = startCommand folder [] (ctkdCommand cached)

                    while not (grows ()) && not child.HasExited do
                        Threading.Thread.Yield() |> ignore

                    Expect.isFalse child.HasExited "the run ended before it could be killed"
                    child.Kill()
                    child.WaitForExit()
                    child.Dispose()

                let ended = expect 0 folder (distil "after" "--teacher-cache cache")
                Must.lie 0.1 100.0 (remembered ended)
                isPlain expected folder "after"
            )
        }
    ]
