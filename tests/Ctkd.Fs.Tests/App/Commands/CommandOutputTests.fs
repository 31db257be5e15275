/// What the program does when its output cannot be written, and when it is interrupted early.
module Ctkd.Fs.Tests.CommandOutputTests

open System
open System.IO
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Child
open Ctkd.Fs.Tests.Folders

let private small = "--model resnet8 --subset 50 --batch 16 --epochs 2"

/// Runs the program by a shell that redirects its output.
let private redirected (folder: string) (arguments: string) (redirection: string) : Ended =
    let quoted = ctkdCommand arguments |> List.map (fun word -> $"'{word}'") |> String.concat " "
    runCommand folder [] [ "bash"; "-c"; $"{quoted} {redirection}" ]

let private epochs (folder: string) : int list = Runs.lines folder |> List.map _.Epoch

let tests =
    testList "CommandOutput" [
        test "a training whose output is full or closed goes on, tells so once and ends with 1" {
            inFolder (fun folder ->
                let cases = [ "a", ">/dev/full"; "b", ">&-"; "c", ">/dev/full 2>&1"; "d", ">&- 2>&-" ]

                let ended =
                    cases |> twoAtATime (fun (name, to_) -> redirected folder $"teach {small} --out {name}" to_)

                for (name, to_), ended in List.zip cases ended do
                    Expect.isTrue (ended.Code = 1) $"{to_}: {ended.Code}, {ended.Err}"
                    Must.equal [ 1; 2 ] (epochs (Path.Combine(folder, name)))
                    Must.hold (File.Exists(Path.Combine(folder, name, "report.html")))
                    Must.equal "" ended.Out

                for ended in List.truncate 2 ended do
                    Must.matchRegex
                        "^warning: the standard output cannot be written .*: going on without it\n$"
                        ended.Err
            )
        }

        test "a command that prints fails with 1 where its output is full, and not where a pipe was closed" {
            let full, closed =
                match twoAtATime (redirected "/" "models") [ ">/dev/full"; "| head -1; exit ${PIPESTATUS[0]}" ] with
                | [ full; closed ] -> full, closed
                | others -> failtest $"%A{others}"

            Must.equal (1, "") (full.Code, full.Out)
            Must.startWith "warning: the standard output cannot be written" full.Err
            Must.equal (0, "") (closed.Code, closed.Err)
            Must.startWith "model " closed.Out
        }

        test "each of teach and distill refuses the other's runs and names the command that resumes them" {
            inFolder (fun folder ->
                let distil =
                    $"distill --weights {Runs.teacher.Value} --student resnet8 --subset 50 --batch 16 --epochs 1"

                expect 0 folder $"{distil} --out d" |> ignore
                expect 0 folder $"teach {small} --out t" |> ignore
                let before = [ "d"; "t" ] |> List.map (fun name -> Runs.files (Path.Combine(folder, name)))
                Must.contain "resume it with: ctkd distill --resume d" ((expect 2 folder "teach --resume d").Err)
                Must.contain "resume it with: ctkd teach --resume t" ((expect 2 folder "distill --resume t").Err)
                Must.equal before ([ "d"; "t" ] |> List.map (fun name -> Runs.files (Path.Combine(folder, name))))
            )
        }

        test "--resume takes the new place of a teacher and more epochs" {
            inFolder (fun folder ->
                File.Copy(Runs.teacher.Value, Path.Combine(folder, "old.safetensors"))

                expect
                    0
                    folder
                    "distill --weights old.safetensors --student resnet8 --subset 50 --batch 16 --epochs 1 --out d"
                |> ignore

                File.Move(Path.Combine(folder, "old.safetensors"), Path.Combine(folder, "new.safetensors"))
                Must.contain "nothing was trained" ((expect 0 folder "distill --resume d").Out)
                Must.contain "--weights" ((expect 1 folder "distill --resume d --epochs 2").Err)
                // A process of its own: the number of threads is that of the whole process.
                let longer =
                    expectProcess 0 folder "distill --resume d --epochs 2 --weights new.safetensors --threads 1"

                Must.contain "epoch 2/2" longer.Out
                Must.equal [ 1; 2 ] (epochs (Path.Combine(folder, "d")))
            )
        }
    ]
