namespace Ctkd.Fs

open System
open FsToolkit.ErrorHandling

/// Everything that a run needs, loaded and checked.
[<NoComparison; NoEquality>]
type PreparedRun = {
    Settings: Settings
    Trainer: Trainer
    /// Ends the threads that decode photographs, and closes packs.
    Feeds: Feeds
    ClassNames: string list
    /// Makes the lists of photographs (`PhotoIndex`), each with what it is for; none where the images are in memory.
    Index: unit -> (PhotoPurpose * string) list
    Images: ImagesSeen
    /// The teacher's accuracy on the test images.
    Teacher: Accuracy option
    TeacherHash: string
    DataHash: string
}

/// From an experiment to a run that can start.
[<RequireQualifiedAccess>]
module Prepare =

    /// Images of an evaluation batch: fewer of large ones, whose maps take more memory.
    let evaluationBatch (images: ImagesSeen) : int = if max images.Height images.Width > 64 then 64 else 250

    /// An experiment of which the settings name every part.
    let ofSettings (hooks: Hooks) (settings: Settings) : Experiment = {
        Settings = settings
        Student = None
        Teacher = None
        Data = None
        Policy = None
        Distillers = None
        IgnoreExtra = false
        Recipe = ""
        Shared = ""
        Hooks = hooks
    }

    /// How the teacher's file may differ from its model.
    let teacherOptions (e: Experiment) : WeightsOptions = {
        WeightsFit.strict with
            Role = WeightsRole.Teacher
            IgnoreExtra = e.IgnoreExtra
    }

    /// The name that is recorded for a value: never one that a list has, which would stand for something else.
    let private ownName (known: string list) (name: string) : string =
        if List.contains name known then $"{name} (own)" else name

    /// The zoo's name for a model of the zoo, which commands then know; another for a model that only has its name.
    let private studentName (student: Model) : string =
        match Zoo.find student.Name student.Classes with
        | Ok known when known.Body = student.Body && known.Classifier = student.Classifier -> student.Name
        | _ -> ownName Zoo.names student.Name

    /// The settings with the experiment's values by their names, as checkpoints record them.
    let private named (e: Experiment) : Settings =
        let orElse current name part = part |> Option.map name |> Option.defaultValue current
        let s = Settings.located e.Settings

        {
            s with
                Student = e.Student |> orElse s.Student studentName
                Teacher = e.Teacher |> orElse s.Teacher _.Model.Name
                TeacherWeights = if e.Teacher.IsSome then "" else s.TeacherWeights
                Data = e.Data |> orElse s.Data (fun data -> ownName Datasets.names data.Train.Name)
                DataDir = if e.Data.IsSome then "" else s.DataDir
                Policy = e.Policy |> orElse s.Policy (fun p -> PolicyName.Own(ownName Settings.policies p.Name))
                Standardise = s.Standardise && e.Policy.IsNone
                Methods =
                    match e.Distillers with
                    | None -> s.Methods
                    | Some distillers -> Map [ for weight, d in distillers -> ownName Settings.methods d.Name, weight ]
        }

    /// The settings for `Settings.validate` and `Settings.plan`: known names stand in for the experiment's values, whose names
    /// no list has; `withValues` puts the values in.
    let private withStandIns (e: Experiment) : Settings =
        let s, d = e.Settings, Settings.defaults

        {
            s with
                Student = if e.Student.IsSome then d.Student else s.Student
                Teacher = if e.Teacher.IsSome then d.Student else s.Teacher
                TeacherWeights = if e.Teacher.IsSome then "a value" else s.TeacherWeights
                Data = if e.Data.IsSome then d.Data else s.Data
                Photos = if e.Data.IsSome then d.Photos else s.Photos
                Policy = if e.Policy.IsSome then d.Policy else s.Policy
                Standardise = s.Standardise && e.Policy.IsNone
                Methods = if e.Distillers.IsSome then d.Methods else s.Methods
        }

    /// The parts of a recorded run that its settings cannot name and the experiment does not give.
    let missing (recorded: Settings) (e: Experiment) : string list =
        let lacks kind isGiven known name =
            if isGiven || name = "" || List.contains name known then
                []
            else
                [ $"the {kind} '{name}'" ]

        [
            lacks "student" e.Student.IsSome Zoo.names recorded.Student
            lacks "teacher" e.Teacher.IsSome [] (if recorded.TeacherWeights = "" then recorded.Teacher else "")
            lacks "data set" e.Data.IsSome Datasets.names recorded.Data
            lacks "policy" e.Policy.IsSome Settings.policies (string recorded.Policy)
            for method in recorded.Methods.Keys do
                lacks "method" e.Distillers.IsSome Settings.methods method
        ]
        |> List.concat

    /// Refuses values that would have no effect, and two distillers of one name.
    let private checkValues (e: Experiment) : Result<unit, Error> =
        let names = e.Distillers |> Option.defaultValue [] |> List.map (fun (_, d) -> d.Name)

        if e.Teacher.IsNone && e.Settings.TeacherWeights = "" && (e.Policy.IsSome || e.Distillers.IsSome) then
            let what = "a policy and distillers have no effect without a teacher"
            Error.fail Usage what "" "give a teacher, or leave them out to learn from labels alone"
        elif
            e.Distillers
            |> Option.defaultValue []
            |> List.exists (fun (weight, _) -> not (FieldKind.isWithin FieldKind.atLeast0 weight))
        then
            Error.fail Usage "the weights of distillers must be finite and >= 0" "" "give other weights"
        elif List.distinct names <> names || (e.Distillers.IsSome && names.IsEmpty) then
            let given = String.concat ", " names
            Error.fail Usage $"distillers must have different names, one at least, got: {given}" "" "rename one of them"
        else
            Ok()

    let private studentOf (e: Experiment) (data: Splits) : Result<Model, Error> =
        let classes = data.Train.Classes

        match e.Student with
        | None -> Zoo.find e.Settings.Student classes
        | Some student when student.Classes = classes -> Ok student
        | Some student ->
            Error.create
                Mismatch
                $"{student.Name} knows {student.Classes} classes, the data set has {classes}"
                ""
                $"make it for {classes} classes"
            |> Result.Error

    /// The teacher, checked against the data; None where the student learns from labels alone.
    let private teacherOf (e: Experiment) (data: Splits) (device: Device) : Result<LoadedModel option, Error> =
        let s, classNames = e.Settings, data.ClassNames

        match e.Teacher with
        | Some teacher -> RunTeacher.own device s classNames data teacher |> Result.map Some
        | None when s.Teacher = "" -> Ok None
        | None -> RunTeacher.load e.Hooks.Say (teacherOptions e) device s classNames data |> Result.map Some

    /// Unlabelled data with the teacher's classes.
    let private withClassesOf (data: Splits) (teacher: LoadedModel) : Splits =
        if data.Train.Classes > 0 then
            data
        else
            let classes = teacher.Model.Classes

            {
                data with
                    Train = { data.Train with Classes = classes }
                    Validation = data.Validation |> Option.map (fun set -> { set with Classes = classes })
                    Test = { data.Test with Classes = classes }
                    ClassNames = teacher.Info |> Option.map _.ClassNames |> Option.defaultValue []
            }

    /// Images without labels, with the teacher's choices as labels.
    let private labelledBy (plan: TrainingPlan) (batch: int) (teacher: LoadedModel) (images: ImageFeed) : ImageFeed =
        let labels = Array.create (ImageFeed.count images) -1

        Autograd.noGrad (fun () ->
            ImageFeed.each
                batch
                Int32.MaxValue
                images
                (fun seen ->
                    let logits = (TrainingPlan.forward plan teacher.Model false teacher.Weights seen.Images).Logits
                    let chosen = Tensor.toInt64s (Tensor.argMax 1 logits)
                    Tensor.toInt64s seen.Index |> Array.iteri (fun i image -> labels[int image] <- int chosen[i])
                )
        )

        ImageFeed.relabel labels images

    /// The plan with the experiment's policy and distillers in place of those that the settings name.
    let private withValues (e: Experiment) (data: Splits) (plan: TrainingPlan) : Result<TrainingPlan, Error> =
        let change (d: Distillation) =
            let pair =
                ModelPair.create
                    data.Train.Height
                    data.Train.Width
                    data.Train.Labels
                    (TrainingPlan.smallestBatch (ImageSet.count data.Train) plan)
                    d.Model
                    plan.Student

            let distillers =
                match e.Distillers with
                | None -> Ok d.Distillers
                | Some own ->
                    own
                    |> List.traverseResultM (fun (value, distiller) ->
                        Distiller.enough pair distiller
                        |> Result.map (fun d -> Settings.weightByEpoch e.Settings value, d)
                    )

            distillers
            |> Result.map (fun distillers -> {
                d with
                    Policy = e.Policy |> Option.defaultValue d.Policy
                    Distillers = distillers
            })

        match plan.Distillation with
        | None -> Ok plan
        | Some d -> change d |> Result.map (fun d -> { plan with Distillation = Some d })

    /// Computes the teacher's accuracy and says it, with a warning where it looks wrong. Refuses a teacher whose outputs
    /// are not finite: a student would learn nothing but NaN from it.
    let private judge
        (hooks: Hooks)
        (s: Settings)
        (plan: TrainingPlan)
        (images: ImagesSeen)
        (remembered: (unit -> Accuracy) -> Result<Accuracy * bool, Error>)
        (test: ImageFeed)
        (teacher: LoadedModel)
        : Result<Accuracy, Error> =
        // The teacher may see larger images than the student.
        let seen = { images with Height = max images.Height s.Teaching.Size }

        let evaluate () = LoadedModel.accuracyIn (evaluationBatch seen) plan teacher.Model teacher.Weights test

        remembered evaluate
        |> Result.bind (fun (accuracy, isKnown) ->
            let source = if isKnown then ", evaluated before" else ""

            if Double.IsFinite accuracy.Loss then
                if plan.Unlabelled && accuracy.Correct = accuracy.Images then
                    hooks.Say $"teacher {teacher.Model.Name}: labels {accuracy.Images} test images"
                else
                    hooks.Say
                        $"teacher {teacher.Model.Name}: %.2f{accuracy.Top1} %% top-1 on {accuracy.Images} test images{source}"

                LoadedModel.warning s teacher accuracy |> Option.iter (fun warning -> hooks.Say $"warning: {warning}")
                Ok accuracy
            else
                Error.fail
                    Mismatch
                    $"the teacher {teacher.Model.Name} answers the test images with numbers that are not finite"
                    s.TeacherWeights
                    "its weights are damaged or diverged in their training: look at them with ctkd inspect, or give others"
        )

    /// Warns where no method reads the softened logits: the policy has no effect then.
    let private warnOfTemperature (hooks: Hooks) (s: Settings) : unit =
        if s.Teacher <> "" && not (s.Methods.Keys |> Seq.exists Settings.reads) then
            let names = String.concat ", " s.Methods.Keys
            hooks.Say $"warning: {names} read no softened logits: the policy {s.Policy} has no effect"

    /// Loads and checks everything that an experiment needs.
    let load (e: Experiment) : Result<PreparedRun, Error> =
        result {
            let hooks, s = e.Hooks, named e
            do! checkValues e
            let! known = Settings.validate (withStandIns e)
            let! device = Engine.device s.Device

            if s.Threads > Environment.ProcessorCount then
                hooks.Say
                    $"warning: {s.Threads} threads on {Environment.ProcessorCount} processors wait for each other: choose --threads {Environment.ProcessorCount} or less"

            if s.Threads > 0 then Engine.setThreads s.Threads

            let! data =
                match e.Data with
                | None -> Settings.loadData s
                | Some data -> Splits.holdOut s.ValSplit s.SplitSeed data |> Result.bind (Settings.adjust s)

            do! DataCheck.batch s data
            do! DataCheck.names data
            let! teacher = teacherOf e data device
            let data = teacher |> Option.map (withClassesOf data) |> Option.defaultValue data
            let! student = studentOf e data
            do! Model.checkInput data.Train.Height data.Train.Width student
            let smallest = Settings.smallestBatch s data
            do! Model.checkBatch smallest data.Train.Height data.Train.Width student
            let pair = teacher |> Option.map (fun teacher -> teacher.Model, teacher.Weights)
            let! plan = Settings.plan known student pair data device |> Result.bind (withValues e data)
            do! DataCheck.agent s plan data
            let plan = TrainingPlan.prepareTeacher plan

            if device <> Device.Cpu then
                Engine.setDeterministic true
                Engine.setTf32 s.Tf32

            if e.Distillers.IsNone then warnOfTemperature hooks s

            hooks.Say $"{s.Data}: {DataCheck.counts data}"
            data.Warnings |> List.iter (fun warning -> hooks.Say $"warning: {warning}")
            DataCheck.smallBatch s data student |> Option.iter (fun warning -> hooks.Say $"warning: {warning}")

            let identity = Option.bind LoadedModel.identity teacher

            let teacherHash =
                identity
                |> Option.orElse (teacher |> Option.map (fun t -> LoadedModel.fingerprint t.Weights))
                |> Option.defaultValue ""

            let dataHash = Settings.fingerprint data
            // Before the teacher is evaluated, which takes its time: the cache's folder may be unusable.
            let sharedCache = if e.Shared = "" then "" else IO.Path.Combine(e.Shared, "cache")
            let! options = TeacherMemory.options sharedCache s identity dataHash data plan

            if options.Cache.IsSome && data.Train.Images.IsInFiles then
                hooks.Say
                    "the teacher cache: each epoch cuts photographs anew, so what is remembered serves later runs with the same seed, size and crop area"

            let images = {
                Height = data.Train.Height
                Width = data.Train.Width
                Mean = data.Mean
                Std = data.Std
                ShortSide = (if data.Train.Images.IsInFiles then PhotoStream.shortSide data.Train.Height else 0)
            }

            // Data that a program gives are its own to close.
            let owning = if e.Data.IsNone then Feeds.owning data else id
            let feeds = Feeds.create s (TrainingPlan.dtype plan) device hooks.Say data |> owning

            let feeds =
                match teacher with
                | None -> feeds
                | Some teacher ->
                    let labelled (set: ImageSet) (feed: ImageFeed) =
                        if ImageSet.isUnlabelled set then
                            labelledBy plan (evaluationBatch images) teacher feed
                        else
                            feed

                    {
                        feeds with
                            Validation = Option.map2 labelled data.Validation feeds.Validation
                            Test = labelled data.Test feeds.Test
                    }

            let remembered compute =
                match identity with
                // A teacher that is code of a program's own may compute anything the next time.
                | Some hash when e.Shared <> "" ->
                    TeacherAccuracy.remembered e.Shared (TeacherAccuracy.key s hash data) compute
                | _ -> Ok(compute (), false)

            let! judged =
                teacher
                |> Option.traverseResult (judge hooks s plan images remembered feeds.Test)
                |> Result.teeError (fun _ ->
                    (feeds :> IDisposable).Dispose()
                    options.Cache |> Option.iter (fun cache -> (cache :> IDisposable).Dispose())
                )

            return {
                Settings = s
                Trainer = { Plan = plan; Teacher = options; Images = feeds.Train.Value }
                Feeds = feeds
                ClassNames = data.ClassNames
                Index =
                    fun () ->
                        [
                            PhotoPurpose.Train, Some data.Train
                            PhotoPurpose.Validation, data.Validation
                            PhotoPurpose.Test, Some data.Test
                        ]
                        |> List.choose (fun (purpose, set) ->
                            set
                            |> Option.bind (PhotoSets.index data.ClassNames)
                            |> Option.map (fun list -> purpose, list)
                        )
                Images = images
                Teacher = judged
                TeacherHash = teacherHash
                DataHash = dataHash
            }
        }
