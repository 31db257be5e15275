namespace Ctkd.Fs

open System
open System.Globalization
open System.IO

/// TensorBoard's event files of a run: the numbers of `metrics.jsonl` by epoch, and how T is spread over the images.
[<RequireQualifiedAccess>]
module EventLog =

    /// Intervals of the histogram of T.
    let private bins = 30

    /// What an epoch's event holds, by tag. `temperatures` are T of the epoch's images.
    let values (m: EpochMetrics) (temperatures: float[]) : (string * EventValue) list =
        let scalar tag value = [ tag, EventValue.Scalar value ]
        let optional tag value = value |> Option.map (scalar tag) |> Option.defaultValue []

        let named (group: string) (numbers: Map<string, float>) =
            Map.toList numbers |> List.collect (fun (name, value) -> scalar $"{group}/{name}" value)

        let spread =
            match Histogram.ofNumbers bins temperatures with
            | Some counts when counts.Smallest < counts.Largest -> [
                "temperature/over_images", EventValue.Histogram counts
              ]
            | _ -> []

        List.concat [
            scalar "accuracy/top1" m.Top1
            scalar "accuracy/top5" m.Top5
            scalar "accuracy/train_top1" m.TrainTop1
            optional "accuracy/validation_top1" m.ValTop1
            scalar "loss/train" m.Loss
            scalar "loss/test" m.TestLoss
            optional "loss/validation" m.ValLoss
            named "loss_parts" m.Terms
            scalar "learning_rate" m.LearningRate
            optional "temperature/T" m.T
            optional "temperature/smallest" m.SmallestT
            optional "temperature/largest" m.LargestT
            optional "temperature/gradient" m.GradientT
            optional "temperature/slope" m.SlopeT
            optional "temperature/lambda" m.Lambda
            // Their names are tags: "sharpness/student".
            Map.toList m.Reported |> List.collect (fun (name, value) -> scalar name value)
            named "agent" m.Agent
            scalar "speed/images_per_second" m.ImagesPerSecond
            scalar "speed/seconds" m.Seconds
            optional "speed/waited_percent" m.Waited
            spread
        ]

    let private start, private ending = "events.out.tfevents.", ".ctkd"

    /// Numbers of files have ten digits, so that their names are in the order of time.
    let private largest = 9_999_999_999L

    let private number (path: string) : int64 =
        let text = (string (Path.GetFileName path)).Substring(start.Length).Split('.')[0]

        match Int64.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture) with
        | true, number when number < largest -> number
        | _ -> 0L

    /// The name of a new file, after those that are there whatever the clock says, and whether there are any.
    let private next (folder: string) : string * bool =
        let earlier = Directory.GetFiles(folder, start + "*") |> Array.map number
        let now = DateTimeOffset.UtcNow.ToUnixTimeSeconds()
        let number = Array.fold (fun next earlier -> max next (earlier + 1L)) now earlier
        Path.Combine(folder, $"{start}{number:D10}{ending}"), earlier.Length > 0

    let private wallTime () : float = float (DateTimeOffset.UtcNow.ToUnixTimeMilliseconds()) / 1000.0

    let private write (path: string) (mode: FileMode) (contents: EventContent list) (epoch: int) : unit =
        let record content =
            EventRecord.ofEvent {
                WallTime = wallTime ()
                // What is resumed at a step begins with it.
                Step = (if content = EventContent.Version then 0L else int64 epoch)
                Content = content
            }

        use stream = new FileStream(path, mode, FileAccess.Write, FileShare.Read)
        stream.Write(ReadOnlySpan(contents |> List.map record |> Array.concat))
        stream.Flush true

    /// Returns a function that appends an epoch's event to a file in the folder, which the first call makes. A run that resumes
    /// begins a new file, which says from which epoch on the earlier ones no longer count.
    let writer (folder: string) : EpochMetrics -> float[] -> Result<unit, Error> =
        let mutable file = None

        fun metrics temperatures ->
            let content = EventContent.Values(values metrics temperatures)

            try
                match file with
                | Some path -> write path FileMode.Append [ content ] metrics.Epoch
                | None ->
                    Directory.CreateDirectory folder |> ignore
                    let path, hasEarlier = next folder

                    write
                        path
                        FileMode.CreateNew
                        [
                            EventContent.Version
                            if hasEarlier then EventContent.Resumed
                            content
                        ]
                        metrics.Epoch

                    file <- Some path

                Ok()
            with
            | :? IOException
            | :? UnauthorizedAccessException as problem ->
                Error.fail
                    Unwritable
                    $"the events for TensorBoard cannot be written: {problem.Message}"
                    folder
                    "free some space, or go on without them by --resume with --log jsonl; the checkpoints written so far are whole"
