namespace Ctkd.Fs

open System

/// Points in a plane without axes, coloured by class.
type Scatter = {
    /// One line above the plot; may be empty.
    Title: string
    /// Names of the classes in the legend; at most 24 are distinguishable.
    Classes: string list
    /// Position and class index of each point.
    Points: (struct (float * float) * int) list
}

/// Draws scatter plots as SVG text.
[<RequireQualifiedAccess>]
module Scatter =
    let private colours = 6

    /// Six colours times four shapes: more classes are not distinguishable.
    let mostClasses = 4 * colours

    let private mark (index: int) (x: float, y: float) : string =
        let css = $"k{index % colours}"
        let at (dx: float) (dy: float) = $"{Svg.number (x + dx)} {Svg.number (y + dy)}"
        let path (text: string) = Xml.leaf "path" [ "class", css; "d", text ]

        match index / colours % 4 with
        | 0 -> Xml.leaf "circle" [ "class", css; "cx", Svg.number x; "cy", Svg.number y; "r", "2.6" ]
        | 1 -> path $"M{at -2.4 -2.4}h4.8v4.8h-4.8z"
        | 2 -> path $"M{at 0.0 -3.2}L{at 3.0 2.2}L{at -3.0 2.2}z"
        | _ -> path $"M{at 0.0 -3.4}L{at 3.4 0.0}L{at 0.0 3.4}L{at -3.4 0.0}z"

    /// Draws the plot as a standalone SVG file on white, with one scale for both axes. Size in pixels, at least 240 by
    /// 160.
    let standalone (width: int) (height: int) (scatter: Scatter) : string =
        if scatter.Classes.Length > mostClasses then
            invalidArg
                (nameof scatter)
                $"at most {mostClasses} classes can be told apart, got {scatter.Classes.Length}."

        let width, height = float (max 240 width), float (max 160 height)
        let left, top, margin = 16.0, 36.0, 16.0
        let longest = scatter.Classes |> List.map String.length |> List.fold max 0
        let legendWidth = 34.0 + 6.4 * float (min 24 longest)
        let room, tall = width - left - legendWidth - margin, height - top - margin

        let drawn =
            scatter.Points |> List.filter (fun (struct (x, y), _) -> Double.IsFinite x && Double.IsFinite y)

        let xs, ys =
            drawn |> List.map (fun (struct (x, _), _) -> x), drawn |> List.map (fun (struct (_, y), _) -> y)

        let bounds values = if List.isEmpty values then 0.0, 1.0 else List.min values, List.max values
        let (lowX, highX), (lowY, highY) = bounds xs, bounds ys
        let extent = max 1e-12 (max ((highX - lowX) / room) ((highY - lowY) / tall))

        let place (x, y) =
            left + room / 2.0 + (x - 0.5 * (lowX + highX)) / extent,
            top + tall / 2.0 - (y - 0.5 * (lowY + highY)) / extent

        let legend =
            scatter.Classes
            |> List.indexed
            |> List.collect (fun (i, name) ->
                let x, y = width - legendWidth + 8.0, top + 12.0 + 17.0 * float i
                [ mark i (x, y - 4.0); Svg.text "tick" "start" (x + 10.0, y) name ]
            )

        [
            Xml.text "title" [] (if scatter.Title = "" then "Scatter plot" else scatter.Title)
            Xml.text "desc" [] $"{drawn.Length} points of {scatter.Classes.Length} classes."
            Xml.tag "style" [] [
                ".ctkd-chart{color:#1f2328}\n" + ChartStyle.light + ".ctkd-chart .marks{stroke-width:0}"
            ]
            Xml.leaf "rect" [ "width", "100%"; "height", "100%"; "fill", "#fff" ]
            Svg.text "heading" "start" (12.0, 20.0) scatter.Title
            Xml.tag "g" [ "fill-opacity", "0.75"; "class", "marks" ] [
                for struct (x, y), index in drawn -> mark index (place (x, y))
            ]
            Xml.tag "g" [ "class", "marks" ] legend
        ]
        |> Xml.tag "svg" [
            "xmlns", "http://www.w3.org/2000/svg"
            "class", "ctkd-chart"
            "role", "img"
            "viewBox", $"0 0 {Svg.number width} {Svg.number height}"
            "width", Svg.number width
            "height", Svg.number height
        ]
        |> fun picture -> picture + "\n"
