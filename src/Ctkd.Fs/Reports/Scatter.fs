namespace Ctkd.Fs

open System

/// Points in a plane without axes, coloured by class.
type Scatter = {
    /// One line above the plot; may be empty.
    Title: string
    /// Names of the classes, at most 200: in a legend where it fits the height, else at the classes' centres.
    Classes: string list
    /// Position and class index of each point.
    Points: (struct (float * float) * int) list
}

/// Draws scatter plots as SVG text: ten colours and seven shapes tell the classes apart.
[<RequireQualifiedAccess>]
module Scatter =

    /// The most classes: more names would cover the points.
    let mostClasses = 200

    let private line = 17.0

    let private median (values: float list) : float = List.item (values.Length / 2) (List.sort values)

    /// Half the width and height of a name on the map.
    let private half (name: string) : float * float = Svg.width name / 2.0 + 2.0, 7.5

    // Nearest first: a ring of 12 directions every 6 pixels.
    let private around: (float * float) list = [
        0.0, 0.0
        for radius in 6.0..6.0..72.0 do
            for k in 0..11 do
                radius * cos (float k * Math.PI / 6.0), radius * sin (float k * Math.PI / 6.0)
    ]

    /// Moves each name, wanted at a point, to the nearest place within the bounds where it covers no earlier one; leaves it
    /// where there is none.
    let private spread
        (left: float, top: float, right: float, bottom: float)
        (wanted: (string * (float * float)) list)
        =
        let place taken (name: string, (x: float, y: float)) =
            let w, h = half name

            let isFree (dx, dy) =
                let x, y = x + dx, y + dy

                x - w >= left
                && x + w <= right
                && y - h >= top
                && y + h <= bottom
                && taken
                   |> List.forall (fun (other, (u, v)) ->
                       let ow, oh = half other
                       abs (x - u) >= w + ow || abs (y - v) >= h + oh
                   )

            let dx, dy = around |> List.tryFind isFree |> Option.defaultValue (0.0, 0.0)
            (name, (x + dx, y + dy)) :: taken

        List.fold place [] wanted |> List.rev

    /// Draws the plot as a standalone SVG file with its own paper, which follows the reader's light or dark scheme, and one
    /// scale for both axes. Size in pixels, at least 240 by 160.
    let standalone (width: int) (height: int) (scatter: Scatter) : string =
        if scatter.Classes.Length > mostClasses then
            invalidArg (nameof scatter) $"at most {mostClasses} classes have room, got {scatter.Classes.Length}."

        let width, height = float (max 240 width), float (max 160 height)
        let left, top, margin = 16.0, 36.0, 16.0
        let names = scatter.Classes |> List.map (Svg.shorten 24 >> Svg.fit (width / 3.0))
        let hasLegend = top + line * float names.Length <= height - 4.0
        let widest = names |> List.map Svg.width |> List.fold max 0.0
        let legendWidth = if hasLegend then 34.0 + widest else 0.0
        let room, tall = width - left - legendWidth - margin, height - top - margin

        let drawn =
            scatter.Points |> List.filter (fun (struct (x, y), _) -> Double.IsFinite x && Double.IsFinite y)

        let xs, ys =
            drawn |> List.map (fun (struct (x, _), _) -> x), drawn |> List.map (fun (struct (_, y), _) -> y)

        let bounds values = if List.isEmpty values then 0.0, 1.0 else List.min values, List.max values
        let (lowX, highX), (lowY, highY) = bounds xs, bounds ys
        let extent = max 1e-12 (max ((highX - lowX) / room) ((highY - lowY) / tall))

        let place (struct (x, y)) =
            left + room / 2.0 + (x - 0.5 * (lowX + highX)) / extent,
            top + tall / 2.0 - (y - 0.5 * (lowY + highY)) / extent

        let legend =
            names
            |> List.indexed
            |> List.collect (fun (i, name) ->
                let x, y = width - legendWidth + 8.0, top + 12.0 + line * float i
                [ ChartStyle.mark i (x, y - 4.0); Svg.text "name" "start" (x + 10.0, y) name ]
            )

        let atCentres =
            drawn
            |> List.groupBy snd
            |> List.sortBy fst
            |> List.map (fun (index, points) ->
                let places = points |> List.map (fst >> place)
                names[index], (median (List.map fst places), median (List.map snd places))
            )
            |> spread (2.0, 24.0, width - 2.0, height - 2.0)
            |> List.map (fun (name, (x, y)) -> Svg.text "over" "middle" (x, y + 4.0) name)

        [
            Xml.text "title" [] (if scatter.Title = "" then "Scatter plot" else scatter.Title)
            Xml.text "desc" [] $"{drawn.Length} points of {scatter.Classes.Length} classes."
            ChartStyle.alone ""
            Svg.text "heading" "start" (12.0, 20.0) (Svg.fitHeading (width - 24.0) scatter.Title)
            for point, index in drawn do
                ChartStyle.mark index (place point)
            if drawn.IsEmpty then
                Svg.text "muted" "middle" (left + room / 2.0, top + tall / 2.0) "no data"
            yield! if hasLegend then legend else atCentres
        ]
        |> Svg.root (width, height)
        |> fun picture -> picture + "\n"
