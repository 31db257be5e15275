namespace Ctkd.Fs.App

open Argu
open Ctkd.Fs

/// What the flags say when they are not given: help is written from the same values that the program uses.
module private Default =
    let s = Settings.defaults
    let r = s.Rlkd
    let list (values: string seq) = String.concat ", " values
    let policies = list Settings.policies
    let models = list Zoo.names
    let methods = list Settings.methods

open Default

/// The flags of `teach` and `distill`.
[<HelpFlags("--help", "-h", "help")>]
type TrainArgs =
    | [<Unique>] Model of NAME: string
    | [<Unique>] Student of NAME: string
    | [<Unique>] Teacher of NAME: string
    | [<Unique>] Weights of FILE: string
    | [<Unique>] Recipe of NAME: string
    | Set of FIELD_VALUE: string list
    | [<Unique>] Dry_Run
    | [<Unique>] Data of NAME: string
    | [<Unique>] Data_Dir of DIR: string
    | [<Unique>] Mean of NUMBER: float list
    | [<Unique>] Std of NUMBER: float list
    | [<Unique>] Per_Class of COUNT: int
    | [<Unique>] Out of DIR: string
    | [<Unique>] Resume of PATH: string
    | [<Unique>] Epochs of COUNT: int
    | [<Unique>] Batch of COUNT: int
    | [<Unique>] Lr of RATE: float
    | [<Unique>] Milestones of EPOCH: int list
    | [<Unique>] Decay of FACTOR: float
    | [<Unique>] Momentum of SHARE: float
    | [<Unique>] Weight_Decay of WEIGHT: float
    | [<Unique>] Nesterov
    | [<Unique>] Method of NAME: string list
    | [<Unique>] Method_Weights of NUMBER: float list
    | [<Unique>] Kd of WEIGHT: float
    | [<Unique>] Ce of WEIGHT: float
    | [<Unique>] Dkd_Alpha of WEIGHT: float
    | [<Unique>] Dkd_Beta of WEIGHT: float
    | [<Unique>] Warm_Up of EPOCHS: int
    | [<Unique>] Policy of NAME: string
    | [<Unique>] Standardise
    | [<Unique>] T of NUMBER: float
    | [<Unique>] T_Stop of NUMBER: float
    | [<Unique>] T_Start of NUMBER: float
    | [<Unique>] T_Scale of NUMBER: float
    | [<Unique>] Hidden of WIDTH: int
    | [<Unique>] Curriculum_Start of LAMBDA: float
    | [<Unique>] Curriculum_Stop of LAMBDA: float
    | [<Unique>] Curriculum_Epochs of COUNT: int
    | [<Unique>] No_Temperature_Decay
    | [<Unique>] Rl_Mode of NAME: string
    | [<Unique>] Rl_Warm_Up of EPOCH: int
    | [<Unique>] Rl_Every of EPOCHS: int
    | [<Unique>] Rl_Ramp of EPOCHS: int
    | [<Unique>] Rl_No_Mix
    | [<Unique>] Rl_Mix_Until of EPOCH: int
    | [<Unique>] Precision of NAME: string
    | [<Unique>] Contiguous
    | [<Unique>] Device of NAME: string
    | [<Unique>] No_Tf32
    | [<Unique>] No_Graph
    | [<Unique>] Seed of NUMBER: int
    | [<Unique>] Teacher_Cache of DIR: string
    | [<Unique>] Teacher_Cache_Gb of SIZE: float
    | [<Unique>] Teacher_Cache_Half
    | [<Unique>] Teacher_Ahead of STEPS: int
    | [<Unique>] Json

    interface IArgParserTemplate with
        member this.Usage =
            match this with
            | Model _ -> $"teach: the model to train [{s.Student}]: {models}"
            | Student _ -> $"distill: the model to train [{s.Student}]"
            | Teacher _ -> "distill: the teacher's model [the one that its weights name or fit]"
            | Weights _ ->
                "distill: the teacher's weights: a checkpoint, a run's folder, a safetensors or PyTorch file; needed"
            | Recipe _ ->
                "distill: the settings of a published experiment, or of a JSON file; see: ctkd recipes [none]"
            | Set _ ->
                "FIELD=VALUE ...: set fields by their names in settings.json, such as learningRate=0.1 \
                 methods=kd:0.9,crd:0.8 [none]"
            | Dry_Run -> "train nothing: print every setting with its origin [no]"
            | Data _ -> $"data set [{s.Data}]: {list Datasets.names}"
            | Data_Dir _ -> "folder (or file) of the data set; digits need none"
            | Mean _ -> "mean of each channel, pixels from 0 to 1 [the data set's]"
            | Std _ -> "standard deviation of each channel [the data set's]"
            | Per_Class _ -> "train on the first COUNT images of each class only, 0 for all [0]"
            | Out _ -> "folder of the run [runs/COMMAND-MODEL-SEED, or runs/RECIPE-SEED]"
            | Resume _ -> "go on with a run: its folder or one of its checkpoints; settings come from there"
            | Epochs _ -> $"passes over the training images [{s.Epochs} for digits, 240 for others]"
            | Batch _ -> $"images a step [{s.Batch}]"
            | Lr _ -> $"learning rate [{s.LearningRate}]"
            | Milestones _ ->
                "epochs after which the learning rate is multiplied by --decay [5/8, 6/8, 7/8 of all]"
            | Decay _ -> $"factor at a milestone [{s.Decay}]"
            | Momentum _ -> $"momentum of the optimiser, in [0, 1) [{s.Momentum}]"
            | Weight_Decay _ -> $"weight decay [{s.WeightDecay}]"
            | Nesterov -> "Nesterov's momentum [no]"
            | Method _ -> $"distill: one loss or several, added up [kd; under dtkd: kd kd-fixed]: {methods}"
            | Method_Weights _ -> "distill: a weight for each --method, in their order [as published]"
            | Kd _ -> "distill: weight of kd, beside the other methods [0.9; under dtkd 3]"
            | Ce _ -> "distill: weight of the cross entropy with the labels [0.1 beside kd, else 1; dtkd: 1]"
            | Dkd_Alpha _ -> $"distill: dkd's weight of the target class [{s.DkdAlpha}]"
            | Dkd_Beta _ ->
                $"distill: dkd's weight of the other classes, published from 0.5 to 8 by pair [{s.DkdBeta}]"
            | Warm_Up _ ->
                "distill: the methods' weights rise from 0 over so many epochs [20 with dkd or dtkd, else 0]"
            | Policy _ -> $"distill: temperature policy [{s.Policy}]: {policies}"
            | Standardise -> "distill: standardise the logits before the policy softens them [no]"
            | T _ ->
                $"distill: T of fixed, kd-fixed and rlkd's warm-up, start of linear and cosine, tau of dtkd [{s.T}]"
            | T_Stop _ -> $"distill: end of linear and cosine [{s.TStop}]"
            | T_Start _ -> $"distill: a learned T lies in (T-START, T-START + T-SCALE) [{s.TStart}]"
            | T_Scale _ -> $"distill: see --t-start [{s.TScale}]"
            | Hidden _ -> $"distill: hidden width of ctkd-instance [{s.Hidden}]"
            | Curriculum_Start _ -> $"distill: lambda at epoch 0 [{s.CurriculumStart}]"
            | Curriculum_Stop _ -> $"distill: lambda at the end of the curriculum [{s.CurriculumStop}]"
            | Curriculum_Epochs _ -> $"distill: length of the curriculum [{s.CurriculumEpochs}]"
            | No_Temperature_Decay ->
                "distill: leave the temperature's parameters out of weight decay [they decay, as published]"
            | Rl_Mode _ ->
                $"rlkd: what the paper says or its released code does [{r.Mode}]: {list RlkdSettings.modes}"
            | Rl_Warm_Up _ ->
                $"rlkd: the first epoch in which the agent chooses T; until then T is --t [{r.WarmUp} of {RlkdSettings.publishedEpochs} epochs]"
            | Rl_Every _ ->
                $"rlkd: it learns in the epochs divisible by this [{r.Every} of {RlkdSettings.publishedEpochs}]"
            | Rl_Ramp _ ->
                "rlkd: the reward grows over so many epochs [80 of 240; official: the released table]"
            | Rl_No_Mix -> "rlkd: mix no images [mixed in the epochs of learning but the first]"
            | Rl_Mix_Until _ -> "rlkd: the last epoch with mixed images [150 of 240; official: no end]"
            | Precision _ -> $"{list Settings.precisions} [{s.Precision}]"
            | Contiguous ->
                "keep images with their channels outermost: slower on most processors [channels innermost]"
            | Device _ -> $"cpu, cuda or cuda:N [{s.Device}]"
            | No_Tf32 -> "CUDA: multiply float32 numbers in full, not on the tensor cores as TF32 [TF32]"
            | No_Graph -> "CUDA: ask for each operation of a step, record no graph [a graph]"
            | Seed _ -> $"seed of everything random [{s.Seed}]"
            | Teacher_Cache _ ->
                "distill: remember the teacher's features in this folder, for later epochs and runs [not remembered]"
            | Teacher_Cache_Gb _ ->
                $"distill: the most space of the cache, in 10^9 bytes [{s.TeacherCacheGb}]"
            | Teacher_Cache_Half ->
                "distill: remember features in 16 bits: half the space, inexact [32 bits, exact]"
            | Teacher_Ahead _ -> $"distill: the teacher runs for so many steps at once [{s.TeacherAhead}]"
            | Json ->
                "the result as one JSON object on the standard output, everything else on the standard error"

