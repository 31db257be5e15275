namespace Ctkd.Fs

open System
open FsToolkit.ErrorHandling

/// Every setting of a training run as plain data: it prints, serialises, compares, and a checkpoint carries it.
type Settings = {
    /// Name of the model that is trained.
    Student: string
    /// Name of the teacher's model; empty when the student learns from labels alone.
    Teacher: string
    /// File of the teacher's weights.
    TeacherWeights: string
    Data: string
    /// Folder or file of the data set; empty for the embedded one.
    DataDir: string
    /// Normalisation of the channels; empty lists stand for the data set's own.
    Mean: float list
    Std: float list
    /// Only the first so many training images of each class; 0 for all.
    PerClass: int
    Epochs: int
    Batch: int
    LearningRate: float
    /// Epochs after which the learning rate is multiplied by `Decay`.
    Milestones: int list
    Decay: float
    Momentum: float
    WeightDecay: float
    Nesterov: bool
    /// Temperature policy.
    Policy: string
    /// Whether logits are standardised before the policy softens them.
    Standardise: bool
    /// T of the fixed policy, and of rlkd before its agent chooses; start of the scheduled ones; tau of dtkd and of the
    /// method kd-fixed.
    T: float
    /// End of the scheduled policies.
    TStop: float
    /// A learned T lies in (TStart, TStart + TScale).
    TStart: float
    TScale: float
    /// Hidden width of the instance-wise policy.
    Hidden: int
    /// lambda rises from CurriculumStart to CurriculumStop over so many epochs.
    CurriculumStart: float
    CurriculumStop: float
    CurriculumEpochs: int
    /// The agent of the policy rlkd; the others have none.
    Rlkd: RlkdSettings
    /// Whether weight decay pulls the temperature's parameters too.
    DecayTemperature: bool
    /// Weight of the cross entropy with the labels.
    CrossEntropy: float
    /// The distillation losses that are added to it, each by its name with its weight.
    Methods: Map<string, float>
    /// DKD's weights of the target class and of the others.
    DkdAlpha: float
    DkdBeta: float
    /// The methods' weights rise from 0 over so many epochs; 0 for weights that are full at once.
    WarmUp: int
    Precision: string
    ChannelsLast: bool
    Device: string
    /// Whether float32 products and convolutions may run on a CUDA device's tensor cores, as TF32.
    Tf32: bool
    /// Whether the step is recorded as a CUDA graph where that is possible.
    Graph: bool
    Seed: int
    /// The teacher's forward pass runs for so many steps at once.
    TeacherAhead: int
    /// Folder of what teachers said; empty: none are remembered.
    TeacherCache: string
    /// The most space that they may take, in units of 10^9 bytes.
    TeacherCacheGb: float
    /// Whether they are kept in 16 bits: half the space, and inexact.
    TeacherCacheHalf: bool
}

