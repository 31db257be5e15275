namespace Ctkd.Fs

open System
open System.Threading

/// The settings of a run, for object initialisers; what is not set keeps the recipe's value where one is named, else the
/// library's default. The properties are for the settings in most frequent use; every other is set by its name and its value
/// as text, as `--set` does on the command line: `new TrainingOptions { ["rlkd.warmUp"] = "6" }`.
type TrainingOptions() =
    let mutable assigned: Assignment list = []
    let mutable current = Settings.defaults
    let mutable epochs = 0
    let mutable methods: string[] = [||]
    let mutable weights: float[] = [||]
    let mutable values = Distil.defaults

    let add (assignment: Assignment) : unit =
        current <- assignment.Change current |> Error.orRaise
        assigned <- assigned @ [ assignment ]

    let set (name: string) (value: 'T) : unit =
        let field = SettingsTable.find (Json.name name) |> Error.orRaise
        Resolve.field name field (box value) |> add

    let absolute (path: string) : string = if path = "" then "" else System.IO.Path.GetFullPath path

    /// A published experiment, such as "ctkd/resnet56-resnet20/kd/ctkd-global", or a JSON file; empty for none.
    member val Recipe = "" with get, set

    member _.Student
        with get () = current.Student
        and set (name: string) = set (nameof current.Student) name

    /// A checkpoint, a run's folder or a file of weights, as FILE:INNER of an archive, as FILE#KEY one of several; empty to
    /// learn from labels alone.
    member _.TeacherWeights
        with get () = current.TeacherWeights
        and set (path: string) = set (nameof current.TeacherWeights) (WeightsPath.absolute path)

    member _.Data
        with get () = current.Data
        and set (name: string) = set (nameof current.Data) name

    member _.DataDir
        with get () = current.DataDir
        and set (path: string) = set (nameof current.DataDir) (absolute path)

    /// The number of training images of each class that are used, the first ones; 0 for all.
    member _.PerClass
        with get () = current.PerClass
        and set (count: int) = set (nameof current.PerClass) count

    /// The share of each class that is held out of all training images to choose the best epoch on, in [0, 1); 0 for none.
    member _.ValSplit
        with get () = current.ValSplit
        and set (share: float) = set (nameof current.ValSplit) share

    /// Chooses what is held out.
    member _.SplitSeed
        with get () = current.SplitSeed
        and set (number: int) = set (nameof current.SplitSeed) number

    /// 0 for the number that suits the data set, or the recipe's.
    member _.Epochs
        with get () = epochs
        and set (count: int) = epochs <- count

    member _.Batch
        with get () = current.Batch
        and set (count: int) = set (nameof current.Batch) count

    member _.LearningRate
        with get () = current.LearningRate
        and set (rate: float) = set (nameof current.LearningRate) rate

    /// "sgd" or "adamw", which brings its own learning rate and weight decay where these are not set.
    member _.Optimizer
        with get () = Names.name current.Optimiser
        and set (name: string) =
            set (nameof current.Optimiser) (Names.find<OptimiserName> "optimizer" name |> Error.orRaise)

    /// How the learning rate falls: "steps" or "cosine".
    member _.LrSchedule
        with get () = Names.name current.LrSchedule
        and set (name: string) =
            set (nameof current.LrSchedule) (Names.find<RateSchedule> "lr-schedule" name |> Error.orRaise)

    /// Epochs in which the learning rate rises; 0 for none.
    member _.LrWarmUp
        with get () = current.LrWarmUp
        and set (epochs: int) = set (nameof current.LrWarmUp) epochs

    /// Share of each label that is spread evenly over all classes, in [0, 1).
    member _.LabelSmoothing
        with get () = current.LabelSmoothing
        and set (share: float) = set (nameof current.LabelSmoothing) share

    /// Alpha of mixup; 0 for none.
    member _.Mixup
        with get () = current.Mixup
        and set (alpha: float) = set (nameof current.Mixup) alpha

    /// The largest norm of all gradients together; 0 for any.
    member _.ClipGradients
        with get () = current.ClipGradients
        and set (norm: float) = set (nameof current.ClipGradients) norm

    /// Decay a step of the moving average of the weights, which is then evaluated and exported; 0 for none.
    member _.Ema
        with get () = current.Ema
        and set (decay: float) = set (nameof current.Ema) decay

    /// Epochs after which the run ends if its best top-1, on the validation where there is one, has not risen; 0 for never.
    member _.Patience
        with get () = current.Patience
        and set (epochs: int) = set (nameof current.Patience) epochs

    /// Losses from `Settings.methods`, added up; empty for those that suit the policy, or the recipe's.
    member _.Methods
        with get () = methods
        and set (names: string[]) = methods <- names

    /// A weight for each of `Methods`; empty for the published ones.
    member _.MethodWeights
        with get () = weights
        and set (values: float[]) = weights <- values

    /// One of `Settings.policies`.
    member _.Policy
        with get () = Names.name current.Policy
        and set (name: string) = set (nameof current.Policy) (Names.find<PolicyName> "policy" name |> Error.orRaise)

    /// Whether logits are standardised before the policy softens them.
    member _.Standardise
        with get () = current.Standardise
        and set (yes: bool) = set (nameof current.Standardise) yes

    /// Temperature of the fixed policy; tau of dtkd.
    member _.T
        with get () = current.T
        and set (t: float) = set (nameof current.T) t

    /// One of `Settings.precisions`.
    member _.Precision
        with get () = Names.name current.Precision
        and set (name: string) =
            set (nameof current.Precision) (Names.find<Precision> "precision" name |> Error.orRaise)

    member _.Device
        with get () = current.Device
        and set (name: string) = set (nameof current.Device) name

    member _.Seed
        with get () = current.Seed
        and set (number: int) = set (nameof current.Seed) number

    /// Any setting by its name, as text. Raises a `CtkdException` for a name or a value that it does not take.
    member this.Item
        with get (field: string) =
            let row = SettingsTable.find field |> Error.orRaise
            row.Kind.Show(Field.get field current)
        and set (field: string) (value: string) = this.Set(field, value)

    /// Any setting by its name and its value as text, such as Set("rlkd.warmUp", "6").
    /// Raises a `CtkdException` for a name or a value that it does not take.
    member this.Set(field: string, value: string) : unit =
        add {
            (Resolve.set $"{field}={value}" |> Error.orRaise) with
                Origin = nameof this.Set
        }

    /// Whether tensors of the teacher's file that its model lacks are left aside.
    member _.IgnoreExtra
        with get () = values.IgnoreExtra
        and set (yes: bool) = values <- { values with IgnoreExtra = yes }

    /// Trains a model of your own.
    member this.Use(student: Model) : TrainingOptions =
        values <- { values with Student = Some student }
        this

    /// Learns from a trained model, in place of `TeacherWeights`.
    member this.Use(teacher: LoadedModel) : TrainingOptions =
        values <- { values with Teacher = Some teacher }
        this

    /// Trains on images of your own.
    member this.Use(data: Splits) : TrainingOptions =
        values <- { values with Data = Some data }
        this

    /// Softens by a policy of your own.
    member this.Use(policy: Policy) : TrainingOptions =
        values <- { values with Policy = Some policy }
        this

    /// Adds a distillation loss of your own with its weight, in place of `Methods`; call again for a sum.
    member this.Use(weight: float, distiller: Distiller) : TrainingOptions =
        let others = Option.defaultValue [] values.Distillers
        values <- { values with Distillers = Some(others @ [ weight, distiller ]) }
        this

    /// The values alone, for a run whose settings are recorded.
    member internal _.Values(hooks: Hooks) : Experiment = { values with Hooks = hooks }

    /// The same as the library's settings.
    member this.ToSettings() : Settings =
        let recipe = if this.Recipe = "" then None else Some(Recipes.load this.Recipe |> Error.orRaise)

        let chosen = [
            if methods.Length > 0 || weights.Length > 0 then
                let given = if weights.Length = 0 then None else Some(List.ofArray weights)
                Resolve.methods (nameof this.Methods) (List.ofArray methods) given
            if epochs <> 0 then
                Resolve.assign (nameof this.Epochs) [ nameof current.Epochs ] (fun s -> { s with Epochs = epochs })
        ]

        let settings = (Resolve.settings recipe (chosen @ assigned) |> Error.orRaise).Settings

        if settings.TeacherWeights <> "" && settings.Teacher = "" then
            {
                settings with
                    Teacher =
                        LoadedModel.nameWith (Prepare.teacherOptions values) settings.TeacherWeights |> Error.orRaise
            }
        else
            settings

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
        (options: TrainingOptions, folder: string, onEpoch: Action<EpochMetrics> | null, stop: CancellationToken)
        : Summary =
        ArgumentNullException.ThrowIfNull options
        ArgumentNullException.ThrowIfNull folder

        let values = options.Values(Training.Hooks(onEpoch, stop))
        let experiment = Engine.guarded (fun () -> { values with Settings = options.ToSettings() })
        Distil.run folder experiment

    /// Trains in a new folder.
    static member Start(options: TrainingOptions, folder: string) : Summary =
        Training.Start(options, folder, null, CancellationToken.None)

    /// Resumes an interrupted run that began with values of the program's own: give them again by `options`.
    static member Resume
        (options: TrainingOptions, path: string, onEpoch: Action<EpochMetrics> | null, stop: CancellationToken)
        : Summary =
        ArgumentNullException.ThrowIfNull options
        ArgumentNullException.ThrowIfNull path
        options.Values(Training.Hooks(onEpoch, stop)) |> Distil.resume path

    /// Resumes an interrupted run from its folder or a checkpoint file.
    static member Resume(path: string, onEpoch: Action<EpochMetrics> | null, stop: CancellationToken) : Summary =
        ArgumentNullException.ThrowIfNull path
        Prepare.ofSettings (Training.Hooks(onEpoch, stop)) Settings.defaults |> Distil.resume path