/// The flags of `eval`.
[<RequireQualifiedAccess; HelpFlags("--help", "-h", "help")>]
type EvalArgs =
    | [<Unique>] Weights of FILE: string
    | [<Unique>] Model of NAME: string
    | [<Unique>] Teacher_Weights of FILE: string
    | [<Unique>] Teacher of NAME: string
    | [<Unique>] Data of NAME: string
    | [<Unique>] Data_Dir of DIR: string
    | [<Unique>] Mean of NUMBER: float list
    | [<Unique>] Std of NUMBER: float list
    | [<Unique>] Batch of COUNT: int
    | [<Unique>] Precision of NAME: string
    | [<Unique>] Device of NAME: string
    | [<Unique>] Json

    interface IArgParserTemplate with
        member this.Usage =
            match this with
            | Weights _ -> "weights: a checkpoint, a run's folder, a safetensors or PyTorch file; needed"
            | Model _ -> "model of the weights [the one that they name or fit]"
            | Teacher_Weights _ -> "a teacher's weights: adds agreement with it and the mean KL to it [none]"
            | Teacher _ -> "the teacher's model [the one that its weights name or fit]"
            | Data _ -> "data set whose test images are classified [the one the weights were trained on]"
            | Data_Dir _ -> "folder (or file) of the data set [as trained]"
            | Mean _ -> "mean of each channel [as trained; of another --data its own]"
            | Std _ -> "standard deviation of each channel [as trained; of another --data its own]"
            | Batch _ -> "images a forward pass [250]"
            | Precision _ -> $"{list Settings.precisions} [{s.Precision}]"
            | Device _ -> $"cpu, cuda or cuda:N [{s.Device}]"
            | Json -> "the result as one JSON object"

