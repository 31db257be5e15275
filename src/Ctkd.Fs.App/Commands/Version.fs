namespace Ctkd.Fs.App

open System.Reflection

/// The command `version`.
module Version =

    /// Prints the version.
    let command () : int =
        let version =
            Assembly.GetExecutingAssembly().GetName().Version
            |> Option.ofObj
            |> Option.map (fun v -> v.ToString 3)
            |> Option.defaultValue "unknown"

        printfn "ctkd %s" version
        ExitCode.ok
