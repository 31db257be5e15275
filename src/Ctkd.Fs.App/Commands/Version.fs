namespace Ctkd.Fs.App

open System.Reflection
open Argu

/// The flags of `version`.
[<RequireQualifiedAccess; HelpFlags("--help", "-h", "help")>]
type VersionArgs =
    | [<Unique>] Json

    interface IArgParserTemplate with
        member this.Usage =
            match this with
            | Json -> "the version as one JSON object"

/// The command `version`.
module Version =

    /// The version of the command, such as 1.2.0.
    let number: string =
        Assembly.GetExecutingAssembly().GetName().Version
        |> Option.ofObj
        |> Option.map (fun v -> v.ToString 3)
        |> Option.defaultValue "unknown"

    /// Prints the version.
    let command (json: bool) : int =
        if json then
            printfn "%s" (Ctkd.Fs.Json.write {| Version = number |})
        else
            printfn "ctkd %s" number

        ExitCode.ok
