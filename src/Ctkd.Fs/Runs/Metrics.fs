namespace Ctkd.Fs

open System
open System.IO

/// One line of a run's `metrics.jsonl`: the results of an epoch.
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
    /// Quantiles of T over the epoch's images.
    SpreadT: Spread option
    /// dL/dT, before the reversal: mean over the images; absent where T is constant.
    GradientT: float option
    /// Mean of sigmoid' over the images, through which a learned T learns: 0.25 in the middle of its range, 0 at both
    /// ends; absent where T is not learned.
    SlopeT: float option
    /// Strength of the gradient reversal; absent without a teacher.
    Lambda: float option
    /// Means over the images of what the policy reports besides T, by name (`Policy.Reports`): DTKD's two temperatures and
    /// both sides' sharpness. Empty where it reports nothing.
    Reported: Map<string, float>
    /// The numbers of the policy's agent by name (`Agent.Report`); empty without one.
    Agent: Map<string, float>
    /// Accuracy on the training images, as seen in training, in percent.
    TrainTop1: float
    /// On the test images, in percent and nats.
    Top1: float
    Top5: float
    TestLoss: float
    /// On the validation images, in percent and nats; absent where none are held out.
    ValTop1: float option
    ValLoss: float option
    /// Training only: evaluation is not counted.
    ImagesPerSecond: float
    Seconds: float
    /// Share of that time in which the step waited for photographs, in percent; absent where none are decoded.
    Waited: float option
    /// A warning, in the first epoch that deserves it: a learned temperature is saturated.
    Warning: string option
}