/// The flags of `export`.
[<HelpFlags("--help", "-h", "help")>]
type ExportArgs =
    | [<Unique>] Weights of FILE: string
    | [<Unique>] Model of NAME: string
    | [<Unique>] Onnx of FILE: string
    | [<Unique>] Fold_Batch_Norm
    | [<Unique>] Opset of NUMBER: int
    | [<Unique>] Size of PIXELS: int
    | [<Unique>] Normalise
    | [<Unique>] Mean of NUMBER: float list
    | [<Unique>] Std of NUMBER: float list
    | [<Unique>] Json

    interface IArgParserTemplate with
        member this.Usage =
            match this with
            | Weights _ -> "weights: a checkpoint, a run's folder, a safetensors or PyTorch file; needed"
            | Model _ -> "model of the weights [the one that they name or fit]"
            | Onnx _ -> "the ONNX file to write or replace; needed"
            | Fold_Batch_Norm -> "merge batch normalisations into the convolutions before them [no]"
            | Opset _ -> $"version of ONNX's operators, 17 to 21 [{(OnnxOptions.forSize 1).Opset}]"
            | Size _ -> "height and width of the images [those of the training data, or as published]"
            | Normalise ->
                "take pixels from 0 to 1 and normalise them in the network [the caller normalises them]"
            | Mean _ -> "mean of each channel, pixels from 0 to 1 [as trained]"
            | Std _ -> "standard deviation of each channel [as trained]"
            | Json -> "what was written as one JSON object"

