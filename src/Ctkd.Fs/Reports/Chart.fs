namespace Ctkd.Fs

open System
open System.Globalization

/// A named curve of a line chart.
type Series = {
    /// Name in the legend; curves with the same name share colour and marks.
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

/// Draws line charts as SVG text: round ticks and a legend above the plot. Curves differ in colours safe for the colour-blind
/// and, from five on, in marks; where several lie on the same pixels, their dashes take turns.
[<RequireQualifiedAccess>]
module Chart =
    /// Where a picture is to be: in a file by itself, or in a page whose script reads the data from its elements.
    type private Place =
        | Alone
        | OnPage

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

    let private across (frame: Frame) (x: float) : float = frame.Left + frame.Width * Axis.share frame.X x

    let private down (frame: Frame) (y: float) : float = frame.Top + frame.Height * (1.0 - Axis.share frame.Y y)

    /// A curve's unbroken runs within the plot, in pixels.
    let private pixels (frame: Frame) (series: Series) : (float * float) list list =
        let pixel (x, y) = across frame x, down frame y

        Polyline.runs series.Points
        |> List.collect (Polyline.clip (frame.Y.Low, frame.Y.High))
        |> List.map (List.map pixel >> Polyline.decimate)

    /// About six marks on data points, at other points than those of the neighbouring curves where there are enough.
    let private marks (index: int) (runs: (float * float) list list) : string list =
        let points = List.concat runs
        let step = max 1 ((points.Length + 5) / 6)

        points
        |> List.indexed
        |> List.filter (fun (i, _) -> i % step = index % step)
        |> List.map (snd >> ChartStyle.mark index)

    /// A curve and, where colours alone are not enough, its marks.
    let private curve place (frame: Frame) (marked: bool) (index: int) (series: Series) runs stretches =
        let css = ChartStyle.classOf index
        let isDrawn (_, y) = y >= frame.Y.Low && y <= frame.Y.High

        let attributes, write =
            match place with
            | Alone -> [], Svg.exactly
            | OnPage ->
                let drawn = series.Points |> List.filter Polyline.plottable |> List.filter isDrawn
                ("class", $"curve {css}") :: ChartData.run series.Name :: ChartData.points drawn, Svg.shortly

        let draw (stretch: Stretch) =
            let place = stretch.Place, stretch.Count

            match stretch.Points with
            | [ only ] when marked && stretch.Place = stretch.Count - 1 -> ChartStyle.mark index only
            | [ only ] -> Svg.dot css place only
            | points -> Svg.path write css place points

        Xml.tag "g" attributes [
            Xml.text "title" [] series.Name
            yield! List.map draw stretches
            if marked then
                yield! marks index (runs |> List.filter (fun run -> run.Length > 1))
        ]

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

    /// Rows of the legend; of more curves the number is told.
    let private mostRows = 48

    let private hasData (series: Series) : bool = series.Points |> List.exists Polyline.plottable

    /// Returns curve, label, left edge and row of each legend entry. Names are shortened unless two would look alike.
    let private entries (available: float) (series: Series list) : (Series * string * float * int) list =
        let short (name: string) = Svg.shorten 36 name |> Svg.fit (available - 100.0)
        let names = series |> List.map _.Name |> List.distinct

        let shown =
            if (names |> List.map short |> List.distinct) = List.map short names then
                short
            else
                Svg.ends (available - 100.0)

        let place (x, row) (series: Series) =
            let label = shown series.Name + (if hasData series then "" else " (no data)")
            let width = 36.0 + Svg.width label
            let x, row = if x > 0.0 && x + width > available then 0.0, row + 1 else x, row

            (series, label, x, row), (x + width, row)

        series |> List.mapFold place (0.0, 0) |> fst

    /// A legend entry of a page answers a click on its whole height.
    let private key (name: string) (x: float, y: float) (width: float) (parts: string list) : string =
        let area = [ "x", x - 4.0; "y", y - 12.5; "width", width; "height", 17.0 ]

        let hit =
            [ "class", "hit"; "fill", "none"; "pointer-events", "all" ]
            @ [ for side, length in area -> side, Svg.number length ]

        Xml.tag "g" [ "class", "key"; ChartData.run name ] (Xml.leaf "rect" hit :: parts)

    let private legend place (order: string list) (frame: Frame) (last: int) (series: Series list) : string list =
        let all = entries (frame.Left + frame.Width - 12.0) series
        let visible, hidden = all |> List.partition (fun (_, _, _, row) -> row <= last)

        let draw (series: Series, label, x, row) =
            let x, y = 12.0 + x, 42.0 + 17.0 * float row
            let index = ChartStyle.place order series.Name

            let parts = [
                Svg.segment $"line {ChartStyle.classOf index}" (x, y - 4.0) (x + 18.0, y - 4.0)
                if ChartStyle.needsMarks order.Length then
                    ChartStyle.mark index (x + 9.0, y - 4.0)
                Svg.text "name" "start" (x + 23.0, y) label
            ]

            match place with
            | Alone -> parts
            | OnPage -> [ key series.Name (x, y) (31.0 + Svg.width label) parts ]

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
        let drawn (series: Series) = series.Points |> List.filter Polyline.plottable

        let describe (series: Series, points: (float * float) list) =
            match List.map snd points with
            | [] -> $"{series.Name}: no data."
            | ys ->
                let low, high, last = write (List.min ys), write (List.max ys), write (List.last ys)
                sprintf "%s: %d points from %s to %s, the last %s." series.Name ys.Length low high last

        let equal =
            chart.Series
            |> List.map (fun series -> series, drawn series)
            |> List.filter (fun (_, points) -> not points.IsEmpty)
            |> List.groupBy snd
            |> List.filter (fun (_, same) -> same.Length > 1)
            |> List.map (fun (_, same) ->
                let names = same |> List.map (fun (series, _) -> series.Name) |> String.concat " = "
                $"Equal: {names}."
            )

        $"{chart.YLabel} against {chart.XLabel}."
        :: List.map (fun series -> describe (series, drawn series)) chart.Series
        @ equal
        |> String.concat " "

    let private labels (frame: Frame) (chart: Chart) (height: float) : string list =
        let centre, middle = frame.Left + frame.Width / 2.0, frame.Top + frame.Height / 2.0
        let turned = $"translate(20 {Svg.number middle}) rotate(-90)"

        [
            Svg.text "heading" "start" (12.0, 20.0) (Svg.fitHeading (frame.Left + frame.Width - 75.0) chart.Title)
            Svg.text "muted" "middle" (centre, height - 9.0) (Svg.fit frame.Width chart.XLabel)
            Xml.tag "g" [ "transform", turned ] [
                Svg.text "muted" "middle" (0.0, 0.0) (Svg.fit (frame.Height + 16.0) chart.YLabel)
            ]
        ]

    let private plot place (order: string list) (frame: Frame) (chart: Chart) : string list =
        let { Left = left; Top = top; Width = width; Height = height } = frame
        let area = [ "x", left; "y", top; "width", width; "height", height ]
        let hasAny = List.exists hasData chart.Series

        let axes =
            match place with
            | OnPage when hasAny -> ChartData.axes (chart.XLabel, frame.X) (chart.YLabel, frame.Y)
            | OnPage
            | Alone -> []

        let runs = chart.Series |> List.map (pixels frame)
        let marked = ChartStyle.needsMarks order.Length

        let stretches =
            match place with
            | Alone -> Stretches.cut runs
            | OnPage -> Stretches.cut runs |> List.map (Stretches.joined 18.0)

        let draw (series: Series) = curve place frame marked (ChartStyle.place order series.Name) series

        [
            Xml.leaf "rect" (("class", "plot") :: List.map (fun (key, value) -> key, Svg.number value) area @ axes)

            if hasAny then
                yield! scales frame
                yield! List.map3 draw chart.Series runs stretches
            else
                Svg.text "muted" "middle" (left + width / 2.0, top + height / 2.0) "no data"
        ]

    let private picture place (before: string) (order: string list) (width: int, height: int) (chart: Chart) : string =
        let width, height = max 160 width, max 120 height
        let rows = chart.Series |> entries (float width - 30.0) |> List.map (fun (_, _, _, row) -> row + 1)
        let rows = List.fold max 0 rows |> min mostRows
        // A long legend makes the picture taller, so that the plot keeps its room.
        let height = height + 17 * max 0 (rows - height / 80)
        let frame = frame chart rows (float width) (float height)

        [
            Xml.text "title" [] (if chart.Title = "" then "Line chart" else chart.Title)
            Xml.text "desc" [] (summary chart)
            before
            yield! labels frame chart (float height)
            yield! legend place order frame (rows - 1) chart.Series
            yield! plot place order frame chart
        ]
        |> Svg.root (float width, float height)

    let private names (chart: Chart) : string list = chart.Series |> List.map _.Name |> List.distinct

    /// Draws the chart without styles, for a page that has them once, with the data that the page's script shows. A name's
    /// place in the order gives its colour and shape.
    let internal fragment (order: string list) (width: int) (height: int) (chart: Chart) : string =
        picture OnPage "" order (width, height) chart

    /// Draws the chart as an <svg> element for a web page: text inherits the page's colour, curves follow the reader's
    /// light or dark scheme. Width and height in CSS pixels, at least 160 by 120; a long legend adds to the height.
    let svg (width: int) (height: int) (chart: Chart) : string =
        picture Alone (Xml.tag "style" [] [ ChartStyle.adaptive ]) (names chart) (width, height) chart

    /// Draws the chart as a standalone SVG file with its own paper, which follows the reader's light or dark scheme and is
    /// white in print. Width and height in pixels, at least 160 by 120; a long legend adds to the height.
    let standalone (width: int) (height: int) (chart: Chart) : string =
        picture Alone (ChartStyle.alone "") (names chart) (width, height) chart + "\n"
