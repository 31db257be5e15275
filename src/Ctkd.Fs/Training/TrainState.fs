namespace Ctkd.Fs

/// The best epoch so far: that of the highest top-1 on the validation images where there are any, else on the test images.
type Best = {
    /// From 1; 0 before any.
    Epoch: int
    /// On the test images in that epoch, in percent.
    Top1: float
    /// On the validation images in that epoch, in percent; None where the test images choose.
    ValTop1: float option
}

/// Functions over the best epoch.
[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module Best =

    /// Before the first evaluation.
    let none: Best = { Epoch = 0; Top1 = 0.0; ValTop1 = None }

    /// The top-1 that chooses the best epoch, in percent.
    let chosenBy (best: Best) : float = best.ValTop1 |> Option.defaultValue best.Top1

    /// The better of the best epoch so far and a later one: the earlier of equals.
    let better (best: Best) (later: Best) : Best = if chosenBy later > chosenBy best then later else best

    /// Whether the best top-1 has not risen in the last `patience` epochs before epoch `epoch` (from 1); never without patience.
    let hasStalled (patience: int option) (epoch: int) (best: Best) : bool =
        patience |> Option.exists (fun epochs -> epoch - 1 - best.Epoch >= epochs)

    /// Whether a run of `epochs` epochs is over before epoch `epoch` (from 1), of which `step` batches are done: no epoch is
    /// left, or the best top-1 has stalled.
    let isOver (epochs: int) (patience: int option) (epoch: int) (step: int) (best: Best) : bool =
        epoch > epochs || step = 0 && hasStalled patience epoch best

    /// A line about a run that has stalled before an epoch.
    let stalled (patience: int) (epoch: int) (best: Best) : string =
        let epochs = if patience = 1 then "an epoch" else $"{patience} epochs"

        let images = if best.ValTop1.IsSome then " on the validation" else ""

        $"stopped early after epoch {epoch - 1}: the best top-1{images}, %.2f{chosenBy best} %% of epoch {best.Epoch}, has not risen for {epochs}"

/// Everything that changes while a plan runs: what a checkpoint holds. A step updates the tensors in place and invalidates
/// the state that it was given: using that state again raises.
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
    /// State of the optimiser for all trained tensors (`Optimiser.start`): under SGD their velocities.
    Velocity: Tree
    /// The average of the student's weights (`WeightAverage.start`); empty where the plan keeps none.
    Average: Tree
    /// State of the policy's agent; empty without one.
    Agent: Tree
    /// Metrics of the epoch so far.
    Sums: EpochSums
    /// The current epoch, from 1.
    Epoch: int
    /// Batches done in it.
    Step: int
    Best: Best
    /// A counter that all states of a run share; only the newest state has its number.
    Lease: int64 ref * int64
}

