namespace Ctkd.Fs.App

open System
open System.IO
open Argu
open FsToolkit.ErrorHandling
open Ctkd.Fs

/// The flags of `data`.
[<RequireQualifiedAccess; HelpFlags("--help", "-h", "help")>]
type DataArgs =
    | [<MainCommand>] Action of ACTION_AND_PATHS: string list
    | [<Unique>] Threads of COUNT: int
    | [<Unique>] Json

    interface IArgParserTemplate with
        member this.Usage =
            match this with
            | Action _ ->
                "check DIR: decode every photograph, and report classes, counts, sizes, duplicates and what is wrong; \
                 pack DIR FILE: put the photographs into one file, for network disks; DIR has train/CLASS/ and val/CLASS/, \
                 or CLASS/; needed"
            | Threads _ -> "check: photographs that are decoded at once [one for each processor]"
            | Json -> "the result as one JSON object"

/// What `data pack --json` prints.
type PackResult = { File: string; Bytes: int64; Images: int; Classes: int }

/// The command `data`: folders of photographs.
module Data =

    /// Rows of a list that are printed.
    let private most = 20

    let private threads (args: ParseResults<DataArgs>) : Result<int, Error> =
        Command.count (FieldKind.whole 1 1024) "threads" (args.TryGetResult DataArgs.Threads)
        |> Result.map (Option.defaultValue Environment.ProcessorCount)

    /// Whether everything is as it must be.
    let private check (terminal: Terminal) (threads: int) (path: string) : Result<bool, Error> =
        result {
            let! report = terminal.Counting "decoding" (fun progress -> PhotoCheck.run threads progress path)
            let lines = PhotoCheck.lines most report
            lines |> List.iter terminal.Say

            if not report.Classes.IsEmpty then
                terminal.Table {
                    Caption = ""
                    Header = [ "class"; "train"; "validation" ]
                    Rows =
                        report.Classes
                        |> List.map (fun row -> [ Files.printable row.Name; string row.Train; string row.Val ])
                }

            terminal.Json report
            return PhotoCheck.isFine report
        }

    let private pack (terminal: Terminal) (folder: string) (out: string) : Result<bool, Error> =
        result {
            let! tree = PhotoFolder.scan folder
            PhotoFolder.warnings tree |> List.iter (fun text -> terminal.Say $"warning: {text}")
            do! terminal.Counting "packing" (fun progress -> PhotoPack.write progress tree out)

            let written: PackResult = {
                File = out
                Bytes = FileInfo(out).Length
                Images = tree.Train.Paths.Length + (tree.Val |> Option.map _.Paths.Length |> Option.defaultValue 0)
                Classes = tree.Train.Classes.Length
            }

            terminal.Say $"{out}: {written.Images} images of {written.Classes} classes, {written.Bytes:N0} bytes"
            terminal.Say "--data takes it as it takes the folder"
            terminal.Json written
            return true
        }

    /// Checks or packs a folder of photographs. A check that finds what cannot be trained with has the exit code 1.
    let command (args: ParseResults<DataArgs>) : int =
        let terminal = Terminal(args.Contains DataArgs.Json)

        terminal.Judged(fun () ->
            result {
                let! threads = threads args

                return!
                    match args.GetResult(DataArgs.Action, []) with
                    | [ "check"; path ] -> check terminal threads path
                    | "pack" :: _ when args.Contains DataArgs.Threads ->
                        Command.usage "--threads has no effect on data pack" "leave it out: it is for data check"
                    | [ "pack"; folder; out ] -> pack terminal folder out
                    | "check" :: _ -> Command.usage "data check takes one folder" "give it: ctkd data check DIR"
                    | "pack" :: _ ->
                        Command.usage "data pack takes a folder and a file" "give them: ctkd data pack DIR FILE"
                    | [] -> Command.usage "data needs an action" "give one: ctkd data check DIR"
                    | action :: _ -> Result.Error(Error.unknown "action" [ "check"; "pack" ] action)
            }
        )