/// The flags of `quickstart`.
[<HelpFlags("--help", "-h", "help")>]
type QuickstartArgs =
    | [<Unique>] Out of DIR: string
    | [<Unique>] Seed of NUMBER: int
    | [<Unique>] Precision of NAME: string
    | [<Unique>] Device of NAME: string
    | [<Unique>] Json

    interface IArgParserTemplate with
        member this.Usage =
            match this with
            | Out _ ->
                "folder of the runs [runs/quickstart, or the next free number; an interrupted one goes on]"
            | Seed _ -> $"seed of everything random [{s.Seed}]"
            | Precision _ -> $"{list Settings.precisions} [{s.Precision}]"
            | Device _ -> $"cpu, cuda or cuda:N [{s.Device}]"
            | Json -> "the result as one JSON object"

/// The flags of `models`.
[<HelpFlags("--help", "-h", "help")>]
type ModelsArgs =
    | [<MainCommand; Unique>] Name of NAME: string
    | [<Unique>] Classes of COUNT: int
    | [<Unique>] Size of PIXELS: int
    | [<Unique>] Policy of NAME: string
    | [<Unique>] Hidden of WIDTH: int
    | [<Unique>] Json

    interface IArgParserTemplate with
        member this.Usage =
            match this with
            | Name _ -> "print the layers of this model"
            | Classes _ -> "number of classes [100, of ImageNet's models 1000]"
            | Size _ -> "height and width of the images [32, of ImageNet's models 224]"
            | Policy _ -> $"add what this temperature policy's network costs [none]: {policies}"
            | Hidden _ -> $"hidden width of ctkd-instance [{s.Hidden}]"
            | Json -> "everything as JSON: counts, features, the state_dict's names and shapes"

