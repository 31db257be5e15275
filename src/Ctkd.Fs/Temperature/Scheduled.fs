namespace Ctkd.Fs

/// Temperatures that a schedule sets.
[<RequireQualifiedAccess>]
module Scheduled =

    let internal checkedT (name: string) (t: float) : float =
        if not (System.Double.IsFinite t && t > 0.0) then
            invalidArg name $"the temperature must be finite and > 0, got {string t}."

        t

    /// T by epoch, the simplest dynamic baseline.
    let by (schedule: Schedule) : Policy = Policy.ofSource "schedule" (TemperatureSource.Scheduled schedule)

    /// The same T throughout; 4 is usual.
    let fixedAt (t: float) : Policy =
        Schedule.constant (checkedT (nameof t) t) |> TemperatureSource.Scheduled |> Policy.ofSource "fixed"
