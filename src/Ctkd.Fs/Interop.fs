namespace Ctkd.Fs

open System
open System.Threading

/// Tensor scopes for C#.
[<AbstractClass; Sealed>]
type Scopes =
    /// Frees every tensor that the body made but its result.
    static member Run(body: Func<Tensor>) : Tensor =
        ArgumentNullException.ThrowIfNull body
        Tensor.scope body.Invoke

    /// Frees every tensor that the body made.
    static member Run(body: Action) : unit =
        ArgumentNullException.ThrowIfNull body
        Tensor.scoped body.Invoke

/// Losses for C#; formulas and shapes stand at `Loss`.
[<AbstractClass; Sealed>]
type Losses =
    /// T^2 KL(softmax(teacher / T) || softmax(student / T)), mean over the batch.
    static member Kd(temperature: float, teacher: Tensor, student: Tensor) : Tensor =
        Scopes.Run(
            Func<Tensor>(fun () ->
                let t = Tensor.scalar (Tensor.dtype student) (Tensor.device student) temperature
                Loss.kd t teacher student |> Tensor.mean
            )
        )

    /// Cross entropy with integer labels, mean over the batch.
    static member CrossEntropy(labels: Tensor, logits: Tensor) : Tensor = Loss.crossEntropy labels logits

    /// d loss / d leaves.
    static member Gradients(loss: Tensor, [<ParamArray>] leaves: Tensor[]) : Tensor[] =
        Autograd.gradients loss leaves

/// Schedules for C#; ask one with `At`.
[<AbstractClass; Sealed>]
type Schedules =
    static member Constant(value: float) : Schedule = Schedule.constant value

    static member Linear(start: float, stop: float, epochs: int) : Schedule =
        Schedule.linear start stop epochs

    static member Cosine(start: float, stop: float, epochs: int) : Schedule =
        Schedule.cosine start stop epochs

    static member MultiStep(start: float, factor: float, [<ParamArray>] milestones: int[]) : Schedule =
        Schedule.multiStep start factor (List.ofArray milestones)

/// Temperature policies for C#.
[<AbstractClass; Sealed>]
type Policies =
    static member Fixed(t: float) : Policy = Temperature.fixedAt t
    static member Scheduled(schedule: Schedule) : Policy = Temperature.scheduled schedule

    /// CTKD with one learned temperature in (1, 21) and a curriculum of so many epochs.
    static member CtkdGlobal(curriculumEpochs: int) : Policy =
        Temperature.ctkdGlobal Temperature.published (Schedule.curriculum curriculumEpochs)

    /// CTKD with a learned temperature for each instance.
    static member CtkdInstance(hidden: int, curriculumEpochs: int) : Policy =
        Temperature.ctkdInstance Temperature.published hidden (Schedule.curriculum curriculumEpochs)

/// The settings of a run, for object initialisers; what is not set keeps the library's default.
type TrainingOptions() =
    let defaults = Settings.defaults
    member val Student = defaults.Student with get, set

    /// A checkpoint file or a run's folder; empty to learn from labels alone.
    member val TeacherWeights = "" with get, set

    member val Data = defaults.Data with get, set
    member val DataDir = defaults.DataDir with get, set

    /// Only the first so many training images of each class; 0 for all.
    member val PerClass = defaults.PerClass with get, set

    /// 0 for the number that suits the data set.
    member val Epochs = 0 with get, set

    member val Batch = defaults.Batch with get, set
    member val LearningRate = defaults.LearningRate with get, set

    /// One of `Settings.policies`.
    member val Policy = defaults.Policy with get, set

    /// Temperature of the fixed policy.
    member val T = defaults.T with get, set

    member val Precision = defaults.Precision with get, set
    member val Device = defaults.Device with get, set
    member val Seed = defaults.Seed with get, set

    /// The same as the library's settings.
    member this.ToSettings() : Settings =
        let epochs = if this.Epochs = 0 then Settings.epochsFor this.Data else this.Epochs

        let teacher =
            if this.TeacherWeights = "" then
                ""
            else
                Trained.nameOf this.TeacherWeights |> Error.orRaise

        {
            defaults with
                Student = this.Student
                Teacher = teacher
                TeacherWeights =
                    (if this.TeacherWeights = "" then "" else System.IO.Path.GetFullPath this.TeacherWeights)
                Data = this.Data
                DataDir = (if this.DataDir = "" then "" else System.IO.Path.GetFullPath this.DataDir)
                PerClass = this.PerClass
                Epochs = epochs
                Milestones = Settings.milestones (max 0 epochs)
                Batch = this.Batch
                LearningRate = this.LearningRate
                Policy = this.Policy
                T = this.T
                Precision = this.Precision
                Device = this.Device
                Seed = this.Seed
        }

/// Training for C#. Errors are raised as `CtkdException`, whose message says what, where and what to do next.
[<AbstractClass; Sealed>]
type Training =
    static member private Hooks(onEpoch: Action<EpochMetrics> | null, stop: CancellationToken) : Hooks = {
        Hooks.none with
            OnEpoch =
                (fun metrics ->
                    match onEpoch with
                    | null -> ()
                    | report -> report.Invoke metrics
                )
            Stop = fun () -> stop.IsCancellationRequested
    }

    /// Trains in a new folder. `onEpoch` may be null; cancelling writes a checkpoint and ends the run as interrupted.
    static member Start
        (
            options: TrainingOptions,
            folder: string,
            onEpoch: Action<EpochMetrics> | null,
            stop: CancellationToken
        ) : Summary =
        ArgumentNullException.ThrowIfNull options
        ArgumentNullException.ThrowIfNull folder

        Engine.guarded (fun () ->
            options.ToSettings() |> Run.start (Training.Hooks(onEpoch, stop)) folder |> Error.orRaise
        )

    /// Trains in a new folder.
    static member Start(options: TrainingOptions, folder: string) : Summary =
        Training.Start(options, folder, null, CancellationToken.None)

    /// Goes on with an interrupted run: a folder or a checkpoint file.
    static member Resume
        (path: string, onEpoch: Action<EpochMetrics> | null, stop: CancellationToken)
        : Summary =
        ArgumentNullException.ThrowIfNull path
        Engine.guarded (fun () -> Run.resume (Training.Hooks(onEpoch, stop)) path |> Error.orRaise)
