namespace Ctkd.Fs

open System
open System.Globalization

/// A named curve of a line chart.
type Series = {
    /// Name in the legend; curves with the same name share a colour.
    Name: string
    /// (x, y) in drawing order; a coordinate that is NaN, infinite or above 1e100 in absolute value breaks the line.
    Points: (float * float) list
}

/// A line chart as data, drawn by Chart.svg and Chart.standalone.
type Chart = {
    /// One line above the plot; may be empty.
    Title: string
    /// Label of the horizontal axis with its unit; may be empty.
    XLabel: string
    /// Label of the vertical axis with its unit; may be empty.
    YLabel: string
    /// The curves in the order of the legend.
    Series: Series list
    /// Lowest and highest y, where lines are cut. All data if `None`, not finite or not ascending.
    YRange: (float * float) option
}

/// Draws line charts as SVG text: round ticks, a legend above the plot, colours safe for the colour-blind.
[<RequireQualifiedAccess>]
module Chart =
    type private Frame = {
        Left: float
        Top: float
        Width: float
        Height: float
        X: Axis.Axis
        Y: Axis.Axis
    }

    /// An empty chart to fill in: { Chart.defaults with Title = "Accuracy" }.
    let defaults: Chart = { Title = ""; XLabel = ""; YLabel = ""; Series = []; YRange = None }

    let private shorten (limit: int) (text: string) : string =
        let whole = StringInfo text

        if whole.LengthInTextElements <= limit then
            text
        else
            whole.SubstringByTextElements(0, max 1 (limit - 1)) + "\u2026"

    let private across (frame: Frame) (x: float) : float = frame.Left + frame.Width * Axis.share frame.X x

    let private down (frame: Frame) (y: float) : float = frame.Top + frame.Height * (1.0 - Axis.share frame.Y y)

    let private curve (frame: Frame) (css: string) (series: Series) : string =
        let pixel (x, y) = across frame x, down frame y

        Polyline.runs series.Points
        |> List.collect (Polyline.clip (frame.Y.Low, frame.Y.High))
        |> List.map (List.map pixel >> Polyline.decimate >> Svg.path css)
        |> fun shapes -> Xml.tag "g" [] (Xml.text "title" [] series.Name :: shapes)

    let private scales (frame: Frame) : string list =
        let left, right, bottom = frame.Left, frame.Left + frame.Width, frame.Top + frame.Height

        [
            for value, label in frame.Y.Ticks do
                let y = down frame value
                Svg.segment "grid" (left, y) (right, y)
                Svg.text "tick y" "end" (left - 7.0, y + 4.0) label

            Svg.segment "axis" (left, bottom) (right, bottom)

            for value, label in frame.X.Ticks do
                let x = across frame value
                Svg.segment "axis" (x, bottom) (x, bottom + 4.0)
                Svg.text "tick x" "middle" (x, bottom + 17.0) label
        ]

    let private hasData (series: Series) : bool = series.Points |> List.exists Polyline.plottable

    /// Returns curve, label, left edge and row of each legend entry.
    let private entries (available: float) (series: Series list) : (Series * string * float * int) list =
        let place (x, row) (series: Series) =
            let note = if hasData series then "" else " (no data)"

            let label = shorten 36 series.Name + note
            let width = 36.0 + 6.1 * float label.Length

            let x, row = if x > 0.0 && x + width > available then 0.0, row + 1 else x, row

            (series, label, x, row), (x + width, row)

        series |> List.mapFold place (0.0, 0) |> fst

    let private legend (order: string list) (frame: Frame) (last: int) (series: Series list) : string list =
        let all = entries (frame.Left + frame.Width - 12.0) series
        let visible, hidden = all |> List.partition (fun (_, _, _, row) -> row <= last)

        let draw (series: Series, label, x, row) =
            let x, y = 12.0 + x, 42.0 + 17.0 * float row
            let css = $"line {ChartStyle.classes order series.Name}"
            [ Svg.segment css (x, y - 4.0) (x + 18.0, y - 4.0); Svg.text "name" "start" (x + 23.0, y) label ]

        let more = if hidden.IsEmpty then "" else sprintf "+%d more" hidden.Length
        Svg.text "muted" "end" (frame.Left + frame.Width, 20.0) more :: List.collect draw visible

    let private frame (chart: Chart) (rows: int) (width: float) (height: float) : Frame =
        let points = chart.Series |> List.collect _.Points |> List.filter Polyline.plottable
        let top = 40.0 + 17.0 * float rows

        let plotHeight = height - top - (if chart.XLabel = "" then 26.0 else 44.0) |> max 20.0

        let xs, ys = if points.IsEmpty then [ 0.0 ], [ 0.0 ] else List.unzip points

        let y =
            match chart.YRange with
            | Some range when Axis.usable range -> Axis.exactly (int (plotHeight / 42.0)) range
            | Some _
            | None -> Axis.around (int (plotHeight / 42.0)) ys

        let widest = y.Ticks |> List.map (snd >> String.length) |> List.fold max 0
        let left = 20.0 + 6.3 * float widest + (if chart.YLabel = "" then 0.0 else 20.0)
        let plotWidth = width - left - 18.0 |> max 20.0
        let x = Axis.along (int (plotWidth / 70.0)) xs
        { Left = left; Top = top; Width = plotWidth; Height = plotHeight; X = x; Y = y }

    let private summary (chart: Chart) : string =
        let write (value: float) = value.ToString("G4", CultureInfo.InvariantCulture)

        let describe (series: Series) =
            match series.Points |> List.filter Polyline.plottable |> List.map snd with
            | [] -> $"{series.Name}: no data."
            | ys ->
                let low, high, last = write (List.min ys), write (List.max ys), write (List.last ys)
                sprintf "%s: %d points from %s to %s, the last %s." series.Name ys.Length low high last

        $"{chart.YLabel} against {chart.XLabel}." :: List.map describe chart.Series |> String.concat " "

    let private labels (frame: Frame) (chart: Chart) (height: float) : string list =
        let centre, middle = frame.Left + frame.Width / 2.0, frame.Top + frame.Height / 2.0
        let turned = $"translate(20 {Svg.number middle}) rotate(-90)"
        let fit (room: float) (text: string) = shorten (int (room / 6.4)) text

        [
            Svg.text "heading" "start" (12.0, 20.0) (fit (frame.Left + frame.Width - 75.0) chart.Title)
            Svg.text "muted" "middle" (centre, height - 9.0) (fit frame.Width chart.XLabel)
            Xml.tag "g" [ "transform", turned ] [
                Svg.text "muted" "middle" (0.0, 0.0) (fit (frame.Height + 40.0) chart.YLabel)
            ]
        ]

    let private plot (order: string list) (frame: Frame) (chart: Chart) : string list =
        let { Left = left; Top = top; Width = width; Height = height } = frame
        let area = [ "x", left; "y", top; "width", width; "height", height ]
        let draw (series: Series) = curve frame (ChartStyle.classes order series.Name) series

        [
            Xml.leaf "rect" (("class", "plot") :: List.map (fun (key, value) -> key, Svg.number value) area)

            if List.exists hasData chart.Series then
                yield! scales frame
                yield! List.map draw chart.Series
            else
                Svg.text "muted" "middle" (left + width / 2.0, top + height / 2.0) "no data"
        ]

    let private picture (before: string) (order: string list) (width: int, height: int) (chart: Chart) : string =
        let width, height = max 160 width, max 120 height
        let rows = chart.Series |> entries (float width - 30.0) |> List.map (fun (_, _, _, row) -> row + 1)
        let rows = List.fold max 0 rows |> min (height / 80)
        let frame = frame chart rows (float width) (float height)

        [
            Xml.text "title" [] (if chart.Title = "" then "Line chart" else chart.Title)
            Xml.text "desc" [] (summary chart)
            before
            yield! labels frame chart (float height)
            yield! legend order frame (rows - 1) chart.Series
            yield! plot order frame chart
        ]
        |> Xml.tag "svg" [
            "xmlns", "http://www.w3.org/2000/svg"
            "class", "ctkd-chart"
            "role", "img"
            "viewBox", sprintf "0 0 %d %d" width height
            "width", sprintf "%d" width
            "height", sprintf "%d" height
        ]

    let private names (chart: Chart) : string list = chart.Series |> List.map _.Name |> List.distinct

    /// Draws the chart without styles, for a page that has them once. A name's position in the order gives its colour.
    let internal fragment (order: string list) (width: int) (height: int) (chart: Chart) : string =
        picture "" order (width, height) chart

    /// Draws the chart as an <svg> element for a web page: text inherits the page's colour, curves follow the reader's
    /// light or dark scheme. Width and height in CSS pixels, at least 160 by 120.
    let svg (width: int) (height: int) (chart: Chart) : string =
        picture (Xml.tag "style" [] [ ChartStyle.adaptive ]) (names chart) (width, height) chart

    /// Draws the chart as a standalone SVG file on white. Width and height in pixels, at least 160 by 120.
    let standalone (width: int) (height: int) (chart: Chart) : string =
        let paper = Xml.leaf "rect" [ "width", "100%"; "height", "100%"; "fill", "#fff" ]

        let before = Xml.tag "style" [] [ ".ctkd-chart{color:#1f2328}\n" + ChartStyle.light ] + paper

        picture before (names chart) (width, height) chart + "\n"
