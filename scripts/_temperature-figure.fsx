// The README's picture from a run of `ctkd quickstart`:
//   dotnet fsi scripts/_temperature-figure.fsx runs/quickstart docs/temperature.svg
#load "_load.fsx"

open System.IO
open Ctkd.Fs

let folder, picture = fsi.CommandLineArgs[1], fsi.CommandLineArgs[2]

let series (name: string) : Series =
    let epochs = Metrics.read (Path.Combine(folder, name, "metrics.jsonl")) |> Error.orRaise

    {
        Name = name
        Points = epochs |> List.choose (fun m -> m.T |> Option.map (fun t -> float m.Epoch, t))
    }

let chart = {
    Chart.defaults with
        Title = "Temperature"
        XLabel = "epoch"
        YLabel = "T"
        Series = [ "kd-t4"; "ctkd-global"; "ctkd-instance" ] |> List.map series
}

File.WriteAllText(picture, Chart.standalone 720 360 chart)
