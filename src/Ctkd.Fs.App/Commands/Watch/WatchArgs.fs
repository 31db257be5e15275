namespace Ctkd.Fs.App

open Argu

/// The flags of `watch`.
[<RequireQualifiedAccess; HelpFlags("--help", "-h", "help")>]
type WatchArgs =
    | [<MainCommand; Unique>] Run of FOLDER: string
    | [<Unique>] Once
    | [<Unique>] Json

    interface IArgParserTemplate with
        member this.Usage =
            match this with
            | Run _ -> "the folder of a run, of a sweep, or one with runs in it; nothing is written there"
            | Once -> "print how far the runs are, and end [watch until they are done, or Ctrl-C]"
            | Json -> "how far the runs are at the end as one JSON object"
