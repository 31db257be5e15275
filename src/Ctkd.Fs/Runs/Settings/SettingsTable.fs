namespace Ctkd.Fs

open System
open Ctkd.Fs.FieldKind

/// The one table of the settings. From it come the flags of `teach` and `distill` with their help, the bounds and their
/// messages, the defaults, `--set`, the options of C#, and the reference. To add a setting, add a field to `Settings` (SettingsRecord.fs)
/// and a row here; the field's use in `Settings.plan` or `Run` is all that is left.
[<RequireQualifiedAccess>]
module SettingsTable =

    /// The distillation losses by name: the distillers, and KD at the temperature T whatever the policy decides.
    let methods: string list = Distillers.names @ [ "kd-fixed" ]

    /// The precisions of runs; float64 is for reference numbers.
    let precisions: string list = [ Names.name F32; Names.name Bf16 ]

    /// Milestones at the same shares of another number of epochs, rounded down; those below 1 are left out.
    let scaledMilestones (before: int) (epochs: int) (milestones: int list) : int list =
        milestones
        |> List.map (fun m -> int (int64 m * int64 epochs / int64 before))
        |> List.filter (fun m -> m > 0)
        |> List.distinct

    /// The learning rate's milestones at 5/8, 6/8 and 7/8 of a run: 150, 180, 210 of 240, as the papers have them.
    let milestones (epochs: int) : int list = scaledMilestones 8 epochs [ 5; 6; 7 ]

    /// The models of teachers, and the kinds of files that hold a program.
    let teachers: string list = Zoo.names @ NetworkFile.names

    let private listed (names: string list) : string = String.concat ", " names

    let private own: Field list =
        let s = Unchecked.defaultof<Settings>
        let any flag name kind value = Field.row Audience.EveryRun flag name kind value
        let taught flag name kind value = Field.row Audience.WithTeacher flag name kind value
        let count least = whole least Int32.MaxValue

        [
            taught "student NAME" (nameof s.Student) (nameOf "model" false Zoo.names) "resnet8"
            |> Field.means "the model to train"

            taught "teacher NAME" (nameof s.Teacher) (nameOf "model" true teachers) ""
            |> Field.means
                "the teacher's model; or its file: weights, TorchScript or ONNX, or several, whose outputs are averaged"
            |> Field.by "the one that its weights name or fit"

            taught "weights FILE" (nameof s.TeacherWeights) text ""
            |> Field.means
                "the teacher's weights: a checkpoint, a run's folder, a safetensors or PyTorch file, \
                 FILE.tar:INNER of an archive, FILE#KEY of several; needed"
            |> Field.yours
            |> Field.mayChange
            |> Field.ofMachine

            any "student-weights FILE" (nameof s.StudentWeights) text ""
            |> Field.means
                "the weights that the student starts from, in a file as of --weights; a classifier for other classes is new"
            |> Field.by "drawn from the seed"
            |> Field.yours
            |> Field.isNew
            |> Field.ofMachine

            any "" (nameof s.StudentHash) text ""
            |> Field.means "SHA-256 of the weights that the student starts from: others are refused"
            |> Field.by "recorded"
            |> Field.yours
            |> Field.isNew

            any "data NAME" (nameof s.Data) (nameOf "data set" false Datasets.names) "digits"
            |> Field.means
                $"data set, one of {listed Datasets.names}, or a folder of photographs: short for photos with --data-dir"

            any "data-dir DIR" (nameof s.DataDir) text ""
            |> Field.means "folder (or file) of the data set; digits and cells need none"
            |> Field.yours
            |> Field.mayChange
            |> Field.ofMachine

            any "mean NUMBER" (nameof s.Mean) (numbers anyNumber) ([]: float list)
            |> Field.means "mean of each channel, pixels from 0 to 1"
            |> Field.by "the data set's"
            |> Field.yours

            any "std NUMBER" (nameof s.Std) (numbers positive) ([]: float list)
            |> Field.means "standard deviation of each channel"
            |> Field.by "the data set's"
            |> Field.yours

            any "per-class COUNT" (nameof s.PerClass) (count 0) 0
            |> Field.means "train on the first COUNT images of each class only, 0 for all"
            |> Field.yours

            any "subset COUNT" (nameof s.Subset) (count 0) 0
            |> Field.means
                "train on COUNT images, spread evenly over the classes, and test on at most as many; 0 for all"
            |> Field.yours
            |> Field.isNew

            any "val-split SHARE" (nameof s.ValSplit) (number share) PhotoSets.defaults.ValSplit
            |> Field.means
                "hold this share of each class out of all training images, before --subset and --per-class, and choose the best \
                 epoch on it; of photographs without a val folder it is the test; 0 for none"
            |> Field.by "0; 0.1 of photographs without a val folder"
            |> Field.yours
            |> Field.isNew

            any "split-seed NUMBER" (nameof s.SplitSeed) anyWhole PhotoSets.defaults.Seed
            |> Field.means
                "chooses what --val-split holds out; one of its own, so that runs of other seeds, and a teacher and its student, \
                 have the same images held out"
            |> Field.yours
            |> Field.isNew

            any "epochs COUNT" (nameof s.Epochs) (count 1) 30
            |> Field.means "passes over the training images"
            |> Field.by "30 for digits, 60 for cells, 100 for photographs, 240 for others"
            |> Field.mayChange

            any "batch COUNT" (nameof s.Batch) (count 1) 64 |> Field.means "images per step"

            any "drop-last" (nameof s.DropLast) switch false
            |> Field.means "leave out an epoch's last batch where it is smaller than the others"
            |> Field.isNew

            any "lr RATE" (nameof s.LearningRate) (number positive) 0.05
            |> Field.means "learning rate"
            |> Field.by "0.05; adamw: 0.001"

            any "milestones EPOCH" (nameof s.Milestones) epochs (milestones 30)
            |> Field.means "epochs after which the learning rate is multiplied by --decay"
            |> Field.by "5/8, 6/8, 7/8 of all"

            any "decay FACTOR" (nameof s.Decay) (number positive) 0.1 |> Field.means "factor at a milestone"

            any "lr-schedule NAME" (nameof s.LrSchedule) (case<RateSchedule>()) RateSchedule.Steps
            |> Field.means "steps: the rate falls at the milestones; cosine: from --lr to --lr-stop over all epochs"
            |> Field.isNew

            any "lr-stop RATE" (nameof s.LrStop) (number atLeast0) 0.0
            |> Field.means "what the cosine schedule falls towards"
            |> Field.isNew

            any "lr-warm-up EPOCHS" (nameof s.LrWarmUp) (whole 0 65536) 0
            |> Field.means
                "epochs in which the rate rises: in epoch e it is that of the schedule times e / (EPOCHS + 1)"
            |> Field.isNew

            any "optimizer NAME" (nameof s.Optimiser) (case<OptimiserName>()) OptimiserName.Sgd
            |> Field.means "sgd, or adamw: Adam with decoupled weight decay"
            |> Field.isNew

            any "momentum SHARE" (nameof s.Momentum) (number share) Sgd.defaults.Momentum
            |> Field.means "momentum of sgd, in [0, 1)"

            any "weight-decay WEIGHT" (nameof s.WeightDecay) (number atLeast0) Sgd.defaults.WeightDecay
            |> Field.means "weight decay"
            |> Field.by "0.0005; adamw: 0.01"

            any "nesterov" (nameof s.Nesterov) switch Sgd.defaults.Nesterov |> Field.means "Nesterov's momentum"

            any "adam-beta1 SHARE" (nameof s.AdamBeta1) (number share) AdamW.defaults.Beta1
            |> Field.means "adamw's decay rate of the mean gradient"
            |> Field.isNew

            any "adam-beta2 SHARE" (nameof s.AdamBeta2) (number share) AdamW.defaults.Beta2
            |> Field.means "adamw's decay rate of the mean squared gradient"
            |> Field.isNew

            any "adam-epsilon NUMBER" (nameof s.AdamEpsilon) (number positive) AdamW.defaults.Epsilon
            |> Field.means "adamw's addition to the root of the mean squared gradient"
            |> Field.isNew

            any "label-smoothing SHARE" (nameof s.LabelSmoothing) (number share) 0.0
            |> Field.means "share of each label that is spread evenly over all classes, in [0, 1)"
            |> Field.isNew

            any "mixup ALPHA" (nameof s.Mixup) (number atLeast0) 0.0
            |> Field.means "blend each image with another of its batch, by a share from Beta(ALPHA, ALPHA); 0 for none"
            |> Field.isNew

            any "clip-gradients NORM" (nameof s.ClipGradients) (number atLeast0) 0.0
            |> Field.means "shorten the gradients of all parameters together to this norm; 0 for never"
            |> Field.isNew

            any "ema DECAY" (nameof s.Ema) (number share) 0.0
            |> Field.means
                "evaluate and export the moving average of the student's weights with this decay a step, such as 0.999; \
                 0 for the weights themselves"
            |> Field.isNew

            any "patience EPOCHS" (nameof s.Patience) (count 0) 0
            |> Field.means
                "end the run when the best top-1, on the validation where there is one, has not risen for this many epochs; \
                 0 for never"
            |> Field.mayChange
            |> Field.isNew

            taught "policy NAME" (nameof s.Policy) (case<PolicyName>()) PolicyName.CtkdGlobal
            |> Field.means $"temperature policy, one of {listed (Names.all<PolicyName>())}"

            taught "standardise" (nameof s.Standardise) switch false
            |> Field.means "standardise the logits before the policy softens them"

            taught "t NUMBER" (nameof s.T) (number positive) 4.0
            |> Field.means "T of fixed, kd-fixed and rlkd's warm-up, start of linear and cosine, tau of dtkd"

            taught "t-stop NUMBER" (nameof s.TStop) (number positive) 1.0 |> Field.means "end of linear and cosine"

            taught "t-start NUMBER" (nameof s.TStart) (number atLeast0) Ctkd.publishedRange.Start
            |> Field.means "a learned T lies in (T-START, T-START + T-SCALE)"

            taught "t-scale NUMBER" (nameof s.TScale) (number positive) Ctkd.publishedRange.Scale
            |> Field.means "see --t-start"

            taught "hidden WIDTH" (nameof s.Hidden) (whole 1 65536) 512 |> Field.means "hidden width of ctkd-instance"

            taught "curriculum-start LAMBDA" (nameof s.CurriculumStart) (number atLeast0) 0.0
            |> Field.means "lambda at epoch 0"

            taught "curriculum-stop LAMBDA" (nameof s.CurriculumStop) (number atLeast0) 1.0
            |> Field.means "lambda at the end of the curriculum"

            taught "curriculum-epochs COUNT" (nameof s.CurriculumEpochs) (count 1) 10
            |> Field.means "length of the curriculum"

            taught "no-temperature-decay" (nameof s.DecayTemperature) switch true
            |> Field.means "leave the temperature's parameters out of weight decay"
            |> Field.by "they decay, as published"

            taught "ce WEIGHT" (nameof s.CrossEntropy) (number atLeast0) 0.1
            |> Field.means "weight of the cross entropy with the labels"
            |> Field.by "0.1 beside kd, else 1; dtkd: 1"

            taught "" (nameof s.Methods) (weights "method" methods) (Map [ "kd", 0.9 ])
            |> Field.means
                "the distillation losses that are added up, with their weights; see --method, --method-weights and --kd"

            taught "dkd-alpha WEIGHT" (nameof s.DkdAlpha) (number atLeast0) 1.0
            |> Field.means "dkd's weight of the target class"

            taught "dkd-beta WEIGHT" (nameof s.DkdBeta) (number atLeast0) 2.0
            |> Field.means "dkd's weight of the other classes, published from 0.5 to 8 by pair"

            taught "warm-up EPOCHS" (nameof s.WarmUp) (count 0) 0
            |> Field.means "the methods' weights rise from 0 over this many epochs"
            |> Field.by "20 with dkd or dtkd, else 0"

            any "precision NAME" (nameof s.Precision) (caseAmong<Precision> precisions) F32
            |> Field.means $"precision of products and convolutions, one of {listed precisions}"
            |> Field.yours

            any "contiguous" (nameof s.ChannelsLast) switch true
            |> Field.means "keep images with their channels outermost: slower on most processors"
            |> Field.by "channels innermost"
            |> Field.yours
            |> Field.ofMachine

            any "device NAME" (nameof s.Device) text "cpu"
            |> Field.means "cpu, cuda or cuda:N"
            |> Field.yours
            |> Field.mayChange
            |> Field.ofMachine

            any "threads COUNT" (nameof s.Threads) (whole 0 1024) 0
            |> Field.means "threads of the processor that compute; another number gives other last digits"
            |> Field.by "OMP_NUM_THREADS, or one a core"
            |> Field.yours
            |> Field.mayChange
            |> Field.isNew
            |> Field.ofMachine

            any "no-tf32" (nameof s.Tf32) switch true
            |> Field.means "CUDA: multiply float32 numbers in full, not on the tensor cores as TF32"
            |> Field.by "TF32"
            |> Field.ofMachine

            any "no-graph" (nameof s.Graph) switch true
            |> Field.means "CUDA: launch each operation of a step, record no graph"
            |> Field.by "a graph"
            |> Field.ofMachine

            any "seed NUMBER" (nameof s.Seed) anyWhole 1 |> Field.means "seed of everything random" |> Field.yours

            any "log NAME" (nameof s.Log) (cases<LogName>()) [ LogName.Jsonl ]
            |> Field.means
                "where the numbers of the epochs go: jsonl is metrics.jsonl, always written; tensorboard adds event files in \
                 the run's folder events"
            |> Field.ofMachine
            |> Field.yours
            |> Field.mayChange
            |> Field.isNew

            taught "teacher-cache DIR" (nameof s.TeacherCache) text ""
            |> Field.means "remember the teacher's features in this folder, for later epochs and runs"
            |> Field.by "not remembered"
            |> Field.mayChange
            |> Field.ofMachine

            taught "teacher-cache-gb SIZE" (nameof s.TeacherCacheGb) (number positive) 4.0
            |> Field.means "the most space of the cache, in 10^9 bytes"
            |> Field.mayChange
            |> Field.ofMachine

            taught "teacher-cache-half" (nameof s.TeacherCacheHalf) switch false
            |> Field.means "remember features in 16 bits: half the space, inexact"
            |> Field.by "32 bits, exact"

            taught "teacher-ahead STEPS" (nameof s.TeacherAhead) (whole 1 1024) 1
            |> Field.means "the teacher runs for this many steps at once"
            |> Field.ofMachine
        ]

    /// Every setting.
    let all: Field list = own @ PhotoSettings.fields @ TeacherSettings.fields @ RlkdSettings.fields

    /// The settings that earlier versions lack, each by its path within the record of a run, with its default as JSON.
    let private added: (string * string) list = [
        for field in all do
            if field.IsNew then $"settings.{field.Name}", Json.writeBoxed field.Default
    ]

    /// The settings that earlier versions have under another path within the record of a run.
    let private moved: (string * string) list = [
        "settings.photos.valSplit", "settings.valSplit"
        "settings.photos.splitSeed", "settings.splitSeed"
    ]

    /// Reads the JSON of a record that holds settings, also one of an earlier version, whose missing settings get their defaults,
    /// and whose other missing fields those in `others` (`Json.complete`).
    let readHolderWith<'T> (others: (string * string) list) (where: string) (text: string) : Result<'T, Error> =
        Json.move moved text |> Json.complete (others @ added) |> Json.read<'T> where

    /// As `readHolderWith`, of a record whose own fields are those of earlier versions.
    let readHolder<'T> (where: string) (text: string) : Result<'T, Error> = readHolderWith<'T> [] where text

    /// The row of a flag without its dashes; a bug without such a flag.
    let ofFlag (flag: string) : Field = all |> List.find (fun field -> field.Flag = flag)

    /// The row of a name in JSON, or an error with the nearest names.
    let find (name: string) : Result<Field, Error> =
        match all |> List.tryFind (fun field -> field.Name = name) with
        | Some field -> Ok field
        | None ->
            match all |> List.tryFind (fun field -> field.Flag <> "" && field.Flag = name.TrimStart '-') with
            | Some field ->
                Error.fail Usage $"unknown field '{name}'" "" $"--{field.Flag} sets the field '{field.Name}'"
            | None -> Result.Error(Error.unknown "field" (all |> List.map _.Name) name)