/// Metrics of an epoch, and the file that collects them.
[<RequireQualifiedAccess>]
module Metrics =

    /// Returns the metrics of an epoch that has ended. It began or resumed at `firstStep` and trained for `seconds`, in
    /// which it `waited` for photographs, where it streams any.
    let ofEpoch
        (plan: TrainingPlan)
        (state: TrainState)
        (firstStep: int)
        (test: Accuracy)
        (seconds: float)
        (waited: float option)
        : EpochMetrics =
        let epoch, means = state.Epoch, EpochSums.means state.Sums
        let share = float (state.Step - firstStep) / float state.Step
        let terms = List.zip (TrainingPlan.termNames plan) means.Terms
        let distilled value = plan.Distillation |> Option.map (fun distillation -> value distillation)
        let temperatures = EpochSums.temperatures state.Sums
        let range = plan.Distillation |> Option.bind (_.Policy >> Policy.learned) |> Option.map _.Range
        let finite = Option.filter Double.IsFinite

        {
            Epoch = epoch
            LearningRate = Schedule.at epoch plan.LearningRate
            Loss = snd (List.last terms)
            Terms = terms |> List.truncate (terms.Length - 1) |> Map.ofList
            T = distilled (fun _ -> means.T)
            SmallestT = distilled (fun _ -> means.SmallestT)
            LargestT = distilled (fun _ -> means.LargestT)
            SpreadT = Spread.ofNumbers temperatures
            GradientT = distilled (fun _ -> means.GradientT) |> finite
            SlopeT = range |> Option.map (fun range -> Saturation.slope range temperatures) |> finite
            Lambda = distilled (fun distillation -> Policy.strength distillation.Policy |> Schedule.at epoch)
            Reported =
                List.zip (TrainingPlan.reportedNames plan) (EpochSums.reported state.Sums)
                |> List.filter (snd >> Double.IsFinite)
                |> Map
            Agent =
                TrainingPlan.agent plan
                |> Option.map (fun agent -> agent.Report state.Agent)
                |> Option.defaultValue Map.empty
            TrainTop1 = 100.0 * means.Accuracy
            Top1 = test.Top1
            Top5 = test.Top5
            TestLoss = test.Loss
            ValTop1 = None
            ValLoss = None
            ImagesPerSecond = share * float means.Images / max 1e-9 seconds
            Seconds = seconds
            Waited = waited |> Option.map (fun waited -> 100.0 * waited / max 1e-9 seconds)
            Warning = range |> Option.bind (fun range -> Saturation.warning range temperatures)
        }

    /// With the results on the validation images, where there are any.
    let withValidation (validation: Accuracy option) (line: EpochMetrics) : EpochMetrics = {
        line with
            ValTop1 = validation |> Option.map _.Top1
            ValLoss = validation |> Option.map _.Loss
    }

    /// What an epoch would be as the best one.
    let candidate (line: EpochMetrics) : Best = { Epoch = line.Epoch; Top1 = line.Top1; ValTop1 = line.ValTop1 }

    /// Whether a run of these settings, with this best epoch, ends with a line.
    let isLast (s: Settings) (best: Best) (line: EpochMetrics) : bool =
        Best.isOver s.Epochs (Settings.patience s) (line.Epoch + 1) 0 best

    /// Removes the warning where an earlier line of the run has one.
    let warnOnce (earlier: EpochMetrics list) (line: EpochMetrics) : EpochMetrics =
        if earlier |> List.exists _.Warning.IsSome then { line with Warning = None } else line

    /// A line, also of an earlier version.
    let private readLine (path: string) (line: string) : Result<EpochMetrics, Error> =
        line
        |> Json.complete [ "waited", "null"; "valTop1", "null"; "valLoss", "null"; "reported", "{}" ]
        |> Json.read<EpochMetrics> path

    /// Reads the lines of a metrics file from its text, without a last line that is cut short. Lines that end with a line feed were
    /// written whole: one that cannot be read is of another version.
    let parse (path: string) (text: string) : Result<EpochMetrics list, Error> =
        let lines = text.Split '\n' |> List.ofArray
        let whole, rest = List.splitAt (lines.Length - 1) lines

        let refused (number: int) (problem: Error) : Error =
            Error.create
                Mismatch
                $"line {number} holds no metrics of this version of ctkd: {problem.What}"
                path
                "use the version of ctkd that wrote the run, or start a new run"

        let rec go number read lines =
            match lines with
            | [] -> Ok(List.rev read)
            | line :: lines ->
                readLine path line
                |> Result.mapError (refused number)
                |> Result.bind (fun m -> go (number + 1) (m :: read) lines)

        go 1 [] whole |> Result.map (fun read -> read @ (rest |> List.choose (readLine path >> Result.toOption)))

    /// Reads the lines of a metrics file, without a last line that a crash cut short.
    let read (path: string) : Result<EpochMetrics list, Error> =
        if not (File.Exists path) || FileInfo(path).Length = 0L then
            Ok []
        else
            Files.read path |> Result.bind (fun bytes -> parse path (Text.Encoding.UTF8.GetString bytes))

    let private text (lines: EpochMetrics list) : byte[] =
        lines |> List.map (fun line -> Json.write line + "\n") |> String.concat "" |> Text.Encoding.UTF8.GetBytes

    let private isEmpty (path: string) : bool = not (File.Exists path) || FileInfo(path).Length = 0L

    /// Reads those of the first `count` lines that can be read, and says what is wrong where others cannot.
    let readable (count: int) (path: string) : Result<EpochMetrics list * string option, Error> =
        let lines =
            if isEmpty path then
                Ok [||]
            else
                Files.read path |> Result.map (fun bytes -> Text.Encoding.UTF8.GetString(bytes).Split '\n')

        lines
        |> Result.map (fun lines ->
            let kept =
                lines |> Array.truncate count |> Array.choose (readLine path >> Result.toOption) |> List.ofArray

            let lost = count - kept.Length

            kept,
            (if lost = 0 then
                 None
             else
                 Some $"{lost} of {count} lines of {path} are missing or damaged")
        )

    /// Keeps the first lines of a file: those after a checkpoint do not belong to the run that resumes from it. Where some
    /// of the first lines cannot be read, the file as it was stays beside it; the warning says so.
    let keep (count: int) (path: string) : Result<EpochMetrics list * string option, Error> =
        readable count path
        |> Result.bind (fun (kept, problem) ->
            let warning =
                match problem with
                | Some problem when not (isEmpty path) ->
                    let copy = Files.keepAside "damaged" path
                    Some $"{problem}: the file as it was is kept in {copy}"
                | problem -> problem

            if isEmpty path then
                Ok(kept, warning)
            else
                Files.replace path (fun stream -> stream.Write(ReadOnlySpan(text kept)))
                |> Result.map (fun () -> kept, warning)
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
            Error.fail
                Unwritable
                $"the metrics cannot be written: {problem.Message}"
                path
                "free some space or give another folder with --out; the checkpoints written so far are whole"
