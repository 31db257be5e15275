namespace Ctkd.Fs

open System.Globalization

/// Whether a learned T can still move. T = Start + Scale s with s = sigmoid(x), so x acts on T through
/// sigmoid'(x) = s (1 - s): where that is nearly 0, T is at a bound of its range and no longer learns.
[<RequireQualifiedAccess>]
module Saturation =

    /// Below this mean of sigmoid' over an epoch's images a policy counts as saturated: T is then within
    /// 0.1 % of its scale of a bound. At the start of CTKD's global policy it is 0.197.
    let limit: float = 1e-3

    let private share (range: TemperatureRange) (t: float) : float =
        (t - range.Start) / range.Scale |> max 0.0 |> min 1.0

    /// Mean of sigmoid' over temperatures, 0 to 0.25; NaN where there are none.
    let slope (range: TemperatureRange) (temperatures: float[]) : float =
        if temperatures.Length = 0 then
            nan
        else
            temperatures
            |> Array.averageBy (fun t ->
                let s = share range t
                s * (1.0 - s)
            )

    /// Returns a warning where an epoch's temperatures are saturated.
    let warning (range: TemperatureRange) (temperatures: float[]) : string option =
        let slope = slope range temperatures

        if not (slope < limit) then
            None
        else
            let number (value: float) = value.ToString("0.####", CultureInfo.InvariantCulture)
            let small (value: float) = value.ToString("0.#e-0", CultureInfo.InvariantCulture)
            let low, high = number range.Start, number (range.Start + range.Scale)

            let upper = temperatures |> Array.averageBy (fun t -> if share range t > 0.5 then 1.0 else 0.0)

            let place, next =
                if upper = 1.0 then
                    $"at the upper bound {high}", "raise --t-scale, "
                elif upper = 0.0 then
                    $"at the lower bound {low}", "lower --t-start, "
                else
                    let percent = number (round (100.0 * upper))
                    $"at the bounds {low} and {high} (%s{percent} %% of the images at the upper one)", ""

            Some
                $"the learned temperature is saturated {place}: the mean of sigmoid' is {small slope}, below \
                  {small limit}, so that T hardly learns any more; {next}try a shorter curriculum or a \
                  smaller --curriculum-stop, and leave weight decay on (without --no-temperature-decay)"
