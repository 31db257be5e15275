namespace Ctkd.Fs

open System
open FsToolkit.ErrorHandling

/// A trained model, from a file or from the program.
[<NoComparison; NoEquality>]
type LoadedModel = {
    Model: Model
    Weights: Tree
    /// The record of the run that trained it; None for weights from elsewhere.
    Info: CheckpointInfo option
    /// SHA-256 of what decides its outputs, where that is more than its weights: a file with a program, another view of the
    /// images. None elsewhere, and for a program's own code, which nothing identifies.
    Hash: string option
}

/// Loading, judging and naming trained models.
[<RequireQualifiedAccess>]
module LoadedModel =

    /// Reads a file of weights as a checkpoint, if it is one, or as plain weights.
    let private readFile (role: WeightsRole) (path: string) : Result<Choice<Checkpoint, WeightsFile>, Error> =
        result {
            let! path = RunDirectory.weightsOf path

            let! weights = WeightsFile.readAs role path |> Result.mapError (RunDirectory.offerBest path.File)

            if Checkpoint.isCheckpoint weights.Metadata && path.Inner = "" && path.Key = "" then
                let! checkpoint = Checkpoint.read path.File |> Result.mapError (RunDirectory.offerBest path.File)
                return Choice1Of2 checkpoint
            else
                return Choice2Of2 weights
        }

    let private ofCheckpoint device (expected: string option) (checkpoint: Checkpoint) : Result<LoadedModel, Error> =
        result {
            let name = checkpoint.Info.Settings.Student

            do!
                match expected with
                | Some other when other <> name ->
                    Error.fail
                        Mismatch
                        $"the weights are those of {name}, not of {other}"
                        checkpoint.Path
                        $"name the model {name}, or give the weights of {other}"
                | _ -> Ok()

            let! model = Zoo.find name checkpoint.Info.Classes
            let! weights = Checkpoint.student model DType.Float32 device checkpoint
            return { Model = model; Weights = weights; Info = Some checkpoint.Info; Hash = None }
        }

    /// Adds the other models that the weights fit.
    let private advise (model: Model) (file: WeightsFile) (error: Error) : Error =
        let others = Identify.fitting file |> List.map _.Name |> List.except [ model.Name ]

        if error.Kind <> Mismatch || others.IsEmpty then
            error
        else
            let names = String.Join(" or ", others)
            { error with Next = $"these weights fit {names}: name that model" }

    let private tensorsOf (options: WeightsOptions) device (model: Model) (file: WeightsFile) =
        result {
            let! found, added, notes = WeightsFit.fitted options model file |> Result.mapError (advise model file)

            let! weights =
                file
                |> WeightsFile.load
                    $"model {model.Name} for {model.Classes} classes"
                    device
                    (Weights.expected DType.Float32 (Model.declarations model))
                    found

            return weights, added, notes
        }

    let private ofWeights
        (options: WeightsOptions)
        device
        (expected: string option)
        (file: WeightsFile)
        : Result<LoadedModel * string list, Error> =
        result {
            let! model = Identify.modelOf options.IgnoreExtra expected file
            let! weights, _, notes = tensorsOf options device model file
            return { Model = model; Weights = weights; Info = None; Hash = None }, notes
        }

    /// The weights of a file for a model of known kind, the names of those that are new, and what a user should know.
    let internal weightsFor
        (options: WeightsOptions)
        (device: Device)
        (model: Model)
        (path: string)
        : Result<Tree * string list * string list, Error> =
        readFile options.Role path
        |> Result.bind (
            function
            | Choice1Of2 checkpoint ->
                let tensors, added = Checkpoint.studentTensors checkpoint |> WeightsFit.withClassifier options model

                tensors
                |> Weights.fit
                    $"model {model.Name} for {model.Classes} classes"
                    checkpoint.Path
                    device
                    (Weights.expected DType.Float32 (Model.declarations model))
                |> Result.map (fun weights -> weights, added, WeightsFit.classifierNotes options added)
            | Choice2Of2 file -> tensorsOf options device model file
        )

    /// As `load`, with what may differ, and with what a user should know: which of several weights were taken, and what was
    /// left aside.
    let loadWith
        (options: WeightsOptions)
        (device: Device)
        (expected: string option)
        (path: string)
        : Result<LoadedModel * string list, Error> =
        readFile options.Role path
        |> Result.bind (
            function
            | Choice1Of2 checkpoint -> ofCheckpoint device expected checkpoint |> Result.map (fun loaded -> loaded, [])
            | Choice2Of2 file -> ofWeights options device expected file
        )

    /// <summary>
    /// Loads a trained model from a run's folder, a checkpoint (its student), or a file of weights, safetensors or
    /// PyTorch's, in an archive as FILE:INNER, one of several as FILE#KEY.
    /// </summary>
    /// <param name="say">Receives what a user should know: which of several weights were taken, and how to choose others.</param>
    /// <param name="device">The device of the weights.</param>
    /// <param name="expected">The model that the user named, if any; without it the file's metadata or its tensors tell.</param>
    /// <param name="path">The path.</param>
    /// <returns>The model, or why the file does not give one.</returns>
    let load
        (say: string -> unit)
        (device: Device)
        (expected: string option)
        (path: string)
        : Result<LoadedModel, Error> =
        loadWith WeightsFit.strict device expected path
        |> Result.map (fun (loaded, notes) ->
            notes |> List.iter say
            loaded
        )

    /// The kind of a file that holds a program beside its weights; None for files of weights.
    let programIn (path: string) : Result<(NetworkFile * string) option, Error> =
        RunDirectory.weightsOf path
        |> Result.bind (fun path ->
            if path.Inner = "" && path.Key = "" then
                NetworkFile.kindOf path.File |> Result.map (Option.map (fun kind -> kind, path.File))
            else
                Ok None
        )

    /// As `nameOf`, with what may differ.
    let nameWith (options: WeightsOptions) (path: string) : Result<string, Error> =
        programIn path
        |> Result.bind (
            function
            | Some(kind, _) -> Ok(NetworkFile.name kind)
            | None ->
                readFile options.Role path
                |> Result.bind (
                    function
                    | Choice1Of2 checkpoint -> Ok checkpoint.Info.Settings.Student
                    | Choice2Of2 file -> Identify.modelOf options.IgnoreExtra None file |> Result.map _.Name
                )
        )

    /// Returns the name of a teacher's model alone; of a file with a program that of its kind.
    let nameOf (path: string) : Result<string, Error> =
        nameWith { WeightsFit.strict with Role = WeightsRole.Teacher } path

    /// Computes the SHA-256 over the names and bytes of a model's weights.
    let fingerprint (weights: Tree) : string =
        use hash =
            Security.Cryptography.IncrementalHash.CreateHash Security.Cryptography.HashAlgorithmName.SHA256

        for name, x in Tree.toList weights do
            hash.AppendData(Text.Encoding.UTF8.GetBytes name)
            hash.AppendData(Tensor.toBytes x)

        Convert.ToHexStringLower(hash.GetHashAndReset())

    /// What decides a model's outputs; None where a program's own code does.
    let identity (loaded: LoadedModel) : string option =
        let isOwn (layer: Layer) = layer.IsCustom || layer.IsWhole

        match loaded.Hash with
        | Some hash -> Some hash
        | None when Layer.leaves loaded.Model.Body |> List.exists isOwn -> None
        | None -> Some(fingerprint loaded.Weights)

    /// Computes a model's accuracy in the plan's precision and memory format, in batches of the given size.
    let accuracyIn (batch: int) (plan: TrainingPlan) (model: Model) (weights: Tree) (feed: ImageFeed) : Accuracy =
        feed |> Evaluate.accuracy batch (fun images -> (TrainingPlan.forward plan model false weights images).Logits)

    /// Checks that the model takes the data set's images and has its number of classes.
    let fits (data: Splits) (trained: LoadedModel) : Result<unit, Error> =
        let model = trained.Model

        let names = trained.Info |> Option.map _.ClassNames |> Option.defaultValue []
        let listed (names: string list) = names |> List.truncate 5 |> List.map Files.printable |> String.concat ", "

        if ImageSet.isUnlabelled data.Test then
            Error.fail
                Mismatch
                "the images have no labels to compare with"
                ""
                "put labelled ones into DIR/val/CLASS/, or ask for classes with: ctkd predict DIR"
        elif not names.IsEmpty && not data.ClassNames.IsEmpty && names <> data.ClassNames then
            Error.fail
                Mismatch
                $"{model.Name} was trained on the classes {listed names}, and the data set has {listed data.ClassNames}"
                ""
                "give images in folders of the same names"
        elif model.Classes = data.Test.Classes then
            Model.checkInput data.Test.Height data.Test.Width model
        else
            Error.fail
                Mismatch
                $"{model.Name} knows {model.Classes} classes, the data set has {data.Test.Classes}"
                ""
                "name the data set that the weights were trained on with --data"

    /// Runs a body on the test images that the settings name, with a forward pass of each model in the settings' precision.
    /// Its result must hold no tensor.
    let private onTest device (s: Settings) (models: LoadedModel list) body : Result<'T, Error> =
        Tensor.scoped (fun () ->
            result {
                let! data = Settings.loadData s
                do! models |> List.traverseResultM (fits data) |> Result.map ignore
                let plan = Settings.alone s models.Head.Model data device
                let say (text: string) = Console.Error.WriteLine text
                data.Warnings |> List.iter (fun warning -> say $"warning: {warning}")
                use feeds = Feeds.test s DType.Float32 device say data |> Feeds.owning data

                let forward (trained: LoadedModel) =
                    let weights = TrainingPlan.format plan trained.Weights
                    TrainingPlan.forward plan trained.Model false weights

                return body feeds.Test (List.map forward models)
            }
        )

    let private notFinite (models: LoadedModel list) : Error =
        let names = models |> List.map _.Model.Name |> String.concat " and "

        Error.create
            Mismatch
            $"{names}: the outputs for the test images are not finite"
            ""
            "check --mean and --std; weights that are damaged or diverged are seen by ctkd inspect"

    /// Computes accuracy, calibration and, beside a teacher, likeness of a model on the test images that the settings name,
    /// in their precision.
    let evaluate
        (device: Device)
        (s: Settings)
        (teacher: LoadedModel option)
        (trained: LoadedModel)
        : Result<Evaluation, Error> =
        onTest
            device
            s
            (trained :: Option.toList teacher)
            (fun set forwards ->
                match forwards |> List.map (fun forward -> forward >> (fun (shown: Outputs) -> shown.Logits)) with
                | [] -> invalidOp "there is a model to evaluate."
                | forward :: teachers -> Evaluate.fully s.Batch (List.tryHead teachers) forward set
            )
        |> Result.bind (fun evaluation ->
            let likeness = evaluation.Likeness |> Option.map _.Divergence |> Option.defaultValue 0.0

            if Double.IsFinite evaluation.Accuracy.Loss && Double.IsFinite likeness then
                Ok evaluation
            else
                Result.Error(notFinite (trained :: Option.toList teacher))
        )

    /// Returns each model's logits and pooled features by image for the first test images that the settings name, and the
    /// images' labels.
    let outputs
        (device: Device)
        (s: Settings)
        (images: int)
        (models: LoadedModel list)
        : Result<struct (float[][] * float[][]) list * int[], Error> =
        let rows (x: Tensor) = Tensor.toFloats x |> Array.chunkBySize (Tensor.size 1 x)

        onTest
            device
            s
            models
            (fun set forwards ->
                let seen = forwards |> List.map (fun forward -> Evaluate.outputs s.Batch forward images set)
                let shown = seen |> List.map (fun seen -> struct (rows seen.Logits, rows seen.Pooled))
                shown, seen.Head.Labels
            )
        |> Result.bind (fun (shown, labels) ->
            let isFinite = Array.forall (Array.forall Double.IsFinite)

            if shown |> List.forall (fun struct (logits, features) -> isFinite logits && isFinite features) then
                Ok(shown, labels)
            else
                Result.Error(notFinite models)
        )

    /// Computes the accuracy alone.
    let accuracy (device: Device) (s: Settings) (trained: LoadedModel) : Result<Accuracy, Error> =
        evaluate device s None trained |> Result.map _.Accuracy

    /// Returns a warning where a teacher's accuracy looks wrong: a wrong normalisation is the commonest silent fault.
    let warning (settings: Settings) (trained: LoadedModel) (accuracy: Accuracy) : string option =
        let chance = 100.0 / float trained.Model.Classes

        let recorded =
            trained.Info |> Option.filter (fun info -> info.Settings.Data = settings.Data) |> Option.map _.Top1

        if accuracy.Top1 < chance + 0.1 * (100.0 - chance) then
            Some $"the teacher is near chance (%.1f{chance} %%): check --mean and --std, the data set and the weights"
        else
            recorded
            |> Option.filter (fun top1 -> accuracy.Top1 < top1 - 2.0)
            |> Option.map (fun top1 ->
                $"the teacher had %.2f{top1} %% when it was trained: check --mean and --std and the data set"
            )
