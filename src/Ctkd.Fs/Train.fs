namespace Ctkd.Fs

open System

/// The best evaluation so far.
type Best = { Epoch: int; Top1: float }

/// Everything that changes while a course runs, and nothing else: what a checkpoint holds.
/// A state is consumed by its step, which updates tensors in place: using it again raises.
[<NoComparison; NoEquality>]
type TrainState = {
    /// The student's state_dict.
    Student: Tree
    /// Parameters of the temperature policy.
    Temperature: Tree
    /// Connectors of the distillers, and their memories.
    Connectors: Tree
    /// The trained tensors of these three by path, the temperature's last: views, not further state.
    Trained: Tree
    /// The batch counters among the student's and the connectors' buffers.
    Counters: Tensor[]
    /// Velocities of all trained tensors.
    Velocity: Tree
    /// Metrics of the epoch so far.
    Tally: Tally
    /// The epoch that is being run, from 1.
    Epoch: int
    /// Batches done in it.
    Step: int
    Best: Best
    /// All states of a chain share the counter; only the newest has its number.
    Lease: int64 ref * int64
}

/// The numbers of an epoch that schedules set, as 0-d tensors on the device.
[<NoComparison; NoEquality>]
type EpochDials = { Rate: Tensor; CrossEntropy: Tensor; Distillers: Tensor list; Policy: Dials }

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

