namespace Ctkd.Fs.Tests

open System
open System.IO

/// The packed libraries as a user's F# Interactive takes them.
[<RequireQualifiedAccess>]
module Packages =

    /// A script that computes one number, for which it needs the native library; `source` is the folder of the packages.
    let script (source: string) : string =
        let source = source.Replace('\\', '/')

        $"""#i "nuget: {source}"
#r "nuget: Ctkd.Fs"
open Ctkd.Fs
let logits values = Tensor.ofFloats DType.Float64 [ 1; 2 ] values
let loss = Loss.kd (Tensor.scalar DType.Float64 Device.Cpu 1.0) (logits [| 0.0; 1.0 |]) (logits [| 1.0; 0.0 |])
// tanh (1 / 2) in nats.
if abs (Tensor.toFloat loss - tanh 0.5) > 1e-12 then failwith $"{{Tensor.toFloat loss}}"
"""

    /// Runs the script from an empty folder, with an empty cache of packages. `run` runs a command or raises.
    let check (run: string list -> unit) (source: string) : unit =
        let folder = Directory.CreateTempSubdirectory "ctkd-pack-"
        let file = Path.Combine(folder.FullName, "user.fsx")

        try
            File.WriteAllText(file, script source)
            Environment.SetEnvironmentVariable("NUGET_PACKAGES", Path.Combine(folder.FullName, "packages"))
            run [ "dotnet"; "fsi"; file ]
        finally
            folder.Delete true
