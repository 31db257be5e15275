namespace Ctkd.Fs

open System
open System.IO

/// One line of a run's `metrics.jsonl`: what an epoch did and where it led.
type EpochMetrics = {
    Epoch: int
    LearningRate: float
    /// The weighted training loss, mean over the images.
    Loss: float
    /// The unweighted terms, mean over the images: "ce", "kd", ...
    Terms: Map<string, float>
    /// Temperature over the epoch's images: mean, smallest, largest; absent without a teacher.
    T: float option
    SmallestT: float option
    LargestT: float option
    /// Strength of the adversary; absent without a teacher.
    Lambda: float option
    /// Accuracy on the training images, as seen in training, in percent.
    TrainTop1: float
    /// On the test images, in percent and nats.
    Top1: float
    Top5: float
    TestLoss: float
    /// Training only: evaluation is not counted.
    ImagesPerSecond: float
    Seconds: float
}

/// Metrics of an epoch, and the file that collects them.
[<RequireQualifiedAccess>]
module Metrics =

    /// The metrics of an epoch that has ended. It began (or was resumed) at `firstStep` and trained for so many seconds.
    let ofEpoch
        (course: Course)
        (state: TrainState)
        (firstStep: int)
        (test: Accuracy)
        (seconds: float)
        : EpochMetrics =
        let epoch, means = state.Epoch, Tally.means state.Tally
        let done' = float (state.Step - firstStep) / float state.Step
        let terms = List.zip (Course.termNames course) means.Terms
        let taught value = course.Teaching |> Option.map (fun teaching -> value teaching)

        {
            Epoch = epoch
            LearningRate = Schedule.at epoch course.LearningRate
            Loss = snd (List.last terms)
            Terms = terms |> List.truncate (terms.Length - 1) |> Map.ofList
            T = taught (fun _ -> means.T)
            SmallestT = taught (fun _ -> means.SmallestT)
            LargestT = taught (fun _ -> means.LargestT)
            Lambda = taught (fun teaching -> Schedule.at epoch teaching.Policy.Strength)
            TrainTop1 = 100.0 * means.Accuracy
            Top1 = test.Top1
            Top5 = test.Top5
            TestLoss = test.Loss
            ImagesPerSecond = done' * float means.Images / max 1e-9 seconds
            Seconds = seconds
        }

    /// The lines of a metrics file; a line cut short by a crash is left out.
    let read (path: string) : Result<EpochMetrics list, Error> =
        if not (File.Exists path) || FileInfo(path).Length = 0L then
            Ok []
        else
            Files.read path
            |> Result.map (fun bytes ->
                (Text.Encoding.UTF8.GetString bytes).Split('\n', StringSplitOptions.RemoveEmptyEntries)
                |> Array.map (Json.read<EpochMetrics> path)
                |> Array.takeWhile Result.isOk
                |> Array.choose Result.toOption
                |> List.ofArray
            )

    let private text (lines: EpochMetrics list) : byte[] =
        lines
        |> List.map (fun line -> Json.write line + "\n")
        |> String.concat ""
        |> Text.Encoding.UTF8.GetBytes

    /// Keeps the first lines of a file: those after a checkpoint do not belong to the run that goes on from it.
    let keep (count: int) (path: string) : Result<EpochMetrics list, Error> =
        read path
        |> Result.bind (fun lines ->
            let kept = List.truncate count lines

            if kept.Length = lines.Length && not (File.Exists path) then
                Ok kept
            else
                Files.replace path (fun stream -> stream.Write(ReadOnlySpan(text kept)))
                |> Result.map (fun () -> kept)
        )

    /// Appends a line and flushes it to the disk.
    let append (path: string) (line: EpochMetrics) : Result<unit, Error> =
        try
            use stream = new FileStream(path, FileMode.Append, FileAccess.Write)
            stream.Write(ReadOnlySpan(text [ line ]))
            stream.Flush true
            Ok()
        with
        | :? IOException
        | :? UnauthorizedAccessException as problem ->
            Result.Error(
                Error.create
                    Unwritable
                    $"the metrics cannot be written: {problem.Message}"
                    path
                    "free some space or give another folder with --out; the checkpoints written so far are whole"
            )
