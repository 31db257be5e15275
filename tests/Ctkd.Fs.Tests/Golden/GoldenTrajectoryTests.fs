module Ctkd.Fs.Tests.GoldenTrajectoryTests

open System.Text.Json
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Golden

let private curriculum (run: JsonElement) : Schedule = Schedule.curriculum (integer "lambda_loops" run)

/// The implemented distillers, by the file's `method`.
let private distillers: Map<string, JsonElement -> (Schedule * Distiller) list> =
    let kd run = Schedule.constant (number "alpha_kl" run), Kd.distiller

    let dkd run =
        let softened (input: DistillerInput) =
            Dkd.loss (number "dkd_alpha" run) (number "dkd_beta" run) input.Labels input.Softened

        Schedule.constant (number "beta_other" run), Distiller.simple "dkd" (softened >> Tensor.mean)

    Map [ "kd", (fun run -> [ kd run ]); "dkd", (fun run -> [ kd run; dkd run ]) ]

/// The implemented policies, by the file's `temperature`.
let private policies: Map<string, JsonElement -> Policy> =
    Map [
        "fixed", fun run -> Scheduled.fixedAt (number "T_fixed" run)
        "ctkd_global",
        fun run ->
            let range = { Start = number "t_start" run; Scale = number "t_scale" run }
            Ctkd.globalPolicy range (curriculum run)
    ]

let private plan (run: JsonElement) (student: Model) (teacher: Model) policy distillers : TrainingPlan =
    let weights =
        weights DType.Float64 "teacher/" teacher
        |> Tree.map (fun name w ->
            if name = teacher.Classifier.Weight then
                Tensor.scale (number "teacher_fc_weight_times" run) w
            else
                w
        )

    let teaching = { Model = teacher; Weights = weights; Policy = policy; Distillers = distillers }

    {
        Student = student
        Distillation = Some teaching
        CrossEntropy = Schedule.constant (number "gamma_ce" run)
        LearningRate = Schedule.constant (number "lr" run)
        Optimiser =
            Optimiser.Sgd {
                Momentum = number "momentum" run
                WeightDecay = number "weight_decay" run
                Nesterov = false
            }
        DecayTemperature = (field "weight_decay_on_theta" run).GetBoolean()
        LabelSmoothing = 0.0
        ClipGradients = None
        Average = None
        Patience = None
        Mixup = None
        Epochs = integer "steps" run / integer "steps_per_epoch" run
        Batch = integer "batch" run
        DropLast = false
        TrainImages = integer "batch" run
        Unlabelled = false
        Seed = 0
        Pad = 0
        Flip = false
        Precision = F64
        ChannelsLast = false
        Device = Device.Cpu
    }

/// Returns how the plan of a trajectory is made; None where the file names a method, policy or model that no table here has.
let private implemented (run: JsonElement) : (unit -> TrainingPlan) option =
    let model name = Zoo.find (text name run) (integer "classes" run) |> Result.toOption
    let known = Map.tryFind (text "method" run) distillers, Map.tryFind (text "temperature" run) policies

    match known, model "student", model "teacher" with
    | (Some distillers, Some policy), Some student, Some teacher ->
        Some(fun () -> plan run student teacher (policy run) (distillers run))
    | _ -> None

/// The state before the first step.
let private start (plan: TrainingPlan) (run: JsonElement) : TrainState =
    let state = TrainState.start plan
    let given = weights DType.Float64 "student/" plan.Student

    Autograd.noGrad (fun () ->
        for name, w in Tree.toList state.Student do
            Tensor.copyInto w (Tree.find name given)

        for _, theta in Tree.toList state.Temperature do
            Tensor.fillInto theta (number "theta0" run)
    )

    state

/// Compares every step with its record, and the evaluation logits at the end.
let private compare (plan: TrainingPlan) (run: JsonElement) : Comparison list =
    let tag, perEpoch = text "tag" run, integer "steps_per_epoch" run

    let step (state: TrainState) (i: int, record: JsonElement) =
        let epoch = i / perEpoch + 1
        let values = EpochValues.create plan epoch

        let batch: Batch = {
            Images = probe DType.Float64 $"{tag}/batch{i}" [ plan.Batch; 3; 32; 32 ] 1.5 0.0
            Labels = labels $"{tag}/labels{i}" plan.Batch plan.Student.Classes
            Index = Tensor.arange plan.Device plan.Batch
            Mix = None
        }

        EpochSums.clear state.Sums
        let next = Plans.step plan values { state with Epoch = epoch; Step = i % perEpoch } batch
        let means = EpochSums.means next.Sums
        let ours = Map(List.zip (TrainingPlan.termNames plan) means.Terms)
        let same name ours = scalar $"step {i}, {name}" (number name record) ours

        let theta =
            Tree.tryFind "theta" next.Temperature
            |> Option.map Tensor.toFloat
            |> Option.defaultValue (number "theta0" run)

        // The file records lambda for fixed temperatures too.
        let strength =
            match plan.Distillation |> Option.bind (_.Policy >> Policy.learned) with
            | Some _ -> Tensor.toFloat values.Policy.Strength
            | None -> Schedule.at epoch (curriculum run)

        let comparisons = [
            same "epoch" (float epoch)
            same "lambda_signed" -strength
            same "T" means.T
            same "ce" ours["ce"]
            same "kl" ours["kd"]
            same "other" (Map.tryFind "dkd" ours |> Option.defaultValue 0.0)
            same "loss" ours["loss"]
            same "theta_after" theta
        ]

        comparisons, next

    let records = field "trace" run |> items
    let steps, final = List.mapFold step (start plan run) (List.indexed records)

    let evaluation =
        Autograd.noGrad (fun () ->
            probe DType.Float64 $"{tag}/eval" [ 4; 3; 32; 32 ] 1.5 0.0
            |> TrainingPlan.forward plan plan.Student false final.Student
        )

    List.concat steps
    @ [
        scalar "number of steps" (number "steps" run) (float records.Length)
        vector "logits afterwards" (floats "eval_logits_after" run) (Tensor.toFloats evaluation.Logits)
    ]

/// The trajectories for which everything is implemented.
let trajectories: Item list =
    found.Value.Trajectories |> List.filter (_.Value >> implemented >> _.IsSome)

let tests =
    testList "GoldenTrajectory" [
        each
            "a training run agrees in float64"
            trajectories
            (fun item _ ->
                let plan = (Option.get (implemented item.Value)) ()
                compare plan item.Value |> verify double
            )
    ]
