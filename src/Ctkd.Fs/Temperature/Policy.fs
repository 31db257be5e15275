namespace Ctkd.Fs

/// What a temperature policy decides for a batch. Distillers consume only this, so any policy works with any
/// of them.
[<ReferenceEquality>]
type Softening = {
    /// z_t / T_t, shape [batch, classes].
    Teacher: Tensor
    /// z_s / T_s, shape [batch, classes].
    Student: Tensor
    /// Weight of each instance's divergence, T_t T_s: shape [] or [batch].
    Weight: Tensor
    /// T, for reports: shape [] or [batch].
    T: Tensor
}

/// The numbers that schedules set once an epoch, as 0-d tensors on the device.
[<ReferenceEquality>]
type Dials = {
    /// lambda, the strength of the adversary.
    Strength: Tensor
    /// T, where it follows a schedule or an agent: shape [], from an agent [batch].
    Scheduled: Tensor
}

/// The range of a learned temperature: T = Start + Scale sigmoid(.), so T lies in (Start, Start + Scale).
type TemperatureRange = { Start: float; Scale: float }

/// A temperature policy as a value.
[<NoComparison; NoEquality>]
type Policy = {
    Name: string
    /// T by epoch, for policies that schedule it; the others ignore it.
    Scheduled: Schedule
    /// lambda by epoch, for policies with an adversary; the others ignore it.
    Strength: Schedule
    /// Where a learned T lies; None where T is not learned.
    Range: TemperatureRange option
    /// The policy's parameters for so many classes; they are trained by the student's optimiser.
    Declares: int -> Declaration list
    /// What the policy's own network costs an image, for so many classes.
    Macs: int -> Macs
    /// Parameters, dials, teacher logits and student logits to a softening.
    Soften: Tree -> Dials -> Tensor -> Tensor -> Softening
    /// Decides T in each step and sets it as the scheduled one; None: no agent takes part.
    Agent: Agent option
}