/// Defaults, validation, JSON, and the way from settings to a plan.
[<RequireQualifiedAccess>]
module Settings =

    /// The temperature policies by name.
    let policies: string list = [
        "fixed"
        "linear"
        "cosine"
        "dtkd"
        "ctkd-global"
        "ctkd-instance"
        "rlkd"
    ]

    /// The distillation losses by name: the distillers, and KD at the temperature T whatever the policy
    /// decides.
    let methods: string list = Distillers.names @ [ "kd-fixed" ]

    /// What recipes name and this version does not have yet.
    let private plannedData = [ "imagenet" ]

    /// The precisions by name.
    let precisions: string list = [ "f32"; "bf16" ]

    /// The learning rate's milestones at 5/8, 6/8 and 7/8 of a run: 150, 180, 210 of 240, as the papers have them.
    let milestones (epochs: int) : int list =
        [ 5L; 6L; 7L ]
        |> List.map (fun eighths -> int (int64 epochs * eighths / 8L))
        |> List.filter (fun m -> m > 0)
        |> List.distinct

    /// CTKD's CIFAR-100 recipe for learning from labels alone, on the embedded digits for 30 epochs.
    let defaults: Settings = {
        Student = "resnet8"
        Teacher = ""
        TeacherWeights = ""
        Data = "digits"
        DataDir = ""
        Mean = []
        Std = []
        PerClass = 0
        Epochs = 30
        Batch = 64
        LearningRate = 0.05
        Milestones = milestones 30
        Decay = 0.1
        Momentum = Sgd.defaults.Momentum
        WeightDecay = Sgd.defaults.WeightDecay
        Nesterov = Sgd.defaults.Nesterov
        Policy = "ctkd-global"
        Standardise = false
        T = 4.0
        TStop = 1.0
        TStart = Ctkd.publishedRange.Start
        TScale = Ctkd.publishedRange.Scale
        Hidden = 512
        CurriculumStart = 0.0
        CurriculumStop = 1.0
        CurriculumEpochs = 10
        Rlkd = RlkdSettings.defaults
        DecayTemperature = true
        CrossEntropy = 0.1
        Methods = Map [ "kd", 0.9 ]
        DkdAlpha = 1.0
        DkdBeta = 2.0
        WarmUp = 0
        Precision = "f32"
        ChannelsLast = true
        Device = "cpu"
        Tf32 = true
        Graph = true
        Seed = 1
        TeacherAhead = 1
        TeacherCache = ""
        TeacherCacheGb = 4.0
        TeacherCacheHalf = false
    }

    /// Epochs that suit a data set: 30 for the small digits, 240 as published for the others.
    let epochsFor (data: string) : int = if data = "digits" then 30 else 240

    /// The methods that a policy's authors combine it with: DTKD adds KD at tau, the others are used with KD.
    let methodsOf (policy: string) : string list = if policy = "dtkd" then [ "kd"; "kd-fixed" ] else [ "kd" ]

    /// The settings with these methods under their policy, each with the weight that its authors published,
    /// and the cross entropy and the warm-up that go with them: 0.1 CE beside KD, else 1 CE; 20 epochs for
    /// DKD and DTKD.
    let withMethods (names: string list) (s: Settings) : Settings =
        let dtkd = s.Policy = "dtkd"

        let weight (name: string) =
            match Distillers.published |> List.tryFind (fun (known, _, _) -> known = name) with
            | Some _ when dtkd && name = "kd" -> 3.0
            | Some(_, weight, _) -> weight
            | None -> 1.0

        {
            s with
                Methods = names |> List.map (fun name -> name, weight name) |> Map
                CrossEntropy = (if List.contains "kd" names && not dtkd then 0.1 else 1.0)
                WarmUp = (if dtkd || List.contains "dkd" names then 20 else 0)
        }

    /// What keeps the settings of a published recipe from being run: parts that this version does not have
    /// yet.
    let planned (s: Settings) : string list = [
        if List.contains s.Data plannedData then
            $"the data set '{s.Data}' has no pipeline yet: choose another with --data"
    ]

    /// Every mistake of the settings, each naming the field, its bound and the value.
    let mistakes (s: Settings) : string list =
        let number (text: string) (ok: bool) (name: string) (value: float) =
            if ok && Double.IsFinite value then
                []
            else
                [ $"{name} must be finite and {text}, got {string value}" ]

        let positive name value = number "> 0" (value > 0.0) name value
        let atLeast0 name value = number ">= 0" (value >= 0.0) name value
        let share name value = number "in [0, 1)" (value >= 0.0 && value < 1.0) name value

        let atMost (most: int) name (value: int) =
            if value <= most then [] else [ $"{name} must be at most {most}, got {value}" ]

        let atLeast (least: int) name (value: int) =
            if value >= least then [] else [ $"{name} must be at least {least}, got {value}" ]

        let oneOf kind known name =
            if List.contains name known then
                []
            else
                [ (Error.unknown kind known name |> fun e -> $"{e.What}: {e.Next}") ]

        let epochs = s.Milestones |> List.map string |> String.concat ", "

        [
            planned s
            oneOf "policy" policies s.Policy
            oneOf "precision" precisions s.Precision
            oneOf "data set" (Datasets.names @ plannedData) s.Data
            oneOf "model" Zoo.names s.Student
            (if s.Teacher = "" then [] else oneOf "model" Zoo.names s.Teacher)
            (if (s.Teacher = "") = (s.TeacherWeights = "") then
                 []
             else
                 [ "teacher and weights must be given together: a model and its checkpoint" ])
            atLeast 1 "epochs" s.Epochs
            atLeast 1 "batch" s.Batch
            atLeast 0 "per-class" s.PerClass
            atLeast 1 "hidden" s.Hidden
            atMost 65536 "hidden" s.Hidden
            atLeast 1 "curriculum-epochs" s.CurriculumEpochs
            (if s.Policy = "rlkd" then RlkdSettings.mistakes s.Epochs s.Rlkd else [])
            positive "lr" s.LearningRate
            positive "decay" s.Decay
            positive "t" s.T
            positive "t-stop" s.TStop
            positive "t-scale" s.TScale
            atLeast0 "t-start" s.TStart
            atLeast0 "weight-decay" s.WeightDecay
            atLeast0 "curriculum-start" s.CurriculumStart
            atLeast0 "curriculum-stop" s.CurriculumStop
            atLeast0 "ce" s.CrossEntropy
            positive "teacher-cache-gb" s.TeacherCacheGb
            atLeast 1 "teacher-ahead" s.TeacherAhead
            atMost 1024 "teacher-ahead" s.TeacherAhead
            atLeast0 "dkd-alpha" s.DkdAlpha
            atLeast0 "dkd-beta" s.DkdBeta
            atLeast 0 "warm-up" s.WarmUp
            (if s.Methods.IsEmpty then [ "methods must name one loss at least, such as kd" ] else [])
            (s.Methods |> Map.toList |> List.collect (fst >> oneOf "method" methods))
            (s.Methods
             |> Map.toList
             |> List.collect (fun (name, weight) -> atLeast0 $"the weight of {name}" weight))
            share "momentum" s.Momentum
            List.collect (number "any number" true "mean") s.Mean
            List.collect (positive "std") s.Std
            (if s.Mean.Length = s.Std.Length then
                 []
             else
                 [ "mean and std must be given together, one number a channel" ])
            (if List.sort s.Milestones = s.Milestones && List.forall (fun m -> m >= 1) s.Milestones then
                 []
             else
                 [ $"milestones must be epochs from 1 on in rising order, got {epochs}" ])
            (if s.Nesterov && s.Momentum = 0.0 then [ "nesterov needs a momentum > 0" ] else [])
        ]
        |> List.concat

    /// The settings, or all their mistakes as one error.
    let validate (settings: Settings) : Result<Settings, Error> =
        match mistakes settings with
        | [] -> Ok settings
        | [ only ] -> Result.Error(Error.create Usage only "" "see --help for the flags and their defaults")
        | several ->
            let text = several |> List.map (fun m -> "\n  - " + m) |> String.concat ""

            Result.Error(
                Error.create Usage $"{several.Length} settings are wrong:{text}" "" "see --help for the flags"
            )

    /// The settings with known names in place of those that no list has: a program may have trained with values of its own.
    let withKnownNames (s: Settings) : Settings =
        let known names fallback name = if List.contains name names then name else fallback

        {
            s with
                Student = known Zoo.names defaults.Student s.Student
                Teacher = if s.Teacher = "" then "" else known Zoo.names defaults.Student s.Teacher
                TeacherWeights = if s.Teacher <> "" && s.TeacherWeights = "" then "a value" else s.TeacherWeights
                Data = known (Datasets.names @ plannedData) defaults.Data s.Data
                Policy = known policies defaults.Policy s.Policy
                Methods =
                    if s.Methods.Keys |> Seq.forall (fun name -> List.contains name methods) then
                        s.Methods
                    else
                        defaults.Methods
        }

    /// A data set with the settings' normalisation and number of images per class.
    let adjust (s: Settings) (data: Splits) : Result<Splits, Error> =
        let channels = data.Train.Channels

        if not s.Mean.IsEmpty && s.Mean.Length <> channels then
            Result.Error(
                Error.create
                    Usage
                    $"mean and std have {s.Mean.Length} numbers, the images {channels} channels"
                    ""
                    "give one number a channel, such as --mean 0.5071 0.4867 0.4408"
            )
        else
            Ok {
                data with
                    Train =
                        (if s.PerClass = 0 then
                             data.Train
                         else
                             ImageSet.firstPerClass s.PerClass data.Train)
                    Mean = (if s.Mean.IsEmpty then data.Mean else s.Mean)
                    Std = (if s.Std.IsEmpty then data.Std else s.Std)
            }

    /// The data set of the settings, with their normalisation and number of images per class.
    let loadData (s: Settings) : Result<Splits, Error> =
        Datasets.load s.Data (if s.DataDir = "" then None else Some s.DataDir) |> Result.bind (adjust s)

    /// SHA-256 of a data set's training images and labels: a run goes on only with the data that it began with.
    let fingerprint (data: Splits) : string =
        use hash =
            Security.Cryptography.IncrementalHash.CreateHash Security.Cryptography.HashAlgorithmName.SHA256

        hash.AppendData data.Train.Images
        hash.AppendData(data.Train.Labels |> Array.collect BitConverter.GetBytes)
        Convert.ToHexStringLower(hash.GetHashAndReset())

    /// The temperature policy that the settings name.
    let policy (s: Settings) : Policy =
        let range: TemperatureRange = { Start = s.TStart; Scale = s.TScale }
        let curriculum = Schedule.cosine s.CurriculumStart s.CurriculumStop s.CurriculumEpochs

        let chosen =
            match s.Policy with
            | "fixed" -> Scheduled.fixedAt s.T
            | "linear" -> Scheduled.by (Schedule.linear s.T s.TStop s.Epochs)
            | "cosine" -> Scheduled.by (Schedule.cosine s.T s.TStop s.Epochs)
            | "dtkd" -> Dtkd.policy s.T
            | "ctkd-global" -> Ctkd.globalPolicy range curriculum
            | "ctkd-instance" -> Ctkd.instancePolicy range s.Hidden curriculum
            | "rlkd" -> Rlkd.policy (RlkdSettings.config s.Rlkd) s.T
            | other -> Error.unknown "policy" policies other |> Error.raise

        if s.Standardise then Standardise.policy chosen else chosen

    /// Whether a method reads the softened logits, so that the temperature policy matters to it.
    let reads (method: string) : bool = List.contains method [ "kd"; "dkd" ]

    let private distiller (s: Settings) (pair: ModelPair) (method: string) : Result<Distiller, Error> =
        match method with
        | "kd-fixed" -> Ok { Distiller.at s.T Kd.distiller with Name = method }
        | "dkd" ->
            let released = s.Policy = "rlkd" && s.Rlkd.Mode = "official"

            Dkd.distiller s.DkdAlpha s.DkdBeta pair
            |> Result.map (if released then Distiller.meanWeight else id)
        | _ -> Distillers.find method pair |> Result.map snd

    /// The methods of validated settings for a pair of models, with their weights by epoch.
    let distillers (s: Settings) (pair: ModelPair) : Result<(Schedule * Distiller) list, Error> =
        let rising weight = if s.WarmUp = 0 then Schedule.constant weight else Schedule.warmUp weight s.WarmUp

        Map.toList s.Methods
        |> List.traverseResultM (fun (method, weight) ->
            distiller s pair method |> Result.map (fun distiller -> rising weight, distiller)
        )

    /// The plan of validated settings without a teacher.
    let alone (s: Settings) (student: Model) (data: Splits) (device: Device) : TrainingPlan = {
        Student = student
        Distillation = None
        CrossEntropy = Schedule.constant 1.0
        LearningRate = Schedule.multiStep s.LearningRate s.Decay s.Milestones
        Sgd = { Momentum = s.Momentum; WeightDecay = s.WeightDecay; Nesterov = s.Nesterov }
        DecayTemperature = s.DecayTemperature
        Epochs = s.Epochs
        Batch = s.Batch
        TrainImages = ImageSet.count data.Train
        Seed = s.Seed
        Pad = data.Pad
        Flip = data.Flip
        Precision = (if s.Precision = "bf16" then Bf16 else F32)
        ChannelsLast = s.ChannelsLast
        Device = device
    }

    /// The plan of validated settings, for a student, the data's augmentation and, when it is taught, a
    /// teacher; an error where a method cannot match the two.
    let plan
        (s: Settings)
        (student: Model)
        (teacher: (Model * Tree) option)
        (data: Splits)
        (device: Device)
        : Result<TrainingPlan, Error> =
        let alone = alone s student data device

        let taught (model: Model, weights: Tree) =
            ModelPair.create data.Train.Height data.Train.Width data.Train.Labels s.Batch model student
            |> distillers s
            |> Result.map (fun distillers -> {
                alone with
                    CrossEntropy = Schedule.constant s.CrossEntropy
                    Distillation =
                        Some { Model = model; Weights = weights; Policy = policy s; Distillers = distillers }
            })

        match teacher with
        | None -> Ok alone
        | Some teacher -> taught teacher
