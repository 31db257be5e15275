namespace Ctkd.Fs

open FsToolkit.ErrorHandling

/// Multiply-accumulates of one image in a training step.
type StepMacs = {
    /// The student's forward pass, with four operations for each batch-normalised element (`Macs.WithBatchNorm`).
    Student: int64
    /// The temperature policy's own network; 0 where it has none.
    Policy: int64
} with

    member m.Total: int64 = m.Student + m.Policy

/// What a group of runs costs.
type Cost = {
    /// Or why they are not known.
    Macs: Result<StepMacs, Error>
    /// Epochs that were trained without a resume in between.
    Epochs: int
    /// Seconds of training such an epoch, mean over them; evaluation is not counted. None without such an epoch.
    Seconds: float option
    /// Their standard deviation over n - 1; None for fewer than two epochs.
    Deviation: float option
}

/// Counts and times of runs.
[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module Cost =

    /// Larger images are of no run.
    let private largestSide = 4096

    /// Multiply-accumulates of one image, of a height and width in pixels, in a training step of a student under a policy.
    let macs (height: int) (width: int) (student: Model) (policy: Policy option) : StepMacs = {
        Student = (Macs.ofLayer [ 3; height; width ] (Model.layers student)).WithBatchNorm
        Policy =
            policy |> Option.map (fun policy -> (Policy.macs student.Classes policy).Total) |> Option.defaultValue 0L
    }

    /// Those of a run: its checkpoint tells classes and size of the images.
    let private ofRun (run: RunOutcome) : Result<StepMacs, Error> =
        result {
            let! newest = NewestCheckpoint.read run.Folder
            let { Info = info; Path = path } = newest.Checkpoint
            let height, width = info.Images.Height, info.Images.Width
            let! s = Settings.validate info.Settings
            let! student = Zoo.find s.Student info.Classes

            do!
                if max height width > largestSide then
                    Error.fail Damaged $"its images have {height} x {width} pixels" path "run it again"
                else
                    Ok()

            do! Model.checkInput height width student
            return macs height width student (if s.Teacher = "" then None else Some(Settings.policy s))
        }

    /// Seconds of the epochs that were trained in one piece. Where a run was resumed in an epoch, its line has the images and
    /// the seconds of the last piece alone.
    let private wholeEpochs (run: RunOutcome) : float list =
        let images (m: EpochMetrics) = m.ImagesPerSecond * m.Seconds
        let most = run.Epochs |> List.map images |> List.fold max 0.0
        run.Epochs |> List.filter (fun m -> images m > 0.999 * most) |> List.map _.Seconds

    /// What runs cost that differ in their seeds alone: the multiply-accumulates are those of the first one whose checkpoint
    /// can be read.
    let ofRuns (runs: RunOutcome list) : Cost =
        let macs =
            match runs |> Seq.map ofRun |> Seq.cache with
            | all when Seq.exists Result.isOk all -> Seq.find Result.isOk all
            | all -> Seq.head all

        let seconds = List.collect wholeEpochs runs

        {
            Macs = macs
            Epochs = seconds.Length
            Seconds = if seconds.IsEmpty then None else Some(Statistics.mean seconds)
            Deviation = Statistics.deviation seconds
        }

    /// What the numbers of tables mean.
    let meanings: string list = [
        "MACs (M): millions of multiply-accumulates of one image in a training step: the student's forward pass, with four \
         operations for each normalised element, and the policy's own network"
        "s/epoch: seconds of training an epoch, mean and standard deviation over the whole epochs of all runs; evaluation is \
         not counted"
    ]
