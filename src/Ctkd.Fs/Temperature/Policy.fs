namespace Ctkd.Fs

/// Logits as a temperature policy softened them. Distillers read only this, so any policy works with any distiller.
[<ReferenceEquality>]
type Softening = {
    /// z_t / T_t, shape [batch, classes].
    Teacher: Tensor
    /// z_s / T_s, shape [batch, classes].
    Student: Tensor
    /// Weight of each instance's divergence, T_t T_s: shape [] or [batch].
    Weight: Tensor
    /// T, for reports and dL/dT: shape [] or [batch].
    T: Tensor
}

/// The range of a learned temperature: T = Start + Scale sigmoid(x), so T lies in (Start, Start + Scale).
type TemperatureRange = { Start: float; Scale: float }

/// A temperature that is trained against the student: T = Start + Scale sigmoid(reverse(x, lambda)).
[<NoComparison; NoEquality>]
type LearnedTemperature = {
    Range: TemperatureRange
    /// lambda by epoch, the strength of the gradient reversal.
    Strength: Schedule
    /// The parameters for a number of classes; the student's optimiser trains them.
    Declares: int -> Declaration list
    /// Multiply-accumulates per image for a number of classes.
    Macs: int -> Macs
    /// Computes x, T before reversal and sigmoid, shape [] or [batch], from parameters, teacher logits and student logits.
    Raw: Tree -> Tensor -> Tensor -> Tensor
}

/// What an agent sees of a batch before it chooses the batch's temperatures; nothing in it carries gradient.
[<ReferenceEquality>]
type Observation = {
    /// From 1.
    Epoch: int
    /// Batches done in the epoch.
    Step: int
    /// Images as the student saw them, mixed or not, with their labels.
    Batch: Batch
    /// Logits [batch, classes].
    Teacher: Tensor
    Student: Tensor
    /// A random number of the step, int64 []: the key of whatever is drawn (`Draws`).
    Key: Tensor
}

/// A line chart of an agent's numbers.
type AgentFigure = {
    /// Figures of one title are drawn as one, whichever run they are of.
    Title: string
    XLabel: string
    YLabel: string
    /// Lowest and highest y; None: all of the data.
    YRange: (float * float) option
    /// Names and points (x, y); curves without points are left out.
    Curves: (string * (float * float) list) list
}

/// A table of an agent's numbers, with a row for each epoch that has the number of the first column.
type AgentTable = {
    Caption: string
    /// Title, name of the number, digits after the point.
    Columns: (string * string * int) list
}

/// Chooses temperatures from experience, not by gradient. Its state is a tree of tensors that is updated in place and
/// stored in checkpoints. Only `Report` waits for the device.
[<NoComparison; NoEquality>]
type Agent = {
    /// A fresh state for a number of training images and a batch size.
    Start: int -> int -> DType -> Device -> Rng -> Tree
    /// Learns from the batch before this one, then chooses T [batch], or None to leave the schedule's T. All batches of
    /// an epoch have the same size except the last, which may be smaller.
    Choose: Tree -> Observation -> Tensor option
    /// The training images as an epoch shows them, from the state, the epoch and the step at which it begins or resumes: for
    /// images in memory only. None where they are always shown as they are.
    Images: (Tree -> int -> int -> DeviceSet -> DeviceSet) option
    /// Multiply-accumulates per image.
    Macs: Macs
    /// The numbers that describe the epoch so far, by name. Waits for the device.
    Report: Tree -> Map<string, float>
    /// How a run's report shows those numbers.
    Table: AgentTable option
    /// Figures of a run's report, from the run's name and each epoch's number and report.
    Figures: string -> (int * Map<string, float>) list -> AgentFigure list
}

/// Where a policy's temperature comes from.
[<RequireQualifiedAccess; NoComparison; NoEquality>]
type TemperatureSource =
    /// T by epoch.
    | Scheduled of Schedule
    /// Trained against the student by gradient reversal.
    | Learned of LearnedTemperature
    /// Chosen by an agent for each instance; T by epoch until the agent chooses.
    | Chosen of Agent * before: Schedule

/// Numbers of each image that a policy reports besides T: an epoch's metrics hold their means over the images.
[<NoComparison; NoEquality>]
type ImageNumbers = {
    /// Such as "sharpness/student": numbers with one word before the slash share a chart.
    Names: string list
    /// Computes them in the order of the names, shape [] or [batch] each, from what `Soften` gets. Runs without gradient.
    Values: Tensor -> Tensor -> Tensor -> Tensor list
}

/// A temperature policy as a value: where T comes from, and how T softens the logits.
[<NoComparison; NoEquality>]
type Policy = {
    Name: string
    Source: TemperatureSource
    /// Transforms teacher and student logits before anything reads them.
    Logits: Tensor -> Tensor
    /// Softens logits: T, teacher logits and student logits to a softening.
    Soften: Tensor -> Tensor -> Tensor -> Softening
    /// What it reports of each image besides T; None for nothing.
    Reports: ImageNumbers option
}

