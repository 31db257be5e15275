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

    /// Text whose "start", "middle" or "end" is at a point.
    let text (css: string) (anchor: string) (x: float, y: float) (content: string) : string =
        let attributes = [ "class", css; "x", number x; "y", number y; "text-anchor", anchor ]
        Xml.text "text" attributes content

    /// A straight line.
    let segment (css: string) (x1: float, y1: float) (x2: float, y2: float) : string =
        let start, stop = [ "x1", number x1; "y1", number y1 ], [ "x2", number x2; "y2", number y2 ]
        Xml.leaf "line" (("class", css) :: start @ stop)

    /// A line through all points, thinned where they are dense; a dot if all are equal.
    let path (css: string) (points: (float * float) list) : string =
        let written = points |> List.map (fun (x, y) -> $"{number x},{number y}")

        match List.distinct written with
        | [ _ ] ->
            let x, y = List.head points
            Xml.leaf "circle" [ "class", css; "cx", number x; "cy", number y; "r", "2.5" ]
        | _ ->
            let weight = if written.Length > 400 then "line dense" else "line"
            Xml.leaf "path" [ "class", $"{weight} {css}"; "d", "M" + String.concat " " written ]
