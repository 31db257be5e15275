namespace Ctkd.Fs

open System
open System.Globalization

/// Chooses the ranges, ticks and labels of axes.
[<RequireQualifiedAccess>]
module internal Axis =
    type Axis = { Low: float; High: float; Ticks: (float * string) list }

    let private exponent (value: float) : int = int (floor (log10 value + 1e-9))

    /// Returns mantissa 1, 2 or 5 and decimal exponent of the smallest round step >= `raw`.
    let private roundStep (raw: float) : float * int =
        let power = exponent raw

        match raw / Math.Pow(10.0, float power) with
        | ratio when ratio <= 1.000001 -> 1.0, power
        | ratio when ratio <= 2.000001 -> 2.0, power
        | ratio when ratio <= 5.000001 -> 5.0, power
        | _ -> 1.0, power + 1

    // Dividing by a power of ten gives 0.3, where multiplying by 0.1 gives 0.30000000000000004.
    let private scaled (value: float) (power: int) : float =
        if power >= 0 then
            value * Math.Pow(10.0, float power)
        else
            value / Math.Pow(10.0, float -power)

    let private ticksOf (mantissa: float, power: int) (low: float, high: float) : float list =
        let step = scaled mantissa power
        // The slack keeps 0.3 / 0.1 = 2.9999999999999996 from adding an interval.
        let first, last = floor (low / step + 1e-9), ceil (high / step - 1e-9)
        [ for k in first .. max (first + 1.0) last -> scaled (k * mantissa) power ]

    /// Returns about `count` + 1 equally spaced round numbers, the outermost enclosing the range.
    let ticks (count: int) (low: float, high: float) : float list =
        ticksOf (roundStep ((high - low) / float (max 1 count))) (low, high)

    let private format (largest: float) (step: float) : float -> string =
        let power = if largest >= 1e7 || step < 0.99e-5 then exponent largest else 0

        let pattern = sprintf "N%d" (max 0 (power - exponent step))
        let suffix = if power = 0 then "" else sprintf "e%d" power

        fun value ->
            let digits = (scaled value -power).ToString(pattern, CultureInfo.InvariantCulture)

            if value = 0.0 then "0" else (digits + suffix).Replace('-', '\u2212')

    let private labelled (values: float list) : (float * string) list =
        let write = format (values |> List.map abs |> List.max) (values[1] - values[0])
        values |> List.map (fun value -> value, write value)

    // An empty range has no scale, and one near the precision of its numbers has no distinct labels.
    let private widen (low: float, high: float) : float * float =
        let size = max (abs low) (abs high)

        if high - low > max (1e-9 * size) 1e-90 then low, high
        elif size < 1e-80 then -1.0, 1.0
        else low - 0.1 * size, high + 0.1 * size

    /// Creates an axis over all values that ends at ticks.
    let around (count: int) (values: float list) : Axis =
        let low, high = widen (List.min values, List.max values)
        let whole = values |> List.forall (fun value -> value = Math.Round value)
        let raw = (high - low) / float (max 1 count)
        let ticks = ticksOf (roundStep (if whole then max 1.0 raw else raw)) (low, high)

        {
            Low = min low (List.head ticks)
            High = max high (List.last ticks)
            Ticks = labelled ticks
        }

    /// Creates an axis that ends with the data: a last tick beyond them would leave a gap on the right.
    let along (count: int) (values: float list) : Axis =
        let axis = around count values
        let high = List.max values
        let inside = axis.Ticks |> List.filter (fun (value, _) -> value <= high)

        if inside.Length < 3 then axis else { axis with High = high; Ticks = inside }

    /// Whether a range is usable as an axis: finite, ascending, and wide enough for its numbers.
    let usable (low: float, high: float) : bool =
        low < high && max (abs low) (abs high) <= 1e100 && widen (low, high) = (low, high)

    /// Creates an axis over exactly this range, with the ticks inside it.
    let exactly (count: int) (low: float, high: float) : Axis =
        let slack = 1e-9 * (high - low)

        let inside (value: float, _: string) = value >= low - slack && value <= high + slack

        {
            Low = low
            High = high
            Ticks = ticks count (low, high) |> labelled |> List.filter inside
        }

    /// Returns the relative position of a value on the axis, 0 to 1.
    let share (axis: Axis) (value: float) : float = (value - axis.Low) / (axis.High - axis.Low) |> max 0.0 |> min 1.0

