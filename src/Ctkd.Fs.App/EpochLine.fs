namespace Ctkd.Fs.App

open System
open System.Diagnostics
open System.Globalization
open Ctkd.Fs

/// Times for people.
module Duration =

    /// Seconds in words.
    let words (seconds: float) : string =
        let digits (format: string) (value: float) = value.ToString(format, CultureInfo.InvariantCulture)

        if seconds < 90.0 then digits "F0" seconds + " s"
        elif seconds < 5400.0 then digits "F0" (seconds / 60.0) + " min"
        elif seconds < 172_800.0 then digits "F1" (seconds / 3600.0) + " h"
        else digits "F1" (seconds / 86_400.0) + " days"

/// The line that an epoch leaves.
module EpochLine =

    let private digits (count: int) (value: float) : string = value.ToString($"F{count}", CultureInfo.InvariantCulture)

    /// The line of an epoch, of how many, with the seconds that are left; None where either is not known.
    let text (title: string) (epochs: int option) (left: float option) (m: EpochMetrics) : string =
        [
            Some title
            Some(
                match epochs with
                | Some epochs -> $"epoch {m.Epoch}/{epochs}"
                | None -> $"epoch {m.Epoch}"
            )
            Some("loss " + digits 4 m.Loss)
            m.T |> Option.map (fun t -> "T " + digits 2 t)
            m.Lambda |> Option.map (fun lambda -> "lambda " + digits 3 lambda)
            Some("top-1 " + digits 2 m.Top1 + " %")
            m.ValTop1 |> Option.map (fun top1 -> "validation " + digits 2 top1 + " %")
            Some(digits 0 m.ImagesPerSecond + " images/s")
            // Below one per cent nobody waits.
            m.Waited
            |> Option.filter (fun share -> share >= 1.0)
            |> Option.map (fun share -> $"waiting for images {digits 0 share} %%")
            match left with
            | Some left when left >= 1.0 -> Some $"about {Duration.words left} left"
            | Some left when left > 0.0 -> Some "under 1 s left"
            | _ -> None
        ]
        |> List.choose id
        |> String.concat "  "

/// How fast epochs pass in this process, tests and checkpoints included.
type Pace(epochs: int) =
    let mutable first: (Stopwatch * float) option = None

    /// Some batches of an epoch are done: the first call starts the clock.
    member _.Batch(epoch: int, step: int, steps: int) : unit =
        if first.IsNone then
            first <- Some(Stopwatch.StartNew(), float (epoch - 1) + float step / float steps)

    /// The seconds that are left after an epoch; None where nothing was measured.
    member _.Left(epoch: int) : float option =
        match first with
        | Some(watch, start) when float epoch > start ->
            Some(watch.Elapsed.TotalSeconds / (float epoch - start) * float (epochs - epoch))
        | _ -> None
