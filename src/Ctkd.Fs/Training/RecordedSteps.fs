namespace Ctkd.Fs

/// The steps of a run, recorded once and replayed: on CUDA devices one call then asks for a whole step.
///
/// What changes from step to step lies on the device, at addresses that stay: the step reads a counter there and raises it,
/// and finds its images in the epoch's order by it. Between epochs the host writes the new order, cuts and numbers to the
/// same addresses. Steps of full batches are recorded; a shorter last one is done from the host. So are the teacher's
/// passes when it runs ahead or its features are cached: its outputs lie in a buffer that the steps read.
[<RequireQualifiedAccess>]
module RecordedSteps =

    /// The inputs of the recorded step besides the state and the images.
    [<NoComparison; NoEquality>]
    type private Inputs = {
        Images: DeviceSet
        Order: EpochOrder
        Values: EpochValues
        /// Batches of the epoch that are done: int64 [].
        Clock: Tensor
        /// Position in the epoch of the buffer's first row: int64 [].
        First: Tensor
        /// The teacher's outputs for a span; None where the teacher runs within the step, or there is none.
        Buffer: Outputs option
    }

    /// The reason why a plan's steps cannot be recorded; None where they can. Distillers, policies and layers of the user's
    /// own must be tensor code throughout.
    let obstacle (plan: TrainingPlan) : string option =
        if Model.draws plan.Student then
            Some $"the dropout of {plan.Student.Name} is seeded by the host in every step"
        elif (TrainingPlan.agent plan).IsSome then
            Some "the policy's agent learns and decides from the host"
        elif plan.Mixup.IsSome then
            Some "mixup draws its blends on the host in every step"
        else
            None

    /// The images and their order; a bug where they are streamed.
    let private resident (parts: EpochParts) : DeviceSet * EpochOrder =
        parts.Images.Resident
        |> Option.defaultWith (fun () -> invalidOp "steps on streamed images cannot be recorded.")

    /// Whether the teacher runs within the step.
    let private runsWithin (options: TeacherOptions) : bool = options.Ahead = 1 && options.Cache.IsNone

    /// Zeros with `rows` rows; other dimensions, type and memory format as `x`.
    let private zerosLike (rows: int) (x: Tensor) : Tensor =
        Tensor.scope (fun () ->
            let shape = Array.append [| int64 rows |] (Array.tail (Tensor.shape x))
            let zeros = Tensor.zeros (Tensor.dtype x) (Tensor.device x) shape
            if Tensor.isChannelsLast x then Tensor.channelsLast zeros else zeros
        )

    let private tensors (inputs: Inputs) : Tensor list =
        [ inputs.Clock; inputs.First ]
        @ Augment.tensors inputs.Order
        @ EpochValues.tensors inputs.Values
        @ (inputs.Buffer |> Option.map Outputs.tensors |> Option.defaultValue [])

    /// The inputs with the values of a state's epoch.
    let private create (trainer: Trainer) (state: TrainState) : Inputs =
        let zero () = Tensor.zeros DType.Int64 trainer.Plan.Device [||]

        Tensor.scopeWith
            (tensors >> Seq.ofList)
            (fun () ->
                let parts = Train.parts trainer state
                let set, order = resident parts

                let buffer () =
                    let rows = min parts.Teacher.Span parts.Images.Count

                    try
                        parts.Teacher.OutputsAt 0 |> Option.map (Outputs.map (zerosLike rows))
                    finally
                        parts.Teacher.Free()

                {
                    Images = set
                    Order = order
                    Values = parts.Values
                    Clock = zero ()
                    First = zero ()
                    Buffer = if runsWithin trainer.Teacher then None else buffer ()
                }
            )

    /// Writes the values of a state's epoch to the inputs' addresses.
    let private write (inputs: Inputs) (parts: EpochParts) (step: int) : unit =
        List.iter2 Tensor.copyInto (Augment.tensors inputs.Order) (Augment.tensors (snd (resident parts)))
        List.iter2 Tensor.copyInto (EpochValues.tensors inputs.Values) (EpochValues.tensors parts.Values)
        Tensor.fillInto inputs.Clock (float step)

    /// Writes the teacher's outputs for a span, which begins at position `first`, to the buffer.
    let private fill (inputs: Inputs) (first: int) (outputs: Outputs option) : unit =
        Tensor.scoped (fun () ->
            match inputs.Buffer, outputs with
            | Some buffer, Some outputs ->
                for target, source in List.zip (Outputs.tensors buffer) (Outputs.tensors outputs) do
                    Tensor.copyInto (Tensor.slice 0 0 (Tensor.size 0 source) target) source
            | _ -> ()

            Tensor.fillInto inputs.First (float first)
        )

    /// The input of the step that the clock points to.
    let private inputAt (trainer: Trainer) (inputs: Inputs) : StepInput =
        let plan = trainer.Plan
        let positions = Tensor.mulInt plan.Batch inputs.Clock + Tensor.arange plan.Device plan.Batch
        let batch = Augment.at plan.Pad inputs.Order positions inputs.Images

        match inputs.Buffer with
        | None -> TeacherOutputs.ofBatch plan batch
        | Some buffer ->
            let rows = positions - inputs.First

            let pick (x: Tensor) =
                let picked = Tensor.indexSelect 0 rows x
                if Tensor.isChannelsLast x then Tensor.channelsLast picked else picked

            { Batch = batch; Teacher = Some(Outputs.map pick buffer) }

    /// The whole step; nothing in it depends on the host.
    let private step (trainer: Trainer) (inputs: Inputs) (state: TrainState) () : unit =
        let plan = trainer.Plan

        Tensor.scoped (fun () ->
            inputAt trainer inputs |> MinMax.update plan inputs.Values inputs.Clock state
            Tensor.addInto inputs.Clock (Tensor.full DType.Int64 plan.Device 1.0 [||])
        )

    /// Three steps on the first batch, in which libraries choose their algorithms and take their memory.
    let private rehearse (inputs: Inputs) (step: unit -> unit) () : unit =
        for _ in 1..3 do
            Tensor.fillInto inputs.Clock 0.0
            step ()

    /// Runs the body, then restores the state and the clock.
    let private restoring (inputs: Inputs) (state: TrainState) (body: unit -> 'T) : 'T =
        Tensor.scoped (fun () ->
            let tensors = List.ofArray (Tree.leaves (TrainState.toTree state)) @ [ inputs.Clock ]
            let before = Autograd.noGrad (fun () -> tensors |> List.map Tensor.clone)
            let result = body ()
            Autograd.noGrad (fun () -> List.iter2 Tensor.copyInto tensors before)
            result
        )

    /// Records a step: from the rehearsal and the step to a function that repeats the step and one that frees the recording,
    /// or why it cannot be recorded.
    type Recorder = (unit -> unit) -> (unit -> unit) -> Result<(unit -> unit) * (unit -> unit), string>

    /// Records on a device, as a CUDA graph.
    let onDevice (device: Device) : Recorder =
        fun rehearse step ->
            Engine.record device rehearse step
            |> Result.map (fun graph -> (fun () -> Engine.replay graph), (fun () -> Engine.forget graph))

    /// Records nothing: rehearses, and does the step itself each time. So the step can be checked on any device.
    let direct: Recorder =
        fun rehearse step ->
            rehearse ()
            Ok(step, ignore)

    /// <summary>Records the steps of a run.</summary>
    /// <param name="record">`onDevice`, or `direct`.</param>
    /// <param name="trainer">A plan without an `obstacle`, and at least one full batch of images.</param>
    /// <param name="state">The state with which the run begins or resumes; it stays valid.</param>
    /// <returns>The steps, or why they cannot be recorded.</returns>
    let record (record: Recorder) (trainer: Trainer) (state: TrainState) : Result<Steps, string> =
        let inputs = create trainer state
        let step = step trainer inputs state
        let chain = fst state.Lease

        restoring inputs state (fun () -> record (rehearse inputs step) step)
        |> Result.map (fun (replay, free) ->
            let start (state: TrainState) =
                if not (obj.ReferenceEquals(chain, fst state.Lease)) then
                    invalidOp "these steps were recorded for another run: record its own with RecordedSteps.record"

                let parts = Train.parts trainer state
                write inputs parts state.Step
                let filled = ref -1

                let work (state: TrainState) =
                    let start = state.Step * trainer.Plan.Batch
                    let first = start / parts.Teacher.Span * parts.Teacher.Span

                    if start + trainer.Plan.Batch > ImageFeed.count trainer.Images then
                        Train.workOf trainer parts state
                    else
                        if inputs.Buffer.IsSome && filled.Value <> first then
                            fill inputs first (parts.Teacher.OutputsAt state.Step)
                            filled.Value <- first

                        replay ()

                { Work = work; Free = parts.Teacher.Free }

            { Trainer = trainer; Begin = start; Free = free }
        )

    /// The steps of a run: recorded where device and plan allow it, else from the host. `say` is told why a device that
    /// records does not.
    let choose (say: string -> unit) (trainer: Trainer) (state: TrainState) : Steps =
        let device = trainer.Plan.Device

        let instead (why: string) =
            say $"warning: the steps are not recorded as a CUDA graph but asked for one by one: {why}"
            Train.fromHost trainer

        // Photographs are decoded on the host in every step.
        if not (Engine.records device) || trainer.Images.IsStreamed then
            Train.fromHost trainer
        else
            match obstacle trainer.Plan with
            | Some why -> instead why
            | None when ImageFeed.count trainer.Images < trainer.Plan.Batch -> instead "the set has no full batch"
            | None ->
                match record (onDevice device) trainer state with
                | Ok steps -> steps
                | Result.Error why -> instead why
