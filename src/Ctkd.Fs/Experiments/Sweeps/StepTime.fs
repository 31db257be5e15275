namespace Ctkd.Fs

open System
open System.Diagnostics
open FsToolkit.ErrorHandling

/// The time of a run, measured on a few of its steps.
type StepTime = {
    /// Seconds of a training step.
    Step: float
    /// Seconds of the evaluations after each epoch.
    Test: float
    StepsPerEpoch: int
    Epochs: int
} with

    /// Seconds of the whole run.
    member time.Run: float = float time.Epochs * (float time.StepsPerEpoch * time.Step + time.Test)

/// Measures the steps of runs before they begin.
[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module StepTime =

    /// Steps that are run before those that count, and those that count at most, in steps and seconds.
    let private before, private most, private seconds = 2, 8, 3.0

    /// Images of an evaluation that are timed.
    let private tested = 512

    /// A teacher of drawn weights costs what one of trained weights does.
    let private teacherOf (s: Settings) (data: Splits) (device: Device) : Result<(Model * Tree) option, Error> =
        if s.Teacher = "" then
            Ok None
        else
            Zoo.find s.Teacher data.Train.Classes
            |> Result.map (fun model ->
                Some(model, Model.declarations model |> Initialise.tree DType.Float32 device (Rng.ofSeed 1))
            )

    /// Seconds of a training step; the first ones, which prepare the engine, count where an epoch has no others.
    let private step (device: Device) (steps: Steps) (state: TrainState) : float =
        let watch = Stopwatch.StartNew()
        let mutable made = 0

        let pause _ _ =
            if Engine.records device then Engine.synchronize ()
            made <- made + 1
            if made = before then watch.Restart()
            made = before + most || (made > before && watch.Elapsed.TotalSeconds > seconds)

        Train.epoch steps Int32.MaxValue pause state |> ignore
        if Engine.records device then Engine.synchronize ()
        watch.Elapsed.TotalSeconds / float (if made > before then made - before else max 1 made)

    /// Seconds of an evaluation, from those of some images.
    let private test (device: Device) (plan: TrainingPlan) (weights: Tree) (images: ImageFeed) : float =
        let seen = min tested (ImageFeed.count images)
        let watch = Stopwatch.StartNew()

        Autograd.noGrad (fun () ->
            ImageFeed.each
                (min 250 seen)
                seen
                images
                (fun batch -> TrainingPlan.forward plan plan.Student false weights batch.Images |> ignore)
        )

        if Engine.records device then Engine.synchronize ()
        watch.Elapsed.TotalSeconds * float (ImageFeed.count images) / float seen

    /// Measures a few steps of a run's settings, with drawn weights; its teacher need not be trained yet.
    let measure (s: Settings) : Result<StepTime, Error> =
        Tensor.scoped (fun () ->
            result {
                let! device = Engine.device s.Device
                if s.Threads > 0 then Engine.setThreads s.Threads
                let! data = Settings.loadData s
                let! student = Zoo.find s.Student data.Train.Classes
                let! teacher = teacherOf s data device
                let! plan = Settings.plan s student teacher data device
                let plan = TrainingPlan.prepareTeacher plan
                use feeds = Feeds.create s (TrainingPlan.dtype plan) device ignore data

                let trainer = {
                    Plan = plan
                    Teacher = { TeacherOutputs.simple with Ahead = s.TeacherAhead }
                    Images = feeds.Train.Value
                }

                let state = TrainState.start plan

                let steps = if s.Graph then RecordedSteps.choose ignore trainer state else Train.fromHost trainer

                try
                    // The steps invalidate the state: the test comes first.
                    let test =
                        feeds.Test :: Option.toList feeds.Validation |> List.sumBy (test device plan state.Student)

                    return {
                        Test = test
                        Step = step device steps state
                        StepsPerEpoch = Train.stepsPerEpoch trainer
                        Epochs = s.Epochs
                    }
                finally
                    steps.Free()
            }
        )