/// The numbers that a policy reads, on the device.
[<ReferenceEquality>]
type PolicyValues = {
    /// lambda, the strength of the gradient reversal: shape [].
    Strength: Tensor
    /// T by schedule: shape []; chosen by an agent: shape [batch]; 1, and not read, where T is learned.
    T: Tensor
}

/// Asking and running temperature policies.
[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module Policy =

    /// Softens both sides by one T (shape [] or [batch]): z_t / T, z_s / T, weight T^2.
    let shared (t: Tensor) (teacher: Tensor) (student: Tensor) : Softening = {
        Teacher = Loss.soften t teacher
        Student = Loss.soften t student
        Weight = t * t
        T = t
    }

    /// A policy that softens both sides by one T.
    let ofSource (name: string) (source: TemperatureSource) : Policy = {
        Name = name
        Source = source
        Logits = id
        Soften = shared
        Reports = None
    }

    /// The learned temperature; None where T is not learned.
    let learned (policy: Policy) : LearnedTemperature option =
        match policy.Source with
        | TemperatureSource.Learned learned -> Some learned
        | TemperatureSource.Scheduled _
        | TemperatureSource.Chosen _ -> None

    /// The agent; None where no agent takes part.
    let agent (policy: Policy) : Agent option =
        match policy.Source with
        | TemperatureSource.Chosen(agent, _) -> Some agent
        | TemperatureSource.Scheduled _
        | TemperatureSource.Learned _ -> None

    /// T by epoch, as far as a schedule sets it; 1 where T is learned.
    let schedule (policy: Policy) : Schedule =
        match policy.Source with
        | TemperatureSource.Scheduled schedule
        | TemperatureSource.Chosen(_, schedule) -> schedule
        | TemperatureSource.Learned _ -> Schedule.constant 1.0

    /// lambda by epoch; 0 where T is not learned.
    let strength (policy: Policy) : Schedule =
        learned policy |> Option.map _.Strength |> Option.defaultValue (Schedule.constant 0.0)

    /// The parameters for a number of classes.
    let declarations (classes: int) (policy: Policy) : Declaration list =
        learned policy |> Option.map (fun learned -> learned.Declares classes) |> Option.defaultValue []

    /// Multiply-accumulates of the policy's own network per image, for a number of classes.
    let macs (classes: int) (policy: Policy) : Macs =
        match policy.Source with
        | TemperatureSource.Scheduled _ -> Macs.Zero
        | TemperatureSource.Learned learned -> learned.Macs classes
        | TemperatureSource.Chosen(agent, _) -> agent.Macs

    /// The values with the temperatures that the agent chooses for a batch, if there is an agent and it chooses.
    let choose (policy: Policy) (state: Tree) (observe: unit -> Observation) (values: PolicyValues) : PolicyValues =
        match agent policy |> Option.bind (fun agent -> agent.Choose state (observe ())) with
        | Some t -> { values with T = t }
        | None -> values

    /// T of a batch, shape [] or [batch]. A learned T passes through gradient reversal: one descent step on the loss lowers
    /// it in the student and raises it in T's parameters (CTKD, arXiv:2211.16231).
    let private temperature (policy: Policy) (parameters: Tree) (values: PolicyValues) teacher student : Tensor =
        match policy.Source with
        | TemperatureSource.Scheduled _
        | TemperatureSource.Chosen _ -> values.T
        | TemperatureSource.Learned learned ->
            learned.Raw parameters teacher student
            |> Autograd.reverse values.Strength
            |> Tensor.sigmoid
            |> Tensor.scale learned.Range.Scale
            |> Tensor.addNumber learned.Range.Start

    /// Chooses T for a batch, and softens with it any logits in the teacher's place.
    let softening policy parameters (values: PolicyValues) (teacher: Tensor) (student: Tensor) : Tensor -> Softening =
        let student = policy.Logits student
        let t = temperature policy parameters values (policy.Logits teacher) student
        fun logits -> policy.Soften t (policy.Logits logits) student

    /// The names of the numbers that a policy reports of each image besides T.
    let reportedNames (policy: Policy) : string list = policy.Reports |> Option.map _.Names |> Option.defaultValue []

    /// The numbers that a policy reports of a batch besides T, in the order of their names and without gradient; parameters as
    /// in `soften`.
    let reported policy parameters (values: PolicyValues) (teacher: Tensor) (student: Tensor) : Tensor list =
        match policy.Reports with
        | None -> []
        | Some numbers ->
            Autograd.noGrad (fun () ->
                let teacher, student = policy.Logits teacher, policy.Logits student
                numbers.Values (temperature policy parameters values teacher student) teacher student
            )

    /// <summary>Softens the logits of a batch.</summary>
    /// <param name="policy">The policy.</param>
    /// <param name="parameters">Its parameters (`declarations`); empty where T is not learned.</param>
    /// <param name="values">The epoch's lambda and T.</param>
    /// <param name="teacher">Teacher logits, shape [batch, classes].</param>
    /// <param name="student">Student logits, shape [batch, classes].</param>
    let soften
        (policy: Policy)
        (parameters: Tree)
        (values: PolicyValues)
        (teacher: Tensor)
        (student: Tensor)
        : Softening =
        softening policy parameters values teacher student teacher