/// The temperature policies: fixed, scheduled, and CTKD's two learned ones.
[<RequireQualifiedAccess>]
module Temperature =

    /// CTKD's published range: T in (1, 21). Its code calls the scale "t_end".
    let published: TemperatureRange = { Start = 1.0; Scale = 20.0 }

    /// One T (shape [] or [batch]) for both sides: z_t / T, z_s / T, weight T^2.
    let shared (teacher: Tensor) (student: Tensor) (t: Tensor) : Softening = {
        Teacher = Loss.soften t teacher
        Student = Loss.soften t student
        Weight = t * t
        T = t
    }

    /// T as an explicit schedule, the simplest dynamic baseline.
    let scheduled (schedule: Schedule) : Policy = {
        Name = "schedule"
        Scheduled = schedule
        Strength = Schedule.constant 0.0
        Range = None
        Declares = fun _ -> []
        Macs = fun _ -> Macs.Zero
        Soften = fun _ dials teacher student -> shared teacher student dials.Scheduled
        Agent = None
    }

    let private checkedT (name: string) (t: float) : float =
        if not (System.Double.IsFinite t && t > 0.0) then
            invalidArg name $"the temperature must be finite and > 0, got {string t}."

        t

    /// The same T throughout; 4 is the usual value.
    let fixedAt (t: float) : Policy = {
        scheduled (Schedule.constant (checkedT (nameof t) t)) with
            Name = "fixed"
    }

    /// T = Start + Scale sigmoid(reverse(x, lambda)): what minimises the loss below the reversal maximises it
    /// in x.
    let private adversarial (range: TemperatureRange) (strength: Tensor) (x: Tensor) : Tensor =
        x
        |> Autograd.reverse strength
        |> Tensor.sigmoid
        |> Tensor.scale range.Scale
        |> Tensor.addNumber range.Start

    let private learned
        (name: string)
        (range: TemperatureRange)
        (curriculum: Schedule)
        declares
        macs
        soften
        : Policy =
        if not (System.Double.IsFinite range.Start && range.Start >= 0.0) then
            invalidArg (nameof range) $"the range must start at a finite number >= 0, got {range.Start}."

        if not (System.Double.IsFinite range.Scale && range.Scale > 0.0) then
            invalidArg (nameof range) $"the range's scale must be finite and > 0, got {range.Scale}."

        {
            Name = name
            Scheduled = Schedule.constant 1.0
            Strength = curriculum
            Range = Some range
            Declares = declares
            Macs = macs
            Soften = soften
            Agent = None
        }

    /// CTKD with one T for all: a scalar theta, trained to make the lesson harder as the curriculum's lambda
    /// grows. theta starts at 1, so that T starts at 15.6212 in the published range (arXiv:2211.16231).
    let ctkdGlobal (range: TemperatureRange) (curriculum: Schedule) : Policy =
        let theta = { Name = "theta"; Shape = []; Initial = Fill 1.0; Trained = true }

        learned
            "ctkd-global"
            range
            curriculum
            (fun _ -> [ theta ])
            (fun _ -> Macs.Zero)
            (fun parameters dials teacher student ->
                Tree.find "theta" parameters |> adversarial range dials.Strength |> shared teacher student
            )

    /// CTKD with one T for each instance: two linear layers (the published 1 x 1 convolutions) over
    /// [z_t ; z_s]. Their inputs are detached: the reversal reaches the two layers, never the student.
    let ctkdInstance (range: TemperatureRange) (hidden: int) (curriculum: Schedule) : Policy =
        if hidden < 1 then
            invalidArg (nameof hidden) $"the hidden width must be at least 1, got {hidden}."

        let layers (classes: int) = Layer.dense "hidden" (2 * classes) hidden, Layer.dense "output" hidden 1

        let network (classes: int) =
            let first, second = layers classes
            Sequence [ Linear first; Relu; Linear second ]

        let declares classes = Layer.declarations Starts.pyTorch (network classes)

        learned
            "ctkd-instance"
            range
            curriculum
            declares
            (fun classes -> Macs.ofLayer [ 2 * classes ] (network classes))
            (fun parameters dials teacher student ->
                Tensor.cat 1 [ Autograd.stopGradient teacher; Autograd.stopGradient student ]
                |> Layer.forward parameters true (ResizeArray()) (network (Tensor.size 1 teacher))
                |> Tensor.squeeze 1
                |> adversarial range dials.Strength
                |> shared teacher student
            )

    /// DTKD's two temperatures of each instance: tau shared out by the largest logits, m_t and m_s,
    /// T_t = 2 tau m_t / (m_t + m_s) and T_s = 2 tau m_s / (m_t + m_s), so that both sides get equally sharp.
    /// The published formula is singular where m_t + m_s = 0 and gives a negative T where one maximum is
    /// negative; here a maximum counts as 0.001 at least, without gradient below: both T are positive and
    /// finite everywhere, and the published ones where both maxima are larger.
    let balanced (tau: Tensor) (teacher: Tensor) (student: Tensor) : Tensor * Tensor =
        let largest logits = Tensor.maxOver 1 logits |> Tensor.clamp 1e-3 infinity
        let ofTeacher, ofStudent = largest teacher, largest student
        let share = Tensor.scale 2.0 tau / (ofTeacher + ofStudent)
        share * ofTeacher, share * ofStudent

    /// DTKD (Wei and Bai 2024, arXiv:2404.12711, section 3): z_t / T_t, z_s / T_s, weight T_t T_s, where
    /// T_t + T_s = 2 tau. Reports show T_s. Its published recipe adds KD at tau and warms both up:
    /// `Distiller.sum [ 3.0, kd; 1.0, Distiller.at 4.0 kd ]` under `Schedule.warmUp 1.0 20`.
    let dtkd (tau: float) : Policy = {
        scheduled (Schedule.constant (checkedT (nameof tau) tau)) with
            Name = "dtkd"
            Soften =
                fun _ dials teacher student ->
                    let ofTeacher, ofStudent = balanced dials.Scheduled teacher student

                    {
                        Teacher = Loss.soften ofTeacher teacher
                        Student = Loss.soften ofStudent student
                        Weight = ofTeacher * ofStudent
                        T = ofStudent
                    }
    }

    /// Logit standardisation (Sun et al. 2024, arXiv:2403.01427, algorithm 1) before any policy:
    /// `fixedAt 2.0` gives the published method, `ctkdGlobal` a learned temperature on standardised logits.
    let standardised (policy: Policy) : Policy = {
        policy with
            Name = policy.Name + "-standardised"
            Soften =
                fun parameters dials teacher student ->
                    policy.Soften parameters dials (Loss.standardise teacher) (Loss.standardise student)
    }
