namespace Ctkd.Fs

open System
open MathNet.Numerics.Distributions

/// An interval of numbers with both ends.
type Interval = { Low: float; High: float }

/// What is known of values of one kind, such as the accuracies of runs that differ in their seeds.
type Sample = {
    /// The number of values, from 1.
    Count: int
    Mean: float
    /// The standard deviation over n - 1, >= 0; None for one value.
    Deviation: float option
    /// Student's interval of the mean; None for one value.
    Interval: Interval option
}

/// A t-test against 0.
type TTest = {
    T: float
    /// Degrees of freedom, > 0; of Welch's test seldom whole.
    Freedom: float
    /// Two-sided: the chance, in [0, 1], of a |t| of this size or more where nothing differs.
    P: float
}

/// A difference of means.
type Difference = {
    Mean: float
    /// Student's interval of the difference.
    Interval: Interval
    /// None where the values do not vary: t would be 0 / 0 or infinite.
    Test: TTest option
}

/// Means, intervals and t-tests of a few values. Values must be finite, and small enough that their squares are.
[<RequireQualifiedAccess>]
module Statistics =

    /// The confidence levels that intervals can have.
    let levels: NumberBound = {
        Words = "from 0.5 to 0.999"
        Holds = fun level -> level >= 0.5 && level <= 0.999
    }

    let private check (name: string) (values: float list) : unit =
        if not (List.forall Double.IsFinite values) then
            invalidArg name "the values must be finite."

    /// sum x / n. Refuses an empty list and values that are not finite.
    let mean (values: float list) : float =
        if values.IsEmpty then
            invalidArg (nameof values) "there must be a value at least."

        check (nameof values) values
        List.average values

    /// The standard deviation of a sample, sqrt (sum (x - mean)^2 / (n - 1)), >= 0; None for fewer than two values.
    let deviation (values: float list) : float option =
        if values.Length < 2 then
            None
        else
            let mean = mean values
            let squares = values |> List.sumBy (fun x -> (x - mean) * (x - mean))
            Some(sqrt (squares / float (values.Length - 1)))

    /// The number that |t| exceeds with the chance 1 - level.
    let private quantile (level: float) (freedom: float) : float =
        if not (levels.Holds level) then
            invalidArg (nameof level) $"the level must lie {levels.Words}, got {level}."

        StudentT.InvCDF(0.0, 1.0, freedom, 0.5 + level / 2.0)

    let private around (level: float) (freedom: float) (centre: float) (error: float) : Interval =
        let half = quantile level freedom * error
        { Low = centre - half; High = centre + half }

    /// <summary>
    /// Student's interval of a mean, <c>mean +- t s / sqrt n</c>, <c>t</c> the quantile of n - 1 degrees of freedom that |t|
    /// exceeds with the chance 1 - level: of many such intervals, the share <c>level</c> holds the mean of all seeds.
    /// </summary>
    /// <param name="level">The confidence level, from 0.5 to 0.999.</param>
    /// <param name="values">The values, finite.</param>
    /// <returns>The interval in the unit of the values; None for fewer than two.</returns>
    let interval (level: float) (values: float list) : Interval option =
        deviation values
        |> Option.map (fun s -> around level (float (values.Length - 1)) (mean values) (s / sqrt (float values.Length)))

    /// Count, mean, standard deviation and interval of one value or more.
    let sample (level: float) (values: float list) : Sample = {
        Count = values.Length
        Mean = mean values
        Deviation = deviation values
        Interval = interval level values
    }

    /// Spreads of this size beside the values are what rounding leaves of none.
    let private rounding = 1e-12

    /// A difference from its standard error. `size` is the largest value that it was computed from.
    let private difference (level: float) (freedom: float) (size: float) (mean: float) (error: float) : Difference =
        let test =
            if error <= rounding * size then
                None
            else
                let t = mean / error

                Some {
                    T = t
                    Freedom = freedom
                    P = 2.0 * StudentT.CDF(0.0, 1.0, freedom, -(abs t))
                }

        { Mean = mean; Interval = around level freedom mean error; Test = test }

    let private largest (values: float list) : float = values |> List.map abs |> List.max

    /// <summary>
    /// The paired difference of first and second values: the mean d of first - second, its interval
    /// <c>d +- t s / sqrt n</c> and the test <c>t = d / (s / sqrt n)</c> with n - 1 degrees of freedom, s the standard
    /// deviation of the n differences.
    /// </summary>
    /// <param name="level">The confidence level, from 0.5 to 0.999.</param>
    /// <param name="pairs">Values that belong together, such as of two runs with one seed; finite.</param>
    /// <returns>The difference in the unit of the values; None for fewer than two pairs.</returns>
    let paired (level: float) (pairs: (float * float) list) : Difference option =
        let firsts, seconds = List.unzip pairs
        check (nameof pairs) (firsts @ seconds)
        let differences = List.map2 (-) firsts seconds

        deviation differences
        |> Option.map (fun s ->
            let n = float pairs.Length
            difference level (n - 1.0) (largest (firsts @ seconds)) (mean differences) (s / sqrt n)
        )

    /// <summary>
    /// The difference of two means of values that belong to no pairs, by Welch's test:
    /// <c>t = (mean a - mean b) / sqrt (va + vb)</c>, <c>v = s^2 / n</c> of each, with
    /// <c>(va + vb)^2 / (va^2 / (na - 1) + vb^2 / (nb - 1))</c> degrees of freedom (Welch and Satterthwaite).
    /// </summary>
    /// <param name="level">The confidence level, from 0.5 to 0.999.</param>
    /// <param name="first">The values of one kind, finite.</param>
    /// <param name="second">The values of the other, finite.</param>
    /// <returns>The difference in the unit of the values; None where one kind has fewer than two.</returns>
    let welch (level: float) (first: float list) (second: float list) : Difference option =
        Option.map2
            (fun s1 s2 ->
                let n1, n2 = float first.Length, float second.Length
                let v1, v2 = s1 * s1 / n1, s2 * s2 / n2
                let sum = v1 + v2
                let weighted = v1 * v1 / (n1 - 1.0) + v2 * v2 / (n2 - 1.0)
                // Without any spread every number of degrees gives the same interval.
                let freedom = if weighted = 0.0 then n1 + n2 - 2.0 else sum * sum / weighted
                difference level freedom (largest (first @ second)) (mean first - mean second) (sqrt sum)
            )
            (deviation first)
            (deviation second)

    /// Holm's adjustment of the p-values of m tests, in their order: the k-th smallest, from 1, becomes the largest of
    /// (m - j + 1) p_j over j <= k, at most 1. Below a bound such as 0.05, the chance of even one false finding among all m tests is below it.
    let holm (ps: float list) : float list =
        let m = ps.Length

        let adjusted =
            ps
            |> List.indexed
            |> List.sortBy snd
            |> List.mapi (fun k (i, p) -> i, min 1.0 (float (m - k) * p))
            |> List.scan (fun (_, before) (i, p) -> i, max before p) (-1, 0.0)
            |> List.tail

        adjusted |> List.sortBy fst |> List.map snd