/// The flags of `recipes`.
[<HelpFlags("--help", "-h", "help")>]
type RecipesArgs =
    | [<MainCommand; Unique>] Name of NAME: string
    | [<Unique>] Source of NAME: string
    | [<Unique>] Teacher of NAME: string
    | [<Unique>] Student of NAME: string
    | [<Unique>] Method of NAME: string
    | [<Unique>] Policy of NAME: string
    | [<Unique>] Data of NAME: string
    | [<Unique>] Json

    interface IArgParserTemplate with
        member this.Usage =
            let names (of': Recipe -> string) = Recipes.all |> List.map of' |> List.distinct |> list

            match this with
            | Name _ -> "print this recipe as JSON, which distill --recipe FILE.json takes as well"
            | Source _ -> $"only those of [all]: {names _.Source}"
            | Teacher _ -> "only those of this teacher [all]"
            | Student _ -> "only those of this student [all]"
            | Method _ -> $"only those of this method [all]: {names _.Method}"
            | Policy _ -> $"only those of this temperature policy [all]: {names _.Policy}"
            | Data _ -> $"only those of this data set [all]: {names _.Settings.Data}"
            | Json -> "the list as JSON"

/// The flags of `inspect`.
[<HelpFlags("--help", "-h", "help")>]
type InspectArgs =
    | [<MainCommand; Unique>] File of FILE: string
    | [<Unique>] Json

    interface IArgParserTemplate with
        member this.Usage =
            match this with
            | File _ -> "a checkpoint, a run's folder, a safetensors or PyTorch file"
            | Json -> "everything as one JSON object"

/// The flags of `convert`.
[<HelpFlags("--help", "-h", "help")>]
type ConvertArgs =
    | [<Unique>] Weights of FILE: string
    | [<Unique>] Out of FILE: string
    | [<Unique>] Model of NAME: string
    | [<Unique>] Format of NAME: string
    | [<Unique>] Json

    interface IArgParserTemplate with
        member this.Usage =
            match this with
            | Weights _ ->
                "what is converted: a checkpoint, a run's folder, a safetensors or PyTorch file; needed"
            | Out _ -> "the new file; needed"
            | Model _ ->
                "model of the weights: they are checked against it [the one that they name or fit, if any]"
            | Format _ ->
                "safetensors or pytorch [by the new file's ending: .safetensors, or .pt .pth .th .ckpt]"
            | Json -> "the result as one JSON object"

/// The flags of `doctor`.
[<RequireQualifiedAccess; HelpFlags("--help", "-h", "help")>]
type DoctorArgs =
    | [<Unique>] Device of NAME: string
    | [<Unique>] Json

    interface IArgParserTemplate with
        member this.Usage =
            match this with
            | Device _ ->
                "cpu, cuda or cuda:N: train a little there, and check that recorded steps are those of the host [none]"
            | Json -> "the findings as JSON"

/// The flags of `bench`.
[<HelpFlags("--help", "-h", "help")>]
type BenchArgs =
    | [<MainCommand; Unique>] What of NAME: string
    | [<Unique>] Part of NAME: string
    | [<Unique>] Pairs of COUNT: int
    | [<Unique>] Steps of COUNT: int
    | [<Unique>] Starts of COUNT: int
    | [<Unique>] Precision of NAME: string
    | [<Unique>] Teacher of NAME: string
    | [<Unique>] Student of NAME: string
    | [<Unique>] Device of NAME: string
    | [<Unique>] Out of FOLDER: string
    | [<Unique>] Sides of NAME: string list
    | [<Unique>] Beside of PROGRAM: string
    | [<Hidden>] Serve
    | [<Hidden>] Tf32
    | [<Unique>] Json

    interface IArgParserTemplate with
        member this.Usage =
            match this with
            | What _ ->
                "compare (with PyTorch and others), overheads (of policies and distillers) or scaling (with batch, classes, depth) [compare]"
            | Part _ ->
                "of compare: step, recorded, remembered, teacher, student or data [all; recorded on CUDA alone]"
            | Pairs _ -> "rounds of measurements [15, of overheads 60, of scaling 9]"
            | Steps _ -> "batches a measurement of compare [4] and overheads [1]"
            | Starts _ ->
                "spread the rounds over so many starts, of all processes in compare, of the learners in overheads [3]"
            | Precision _ ->
                $"{list Settings.precisions} [of compare: both; of overheads and scaling: {s.Precision}]"
            | Teacher _ -> "of overheads: the teacher's model [resnet56]"
            | Student _ -> "of overheads: the student's model [resnet20]"
            | Device _ -> $"cpu, cuda or cuda:N [{s.Device}]"
            | Out _ -> "of scaling: folder of the charts [none are drawn]"
            | Sides _ ->
                "of compare: sides by their names or how these begin, such as ours torchsharp torchsharp-tuned-bf16 pytorch-tuned [ours, and PyTorch as it comes]"
            | Beside _ ->
                "of compare: one more program to compare with, the file ctkd or ctkd.dll of another version [none]"
            | Serve -> "internal"
            | Tf32 -> "internal"
            | Json -> "the result as one JSON object"

/// The commands.
[<CliPrefix(CliPrefix.None); HelpFlags("--help", "-h", "help")>]
type CtkdArgs =
    | [<SubCommand>] Quickstart of ParseResults<QuickstartArgs>
    | [<SubCommand>] Teach of ParseResults<TrainArgs>
    | [<SubCommand>] Distill of ParseResults<TrainArgs>
    | [<SubCommand>] Eval of ParseResults<EvalArgs>
    | [<SubCommand>] Plot of ParseResults<PlotArgs>
    | [<SubCommand>] Export of ParseResults<ExportArgs>
    | [<SubCommand>] Models of ParseResults<ModelsArgs>
    | [<SubCommand>] Recipes of ParseResults<RecipesArgs>
    | [<SubCommand>] Inspect of ParseResults<InspectArgs>
    | [<SubCommand>] Convert of ParseResults<ConvertArgs>
    | [<SubCommand>] Doctor of ParseResults<DoctorArgs>
    | [<SubCommand>] Bench of ParseResults<BenchArgs>
    | [<SubCommand>] Version

    interface IArgParserTemplate with
        member this.Usage =
            match this with
            | Quickstart _ ->
                "train a teacher on handwritten digits and distil students from it: the tour, under 3 minutes"
            | Teach _ -> "train a model from labels alone"
            | Distill _ ->
                "train a student from a teacher: methods under a temperature policy, or a published recipe"
            | Eval _ ->
                "classify a test set with trained weights: accuracy, calibration, likeness to a teacher"
            | Plot _ -> "draw curves of runs, class correlations or a t-SNE of features as SVG or PNG"
            | Export _ -> "write trained weights as a network that other runtimes read: ONNX"
            | Models _ ->
                "list the models with their parameters, multiply-accumulates and features, or print the layers of one"
            | Recipes _ -> "list published experiments with their accuracies, or print one as JSON"
            | Inspect _ -> "what a file of weights holds, and which model it fits"
            | Convert _ -> "write weights in another format: PyTorch's, or safetensors"
            | Doctor _ -> "what the engine is, what is missing and the command that mends it"
            | Bench _ -> "time the training step: beside PyTorch's, its overheads, its scaling"
            | Version -> "print the version"
