namespace Ctkd.Fs.App

/// A median with its 95 % interval.
type Estimate = { Median: float; Low: float; High: float }

/// Medians of measurements.
[<RequireQualifiedAccess>]
module Estimate =

    /// The median of some values.
    let median (values: float[]) : float =
        let sorted = Array.sort values
        (sorted[(sorted.Length - 1) / 2] + sorted[sorted.Length / 2]) / 2.0

    /// The median's interval between two order statistics: by the binomial distribution it holds the true median
    /// with a probability of at least 95 %, whatever the values' distribution (from 6 values on; below, all of them).
    let ofValues (values: float[]) : Estimate =
        let sorted = Array.sort values
        let n = sorted.Length
        let ways = Seq.scan (fun ways k -> ways * float (n - k) / float (k + 1)) 1.0 (seq { 0 .. n - 1 })
        let below = ways |> Seq.scan (+) 0.0 |> Seq.tail |> Seq.map (fun sum -> sum / 2.0 ** n)
        let outside = below |> Seq.takeWhile (fun p -> p <= 0.025) |> Seq.length |> max 1

        {
            Median = median sorted
            Low = sorted[outside - 1]
            High = sorted[n - outside]
        }
