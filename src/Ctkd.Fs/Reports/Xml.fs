namespace Ctkd.Fs

open System
open System.Globalization
open System.Text

/// Writes XML that is well-formed by construction: names come from code, and text is escaped.
[<RequireQualifiedAccess>]
module internal Xml =
    let private escapeRune (rune: Rune) : string =
        match rune.Value with
        | 0x26 -> "&amp;"
        | 0x3C -> "&lt;"
        | 0x3E -> "&gt;"
        | 0x22 -> "&quot;"
        | 0x27 -> "&#39;"
        | 0x09
        | 0x0A -> rune.ToString()
        | code when code < 0x20 || code = 0xFFFE || code = 0xFFFF -> "\uFFFD"
        | _ -> rune.ToString()

    /// Escapes text for an element or attribute; characters that XML forbids become U+FFFD.
    let escape (text: string) : string =
        let out = StringBuilder text.Length

        for rune in text.EnumerateRunes() do
            out.Append(escapeRune rune) |> ignore

        out.ToString()

    let private opening (name: string) (attributes: (string * string) list) : string =
        attributes
        |> List.map (fun (key, value) -> $" {key}=\"{escape value}\"")
        |> String.concat ""
        |> fun text -> $"<{name}{text}"

    /// An element with child elements, given as XML.
    let tag (name: string) (attributes: (string * string) list) (children: string list) : string =
        let inner = String.concat "" children
        $"{opening name attributes}>{inner}</{name}>"

    /// An element with text.
    let text (name: string) (attributes: (string * string) list) (content: string) : string =
        tag name attributes [ escape content ]

    /// An empty element.
    let leaf (name: string) (attributes: (string * string) list) : string = opening name attributes + "/>"