/// Making training states, storing them, and passing them on.
[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module TrainState =

    /// The trained tensors by path, the temperature's last.
    let private trained (plan: TrainingPlan) (student: Tree) (connectors: Tree) (temperature: Tree) : Tree =
        let names = Model.trainedNames plan.Student

        let connecting =
            TrainingPlan.distillers plan
            |> Distiller.declarations
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
        (plan: TrainingPlan)
        (student: Tree, connectors: Tree, temperature: Tree)
        (velocity: Tree -> Tree)
        (average: Tree -> Tree)
        (agent: Tree)
        (sums: EpochSums)
        : TrainState =
        let trained = trained plan student connectors temperature

        for leaf in Tree.leaves trained do
            leaf.requires_grad <- true

        {
            Student = student
            Temperature = temperature
            Connectors = connectors
            Trained = trained
            Counters = Array.append (Model.counters student) (Model.counters connectors)
            Velocity = velocity trained
            Average = average student
            Agent = agent
            Sums = sums
            Epoch = 1
            Step = 0
            Best = Best.none
            Lease = ref 0L, 0L
        }

    let private averagePrefix = "average/"

    /// Where the averaged weights lie among all tensors.
    let averagedWeights: string = averagePrefix + WeightAverage.prefix

    let private sumsPrefix = "tally/"

    /// Where the sums that the policy reports lie among all tensors; checkpoints of earlier versions lack them.
    let reportedSums: string = sumsPrefix + EpochSums.reportedName

    /// All tensors by path.
    let toTree (state: TrainState) : Tree =
        Tree.concat [
            Tree.prefixed "student/" state.Student
            Tree.prefixed "connectors/" state.Connectors
            Tree.prefixed "temperature/" state.Temperature
            Tree.prefixed "velocity/" state.Velocity
            Tree.prefixed averagePrefix state.Average
            Tree.prefixed "agent/" state.Agent
            Tree.prefixed sumsPrefix (EpochSums.toTree state.Sums)
        ]

    /// The state before the first step: each tensor from a key of its own under the plan's seed.
    let start (plan: TrainingPlan) : TrainState =
        Tensor.scopeWith
            (toTree >> Tree.leaves >> Seq.ofArray)
            (fun () ->
                let rng = Rng.ofSeed plan.Seed |> Rng.split "initialisation"
                let dtype, device = TrainingPlan.dtype plan, plan.Device
                let fresh purpose = Initialise.tree dtype device (Rng.split purpose rng)
                let distillers = TrainingPlan.distillers plan
                let student = fresh "student" (Model.declarations plan.Student) |> TrainingPlan.format plan

                let temperature =
                    match plan.Distillation with
                    | None -> Tree.empty
                    | Some { Policy = policy } -> fresh "temperature" (Policy.declarations plan.Student.Classes policy)

                let memory = Distiller.memory distillers dtype device (Rng.split "memory" rng)

                let connectors =
                    Tree.concat [ fresh "connectors" (Distiller.declarations distillers); memory ]
                    |> TrainingPlan.format plan

                let images = if plan.Distillation.IsSome then plan.TrainImages else 0

                let sums =
                    EpochSums.start device images (TrainingPlan.termNames plan).Length
                    |> EpochSums.reporting (TrainingPlan.reportedNames plan).Length

                let agent =
                    match TrainingPlan.agent plan with
                    | None -> Tree.empty
                    | Some agent -> agent.Start plan.TrainImages plan.Batch dtype device (Rng.split "agent" rng)

                let average (student: Tree) =
                    if plan.Average.IsSome then WeightAverage.start device student else Tree.empty

                assemble plan (student, connectors, temperature) (Optimiser.start plan.Optimiser) average agent sums
            )

    /// The state of `toTree`'s tensors, in the plan's memory format.
    let ofTree (plan: TrainingPlan) (epoch: int) (step: int) (best: Best) (tree: Tree) : TrainState =
        let part prefix = Tree.under prefix tree |> TrainingPlan.format plan
        let velocity, average = part "velocity/", part averagePrefix
        let sums = EpochSums.ofTree (Tree.under sumsPrefix tree)

        {
            assemble
                plan
                (part "student/", part "connectors/", part "temperature/")
                (fun _ -> velocity)
                (fun _ -> average)
                (part "agent/")
                sums with
                Epoch = epoch
                Step = step
                Best = best
        }

    /// The student's weights as they are evaluated and exported: their average where the plan keeps one.
    let deployed (state: TrainState) : Tree =
        if Tree.count state.Average = 0 then
            state.Student
        else
            WeightAverage.weights state.Average

    /// Invalidates `state`; continue with the returned one.
    let private renew (state: TrainState) : TrainState =
        let counter, number = state.Lease

        if counter.Value <> number then
            invalidOp "this training state was consumed by a later step: go on with the state that the step returned"

        counter.Value <- number + 1L
        { state with Lease = counter, number + 1L }

    /// Runs the work of one step, which updates tensors in place. Invalidates `state`; continue with the returned one.
    let advance (work: TrainState -> unit) (state: TrainState) : TrainState =
        let next = renew state
        work state
        { next with Step = state.Step + 1 }

    /// The beginning of the next epoch, with empty sums. Invalidates `state`; continue with the returned one.
    let nextEpoch (best: Best) (state: TrainState) : TrainState =
        let next = renew state
        EpochSums.clear state.Sums
        { next with Epoch = state.Epoch + 1; Step = 0; Best = best }
