namespace Ctkd.Fs

open System
open System.IO
open FsToolkit.ErrorHandling

/// Defaults, validation, and the way from settings to a plan. The settings themselves are in `SettingsTable`.
[<RequireQualifiedAccess>]
[<CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module Settings =

    /// The temperature policies by name.
    let policies: string list = Names.all<PolicyName>()

    /// The distillation losses by name.
    let methods: string list = SettingsTable.methods

    /// The precisions by name.
    let precisions: string list = SettingsTable.precisions

    /// The learning rate's milestones at 5/8, 6/8 and 7/8 of a run: 150, 180, 210 of 240, as the papers have them.
    let milestones (epochs: int) : int list = SettingsTable.milestones epochs

    /// CTKD's CIFAR-100 recipe for learning from labels alone, on the embedded digits for 30 epochs.
    let defaults: Settings = Field.defaults "" SettingsTable.all

    /// Epochs that suit a data set: 30 for the small digits, 60 for the blood cells, 100 for photographs, 240 as published for CIFAR.
    let epochsFor (data: string) : int =
        match data with
        | "digits" -> 30
        | "cells" -> 60
        | "photos"
        | "imagenet" -> 100
        | _ -> 240

    /// The methods that a policy's authors combine it with: DTKD adds KD at tau, the others are used with KD.
    let methodsOf (policy: PolicyName) : string list =
        if policy = PolicyName.Dtkd then [ "kd"; "kd-fixed" ] else [ "kd" ]

    /// The settings with these methods under their policy, each with the weight that its authors published,
    /// and the cross entropy and the warm-up that go with them: 0.1 CE beside KD, else 1 CE; 20 epochs for
    /// DKD and DTKD.
    let withMethods (names: string list) (s: Settings) : Settings =
        let dtkd = s.Policy = PolicyName.Dtkd

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

    /// The settings with an optimiser, and the learning rate and weight decay that suit it.
    let withOptimiser (name: OptimiserName) (s: Settings) : Settings =
        match name with
        | OptimiserName.Sgd -> { s with Optimiser = name }
        | OptimiserName.Adamw -> {
            s with
                Optimiser = name
                LearningRate = 1e-3
                WeightDecay = AdamW.defaults.WeightDecay
          }

    /// Every mistake of the settings, each naming the field, its bound and the value.
    let mistakes (s: Settings) : string list = [
        for field in SettingsTable.all do
            if field.For <> Audience.WithAgent then
                yield! field.Kind.Mistakes (Field.label field) (Field.get field.Name s)

        if s.Policy = PolicyName.Rlkd then yield! RlkdSettings.mistakes s.Epochs s.Rlkd

        if (s.Teacher = "") <> (s.TeacherWeights = "") then
            "teacher and weights must be given together: a model and its checkpoint"
        yield! TeacherSettings.mistakes s.Teaching

        if s.Mean.Length <> s.Std.Length then
            "mean and std must be given together, one number a channel"
        if s.Nesterov && s.Momentum = 0.0 then "nesterov needs a momentum > 0"
        yield! PhotoSettings.mistakes s.Data s.Teacher s.Photos

        if s.Policy = PolicyName.Dtkd && s.Teaching.Output = TeacherOutput.Probabilities && not s.Standardise then
            "dtkd reads how large the teacher's logits are, and probabilities do not tell: add --standardise"

        if s.Photos.Unlabelled && s.Methods.ContainsKey "crd" then
            "crd draws its negatives by label, and unlabelled images have none"

        if s.Subset > 0 && s.PerClass > 0 then
            "subset and per-class say the same thing twice: give one of them"
        if s.LrStop > 0.0 && s.LrSchedule <> RateSchedule.Cosine then
            "lr-stop is the end of the cosine schedule: add --lr-schedule cosine"

        let adam (s: Settings) = s.AdamBeta1, s.AdamBeta2, s.AdamEpsilon

        if s.Optimiser <> OptimiserName.Adamw && adam s <> adam defaults then
            $"adam-beta1, adam-beta2 and adam-epsilon are for the optimizer adamw, not {s.Optimiser}"

        if s.Teaching.Others.IsEmpty && not s.Teaching.Shares.IsEmpty then
            "teacher-weights are shares of several teachers, and there is one"

        if s.Nesterov && s.Optimiser <> OptimiserName.Sgd then
            $"nesterov is for the optimizer sgd, not {s.Optimiser}"

        if s.Mixup > 0.0 && s.Teacher <> "" then
            if s.TeacherCache <> "" then
                "mixup and teacher-cache exclude each other: the cache holds features of single images, and mixup blends anew in each step"

            if s.Policy = PolicyName.Rlkd then
                "mixup is not for the policy rlkd, whose agent blends images itself"
    ]

    /// The settings, or all their mistakes as one error.
    let validate (settings: Settings) : Result<Settings, Error> =
        match mistakes settings with
        | [] -> Ok settings
        | [ only ] -> Error.fail Usage only "" "see --help for the flags and their defaults"
        | several ->
            let text = several |> List.map (fun m -> "\n  - " + m) |> String.concat ""

            Error.fail Usage $"{several.Length} settings are wrong:{text}" "" "see --help for the flags"

    /// The settings with known names in place of those that no list has: a program may have trained with values of its own.
    let withKnownNames (s: Settings) : Settings =
        let known names fallback name = if List.contains name names then name else fallback

        {
            s with
                Student = known Zoo.names defaults.Student s.Student
                Teacher = if s.Teacher = "" then "" else known SettingsTable.teachers defaults.Student s.Teacher
                TeacherWeights = if s.Teacher <> "" && s.TeacherWeights = "" then "a value" else s.TeacherWeights
                Data = known Datasets.names defaults.Data s.Data
                Policy = if s.Policy.IsOwn then defaults.Policy else s.Policy
                Methods =
                    if s.Methods.Keys |> Seq.forall (fun name -> List.contains name methods) then
                        s.Methods
                    else
                        defaults.Methods
        }

    /// The folder of photographs that has its data set's own name, where there is one.
    let ownFolder (data: string) : string option =
        if Datasets.isPhotos data && Path.Exists data then Some(Path.GetFullPath data) else None

    /// The settings with whole paths: a run may be resumed from another folder than it began in.
    let located (s: Settings) : Settings =
        let absolute (path: string) = if path = "" then "" else Path.GetFullPath path

        {
            s with
                TeacherWeights = WeightsPath.absolute s.TeacherWeights
                DataDir = if s.DataDir = "" then ownFolder s.Data |> Option.defaultValue "" else absolute s.DataDir
                TeacherCache = absolute s.TeacherCache
                StudentWeights = WeightsPath.absolute s.StudentWeights
                Teaching = TeacherSettings.absolute s.Teaching
        }

    /// What the loading of a data set needs to know.
    let private photoOptions (s: Settings) : PhotoOptions = {
        Size = s.Photos.Size
        ValSplit = s.ValSplit
        Seed = s.SplitSeed
        Unlabelled = s.Photos.Unlabelled
    }

    /// A data set, whose validation is held out, with the settings' normalisation and number of images per class. The
    /// validation stays whole: runs on other subsets have the same.
    let adjust (s: Settings) (data: Splits) : Result<Splits, Error> =
        let channels = data.Train.Channels

        if not s.Mean.IsEmpty && s.Mean.Length <> channels then
            Error.fail
                Usage
                $"mean and std have {s.Mean.Length} numbers, the images {channels} channels"
                ""
                "give one number a channel, such as --mean 0.5071 0.4867 0.4408"
        else
            Ok {
                data with
                    Train =
                        (if s.PerClass > 0 then ImageSet.firstPerClass s.PerClass data.Train
                         elif s.Subset > 0 then ImageSet.subset s.Subset data.Train
                         else data.Train)
                    Test = (if s.Subset > 0 then ImageSet.subset s.Subset data.Test else data.Test)
                    Mean = (if s.Mean.IsEmpty then data.Mean else s.Mean)
                    Std = (if s.Std.IsEmpty then data.Std else s.Std)
            }

    /// The data set of the settings, with their split, normalisation and number of images per class.
    let loadData (s: Settings) : Result<Splits, Error> =
        Datasets.loadWith (photoOptions s) s.Data (if s.DataDir = "" then None else Some s.DataDir)
        |> Result.bind (adjust s)

    /// SHA-256 of a data set's training and validation images and labels, of photographs of all lists of files: a run resumes
    /// only with the data that it began with.
    let fingerprint (data: Splits) : string =
        use hash =
            Security.Cryptography.IncrementalHash.CreateHash Security.Cryptography.HashAlgorithmName.SHA256

        let lists = [ data.Train; data.Test ] |> List.choose (PhotoSets.index data.ClassNames)

        if lists.IsEmpty then
            hash.AppendData(ImageSet.bytes data.Train)
        else
            lists |> List.iter (fun list -> hash.AppendData(Text.Encoding.UTF8.GetBytes list))

        hash.AppendData(data.Train.Labels |> Array.collect BitConverter.GetBytes)

        match data.Validation with
        | None -> ()
        | Some validation ->
            match PhotoSets.index data.ClassNames validation with
            | Some list -> hash.AppendData(Text.Encoding.UTF8.GetBytes list)
            | None -> hash.AppendData(ImageSet.bytes validation)

            hash.AppendData(validation.Labels |> Array.collect BitConverter.GetBytes)

        Convert.ToHexStringLower(hash.GetHashAndReset())

    /// The learning rate by epoch: the schedule times the warm-up.
    let learningRate (s: Settings) : Schedule =
        let schedule =
            match s.LrSchedule with
            | RateSchedule.Steps -> Schedule.multiStep s.LearningRate s.Decay s.Milestones
            | RateSchedule.Cosine -> Schedule.annealed s.LearningRate s.LrStop s.Epochs

        if s.LrWarmUp = 0 then
            schedule
        else
            Schedule.product (Schedule.warmingUp s.LrWarmUp) schedule

    /// The optimiser that the settings name.
    let optimiser (s: Settings) : Optimiser =
        match s.Optimiser with
        | OptimiserName.Sgd ->
            Optimiser.Sgd { Momentum = s.Momentum; WeightDecay = s.WeightDecay; Nesterov = s.Nesterov }
        | OptimiserName.Adamw ->
            Optimiser.AdamW {
                Beta1 = s.AdamBeta1
                Beta2 = s.AdamBeta2
                Epsilon = s.AdamEpsilon
                WeightDecay = s.WeightDecay
            }

    /// A setting whose 0 means none.
    let private unlessZero (value: 'T) : 'T option = if value = Unchecked.defaultof<'T> then None else Some value

    /// Epochs after which a run ends if its best top-1 has not risen; None for never.
    let patience (s: Settings) : int option = unlessZero s.Patience

    /// What more epochs mean for a run that is resumed with them.
    let ofMoreEpochs (recorded: Settings) (changed: Settings) : string list = [
        if changed.Epochs > recorded.Epochs then
            let rate =
                match changed.LrSchedule with
                | RateSchedule.Steps ->
                    let milestones = changed.Milestones |> List.map string |> String.concat ", "
                    $"the milestones stay at {milestones}"
                | RateSchedule.Cosine -> "the learning rate follows the longer cosine from here on"

            $"{changed.Epochs} epochs in place of {recorded.Epochs}: {rate}"

            if changed.Policy = PolicyName.Linear || changed.Policy = PolicyName.Cosine then
                $"the policy {changed.Policy} takes T to its end over {changed.Epochs} epochs from here on"
    ]

    /// The temperature policy that the settings name.
    let policy (s: Settings) : Policy =
        let range: TemperatureRange = { Start = s.TStart; Scale = s.TScale }
        let curriculum = Schedule.cosine s.CurriculumStart s.CurriculumStop s.CurriculumEpochs

        let chosen =
            match s.Policy with
            | PolicyName.Fixed -> Scheduled.fixedAt s.T
            | PolicyName.Linear -> Scheduled.by (Schedule.linear s.T s.TStop s.Epochs)
            | PolicyName.Cosine -> Scheduled.by (Schedule.cosine s.T s.TStop s.Epochs)
            | PolicyName.Dtkd -> Dtkd.policy s.T
            | PolicyName.CtkdGlobal -> Ctkd.globalPolicy range curriculum
            | PolicyName.CtkdInstance -> Ctkd.instancePolicy range s.Hidden curriculum
            | PolicyName.Rlkd -> Rlkd.policy (RlkdSettings.config s.Rlkd) s.T
            | PolicyName.Own name -> Error.unknown "policy" policies name |> Error.raise

        if s.Standardise then Standardise.policy chosen else chosen

    /// Whether a method reads the softened logits, so that the temperature policy matters to it.
    let reads (method: string) : bool = List.contains method [ "kd"; "dkd" ]

    let private distiller (s: Settings) (pair: ModelPair) (method: string) : Result<Distiller, Error> =
        match method with
        | "kd-fixed" -> Ok { Distiller.at s.T Kd.distiller with Name = method }
        | "dkd" ->
            let released = s.Policy = PolicyName.Rlkd && s.Rlkd.Mode = RlkdMode.Official

            Dkd.distiller s.DkdAlpha s.DkdBeta pair |> Result.map (if released then Distiller.meanWeight else id)
        | _ -> Distillers.find method pair |> Result.map snd

    /// A method's weight by epoch: constant, or rising over the settings' warm-up.
    let weightByEpoch (s: Settings) (weight: float) : Schedule =
        if s.WarmUp = 0 then Schedule.constant weight else Schedule.warmUp weight s.WarmUp

    /// The methods of validated settings for a pair of models, with their weights by epoch.
    let distillers (s: Settings) (pair: ModelPair) : Result<(Schedule * Distiller) list, Error> =
        Map.toList s.Methods
        |> List.traverseResultM (fun (method, weight) ->
            distiller s pair method |> Result.map (fun distiller -> weightByEpoch s weight, distiller)
        )

    /// The size of the smallest batch that a run of the settings trains on.
    let smallestBatch (s: Settings) (data: Splits) : int =
        ImageSet.smallestBatch s.DropLast s.Batch (ImageSet.count data.Train)

    /// The plan of validated settings without a teacher.
    let alone (s: Settings) (student: Model) (data: Splits) (device: Device) : TrainingPlan = {
        Student = student
        Distillation = None
        CrossEntropy = Schedule.constant 1.0
        LearningRate = learningRate s
        Optimiser = optimiser s
        DecayTemperature = s.DecayTemperature
        LabelSmoothing = s.LabelSmoothing
        ClipGradients = unlessZero s.ClipGradients
        Average = unlessZero s.Ema
        Patience = patience s
        Mixup = unlessZero s.Mixup
        Epochs = s.Epochs
        Batch = s.Batch
        DropLast = s.DropLast
        TrainImages = ImageSet.count data.Train
        Unlabelled = ImageSet.isUnlabelled data.Train
        Seed = s.Seed
        Pad = data.Pad
        Flip = data.Flip
        Precision = s.Precision
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
            ModelPair.create data.Train.Height data.Train.Width data.Train.Labels (smallestBatch s data) model student
            |> distillers s
            |> Result.map (fun distillers -> {
                alone with
                    // The teacher's own choice is no label.
                    CrossEntropy = Schedule.constant (if alone.Unlabelled then 0.0 else s.CrossEntropy)
                    Distillation =
                        Some { Model = model; Weights = weights; Policy = policy s; Distillers = distillers }
            })

        match teacher with
        | None -> Ok alone
        | Some teacher -> taught teacher
