module Ctkd.Fs.Tests.GoldenTrajectoryTests

open System.Text.Json
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Golden

let private curriculum (run: JsonElement) : Schedule = Schedule.curriculum (integer "lambda_loops" run)

/// The distillers that this version implements, by the file's `method`.
let private distillers: Map<string, JsonElement -> (Schedule * Distiller) list> =
    let kd run = Schedule.constant (number "alpha_kl" run), Distiller.kd

    let dkd run =
        let softened (lesson: Lesson) =
            Dkd.loss (number "dkd_alpha" run) (number "dkd_beta" run) lesson.Labels lesson.Softened

        Schedule.constant (number "beta_other" run), Distillation.simple "dkd" (softened >> Tensor.mean)

    Map [ "kd", (fun run -> [ kd run ]); "dkd", (fun run -> [ kd run; dkd run ]) ]

/// The policies that this version implements, by the file's `temperature`.
let private policies: Map<string, JsonElement -> Policy> =
    Map [
        "fixed",
        fun run ->
            // The file records lambda for a fixed temperature too.
            { Temperature.fixedAt (number "T_fixed" run) with Strength = curriculum run }
        "ctkd_global",
        fun run ->
            let range = { Start = number "t_start" run; Scale = number "t_scale" run }
            Temperature.ctkdGlobal range (curriculum run)
    ]

let private course (run: JsonElement) (student: Model) (teacher: Model) policy distillers : Course =
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
        Teaching = Some teaching
        CrossEntropy = Schedule.constant (number "gamma_ce" run)
        LearningRate = Schedule.constant (number "lr" run)
        Sgd = {
            Momentum = number "momentum" run
            WeightDecay = number "weight_decay" run
            Nesterov = false
        }
        DecayTemperature = (field "weight_decay_on_theta" run).GetBoolean()
        Epochs = integer "steps" run / integer "steps_per_epoch" run
        Batch = integer "batch" run
        TrainImages = integer "batch" run
        Seed = 0
        Pad = 0
        Flip = false
        Precision = F64
        ChannelsLast = false
        Device = Device.Cpu
    }

/// Makes the course of a trajectory, if this version has all that it names.
let private implemented (run: JsonElement) : (unit -> Course) option =
    let model name = Zoo.find (text name run) (integer "classes" run) |> Result.toOption
    let known = Map.tryFind (text "method" run) distillers, Map.tryFind (text "temperature" run) policies

    match known, model "student", model "teacher" with
    | (Some distillers, Some policy), Some student, Some teacher ->
        Some(fun () -> course run student teacher (policy run) (distillers run))
    | _ -> None

/// The state before the first step.
let private start (course: Course) (run: JsonElement) : TrainState =
    let state = Train.start course
    let given = weights DType.Float64 "student/" course.Student

    Autograd.noGrad (fun () ->
        for name, w in Tree.toList state.Student do
            Tensor.copyInto w (Tree.find name given)

        for _, theta in Tree.toList state.Temperature do
            Tensor.fillInto theta (number "theta0" run)
    )

    state

/// Every step against its record, and the evaluation logits at the end.
let private compare (course: Course) (run: JsonElement) : Comparison list =
    let tag, perEpoch = text "tag" run, integer "steps_per_epoch" run

    let step (state: TrainState) (i: int, record: JsonElement) =
        let epoch = i / perEpoch + 1
        let dials = Train.dials course epoch

        let batch: Batch = {
            Images = probe DType.Float64 $"{tag}/batch{i}" [ course.Batch; 3; 32; 32 ] 1.5 0.0
            Labels = labels $"{tag}/labels{i}" course.Batch course.Student.Classes
            Index = Tensor.arange course.Device course.Batch
        }

        Tally.clear state.Tally
        let next = Train.step course dials { state with Epoch = epoch; Step = i % perEpoch } batch
        let means = Tally.means next.Tally
        let ours = Map(List.zip (Course.termNames course) means.Terms)
        let same name ours = scalar $"step {i}, {name}" (number name record) ours

        let theta =
            Tree.tryFind "theta" next.Temperature
            |> Option.map Tensor.toFloat
            |> Option.defaultValue (number "theta0" run)

        let comparisons = [
            same "epoch" (float epoch)
            same "lambda_signed" -(Tensor.toFloat dials.Policy.Strength)
            same "T" means.T
            same "ce" ours["ce"]
            same "kl" ours["kd"]
            same "other" (Map.tryFind "dkd" ours |> Option.defaultValue 0.0)
            same "loss" ours["loss"]
            same "theta_after" theta
        ]

        comparisons, next

    let records = field "trace" run |> items
    let steps, final = List.mapFold step (start course run) (List.indexed records)

    let evaluation =
        Autograd.noGrad (fun () ->
            probe DType.Float64 $"{tag}/eval" [ 4; 3; 32; 32 ] 1.5 0.0
            |> Course.forward course course.Student false final.Student
        )

    List.concat steps
    @ [
        scalar "number of steps" (number "steps" run) (float records.Length)
        vector "logits afterwards" (floats "eval_logits_after" run) (Tensor.toFloats evaluation.Logits)
    ]

/// What runs: the training runs of which this version has all that they name.
let trajectories: Item list =
    found.Value.Trajectories |> List.filter (_.Value >> implemented >> _.IsSome)

let tests =
    testList "GoldenTrajectory" [
        each
            "a training run agrees in float64"
            trajectories
            (fun item _ ->
                let course = (Option.get (implemented item.Value)) ()
                compare course item.Value |> verify double
            )
    ]
