namespace Ctkd.Fs

/// What a run tells its caller while it runs. Only `Stop` changes the run.
[<NoComparison; NoEquality>]
type Hooks = {
    /// A sentence for the user: what was loaded, a warning.
    Say: string -> unit
    /// Epoch, batches done, batches of the epoch.
    OnBatch: int -> int -> int -> unit
    OnEpoch: EpochMetrics -> unit
    /// Is asked between batches whether to write a checkpoint and stop.
    Stop: unit -> bool
}

/// Hooks that do nothing.
[<RequireQualifiedAccess>]
module Hooks =
    /// Silent and never stopping.
    let none: Hooks = {
        Say = ignore
        OnBatch = fun _ _ _ -> ()
        OnEpoch = ignore
        Stop = fun () -> false
    }

/// An experiment: settings, and values of the caller's own, each in place of what the settings name.
[<NoComparison; NoEquality>]
type Experiment = {
    Settings: Settings
    Student: Model option
    Teacher: LoadedModel option
    Data: Splits option
    Policy: Policy option
    /// Weighted distillers; None for the settings' methods.
    Distillers: (float * Distiller) list option
    /// Whether tensors of the teacher's file that its model lacks are left aside.
    IgnoreExtra: bool
    /// The recipe that the settings follow, for the record; empty for none.
    Recipe: string
    Hooks: Hooks
}
