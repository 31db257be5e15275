namespace Ctkd.Fs.Tests

open System
open System.IO

/// The packed libraries as a user's F# Interactive takes them.
[<RequireQualifiedAccess>]
module Packages =

    /// A script that computes one number, for which it needs the native library; `source` is the folder of the packages.
    let script (source: string) (version: string) : string =
        let source = source.Replace('\\', '/')

        $"""#i "nuget: {source}"
#r "nuget: Ctkd.Fs, {version}"
open Ctkd.Fs
let logits values = Tensor.ofFloats DType.Float64 [ 1; 2 ] values
let loss = Loss.kd (Tensor.scalar DType.Float64 Device.Cpu 1.0) (logits [| 0.0; 1.0 |]) (logits [| 1.0; 0.0 |])
// tanh (1 / 2) in nats.
if abs (Tensor.toFloat loss - tanh 0.5) > 1e-12 then failwith $"{{Tensor.toFloat loss}}"
"""

    /// Runs the script from an empty folder, with an empty cache of packages. `run` runs a command or raises.
    let check (run: string list -> unit) (source: string) : unit =
        let name = "Ctkd.Fs."

        let version =
            Directory.GetFiles(source, $"{name}*.nupkg")
            |> Array.maxBy File.GetLastWriteTimeUtc
            |> fun path -> (string (Path.GetFileNameWithoutExtension path)).Substring name.Length

        let caches = "NUGET_PACKAGES"
        let before = Environment.GetEnvironmentVariable caches
        let folder = Directory.CreateTempSubdirectory "ctkd-pack-"
        let file = Path.Combine(folder.FullName, "user.fsx")

        try
            File.WriteAllText(file, script source version)
            Environment.SetEnvironmentVariable(caches, Path.Combine(folder.FullName, "packages"))
            run [ "dotnet"; "fsi"; file ]
        finally
            Environment.SetEnvironmentVariable(caches, before)
            folder.Delete true
