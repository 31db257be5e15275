// A temperature policy of your own, trained with. Run with: dotnet fsi scripts/02-own-policy.fsx
#load "_load.fsx"

open Ctkd.Fs

// The policy: soften confident teachers more. T_i = 2 + 4 max_c p_i(c), one temperature an instance.
let byConfidence: Policy = {
    Scheduled.fixedAt 4.0 with
        Name = "by-confidence"
        Soften =
            fun _ _ teacher student ->
                let confidence = teacher |> Tensor.softmax -1 |> Tensor.maxOver -1
                let t = confidence |> Tensor.scale 4.0 |> Tensor.addNumber 2.0

                {
                    Teacher = Loss.soften t teacher
                    Student = Loss.soften t student
                    Weight = t * t
                    T = t
                }
}

// A small plan on the embedded digits: a teacher on 50 images a class, then a student from it.
let data = Settings.loadData { Settings.defaults with PerClass = 50 } |> Error.orRaise

let settings = { Settings.defaults with Epochs = 10; Milestones = Settings.milestones 10 }

let upload = Augment.upload DType.Float32 Device.Cpu data.Mean data.Std
let train, test = upload data.Train, upload data.Test

let fit (title: string) (plan: TrainingPlan) : TrainState =
    let rec epochs (state: TrainState) =
        if state.Epoch > plan.Epochs then
            state
        else
            match Train.epoch plan 10 (fun _ _ -> false) train state with
            | Complete ended ->
                let means = EpochSums.means ended.Sums
                let t = if plan.Distillation.IsSome then $", T %.2f{means.T}" else ""
                printfn $"%-10s{title} epoch {ended.Epoch}: loss %.4f{List.last means.Terms}{t}"
                epochs (TrainState.nextEpoch ended.Best ended)
            | Stopped _ -> failwith "nothing asks this script to stop"
            | Broke(step, term) -> failwith $"{term} was not finite in step {step}"

    epochs (TrainState.start plan)

let accuracy (plan: TrainingPlan) (state: TrainState) : float =
    let logits images = (TrainingPlan.forward plan plan.Student false state.Student images).Logits
    (Evaluate.accuracy 250 logits test).Top1

let model name = Zoo.find name data.Train.Classes |> Error.orRaise
let teacherCourse = Settings.alone settings (model "resnet14") data Device.Cpu
let teacher = fit "teacher" teacherCourse

let studentCourse =
    let plan =
        Settings.plan settings (model "resnet8") (Some(model "resnet14", teacher.Student)) data Device.Cpu
        |> Error.orRaise

    {
        plan with
            Distillation = plan.Distillation |> Option.map (fun t -> { t with Policy = byConfidence })
    }

let student = fit "student" studentCourse

printfn
    $"teacher %.1f{accuracy teacherCourse teacher} %%, student %.1f{accuracy studentCourse student} %% of the test digits"
