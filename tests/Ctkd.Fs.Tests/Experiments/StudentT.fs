/// Student's t distribution by numeric integration, beside the library's that the product uses.
module Ctkd.Fs.Tests.StudentT

open System

/// The integral of a function by Simpson's rule.
let private integral (f: float -> float) (low: float) (high: float) : float =
    let steps = 20_000
    let h = (high - low) / float steps
    let inner = seq { for i in 1 .. steps - 1 -> (if i % 2 = 1 then 4.0 else 2.0) * f (low + float i * h) }
    h / 3.0 * (f low + f high + Seq.sum inner)

/// P(|T| > t) for so many degrees of freedom: with t = sqrt v tan x the density is that of cos^(v - 1) x.
let beyond (freedom: float) (t: float) : float =
    let density x = Math.Pow(max 0.0 (Math.Cos x), freedom - 1.0)
    let at = Math.Atan(abs t / sqrt freedom)
    integral density at (Math.PI / 2.0) / integral density 0.0 (Math.PI / 2.0)

/// The t that |T| exceeds with the chance 1 - level, by halving intervals.
let quantile (freedom: float) (level: float) : float =
    let rec search low high steps =
        let middle = (low + high) / 2.0

        if steps = 0 then middle
        elif beyond freedom middle > 1.0 - level then search middle high (steps - 1)
        else search low middle (steps - 1)

    search 0.0 1000.0 50
