namespace Ctkd.Fs

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
    /// State of the policy's agent; nothing without one.
    Agent: Tree
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
