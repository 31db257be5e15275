namespace Ctkd.Fs

/// The numbers of an epoch, as 0-d tensors on the device: those that schedules set, and the key (int64) of what the
/// distillers draw.
[<NoComparison; NoEquality>]
type EpochDials = {
    Rate: Tensor
    CrossEntropy: Tensor
    Distillers: Tensor list
    Policy: Dials
    Key: Tensor
    /// The epoch's mixed images; None: they are as they are.
    Blend: Blend option
}

/// The part of a policy's agent in a course: it sees each batch between the forward passes and the losses.
[<RequireQualifiedAccess>]
module Acting =

    /// The agent of a course's policy, if it has one.
    let agent (course: Course) : Agent option = course.Teaching |> Option.bind _.Policy.Agent

    /// A fresh state of the agent; nothing without one.
    let start (course: Course) (rng: Rng) : Tree =
        agent course
        |> Option.map (fun agent ->
            agent.Start course.TrainImages course.Batch (Course.dtype course) course.Device rng
        )
        |> Option.defaultValue Tree.empty

    /// The images as an epoch shows them, from the step on at which it begins or goes on.
    let blended
        (course: Course)
        (state: Tree)
        (epoch: int)
        (step: int)
        (set: DeviceSet)
        : DeviceSet * Blend option =
        let blend =
            agent course |> Option.bind (fun agent -> agent.Blend state epoch step set.Images set.Labels)

        blend |> Option.fold (fun (set: DeviceSet) blend -> { set with Images = blend.Images }) set, blend

    /// Cross entropy with the labels, of mixed images with both by weight: shape [].
    let crossEntropy (blend: Blend option) (batch: Batch) (logits: Tensor) : Tensor =
        match blend with
        | None -> Loss.crossEntropy batch.Labels logits
        | Some blend -> Exploration.crossEntropy blend batch.Index batch.Labels logits

    /// <summary>The policy's dials with the temperatures that the agent decides, once it has learned from the
    /// step before.</summary>
    /// <param name="course">The course.</param>
    /// <param name="dials">Those of the epoch.</param>
    /// <param name="state">The agent's, updated in place.</param>
    /// <param name="rng">Of the epoch.</param>
    /// <param name="place">Epoch, and batches done in it.</param>
    /// <param name="batch">The batch.</param>
    /// <param name="teacher">What the teacher says of it.</param>
    /// <param name="student">What the student says of it.</param>
    let dials
        (course: Course)
        (dials: EpochDials)
        (state: Tree)
        (rng: Rng)
        (place: int * int)
        (batch: Batch)
        (teacher: Outputs)
        (student: Outputs)
        : Dials =
        let decision (agent: Agent) =
            agent.Decide state {
                Epoch = fst place
                Step = snd place
                Teacher = Tensor.detach teacher.Logits
                Student = Tensor.detach student.Logits
                Labels = batch.Labels
                Index = batch.Index
                Blend = dials.Blend
                Key = Draws.key course.Device (snd place) rng
            }

        agent course
        |> Option.bind decision
        |> Option.fold (fun policy t -> { policy with Scheduled = t }) dials.Policy