/// The training loop: a functional interface over tensors that are updated in place.
[<RequireQualifiedAccess>]
module Train =

    // ---- state -----------------------------------------------------------------------------------------------------

    /// The trained tensors under their paths, the temperature's last.
    let private trained (course: Course) (student: Tree) (connectors: Tree) (temperature: Tree) : Tree =
        let names = Model.trainedNames course.Student

        let connecting =
            Course.distillers course
            |> Distillation.declarations
            |> List.filter _.Trained
            |> List.map _.Name
            |> Set.ofList

        Tree.concat [
            student |> Tree.filter names.Contains |> Tree.prefixed "student/"
            connectors |> Tree.filter connecting.Contains |> Tree.prefixed "connectors/"
            temperature |> Tree.prefixed "temperature/"
        ]

    /// A state from its parts; trained tensors become leaves.
    let private assemble
        (student: Tree)
        (connectors: Tree)
        (temperature: Tree)
        (trained: Tree)
        (velocity: Tree)
        (tally: Tally)
        (epoch: int, step: int, best: Best)
        : TrainState =

        for leaf in Tree.leaves trained do
            leaf.RequiresGrad <- true

        {
            Student = student
            Temperature = temperature
            Connectors = connectors
            Trained = trained
            Counters = Array.append (Model.counters student) (Model.counters connectors)
            Velocity = velocity
            Tally = tally
            Epoch = epoch
            Step = step
            Best = best
            Lease = ref 0L, 0L
        }

    /// All tensors of a state under their paths.
    let toTree (state: TrainState) : Tree =
        Tree.concat [
            Tree.prefixed "student/" state.Student
            Tree.prefixed "connectors/" state.Connectors
            Tree.prefixed "temperature/" state.Temperature
            Tree.prefixed "velocity/" state.Velocity
            Tree.prefixed "tally/" (Tally.toTree state.Tally)
        ]

    /// A fresh state: every tensor from its own random key under the course's seed.
    let start (course: Course) : TrainState =
        Tensor.scopeWith
            (toTree >> Tree.leaves >> Seq.ofArray)
            (fun () ->
                let rng = Rng.ofSeed course.Seed |> Rng.split "initialisation"

                let fresh purpose =
                    Initialise.tree (Course.dtype course) course.Device (Rng.split purpose rng)

                let distillers = Course.distillers course
                let student = fresh "student" (Model.declarations course.Student) |> Course.format course

                let temperature =
                    match course.Teaching with
                    | None -> Tree.empty
                    | Some teaching -> fresh "temperature" (teaching.Policy.Declares course.Student.Classes)

                let memory =
                    Distillation.memory
                        distillers
                        (Course.dtype course)
                        course.Device
                        (Rng.split "memory" rng)

                let connectors =
                    Tree.concat [ fresh "connectors" (Distillation.declarations distillers); memory ]
                    |> Course.format course

                let trained = trained course student connectors temperature
                let images = if course.Teaching.IsSome then course.TrainImages else 0
                let tally = Tally.start course.Device images (Course.termNames course).Length
                let begin' = 1, 0, { Epoch = 0; Top1 = 0.0 }
                assemble student connectors temperature trained (Sgd.start trained) tally begin'
            )

    /// The state that `toTree` wrote, in the run's memory format.
    let ofTree (course: Course) (epoch: int) (step: int) (best: Best) (tree: Tree) : TrainState =
        let part prefix = Tree.under prefix tree |> Course.format course
        let student, connectors, temperature = part "student/", part "connectors/", part "temperature/"
        let trained = trained course student connectors temperature
        let tally = Tally.ofTree (Tree.under "tally/" tree)
        assemble student connectors temperature trained (part "velocity/") tally (epoch, step, best)

    // ---- one step -----------------------------------------------------------------------------------------------------

    /// The dials of an epoch.
    let dials (course: Course) (epoch: int) : EpochDials =
        let dial schedule = Tensor.scalar (Course.dtype course) course.Device (Schedule.at epoch schedule)
        let zero = Schedule.constant 0.0

        {
            Rate = dial course.LearningRate
            CrossEntropy = dial course.CrossEntropy
            Distillers =
                course.Teaching |> Option.map _.Distillers |> Option.defaultValue [] |> List.map (fst >> dial)
            Policy = {
                Strength = course.Teaching |> Option.map _.Policy.Strength |> Option.defaultValue zero |> dial
                Scheduled =
                    course.Teaching |> Option.map _.Policy.Scheduled |> Option.defaultValue zero |> dial
            }
        }

    /// What is random in a step is a function of the seed, the epoch and the step: a resumed run repeats it.
    let private stepRng (purpose: string) (course: Course) (state: TrainState) : Rng =
        Rng.ofSeed course.Seed |> Rng.split purpose |> Rng.at state.Epoch

    /// The losses of a batch: L = gamma CE + sum_i alpha_i distiller_i, with the policy's softening.
    let lossesOf (course: Course) (dials: EpochDials) (state: TrainState) (taught: Taught) : BatchLosses =
        let batch = taught.Batch
        let student = Course.forward course course.Student true state.Student batch.Images
        let ce = "ce", Loss.crossEntropy batch.Labels student.Logits

        let terms, lesson =
            match course.Teaching, taught.Teacher with
            | None, _
            | _, None -> [], None
            | Some teaching, Some teacher ->
                let classifier = Linear teaching.Model.Classifier

                let lesson: Lesson = {
                    Teacher = teacher
                    Student = student
                    Softened =
                        teaching.Policy.Soften state.Temperature dials.Policy teacher.Logits student.Logits
                    Labels = batch.Labels
                    Index = batch.Index
                    Classify = Layer.forward teaching.Weights false (ResizeArray()) classifier
                    Key = stepRng "distillers" course state |> Draws.key course.Device state.Step
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

    /// As `lossesOf`, with the teacher's outputs for this batch alone.
    let losses (course: Course) (dials: EpochDials) (state: TrainState) (batch: Batch) : BatchLosses =
        lossesOf course dials state (Teach.now course batch)

    let private seedDropout (course: Course) (state: TrainState) : unit =
        if course.Student.Dropout > 0.0 then
            stepRng "dropout" course state |> Rng.bits state.Step |> Engine.seed course.Device

    /// Consumes a state: only what this answers may go on.
    let private renew (state: TrainState) : int64 ref * int64 =
        let counter, number = state.Lease

        if counter.Value <> number then
            invalidOp
                "this training state was consumed by a later step: go on with the state that the step returned"

        counter.Value <- number + 1L
        counter, number + 1L

    /// The min-max update: one forward, one backward, one optimiser step. The student descends the loss; a learned
    /// temperature, behind its gradient reversal, climbs it in the same step. Consumes the state.
    let stepOf (course: Course) (dials: EpochDials) (state: TrainState) (taught: Taught) : TrainState =
        let lease = renew state
        seedDropout course state

        Tensor.scoped (fun () ->
            let losses = lossesOf course dials state taught
            let leaves = Tree.leaves state.Trained
            let ordinary = leaves.Length - Tree.count state.Temperature
            // dL/dT comes out of the same backward pass, behind T's gradient reversal; T is no leaf to be
            // updated.
            let learnedT = losses.T |> Option.filter _.RequiresGrad |> Option.toArray

            let gradients, gradientT =
                Array.append leaves learnedT
                |> Autograd.gradientsOrZeros ordinary losses.Total
                |> Array.splitAt leaves.Length

            let velocities = Tree.leaves state.Velocity

            let update sgd (part: Tensor[] -> Tensor[]) =
                Sgd.step sgd dials.Rate (part gradients) (part velocities) (part leaves)

            losses.Lesson
            |> Option.iter (fun lesson ->
                Autograd.noGrad (fun () ->
                    for distiller in Course.distillers course do
                        Distillation.settle distiller state.Connectors lesson
                )
            )

            if course.DecayTemperature || ordinary = leaves.Length then
                update course.Sgd id
            else
                update course.Sgd (Array.take ordinary)
                update { course.Sgd with WeightDecay = 0.0 } (Array.skip ordinary)

            if state.Counters.Length > 0 then Tensor.foreachAddIntInto 1 state.Counters

            Tally.add
                state.Step
                losses.Student.Logits
                taught.Batch.Labels
                (losses.T
                 |> Option.map (fun t -> {
                     T = t
                     Gradient = Array.tryHead gradientT
                     Index = taught.Batch.Index
                 }))
                (List.map snd losses.Terms @ [ losses.Total ])
                state.Tally
        )

        { state with Step = state.Step + 1; Lease = lease }

    /// As `stepOf`, with the teacher's outputs for this batch alone.
    let step (course: Course) (dials: EpochDials) (state: TrainState) (batch: Batch) : TrainState =
        Tensor.scoped (fun () -> Teach.now course batch |> stepOf course dials state)

    // ---- epochs ---------------------------------------------------------------------------------------------------------

    /// Batches of an epoch; the last may be shorter.
    let stepsPerEpoch (course: Course) (set: DeviceSet) : int =
        (Augment.count set + course.Batch - 1) / course.Batch

    /// The state at the beginning of the next epoch, with nothing seen. Consumes the state.
    let nextEpoch (best: Best) (state: TrainState) : TrainState =
        let lease = renew state
        Tally.clear state.Tally
        { state with Epoch = state.Epoch + 1; Step = 0; Best = best; Lease = lease }

    /// How an epoch ended.
    [<NoComparison; NoEquality>]
    type EpochEnd =
        /// All batches are done.
        | Complete of TrainState
        /// Asked to stop between two batches.
        | Stopped of TrainState
        /// A term was not finite in a step (from 1).
        | Broke of step: int * term: string

    /// Runs the rest of the state's epoch. `pause` is asked after each batch with the state and the number of batches of the
    /// epoch, and answers whether to stop; every `readEvery` batches, and at the end, the loss is looked at. `how` says how
    /// the teacher works through the epoch.
    let epochOf
        (how: TeachingPlan)
        (course: Course)
        (readEvery: int)
        (pause: TrainState -> int -> bool)
        (set: DeviceSet)
        (state: TrainState)
        : EpochEnd =
        if readEvery < 1 then
            invalidArg (nameof readEvery) $"the loss must be read every 1 or more batches, got {readEvery}."

        if course.Batch < 1 then
            invalidArg (nameof course) $"a batch must hold at least 1 image, got {course.Batch}."

        if course.Teaching.IsSome && Augment.count set > course.TrainImages then
            invalidArg
                (nameof course)
                $"the course is for {course.TrainImages} training images, the set has {Augment.count set}."

        Tensor.scoped (fun () ->
            let rng = Rng.ofSeed course.Seed |> Rng.split "augmentation"
            let plan = Augment.plan rng state.Epoch course.Pad course.Flip set
            let dials = dials course state.Epoch
            let total = Augment.count set
            let steps = stepsPerEpoch course set
            let teaching = Teach.epoch how course plan set

            let broken (state: TrainState) =
                Tally.broken state.Tally
                |> Option.map (fun (step, term) -> Broke(step + 1, List.item term (Course.termNames course)))

            let rec go (state: TrainState) =
                let reading = state.Step % readEvery = 0 || state.Step = steps

                match (if reading then broken state else None) with
                | Some ending -> ending
                | None when state.Step = steps -> Complete state
                | None ->
                    let start = state.Step * course.Batch
                    let stop = min total (start + course.Batch)
                    teaching.Prepare start stop

                    let next =
                        Tensor.scoped (fun () -> teaching.Take start stop |> stepOf course dials state)

                    if pause next steps && next.Step < steps then
                        broken next |> Option.defaultValue (Stopped next)
                    else
                        go next

            go state
        )

    /// As `epochOf`, with the teacher beside each step.
    let epoch (course: Course) (readEvery: int) pause (set: DeviceSet) (state: TrainState) : EpochEnd =
        epochOf Teach.simple course readEvery pause set state
