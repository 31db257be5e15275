namespace Ctkd.Fs

open System
open System.Globalization

/// A chart's data as short attributes of its elements, from which the script of a page reads them.
[<RequireQualifiedAccess>]
module internal ChartData =
    let private write (digits: int) (value: float) : string =
        (value + 0.0).ToString($"G{digits}", CultureInfo.InvariantCulture)

    /// The shortest repetition or count that is worth its sign.
    let private worth = 3

    let private follows (text: string) (next: string) : bool =
        match
            Int32.TryParse(text, CultureInfo.InvariantCulture), Int32.TryParse(next, CultureInfo.InvariantCulture)
        with
        | (true, value), (true, next) -> value + 1 = next
        | _ -> false

    /// Numbers of so many significant digits. "1..240" counts up by one, "0.05*60" repeats.
    let numbers (digits: int) (values: float list) : string =
        let texts = values |> List.map (write digits) |> Array.ofList

        let rec length goesOn first last =
            if last + 1 < texts.Length && goesOn texts[last] texts[last + 1] then
                length goesOn first (last + 1)
            else
                last - first + 1

        let rec from first written =
            if first >= texts.Length then
                List.rev written
            else
                let equal, count = length (=) first first, length follows first first

                if equal >= worth then
                    from (first + equal) ($"{texts[first]}*{equal}" :: written)
                elif count >= worth then
                    from (first + count) ($"{texts[first]}..{texts[first + count - 1]}" :: written)
                else
                    from (first + 1) (texts[first] :: written)

        from 0 [] |> String.concat " "

    /// Names and ranges of both axes.
    let axes (xName: string, x: Axis.Axis) (yName: string, y: Axis.Axis) : (string * string) list =
        let range (axis: Axis.Axis) = $"{write 17 axis.Low} {write 17 axis.High}"
        [ "data-x-name", xName; "data-x-range", range x; "data-y-name", yName; "data-y-range", range y ]

    /// The run of a curve or of its legend entry.
    let run (name: string) : string * string = "data-run", name

    /// A curve's points, exact enough to read: an accuracy in percent to the hundredth, seconds to a millionth of all.
    let points (points: (float * float) list) : (string * string) list =
        let xs, ys = List.unzip points
        [ "data-x", numbers 6 xs; "data-y", numbers 5 ys ]
