namespace Ctkd.Fs

/// The losses of a batch.
[<NoComparison; NoEquality>]
type BatchLosses = {
    /// By name and unweighted: "ce", then the distillers.
    Terms: (string * Tensor) list
    /// The weighted sum, which is descended.
    Total: Tensor
    Student: Outputs
    /// What the distillers read; None without a teacher.
    Input: DistillerInput option
    /// What the policy reports of each image besides T, without gradient (`Policy.Reports`).
    Reported: Tensor list
}

/// The min-max step. The student's weights descend L = gamma CE + sum_i alpha_i distiller_i. A learned temperature passes
/// through gradient reversal of strength lambda, so the same step raises L in the temperature's parameters:
/// min over the student, max over T (CTKD, arXiv:2211.16231).
[<RequireQualifiedAccess>]
module MinMax =

    /// Computes the losses of a batch under the epoch's values. `clock`, int64 []: batches of this epoch already done.
    /// In `state` only running statistics and the agent change: an agent learns and chooses here, so call once per batch.
    let losses plan (values: EpochValues) (clock: Tensor) (state: TrainState) (input: StepInput) : BatchLosses =
        let batch = input.Batch
        let student = TrainingPlan.forward plan plan.Student true state.Student batch.Images
        let ce = "ce", TrainingPlan.crossEntropy plan batch student.Logits

        let softened (distillation: Distillation) (teacher: Outputs) : DistillerInput * Tensor list =
            let { Policy = policy; Model = model } = distillation

            let observe () : Observation = {
                Epoch = state.Epoch
                Step = state.Step
                Batch = batch
                Teacher = Tensor.detach teacher.Logits
                Student = Tensor.detach student.Logits
                Key = TrainingPlan.random "agent" state.Epoch plan |> Draws.key plan.Device state.Step
            }

            let chosen = Policy.choose policy state.Agent observe values.Policy
            let shares = Model.shares distillation.Model

            {
                Teacher = teacher
                Student = student
                Shares = shares
                Softened =
                    let soften = Policy.softening policy state.Temperature chosen teacher.Logits student.Logits
                    SeveralTeachers.soften shares soften teacher
                Labels = batch.Labels
                Index = batch.Index
                Classify = Layer.forward distillation.Weights false (ResizeArray()) (Model.classifier model)
                Key = lazy (Draws.keyAt values.Key clock)
            },
            Policy.reported policy state.Temperature chosen teacher.Logits student.Logits

        let distilled, reported =
            match Option.map2 softened plan.Distillation input.Teacher with
            | Some(input, reported) -> Some input, reported
            | None -> None, []

        let terms = [
            ce
            for input in Option.toList distilled do
                for d in TrainingPlan.distillers plan do
                    d.Name, Distiller.loss d state.Connectors input
        ]

        let weighted =
            (values.CrossEntropy :: values.Distillers, terms) ||> List.map2 (fun weight (_, loss) -> weight * loss)

        {
            Terms = terms
            Total = List.reduce Tensor.add weighted
            Student = student
            Input = distilled
            Reported = reported
        }

    /// The update of one step, in place: one forward pass, one backward pass, one step of the optimiser. This is the
    /// device's part of a step. It waits for nothing and, without an agent or dropout, reads nothing from the host that changes
    /// between steps, so it can be recorded once and replayed (`RecordedSteps`). Parameters as in `losses`.
    let update plan (values: EpochValues) (clock: Tensor) (state: TrainState) (input: StepInput) : unit =
        Tensor.scoped (fun () ->
            let input = TeacherOutputs.labelled plan input
            let losses = losses plan values clock state input
            let leaves = Tree.leaves state.Trained
            // The temperature's leaves are the last ones.
            let ordinary = leaves.Length - Tree.count state.Temperature
            let t = losses.Input |> Option.map _.Softened.T
            // dL/dT comes out of the same backward pass where T depends on parameters or logits; T itself is only read.
            let dependentT = t |> Option.filter _.requires_grad |> Option.toArray

            let gradients, gradientT =
                Array.append leaves dependentT
                |> Autograd.gradientsOrZeros ordinary losses.Total
                |> Array.splitAt leaves.Length

            losses.Input
            |> Option.iter (fun input ->
                Autograd.noGrad (fun () ->
                    for d in TrainingPlan.distillers plan do
                        Distiller.remember d state.Connectors input
                )
            )

            let decayed = if plan.DecayTemperature then leaves.Length else ordinary

            let gradients =
                plan.ClipGradients |> Option.fold (fun all longest -> Gradients.clipped longest all) gradients

            Optimiser.step plan.Optimiser decayed values.LearningRate gradients (Tree.leaves state.Velocity) leaves
            if state.Counters.Length > 0 then Tensor.addIntInto 1 state.Counters
            plan.Average |> Option.iter (fun decay -> WeightAverage.update decay state.Student state.Average)

            let temperature t = { T = t; Gradient = Array.tryHead gradientT; Index = input.Batch.Index }

            let terms = List.map snd losses.Terms @ [ losses.Total ]

            EpochSums.add clock losses.Student.Logits input.Batch.Labels (Option.map temperature t) terms state.Sums
            EpochSums.addReported (Tensor.size 0 input.Batch.Labels) losses.Reported state.Sums
        )
