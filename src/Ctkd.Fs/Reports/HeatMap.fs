namespace Ctkd.Fs

open System

/// A square matrix as a picture: blue below 0, the paper's colour at 0, red above.
type HeatMap = {
    /// One line above the map; may be empty.
    Title: string
    /// Label of both axes; may be empty.
    Label: string
    /// Names of rows and columns; if empty, or where they have no room, their numbers from 0 are drawn.
    Names: string list
    /// Meaning of the colours; may be empty.
    Unit: string
    /// Rows from top to bottom.
    Cells: float[][]
}

/// Draws heat maps as SVG text.
[<RequireQualifiedAccess>]
module HeatMap =

    /// Shades on each side of 0; more would be indistinguishable.
    let private shades = 32

    /// From the paper's colour to dark blue or red on light, to light ones on dark; distinguishable for the colour-blind.
    let private colour (paper: int list) (below: int list, above: int list) (shade: int) : string =
        let share = float (abs shade) / float shades
        let mix (from: int) (full: int) = int (Math.Round(float from + share * float (full - from)))

        List.map2 mix paper (if shade < 0 then below else above) |> ChartStyle.ofChannels

    let private onLight: int -> string = colour (fst ChartStyle.papers) ([ 5; 48; 122 ], [ 140; 20; 20 ])

    let private onDark: int -> string =
        colour (snd ChartStyle.papers) ([ 150; 200; 255 ], [ 255; 150; 130 ])

    /// The CSS class of a shade.
    let private classOf (shade: int) : string = if shade < 0 then $"n{-shade}" else $"p{shade}"

    let private darkRules: string =
        [ -shades .. shades ]
        |> List.map (fun shade -> $".ctkd-chart .{classOf shade}{{fill:{onDark shade}}}\n")
        |> String.concat ""

    let private shadeOf (limit: float) (value: float) : int =
        if limit = 0.0 then
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

    /// Draws all cells of a shade as one path, since a map of 100 classes has 10,000 cells, and crosses cells that hold no
    /// number.
    let private paths (left: float, top: float) (side: float) (limit: float) (cells: float[][]) : string list =
        let size = side / float (max 1 cells.Length)
        let length = Svg.number size

        let square (row, column) =
            let x, y = left + float column * size, top + float row * size
            $"M{Svg.number x} {Svg.number y}h{length}v{length}h-{length}z"

        let cross (row, column) =
            let x, y = left + float column * size, top + float row * size
            $"M{Svg.number x} {Svg.number y}l{length} {length}m-{length} 0l{length} -{length}"

        let numbers, others =
            [
                for row in 0 .. cells.Length - 1 do
                    for column in 0 .. cells[row].Length - 1 -> cells[row][column], (row, column)
            ]
            |> List.partition (fst >> Double.IsNaN >> not)

        let painted =
            numbers
            |> List.map (fun (value, place) -> shadeOf limit value, place)
            |> List.filter (fun (shade, _) -> shade <> 0)
            |> List.groupBy fst
            |> List.sortBy fst
            |> List.map (fun (shade, places) ->
                Xml.leaf "path" [
                    "class", classOf shade
                    "fill", onLight shade
                    "stroke", "none"
                    "d", places |> List.map (snd >> square) |> String.concat ""
                ]
            )

        if others.IsEmpty then
            painted
        else
            let crosses = others |> List.map (snd >> cross) |> String.concat ""

            let note =
                Xml.tag "g" [] [ Xml.text "title" [] "not a number"; Xml.leaf "path" [ "class", "axis"; "d", crosses ] ]

            painted @ [ note ]

    /// The legend's numbers from its bottom to its top.
    let private scale (limit: float) : (float * string) list = [
        for share in [ -1.0; 0.0; 1.0 ] ->
            share, (sprintf "%g" (share * limit)).Replace("e-0", "e-").Replace('-', '\u2212')
    ]

    let private legend (x: float, top: float) (height: float) (limit: float) (caption: string) : string list =
        let step = height / float (2 * shades + 1)

        [
            for shade in -shades .. shades ->
                Xml.leaf "rect" [
                    "class", classOf shade
                    "x", Svg.number x
                    "y", Svg.number (top + float (shades - shade) * step)
                    "width", "14"
                    "height", Svg.number (step + 0.3)
                    "fill", onLight shade
                ]
            for share, text in scale limit ->
                let y = top + height * (0.5 - 0.5 * share) + 4.0
                Svg.text "tick" "start" (x + 19.0, y) text
            yield Svg.text "muted" "middle" (x + 14.0, top - 8.0) caption
        ]

    /// The smallest 1, 2 or 5 times a power of ten that keeps numbers of cells so many pixels apart.
    let private step (apart: float) (size: float) : int =
        Seq.initInfinite (fun k -> pown 10 (k / 3) * [ 1; 2; 5 ][k % 3])
        |> Seq.find (fun step -> float step * size >= apart)

    /// The cells that are named on the axes, with their names or numbers.
    let private ticks (size: float) (names: string list) (count: int) : (int * string) list =
        if not names.IsEmpty && size >= 12.0 then
            List.indexed names
        else
            let step = step (max 15.0 (Svg.width (string (count - 1)) + 6.0)) size
            [ for cell in 0..step .. count - 1 -> cell, string cell ]

    let private axes
        (isTurned: bool)
        (left: float, top: float)
        (side: float)
        (size: float)
        (ticks: (int * string) list)
        : string list =
        let bottom = top + side
        let middle (cell: int) = (float cell + 0.5) * size

        [
            for x, y in [ (left, top); (left, bottom) ] do
                Svg.segment "axis" (x, y) (x + side, y)
            for x, y in [ (left, top); (left + side, top) ] do
                Svg.segment "axis" (x, y) (x, y + side)
            for cell, name in ticks do
                let x, y = left + middle cell, top + middle cell
                Svg.segment "axis" (x, bottom) (x, bottom + 4.0)
                Svg.segment "axis" (left - 4.0, y) (left, y)
                Svg.text "tick y" "end" (left - 7.0, y + 4.0) name

                if isTurned then
                    Xml.tag "g" [
                        "transform", $"translate({Svg.number (x + 4.0)} {Svg.number (bottom + 7.0)}) rotate(-90)"
                    ] [ Svg.text "tick x" "end" (0.0, 0.0) name ]
                else
                    Svg.text "tick x" "middle" (x, bottom + 16.0) name
        ]

    /// Draws the map as a standalone SVG file with its own paper, which follows the reader's light or dark scheme; width in
    /// pixels, at least 240.
    let standalone (width: int) (map: HeatMap) : string =
        let count = map.Cells.Length

        if map.Cells |> Array.exists (fun row -> row.Length <> count) then
            invalidArg (nameof map) "a heat map's cells form a square."

        if not map.Names.IsEmpty && map.Names.Length <> count then
            invalidArg
                (nameof map)
                $"a heat map has a name for each of its {count} rows or none, got {map.Names.Length}."

        let width = float (max 240 width)
        let names = map.Names |> List.map (Svg.fit (width / 5.0))
        let widest (labels: string list) = labels |> List.map Svg.width |> List.fold max 0.0
        let limit = limit map.Cells
        let right = max 76.0 (40.0 + widest (limit |> scale |> List.map snd))
        let sideFor (labels: string list) = width - (34.0 + widest labels) - right
        let sizeFor (labels: string list) = sideFor labels / float (max 1 count)
        let ticks = ticks (sizeFor names) names count
        let labels = List.map snd ticks
        let side, size = sideFor labels, sizeFor labels
        let left, top = width - right - side, 52.0
        let bottom = top + side
        let isTurned = not names.IsEmpty && labels = names && widest names > size - 4.0

        let height =
            bottom + 14.0 + (if isTurned then widest names else 12.0) + (if map.Label = "" then 0.0 else 18.0)

        [
            Xml.text "title" [] (if map.Title = "" then "Heat map" else map.Title)
            Xml.text "desc" [] $"{count} rows and columns, from -{limit} to {limit}."
            ChartStyle.alone darkRules
            Svg.text "heading" "start" (12.0, 20.0) (Svg.fitHeading (width - 24.0) map.Title)
            Xml.tag "g" [ "shape-rendering", "crispEdges" ] (paths (left, top) side limit map.Cells)
            yield! axes isTurned (left, top) side size ticks
            Svg.text "muted" "middle" (left + side / 2.0, height - 9.0) map.Label
            Xml.tag "g" [ "transform", $"translate(18 {Svg.number (top + side / 2.0)}) rotate(-90)" ] [
                Svg.text "muted" "middle" (0.0, 0.0) map.Label
            ]
            yield! legend (left + side + 18.0, top) side limit map.Unit
        ]
        |> Svg.root (width, height)
        |> fun picture -> picture + "\n"
