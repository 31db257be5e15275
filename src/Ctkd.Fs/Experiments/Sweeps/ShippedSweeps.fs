namespace Ctkd.Fs

open System.IO
open System.Reflection

/// The tables and figures of the papers as sweeps that come with the library.
[<RequireQualifiedAccess>]
module ShippedSweeps =

    let private prefix, private ending = "sweeps/", ".json"

    let private library: Assembly = typeof<Sweep>.Assembly

    /// Their names.
    let names: string list =
        library.GetManifestResourceNames()
        |> List.ofArray
        |> List.filter _.StartsWith(prefix)
        |> List.map (fun name -> name.Substring(prefix.Length, name.Length - prefix.Length - ending.Length))
        |> List.sort

    /// The sweep of a name.
    let find (name: string) : Result<Sweep, Error> =
        if List.contains name names then
            use stream = library.GetManifestResourceStream(prefix + name + ending) |> nonNull
            use reader = new StreamReader(stream)
            Sweep.parse name (reader.ReadToEnd())
        else
            Error.unknown "sweep" names name |> Result.Error
