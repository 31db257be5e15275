namespace Ctkd.Fs

open System

/// A square matrix as a picture: blue below 0, white at 0, red above.
type HeatMap = {
    /// One line above the map; may be empty.
    Title: string
    /// Label of both axes; may be empty.
    Label: string
    /// Meaning of the colours; may be empty.
    Unit: string
    /// Rows from top to bottom.
    Cells: float[][]
}

/// Draws heat maps as SVG text.
[<RequireQualifiedAccess>]
module HeatMap =

    /// Shades on each side of white; more would be indistinguishable.
    let private shades = 32

    /// From white to a dark blue or red, distinguishable for the colour-blind.
    let private colour (shade: int) : string =
        let ends = if shade < 0 then [ 5; 48; 122 ] else [ 140; 20; 20 ]
        let share = float (abs shade) / float shades
        let channel (full: int) = int (Math.Round(255.0 + share * (float full - 255.0)))

        match List.map channel ends with
        | [ red; green; blue ] -> $"#%02x{red}%02x{green}%02x{blue}"
        | _ -> invalidOp "a colour has three channels."

    let private shadeOf (limit: float) (value: float) : int =
        if Double.IsNaN value || limit = 0.0 then
            0
        else
            int (Math.Round(float shades * max -1.0 (min 1.0 (value / limit))))

    /// Returns the smallest 1, 2 or 5 times a power of ten that no absolute value exceeds; 1 if all are 0.
    let limit (cells: float[][]) : float =
        let largest =
            cells |> Array.concat |> Array.filter Double.IsFinite |> Array.map abs |> Array.fold max 0.0

        match largest with
        | 0.0 -> 1.0
        | _ ->
            let power = Math.Pow(10.0, floor (log10 largest))

            [ 1.0; 2.0; 5.0; 10.0 ] |> List.map ((*) power) |> List.find (fun bound -> bound >= largest * (1.0 - 1e-12))

    /// Draws all cells of a shade as one path: a map of 100 classes has 10,000 cells.
    let private paths (left: float, top: float) (side: float) (limit: float) (cells: float[][]) : string list =
        let size = side / float (max 1 cells.Length)

        [
            for row in 0 .. cells.Length - 1 do
                for column in 0 .. cells[row].Length - 1 -> shadeOf limit (cells[row][column]), (row, column)
        ]
        |> List.filter (fun (shade, _) -> shade <> 0)
        |> List.groupBy fst
        |> List.sortBy fst
        |> List.map (fun (shade, places) ->
            let square (_, (row, column)) =
                let x, y = left + float column * size, top + float row * size
                let length = Svg.number size
                $"M{Svg.number x} {Svg.number y}h{length}v{length}h-{length}z"

            Xml.leaf "path" [
                "fill", colour shade
                "stroke", "none"
                "d", places |> List.map square |> String.concat ""
            ]
        )

    let private legend (x: float, top: float) (height: float) (limit: float) (caption: string) : string list =
        let step = height / float (2 * shades + 1)

        [
            for shade in -shades .. shades ->
                Xml.leaf "rect" [
                    "x", Svg.number x
                    "y", Svg.number (top + float (shades - shade) * step)
                    "width", "14"
                    "height", Svg.number (step + 0.3)
                    "fill", colour shade
                ]
            for share in [ -1.0; 0.0; 1.0 ] ->
                let text = sprintf "%g" (share * limit)
                let y = top + height * (0.5 - 0.5 * share) + 4.0
                Svg.text "tick" "start" (x + 19.0, y) (text.Replace('-', '\u2212'))
            yield Svg.text "muted" "middle" (x + 14.0, top - 8.0) caption
        ]

    /// Draws the map as a standalone SVG file on white; width in pixels, at least 240.
    let standalone (width: int) (map: HeatMap) : string =
        if map.Cells |> Array.exists (fun row -> row.Length <> map.Cells.Length) then
            invalidArg (nameof map) "a heat map's cells form a square."

        let width = float (max 240 width)
        let left, top = 44.0, 52.0
        let side = width - left - 76.0
        let height = top + side + 36.0
        let limit = limit map.Cells
        let last = max 0 (map.Cells.Length - 1)
        let bottom = top + side

        [
            Xml.text "title" [] (if map.Title = "" then "Heat map" else map.Title)
            Xml.text "desc" [] $"{map.Cells.Length} rows and columns, from -{limit} to {limit}."
            Xml.tag "style" [] [ ".ctkd-chart{color:#1f2328}\n" + ChartStyle.light ]
            Xml.leaf "rect" [ "width", "100%"; "height", "100%"; "fill", "#fff" ]
            Svg.text "heading" "start" (12.0, 20.0) map.Title
            Xml.tag "g" [ "shape-rendering", "crispEdges" ] (paths (left, top) side limit map.Cells)
            for x, y in [ (left, top); (left, bottom) ] do
                Svg.segment "axis" (x, y) (x + side, y)
            for x, y in [ (left, top); (left + side, top) ] do
                Svg.segment "axis" (x, y) (x, y + side)
            Svg.text "tick" "start" (left, bottom + 16.0) "0"
            Svg.text "tick" "end" (left + side, bottom + 16.0) (string last)
            Svg.text "tick" "end" (left - 6.0, top + 10.0) "0"
            Svg.text "tick" "end" (left - 6.0, bottom) (string last)
            Svg.text "muted" "middle" (left + side / 2.0, bottom + 16.0) map.Label
            yield! legend (left + side + 18.0, top) side limit map.Unit
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
