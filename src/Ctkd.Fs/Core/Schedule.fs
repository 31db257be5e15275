namespace Ctkd.Fs

open System

/// A number per epoch: a learning rate, curriculum strength, temperature or loss weight.
///
/// Epochs count from 1, and `at 0` is the start value. A decay applies from the epoch after its milestone. Outside its
/// range a schedule keeps its nearest value.
[<RequireQualifiedAccess>]
type Schedule =
    private
    | Constant of value: float
    | MultiStep of start: float * factor: float * milestones: int list
    | Step of start: float * factor: float * every: int
    | Linear of start: float * stop: float * epochs: int
    | Cosine of start: float * stop: float * epochs: int
    | Joined of first: Schedule * epochs: int * next: Schedule
    | Product of one: Schedule * other: Schedule

    /// Returns the value in an epoch.
    member schedule.At(epoch: int) : float =
        let progress (epochs: int) = float (Math.Clamp(epoch, 0, epochs)) / float epochs

        match schedule with
        | Schedule.Constant value -> value
        | Schedule.MultiStep(start, factor, milestones) ->
            start * Math.Pow(factor, milestones |> List.filter (fun m -> epoch > m) |> List.length |> float)
        | Schedule.Step(start, factor, every) -> start * Math.Pow(factor, float ((max 1 epoch - 1) / every))
        | Schedule.Linear(start, stop, epochs) -> start + (stop - start) * progress epochs
        | Schedule.Cosine(start, stop, epochs) ->
            start + (stop - start) * (1.0 - Math.Cos(Math.PI * progress epochs)) / 2.0
        | Schedule.Joined(first, epochs, next) -> if epoch <= epochs then first.At epoch else next.At(epoch - epochs)
        | Schedule.Product(one, other) -> one.At epoch * other.At epoch

/// Creates and evaluates schedules. A number that is not finite or a length below 1 epoch raises `ArgumentException`.
[<RequireQualifiedAccess>]
module Schedule =
    let private finite (name: string) (value: float) : unit =
        if not (Double.IsFinite value) then
            invalidArg name $"{name} must be finite, got {value}."

    let private positive (name: string) (value: int) : unit =
        if value <= 0 then
            invalidArg name $"{name} must be at least 1 epoch, got {value}."

    /// The same value in every epoch.
    let constant (value: float) : Schedule =
        finite (nameof value) value
        Schedule.Constant value

    /// `start`, multiplied by `factor` after each milestone (ascending epochs, each at least 1).
    let multiStep (start: float) (factor: float) (milestones: int list) : Schedule =
        finite (nameof start) start
        finite (nameof factor) factor

        if List.sort milestones <> milestones || List.exists (fun m -> m < 1) milestones then
            invalidArg (nameof milestones) $"milestones must be epochs from 1 on in rising order, got %A{milestones}."

        Schedule.MultiStep(start, factor, milestones)

    /// `start`, multiplied by `factor` after every `every` epochs.
    let step (start: float) (factor: float) (every: int) : Schedule =
        finite (nameof start) start
        finite (nameof factor) factor
        positive (nameof every) every
        Schedule.Step(start, factor, every)

    /// From `start` at epoch 0 to `stop` at epoch `epochs`, linearly.
    let linear (start: float) (stop: float) (epochs: int) : Schedule =
        finite (nameof start) start
        finite (nameof stop) stop
        positive (nameof epochs) epochs
        Schedule.Linear(start, stop, epochs)

    /// From `start` at epoch 0 to `stop` at epoch `epochs`, along half a cosine: slow, fast, slow.
    let cosine (start: float) (stop: float) (epochs: int) : Schedule =
        finite (nameof start) start
        finite (nameof stop) stop
        positive (nameof epochs) epochs
        Schedule.Cosine(start, stop, epochs)

    /// `first` for `epochs` epochs, then `next`, whose epochs count from 1 again.
    let joined (first: Schedule) (epochs: int) (next: Schedule) : Schedule =
        positive (nameof epochs) epochs
        Schedule.Joined(first, epochs, next)

    /// The product of two schedules in every epoch: a rate times its warm-up, as PyTorch's `ChainedScheduler` composes them.
    let product (one: Schedule) (other: Schedule) : Schedule = Schedule.Product(one, other)

    /// The factor of a learning rate that warms up over `epochs` epochs: min(e / (epochs + 1), 1) in epoch e, from
    /// 1 / (epochs + 1) in the first to 1 in the first after the warm-up. PyTorch's `LinearLR` with
    /// start_factor = 1 / (epochs + 1) and total_iters = epochs. 0 epochs: 1 throughout.
    let warmingUp (epochs: int) : Schedule =
        if epochs < 0 then
            invalidArg (nameof epochs) $"a warm-up takes 0 epochs or more, got {epochs}."

        Schedule.Linear(0.0, 1.0, max (epochs + 1) epochs)

    /// A rate that falls from `start` in the first epoch along half a cosine: in epoch e, from 1 to `epochs`, it is
    /// stop + (start - stop) (1 + cos(pi (e - 1) / epochs)) / 2, as PyTorch's `CosineAnnealingLR` with T_max = epochs. No
    /// epoch has the rate `stop` itself, which would be idle where that is 0.
    let annealed (start: float) (stop: float) (epochs: int) : Schedule =
        joined (constant start) 1 (cosine start stop epochs)

    /// CTKD's curriculum: the adversary's strength lambda rises from 0 to 1 over the first E epochs (10 on CIFAR-100):
    /// lambda(e) = (1 - cos(pi min(e, E) / E)) / 2 (CTKD, arXiv:2211.16231).
    let curriculum (epochs: int) : Schedule = cosine 0.0 1.0 epochs

    /// A loss weight with linear warm-up: w(e) = weight min(e / epochs, 1). DKD and DTKD use 20 epochs.
    let warmUp (weight: float) (epochs: int) : Schedule = linear 0.0 weight epochs

    /// Returns the value in an epoch.
    let at (epoch: int) (schedule: Schedule) : float = schedule.At epoch

    /// Returns the values of epochs 1 .. count.
    let sample (count: int) (schedule: Schedule) : float list = List.init count (fun i -> schedule.At(i + 1))
