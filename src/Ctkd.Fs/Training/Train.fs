namespace Ctkd.Fs

/// How an epoch ended.
[<NoComparison; NoEquality>]
type EpochEnd =
    /// All batches are done.
    | Complete of TrainState
    /// Stopped between two batches, as asked.
    | Stopped of TrainState
    /// A term was not finite in a step (from 1).
    | Broke of step: int * term: string

/// What an epoch brings: its numbers, its images in order and cut, and the teacher's outputs.
[<NoComparison; NoEquality>]
type EpochParts = { Values: EpochValues; Images: EpochImages; Teacher: TeacherEpoch }

/// The steps of one epoch.
[<NoComparison; NoEquality>]
type EpochSteps = {
    /// Does the device's work of a state's next step.
    Work: TrainState -> unit
    Free: unit -> unit
}

/// How the steps of a run are done: one by one from the host (`Train.fromHost`), or recorded (`RecordedSteps`).
[<NoComparison; NoEquality>]
type Steps = {
    /// The plan and the images that they are of.
    Trainer: Trainer
    /// The steps of the epoch that a state begins or resumes.
    Begin: TrainState -> EpochSteps
    Free: unit -> unit
}

/// The training loop: a functional interface over tensors that are updated in place.
[<RequireQualifiedAccess>]
module Train =

    let private seedDropout (plan: TrainingPlan) (state: TrainState) : unit =
        if Model.draws plan.Student then
            TrainingPlan.random "dropout" state.Epoch plan |> Rng.bits state.Step |> Engine.seed plan.Device

    /// The device's work of a state's next step.
    let private work plan values (input: unit -> StepInput) (state: TrainState) : unit =
        Tensor.scoped (fun () ->
            seedDropout plan state
            let clock = Tensor.scalar DType.Int64 plan.Device (float state.Step)
            MinMax.update plan values clock state (input ())
        )

    /// One step on a batch. Invalidates `state`; continue with the returned one.
    let step (plan: TrainingPlan) (values: EpochValues) (state: TrainState) (input: StepInput) : TrainState =
        TrainState.advance (work plan values (fun () -> input)) state

    /// Batches of an epoch; the last may be shorter, where the plan does not drop it.
    let stepsPerEpoch (trainer: Trainer) : int =
        ImageSet.batches trainer.Plan.DropLast trainer.Plan.Batch (ImageFeed.count trainer.Images)

    /// The parts of the epoch that a state begins or resumes. They live in the caller's scope.
    let parts (trainer: Trainer) (state: TrainState) : EpochParts =
        let plan = trainer.Plan
        let rng = Rng.ofSeed plan.Seed |> Rng.split "augmentation"
        let images = ImageFeed.epoch rng state.Epoch plan.Pad plan.Flip trainer.Images

        let shown, options =
            match TrainingPlan.agent plan |> Option.bind _.Images, images.Resident with
            | Some show, Some(set, order) ->
                let mixed = show state.Agent state.Epoch state.Step set
                // Cached features are those of the images as they are.
                let isChanged = not (obj.ReferenceEquals(mixed.Images, set.Images))

                ImageFeed.ordered plan.Pad order mixed,
                (if isChanged then { trainer.Teacher with Cache = None } else trainer.Teacher)
            | _ -> images, trainer.Teacher

        let shown = {
            shown with
                Batch =
                    fun start stop -> shown.Batch start stop |> TrainingPlan.mixed plan state.Epoch (start / plan.Batch)
        }

        {
            Values = EpochValues.create plan state.Epoch
            Images = shown
            Teacher = TeacherOutputs.epoch plan options shown
        }

    /// The work of a state's next step, from the parts of its epoch.
    let workOf (trainer: Trainer) (parts: EpochParts) (state: TrainState) : unit =
        work trainer.Plan parts.Values (fun () -> parts.Teacher.At state.Step) state

    /// Steps that the host asks for one by one.
    let fromHost (trainer: Trainer) : Steps = {
        Trainer = trainer
        Begin =
            fun state ->
                let parts = parts trainer state
                { Work = workOf trainer parts; Free = parts.Teacher.Free }
        Free = ignore
    }

    let private check (trainer: Trainer) (readEvery: int) : unit =
        let { Plan = plan; Images = images } = trainer

        if readEvery < 1 then
            invalidArg (nameof readEvery) $"the loss must be read every 1 or more batches, got {readEvery}."

        if plan.Batch < 1 then
            invalidArg (nameof trainer) $"a batch must hold at least 1 image, got {plan.Batch}."

        if plan.Mixup.IsSome && (TrainingPlan.agent plan).IsSome then
            invalidArg (nameof trainer) "the policy's agent blends images itself: mixup is not for it."

        match TrainingPlan.agent plan, images with
        | Some { Images = Some _ }, Streamed _ ->
            invalidArg (nameof trainer) "the policy's agent blends images in memory: it cannot blend photographs."
        | _ -> ()

        if plan.Distillation.IsSome && ImageFeed.count images > plan.TrainImages then
            invalidArg
                (nameof trainer)
                $"the plan is for {plan.TrainImages} training images, the set has {ImageFeed.count images}."

    /// <summary>Runs the rest of a state's epoch. Invalidates the state; continue with the returned one.</summary>
    /// <param name="steps">The steps of the run: plan, images, and how they are done.</param>
    /// <param name="readEvery">Batches between two looks at the loss, which wait for the device; it is read at the end too.</param>
    /// <param name="pause">Is asked after each batch, with the state and the epoch's number of batches, whether to stop.</param>
    /// <param name="state">Where the epoch begins or resumes.</param>
    let epoch (steps: Steps) (readEvery: int) (pause: TrainState -> int -> bool) (state: TrainState) : EpochEnd =
        let trainer = steps.Trainer
        check trainer readEvery

        Tensor.scoped (fun () ->
            let total = stepsPerEpoch trainer
            let epoch = steps.Begin state

            let broken (state: TrainState) =
                EpochSums.broken state.Sums
                |> Option.map (fun (step, term) ->
                    Broke(step + 1, List.item term (TrainingPlan.termNames trainer.Plan))
                )

            let rec go (state: TrainState) : EpochEnd =
                let reading = state.Step % readEvery = 0 || state.Step = total

                match (if reading then broken state else None) with
                | Some ending -> ending
                | None when state.Step = total -> Complete state
                | None ->
                    let next = TrainState.advance epoch.Work state

                    if pause next total && next.Step < total then
                        broken next |> Option.defaultValue (Stopped next)
                    else
                        go next

            try
                go state
            finally
                epoch.Free()
        )
