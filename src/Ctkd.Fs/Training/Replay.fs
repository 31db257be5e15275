namespace Ctkd.Fs

/// Steps of one training run that are recorded once and replayed: on CUDA devices the host then asks for a whole step by
/// one call.
[<NoComparison; NoEquality>]
type Replay = {
    Stepping: Train.Stepping
    /// Frees the recording.
    Free: unit -> unit
}

/// The step as a recording. What changes from step to step lies on the device, at addresses that stay: the step reads a
/// counter there and raises it, and finds its images in the epoch's order by it. Between epochs the host writes the new
/// order, cuts and dials to the same addresses.
///
/// Recorded are the steps of full batches; a shorter last one is done from the host. So are the teacher's passes when it
/// runs ahead or remembers: what it said lies in a buffer that the steps read.
[<RequireQualifiedAccess>]
module Replay =

    /// What the recorded step reads besides the state and the images.
    [<NoComparison; NoEquality>]
    type private Board = {
        Plan: EpochPlan
        Dials: EpochDials
        /// Batches of the epoch that are done: int64 [].
        Clock: Tensor
        /// Position in the epoch of the first row of `Said`: int64 [].
        First: Tensor
        /// What the teacher said; None where it runs within the step, or there is none.
        Said: Outputs option
    }

    /// What keeps a course's steps from being recorded; None: nothing. Distillers, policies and layers of one's own must be
    /// tensor code throughout.
    let obstacle (course: Course) : string option =
        if course.Student.Dropout > 0.0 then
            Some $"the dropout of {course.Student.Name} is seeded by the host in every step"
        elif (Acting.agent course).IsSome then
            Some "the policy's agent learns and decides from the host"
        else
            None

    let private planTensors (plan: EpochPlan) : Tensor list = [
        plan.Order
        plan.Row
        plan.Column
        plan.Direction
    ]

    let private dialTensors (dials: EpochDials) : Tensor list =
        [ dials.Rate; dials.CrossEntropy; dials.Key ]
        @ [ dials.Policy.Strength; dials.Policy.Scheduled ]
        @ dials.Distillers

    let private saidTensors (said: Outputs) : Tensor list = said.Logits :: said.Pooled :: said.Features

    /// Whether the teacher runs within the step.
    let private isBeside (how: TeachingPlan) : bool = how.Ahead = 1 && how.Cache.IsNone

    /// A tensor for so many rows like those of another, in its memory format.
    let private rowsLike (rows: int) (x: Tensor) : Tensor =
        Tensor.scope (fun () ->
            let shape = Array.append [| int64 rows |] (Array.tail (Tensor.shape x))
            let zeros = Tensor.zeros (Tensor.dtype x) (Tensor.device x) shape
            if Tensor.isChannelsLast x then Tensor.channelsLast zeros else zeros
        )

    /// A board with the values of an epoch.
    let private board (how: TeachingPlan) (course: Course) (set: DeviceSet) (state: TrainState) : Board =
        let zero () = Tensor.zeros DType.Int64 course.Device [||]

        let tensors (board: Board) =
            [ board.Clock; board.First ]
            @ planTensors board.Plan
            @ dialTensors board.Dials
            @ (board.Said |> Option.map saidTensors |> Option.defaultValue [])

        Tensor.scopeWith
            (tensors >> Seq.ofList)
            (fun () ->
                let parts = Train.parts how course set state

                let buffer () =
                    let span = min parts.Teaching.Span (Augment.count set)
                    parts.Teaching.Prepare 0 span

                    parts.Teaching.Said 0 span
                    |> Option.map (fun said -> {
                        Features = said.Features |> List.map (rowsLike span)
                        Pooled = rowsLike span said.Pooled
                        Logits = rowsLike span said.Logits
                    })

                {
                    Plan = parts.Plan
                    Dials = parts.Dials
                    Clock = zero ()
                    First = zero ()
                    Said = if isBeside how then None else buffer ()
                }
            )

    /// The values of an epoch, to the addresses of the board.
    let private write (board: Board) (parts: Train.EpochParts) (step: int) : unit =
        List.iter2 Tensor.copyInto (planTensors board.Plan) (planTensors parts.Plan)
        List.iter2 Tensor.copyInto (dialTensors board.Dials) (dialTensors parts.Dials)
        Tensor.fillInto board.Clock (float step)

    /// What the teacher said of a span of positions, to the buffer.
    let private hear (board: Board) (first: int) (said: Outputs option) : unit =
        Tensor.scoped (fun () ->
            match board.Said, said with
            | Some buffer, Some said ->
                for target, source in List.zip (saidTensors buffer) (saidTensors said) do
                    Tensor.copyInto (Tensor.slice 0 0 (Tensor.size 0 source) target) source
            | _ -> ()

            Tensor.fillInto board.First (float first)
        )

    /// The batch that the clock points to.
    let private taught (course: Course) (set: DeviceSet) (board: Board) : Taught =
        let positions = Tensor.mulInt course.Batch board.Clock + Tensor.arange course.Device course.Batch

        let batch = Augment.at course.Pad board.Plan positions set

        match board.Said with
        | None -> Teach.now course batch
        | Some said ->
            let rows = positions - board.First

            let pick (x: Tensor) =
                let picked = Tensor.indexSelect 0 rows x
                if Tensor.isChannelsLast x then Tensor.channelsLast picked else picked

            {
                Batch = batch
                Teacher =
                    Some {
                        Features = List.map pick said.Features
                        Pooled = pick said.Pooled
                        Logits = pick said.Logits
                    }
            }

    /// The whole step; nothing in it depends on the host.
    let private step (course: Course) (set: DeviceSet) (board: Board) (state: TrainState) () : unit =
        Tensor.scoped (fun () ->
            taught course set board |> Train.update course board.Dials board.Clock state
            Tensor.addInto board.Clock (Tensor.full DType.Int64 course.Device 1.0 [||])
        )

    /// Three steps on the first batch that leave no trace: libraries choose their algorithms and take their memory in them.
    let private rehearse (board: Board) (step: unit -> unit) () : unit =
        for _ in 1..3 do
            Tensor.fillInto board.Clock 0.0
            step ()

    /// Runs the body and puts the state and the clock back as they were.
    let private untouched (board: Board) (state: TrainState) (body: unit -> 'T) : 'T =
        Tensor.scoped (fun () ->
            let tensors = List.ofArray (Tree.leaves (Train.toTree state)) @ [ board.Clock ]
            let before = Autograd.noGrad (fun () -> tensors |> List.map Tensor.clone)
            let result = body ()
            Autograd.noGrad (fun () -> List.iter2 Tensor.copyInto tensors before)
            result
        )

    /// How a step is recorded: from the rehearsal and the step to what does the step again and what frees the recording, or
    /// why it cannot be recorded.
    type Recorder = (unit -> unit) -> (unit -> unit) -> Result<(unit -> unit) * (unit -> unit), string>

    /// Records on the course's device: as a CUDA graph.
    let onDevice (course: Course) : Recorder =
        fun rehearse step ->
            Engine.record course.Device rehearse step
            |> Result.map (fun graph -> (fun () -> Engine.replay graph), (fun () -> Engine.forget graph))

    /// Records nothing: rehearses, and each time does the step itself. So the step can be checked on any device.
    let direct: Recorder =
        fun rehearse step ->
            rehearse ()
            Ok(step, ignore)

    /// <summary>Steps that are recorded now, and replayed in every epoch of the run that the state belongs to.</summary>
    /// <param name="record">`onDevice`, or `direct`.</param>
    /// <param name="how">How the teacher works through an epoch.</param>
    /// <param name="course">A course without an `obstacle`.</param>
    /// <param name="set">The training images, a full batch of them at least.</param>
    /// <param name="state">The state with which the run begins or goes on; it is not consumed.</param>
    /// <returns>The steps, or why they cannot be recorded.</returns>
    let create
        (record: Recorder)
        (how: TeachingPlan)
        (course: Course)
        (set: DeviceSet)
        (state: TrainState)
        : Result<Replay, string> =
        let board = board how course set state
        let step = step course set board state
        let chain = fst state.Lease

        untouched board state (fun () -> record (rehearse board step) step)
        |> Result.map (fun (again, free) ->
            let stepping (set': DeviceSet) (state: TrainState) =
                if not (obj.ReferenceEquals(set, set') && obj.ReferenceEquals(chain, fst state.Lease)) then
                    invalidOp "these steps were recorded for another run: record its own with Replay.create"

                let parts = Train.parts how course set state
                write board parts state.Step
                let span = parts.Teaching.Span
                let mutable heard = -1

                fun (state: TrainState) ->
                    let start = state.Step * course.Batch
                    let stop = start + course.Batch

                    if stop > Augment.count set then
                        Train.work course parts set state
                    else
                        let first = start / span * span

                        if board.Said.IsSome && heard <> first then
                            parts.Teaching.Prepare start stop
                            let last = min (Augment.count set) (first + span)
                            hear board first (parts.Teaching.Said first last)
                            heard <- first

                        again ()

            { Stepping = stepping; Free = free }
        )

    /// The steps of a run one by one from the host.
    let fromHost (how: TeachingPlan) (course: Course) : Replay = {
        Stepping = Train.stepping how course
        Free = ignore
    }

    /// The steps of a run: recorded where the device and the course allow it, else from the host. `say` hears why a device
    /// that records does not.
    let choose (say: string -> unit) how (course: Course) (set: DeviceSet) (state: TrainState) : Replay =
        let instead (why: string) =
            say $"warning: the steps are not recorded as a CUDA graph but asked for one by one: {why}"
            fromHost how course

        if not (Engine.records course.Device) then
            fromHost how course
        else
            match obstacle course with
            | Some why -> instead why
            | None when Augment.count set < course.Batch -> instead "the set has no full batch"
            | None ->
                match create (onDevice course) how course set state with
                | Ok replay -> replay
                | Result.Error why -> instead why
