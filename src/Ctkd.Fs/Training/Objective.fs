namespace Ctkd.Fs

/// The losses of a batch.
[<NoComparison; NoEquality>]
type BatchLosses = {
    /// Unweighted, by name, in the order of the course.
    Terms: (string * Tensor) list
    /// The weighted sum that is descended.
    Total: Tensor
    Student: Outputs
    T: Tensor option
    /// What the distillers saw, if there are any.
    Lesson: Lesson option
}

/// What a step descends.
[<RequireQualifiedAccess>]
module Objective =

    /// What is random in a step is a function of the seed, the epoch and the step: a resumed run repeats it.
    let random (purpose: string) (course: Course) (epoch: int) : Rng =
        Rng.ofSeed course.Seed |> Rng.split purpose |> Rng.at epoch

    /// The dials of an epoch.
    let dials (course: Course) (epoch: int) : EpochDials =
        let dial schedule = Tensor.scalar (Course.dtype course) course.Device (Schedule.at epoch schedule)

        let ofPolicy (schedule: Policy -> Schedule) =
            let zero = Schedule.constant 0.0
            course.Teaching |> Option.map (_.Policy >> schedule) |> Option.defaultValue zero |> dial

        {
            Rate = dial course.LearningRate
            CrossEntropy = dial course.CrossEntropy
            Distillers =
                course.Teaching |> Option.map _.Distillers |> Option.defaultValue [] |> List.map (fst >> dial)
            Policy = { Strength = ofPolicy _.Strength; Scheduled = ofPolicy _.Scheduled }
            Blend = None
            Key = random "distillers" course epoch |> Draws.upload course.Device
        }

    /// The losses of a batch: L = gamma CE + sum_i alpha_i distiller_i, with the policy's softening.
    /// An agent learns and decides here.
    let losses
        (course: Course)
        (dials: EpochDials)
        (clock: Tensor)
        (state: TrainState)
        (taught: Taught)
        : BatchLosses =
        let batch = taught.Batch
        let student = Course.forward course course.Student true state.Student batch.Images
        let ce = "ce", Acting.crossEntropy dials.Blend batch student.Logits

        let terms, lesson =
            match course.Teaching, taught.Teacher with
            | None, _
            | _, None -> [], None
            | Some teaching, Some teacher ->
                let classifier = Linear teaching.Model.Classifier
                let rng, place = random "agent" course state.Epoch, (state.Epoch, state.Step)
                let policy = Acting.dials course dials state.Agent rng place batch teacher student

                let lesson: Lesson = {
                    Teacher = teacher
                    Student = student
                    Softened = teaching.Policy.Soften state.Temperature policy teacher.Logits student.Logits
                    Labels = batch.Labels
                    Index = batch.Index
                    Classify = Layer.forward teaching.Weights false (ResizeArray()) classifier
                    Key = lazy (Draws.keyAt dials.Key clock)
                }

                [
                    for distiller in Course.distillers course ->
                        distiller.Name, Distillation.loss distiller state.Connectors lesson
                ],
                Some lesson

        let terms = ce :: terms
        let weights = dials.CrossEntropy :: dials.Distillers

        {
            Terms = terms
            Total = List.map2 (fun weight (_, loss) -> weight * loss) weights terms |> List.reduce Tensor.add
            Student = student
            T = lesson |> Option.map _.Softened.T
            Lesson = lesson
        }