/// SVG shapes, in pixels from the top left corner.
[<RequireQualifiedAccess>]
module internal Svg =
    /// Formats a coordinate with at most two decimals.
    let number (value: float) : string = (Math.Round(value, 2) + 0.0).ToString("0.##", CultureInfo.InvariantCulture)

    /// A picture of the parts, in the class that all styles begin with.
    let root (width: float, height: float) (parts: string list) : string =
        parts
        |> Xml.tag "svg" [
            "xmlns", "http://www.w3.org/2000/svg"
            "class", "ctkd-chart"
            "role", "img"
            "viewBox", $"0 0 {number width} {number height}"
            "width", number width
            "height", number height
        ]

    /// Text whose "start", "middle" or "end" is at a point.
    let text (css: string) (anchor: string) (x: float, y: float) (content: string) : string =
        let attributes = [ "class", css; "x", number x; "y", number y; "text-anchor", anchor ]
        Xml.text "text" attributes content

    /// A straight line.
    let segment (css: string) (x1: float, y1: float) (x2: float, y2: float) : string =
        let start, stop = [ "x1", number x1; "y1", number y1 ], [ "x2", number x2; "y2", number y2 ]
        Xml.leaf "line" (("class", css) :: start @ stop)

    /// The points of a line to the hundredth of a pixel.
    let exactly (points: (float * float) list) : string =
        "M" + (points |> List.map (fun (x, y) -> $"{number x},{number y}") |> String.concat " ")

    /// The points of a line to the tenth of a pixel, each as a step from the one before: half as long.
    let shortly (points: (float * float) list) : string =
        let tenths = points |> List.map (fun (x, y) -> int (round (10.0 * x)), int (round (10.0 * y)))

        let write (value: int) =
            if value = 0 then
                "0"
            else
                (float value / 10.0).ToString("#.#", CultureInfo.InvariantCulture)

        let join (values: int list) =
            // A minus sign parts two numbers as well as a space.
            let part (text: string) = if text[0] = '-' then text else " " + text
            values |> List.map (write >> part) |> String.concat "" |> _.TrimStart()

        let steps = tenths |> List.pairwise |> List.collect (fun ((x0, y0), (x1, y1)) -> [ x1 - x0; y1 - y0 ])
        let x, y = tenths.Head
        $"M{join [ x; y ]}l{join steps}"

    /// A line through all points, thin where they are dense. Of `count` curves on the same pixels each draws dashes in turn.
    let path
        (write: (float * float) list -> string)
        (css: string)
        (place: int, count: int)
        (points: (float * float) list)
        : string =
        let weight = if points.Length > 400 then "line dense" else "line"

        let dashes =
            if count = 1 then
                []
            else
                // Dashes begin by x: neighbouring stretches of the same curves go on in step.
                let dash = max 3.0 (min 9.0 (270.0 / float count))
                let period = dash * float count
                let start = (fst points.Head - dash * float place) % period
                let gaps = $"{number dash} {number (period - dash)}"
                [ "stroke-dasharray", gaps; "stroke-dashoffset", number ((start + period) % period) ]

        Xml.leaf "path" ([ "class", $"{weight} {css}"; "d", write points ] @ dashes)

    /// A lone point of a curve. Of `count` curves on the same pixel each draws a ring around the later ones.
    let dot (css: string) (place: int, count: int) (x: float, y: float) : string =
        let around = float (count - 1 - place)
        let css = if around = 0.0 then css else $"ring {css}"
        let radius = 2.5 + around * min 3.5 (14.0 / float count)
        Xml.leaf "circle" [ "class", css; "cx", number x; "cy", number y; "r", number radius ]

    // Widths of DejaVu Sans at 12 pixels, which is wider than other sans-serif fonts.
    let private runeWidth (rune: Rune) : float =
        let code = rune.Value

        let isWide =
            code >= 0x1100 && code <= 0x115F
            || code >= 0x2E80 && code <= 0xD7A3
            || code >= 0xF900 && code <= 0xFAFF
            || code >= 0xFE30 && code <= 0xFE6F
            || code >= 0xFF00 && code <= 0xFF60
            || code >= 0x1F300

        let isOf (characters: string) = rune.IsAscii && characters.Contains(char code)

        if isWide then 13.0
        elif Rune.GetUnicodeCategory rune = UnicodeCategory.NonSpacingMark then 0.0
        elif isOf "iljI.,:;'|!()[]- /" then 4.4
        elif isOf "tfr" then 5.0
        elif isOf "mwMW@%<>&+=~" then 11.8
        elif Rune.IsUpper rune then 8.8
        else 7.6

    /// Estimates the width of a text in pixels.
    let width (content: string) : float = content.EnumerateRunes() |> Seq.sumBy runeWidth

    /// Cuts a text to so many characters as a reader counts them, the last one then an ellipsis.
    let shorten (limit: int) (content: string) : string =
        let whole = StringInfo content

        if whole.LengthInTextElements <= limit then
            content
        else
            whole.SubstringByTextElements(0, max 1 (limit - 1)) + "\u2026"

    // No character that a reader counts is narrower than 4 pixels.
    let private most (room: float) : int = int (max 0.0 room / 4.0) + 3

    /// Cuts a text to a width in pixels at its end.
    let fit (room: float) (content: string) : string =
        let rec search limit =
            let cut = shorten limit content
            if limit <= 2 || width cut <= room then cut else search (limit - 1)

        search (min (StringInfo(content).LengthInTextElements) (most room))

    /// Cuts a heading, which is bold and a little larger, to a width in pixels at its end.
    let fitHeading (room: float) (content: string) : string = fit (room / 1.15) content

    /// Cuts a text to a width in pixels in its middle: names of runs often differ at their ends.
    let ends (room: float) (content: string) : string =
        let whole = StringInfo content
        let length = whole.LengthInTextElements

        let rec search kept =
            let tail = kept * 2 / 3

            let cut =
                whole.SubstringByTextElements(0, kept - tail) + "\u2026" + whole.SubstringByTextElements(length - tail)

            if kept <= 3 || width cut <= room then cut else search (kept - 1)

        if length <= 3 || width content <= room then
            content
        else
            search (min (length - 1) (most room))