/// Reduces curves to the points that are worth drawing.
[<RequireQualifiedAccess>]
module internal Polyline =
    /// Whether both coordinates can be drawn.
    let plottable (x: float, y: float) : bool = abs x <= 1e100 && abs y <= 1e100

    /// Splits a curve into its unbroken runs.
    let runs (points: (float * float) list) : (float * float) list list =
        let grow point (current, complete) =
            if plottable point then point :: current, complete else [], current :: complete

        let first, others = List.foldBack grow points ([], [])
        first :: others |> List.filter (List.isEmpty >> not)

    /// Cuts a run to the pieces between two heights.
    let clip (low: float, high: float) (run: (float * float) list) : (float * float) list list =
        let bound (x0: float, y0: float) (x1: float, y1: float) (x, y) =
            let limit = y |> max low |> min high

            if limit = y then x, y else x0 + (x1 - x0) * ((limit - y0) / (y1 - y0)), limit

        let join pieces ((_, y0) as a, ((_, y1) as b)) =
            if max y0 y1 < low || min y0 y1 > high then
                pieces
            else
                match pieces, bound a b a, bound a b b with
                | (last :: _ as piece) :: rest, start, stop when last = start -> (stop :: piece) :: rest
                | _, start, stop -> [ stop; start ] :: pieces

        match run with
        | [ _, y ] -> if y >= low && y <= high then [ run ] else []
        | _ -> List.pairwise run |> List.fold join [] |> List.map List.rev

    /// Keeps the first, lowest, highest and last point per pixel column: all that is visible of thousands of points.
    let decimate (points: (float * float) list) : (float * float) list =
        let column (x: float, _: float) = floor x

        let grow point columns =
            match columns with
            | (next :: _ as group) :: rest when column next = column point -> (point :: group) :: rest
            | _ -> [ point ] :: columns

        let thin group =
            let numbered = List.indexed group
            let height (_, (_, y: float)) = y

            [ List.head numbered; List.minBy height numbered; List.maxBy height numbered; List.last numbered ]
            |> List.distinct
            |> List.sortBy fst
            |> List.map snd

        List.foldBack grow points [] |> List.collect thin

/// A piece of a curve that shares its pixels with the same curves from end to end.
type internal Stretch = {
    Points: (float * float) list
    /// Place among the curves on these pixels, from 0.
    Place: int
    /// Number of curves on these pixels; 1 where the curve is alone.
    Count: int
}

/// Finds where curves lie on each other, so that none is hidden.
[<RequireQualifiedAccess>]
module internal Stretches =
    // Less than a pixel apart cannot be told apart.
    let private key ((x0: float, y0: float), (x1: float, y1: float)) = struct (round x0, round y0, round x1, round y1)

    /// The segments of a run; a lone point is one of no length.
    let private segments (run: (float * float) list) =
        match run with
        | [ only ] -> [ only, only ]
        | _ -> List.pairwise run

    /// Cuts each curve, given as its runs in pixels, into stretches.
    let cut (curves: (float * float) list list list) : Stretch list list =
        let owners =
            [
                for i, runs in List.indexed curves do
                    for segment in List.collect segments runs -> key segment, i
            ]
            |> List.groupBy fst
            |> List.map (fun (key, found) -> key, found |> List.map snd |> List.distinct)
            |> dict

        let stretch (curve: int) (shared: int list) (points: (float * float) list) : Stretch = {
            Points = points
            Place = List.findIndex ((=) curve) shared
            Count = shared.Length
        }

        // From the end, so that each list grows at its head.
        let grow (start, stop) pieces =
            let shared = owners[key (start, stop)]

            match pieces with
            | (others, points) :: rest when others = shared -> (others, start :: points) :: rest
            | _ -> (shared, [ start; stop ]) :: pieces

        let stretches (curve: int) (run: (float * float) list) : Stretch list =
            match run with
            | [ only ] -> [ stretch curve owners[key (only, only)] run ]
            | _ ->
                List.foldBack grow (List.pairwise run) []
                |> List.map (fun (shared, points) -> stretch curve shared points)

        curves |> List.mapi (fun i runs -> List.collect (stretches i) runs)

    /// Joins stretches shorter than `least` pixels across to their neighbours, as if the curve were alone there: too short to
    /// show a second curve's dash, and of noisy curves they are most of all elements.
    let joined (least: float) (stretches: Stretch list) : Stretch list =
        let isShort (stretch: Stretch) =
            stretch.Points.Length > 1 && abs (fst (List.last stretch.Points) - fst stretch.Points.Head) < least

        let alone stretch = { stretch with Place = 0; Count = 1 }

        let join (stretch: Stretch) (rest: Stretch list) =
            match rest with
            | next :: others when
                stretch.Count = 1
                && next.Count = 1
                && stretch.Points.Length > 1
                && List.last stretch.Points = next.Points.Head
                ->
                { stretch with Points = stretch.Points @ next.Points.Tail } :: others
            | _ -> stretch :: rest

        let lengthened =
            stretches |> List.map (fun stretch -> if isShort stretch then alone stretch else stretch)

        List.foldBack join lengthened []
