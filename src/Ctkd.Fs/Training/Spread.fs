namespace Ctkd.Fs

/// Quantiles of a set of numbers.
type Spread = { Q05: float; Q25: float; Median: float; Q75: float; Q95: float }

/// Computes quantiles.
[<RequireQualifiedAccess>]
module Spread =

    /// Returns the quantile at `share`, 0 .. 1, of sorted numbers, interpolated linearly: with the position
    /// h = share (n - 1), x[floor h] + (h - floor h) (x[floor h + 1] - x[floor h]).
    /// Hyndman and Fan 1996, type 7.
    let quantile (share: float) (sorted: float[]) : float =
        if sorted.Length = 0 then
            invalidArg (nameof sorted) "no numbers have no quantiles."

        if not (share >= 0.0 && share <= 1.0) then
            invalidArg (nameof share) $"a quantile's share lies in 0 .. 1, got {share}."

        let position = share * float (sorted.Length - 1)
        let below = int (floor position)
        let above = min (below + 1) (sorted.Length - 1)
        sorted[below] + (position - float below) * (sorted[above] - sorted[below])

    /// Returns the quantiles of numbers in any order; `None` without numbers.
    let ofNumbers (numbers: float[]) : Spread option =
        if numbers.Length = 0 then
            None
        else
            let sorted = Array.sort numbers

            Some {
                Q05 = quantile 0.05 sorted
                Q25 = quantile 0.25 sorted
                Median = quantile 0.5 sorted
                Q75 = quantile 0.75 sorted
                Q95 = quantile 0.95 sorted
            }
