namespace Ctkd.Fs

open System

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
        (agent: Tree)
        (tally: Tally)
        (epoch: int, step: int, best: Best)
        : TrainState =

        for leaf in Tree.leaves trained do
            leaf.requires_grad <- true

        {
            Student = student
            Temperature = temperature
            Connectors = connectors
            Trained = trained
            Counters = Array.append (Model.counters student) (Model.counters connectors)
            Velocity = velocity
            Agent = agent
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
            Tree.prefixed "agent/" state.Agent
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
                let agent = Acting.start course (Rng.split "agent" rng)
                let begin' = 1, 0, { Epoch = 0; Top1 = 0.0 }
                assemble student connectors temperature trained (Sgd.start trained) agent tally begin'
            )

    /// The state that `toTree` wrote, in the run's memory format.
    let ofTree (course: Course) (epoch: int) (step: int) (best: Best) (tree: Tree) : TrainState =
        let part prefix = Tree.under prefix tree |> Course.format course
        let student, connectors, temperature = part "student/", part "connectors/", part "temperature/"
        let trained = trained course student connectors temperature
        let tally = Tally.ofTree (Tree.under "tally/" tree)
        let velocity, agent = part "velocity/", part "agent/"
        assemble student connectors temperature trained velocity agent tally (epoch, step, best)

    // ---- one step -----------------------------------------------------------------------------------------------------

    /// The dials of an epoch.
    let dials (course: Course) (epoch: int) : EpochDials = Objective.dials course epoch

    /// The number of a state's next batch on the device.
    let private clockOf (course: Course) (state: TrainState) : Tensor =
        Tensor.scalar DType.Int64 course.Device (float state.Step)

    /// The losses of a batch before the step that it is for. A policy's agent learns and decides here, and so does it in
    /// `step`: one call of either a batch.
    let losses (course: Course) (dials: EpochDials) (state: TrainState) (batch: Batch) : BatchLosses =
        Objective.losses course dials (clockOf course state) state (Teach.now course batch)

    /// Consumes a state: only what this answers may go on.
    let private renew (state: TrainState) : int64 ref * int64 =
        let counter, number = state.Lease

        if counter.Value <> number then
            invalidOp
                "this training state was consumed by a later step: go on with the state that the step returned"

        counter.Value <- number + 1L
        counter, number + 1L

    let private seedDropout (course: Course) (state: TrainState) : unit =
        if course.Student.Dropout > 0.0 then
            Objective.random "dropout" course state.Epoch |> Rng.bits state.Step |> Engine.seed course.Device

    /// The min-max update: one forward, one backward, one optimiser step, in place. The student descends the loss; a learned
    /// temperature, behind its gradient reversal, climbs it in the same step. The device's part of a step: it waits for
    /// nothing, and no number that changes between steps comes from the host, so that it can be recorded once and replayed.
    /// `clock` counts the epoch's batches before this one, int64 [].
    let update
        (course: Course)
        (dials: EpochDials)
        (clock: Tensor)
        (state: TrainState)
        (taught: Taught)
        : unit =
        Tensor.scoped (fun () ->
            let losses = Objective.losses course dials clock state taught
            let leaves = Tree.leaves state.Trained
            let ordinary = leaves.Length - Tree.count state.Temperature
            // dL/dT comes out of the same backward pass, behind T's gradient reversal; T is no leaf to be
            // updated.
            let learnedT = losses.T |> Option.filter _.requires_grad |> Option.toArray

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

            if state.Counters.Length > 0 then Tensor.addIntInto 1 state.Counters

            Tally.add
                clock
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

    /// Consumes a state: the work updates its tensors in place, and only what this answers may go on.
    let private advance (work: TrainState -> unit) (state: TrainState) : TrainState =
        let lease = renew state
        work state
        { state with Step = state.Step + 1; Lease = lease }

    /// The work of the state's next step, from here and now.
    let private now (course: Course) (dials: EpochDials) (taught: unit -> Taught) (state: TrainState) : unit =
        Tensor.scoped (fun () ->
            seedDropout course state
            taught () |> update course dials (clockOf course state) state
        )

    /// One step on a batch that the teacher has seen. Consumes the state.
    let stepOf (course: Course) (dials: EpochDials) (state: TrainState) (taught: Taught) : TrainState =
        advance (now course dials (fun () -> taught)) state

    /// As `stepOf`, with the teacher's outputs for this batch alone.
    let step (course: Course) (dials: EpochDials) (state: TrainState) (batch: Batch) : TrainState =
        advance (now course dials (fun () -> Teach.now course batch)) state

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

    /// What an epoch brings: its dials, its order and cuts, and what the teacher says.
    [<NoComparison; NoEquality>]
    type EpochParts = { Dials: EpochDials; Plan: EpochPlan; Teaching: Teach.Epoch }

    /// The parts of the epoch that a state begins or goes on with. They live in the scope of the caller.
    let parts (how: TeachingPlan) (course: Course) (set: DeviceSet) (state: TrainState) : EpochParts =
        let rng = Rng.ofSeed course.Seed |> Rng.split "augmentation"
        let plan = Augment.plan rng state.Epoch course.Pad course.Flip set
        let set, blend = Acting.blended course state.Agent state.Epoch state.Step set
        // What the teacher said of the images as they were does not hold for mixed ones.
        let how = if blend.IsSome then { how with Cache = None } else how

        {
            Dials = { dials course state.Epoch with Blend = blend }
            Plan = plan
            Teaching = Teach.epoch how course plan set
        }

    /// The work of the state's next step, from the host.
    let work (course: Course) (parts: EpochParts) (set: DeviceSet) (state: TrainState) : unit =
        let start = state.Step * course.Batch
        let stop = min (Augment.count set) (start + course.Batch)
        parts.Teaching.Prepare start stop
        now course parts.Dials (fun () -> parts.Teaching.Take start stop) state

    /// How the steps of an epoch are done. It is given the training images and the state in which the epoch begins or goes
    /// on, and answers what does the device's work of the next step of the state that it is given.
    type Stepping = DeviceSet -> TrainState -> (TrainState -> unit)

    /// Step by step from the host; `how` says how the teacher works through the epoch.
    let stepping (how: TeachingPlan) (course: Course) : Stepping =
        fun set state -> work course (parts how course set state) set

    /// Runs the rest of the state's epoch. `pause` is asked after each batch with the state and the number of batches of the
    /// epoch, and answers whether to stop; every `readEvery` batches, and at the end, the loss is looked at.
    let epochBy
        (stepping: Stepping)
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
            let steps = stepsPerEpoch course set
            let work = stepping set state

            let broken (state: TrainState) =
                Tally.broken state.Tally
                |> Option.map (fun (step, term) -> Broke(step + 1, List.item term (Course.termNames course)))

            let rec go (state: TrainState) =
                let reading = state.Step % readEvery = 0 || state.Step = steps

                match (if reading then broken state else None) with
                | Some ending -> ending
                | None when state.Step = steps -> Complete state
                | None ->
                    let next = advance work state

                    if pause next steps && next.Step < steps then
                        broken next |> Option.defaultValue (Stopped next)
                    else
                        go next

            go state
        )

    /// As `epochBy`, step by step from the host.
    let epochOf
        (how: TeachingPlan)
        (course: Course)
        (readEvery: int)
        pause
        (set: DeviceSet)
        state
        : EpochEnd =
        epochBy (stepping how course) course readEvery pause set state

    /// As `epochOf`, with the teacher beside each step.
    let epoch (course: Course) (readEvery: int) pause (set: DeviceSet) (state: TrainState) : EpochEnd =
        epochOf Teach.simple course readEvery pause set state
