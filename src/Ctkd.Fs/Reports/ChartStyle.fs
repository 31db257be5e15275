namespace Ctkd.Fs

open System

/// Colours and shapes that tell curves and classes apart, and the styles of all pictures.
[<RequireQualifiedAccess>]
module internal ChartStyle =
    let private ink, private darkInk = "#1f2328", "#e3e6ea"

    /// Red, green and blue of the papers, light and dark.
    let papers = [ 255; 255; 255 ], [ 21; 24; 28 ]

    /// A colour of red, green and blue, 0 to 255.
    let ofChannels (channels: int list) : string =
        channels |> List.map (fun value -> $"%02x{value}") |> String.concat "" |> (+) "#"

    let private paper, private darkPaper = ofChannels (fst papers), ofChannels (snd papers)

    // Each colour has a contrast of at least 3:1 to its paper, and every two stay apart for readers without red, green or
    // blue cones; the colours of one place have one hue on light and dark. Found by a search over OKLab.
    let private onLight = [
        "#2875ef"
        "#cc3108"
        "#117b53"
        "#91148c"
        "#5b3a00"
        "#02a0b8"
        "#8c9904"
        "#c3807c"
        "#5038bf"
        "#352e5d"
    ]

    let private onDark = [
        "#0b98f4"
        "#fd9c46"
        "#0ad9b0"
        "#d84eac"
        "#fce467"
        "#a1f4ff"
        "#719866"
        "#ca3d18"
        "#d9adff"
        "#7658da"
    ]

    /// Number of colours.
    let private colours = onLight.Length

    /// Number of shapes; colour and shape together tell 70 apart.
    let private shapes = 7

    /// Up to so many curves colours suffice.
    let private mostByColour = 4

    /// The CSS class of an index's colour.
    let classOf (index: int) : string = $"k{index % colours}"

    let private rules (palette: string list) : string =
        palette
        |> List.mapi (fun i colour -> $".ctkd-chart .k{i}{{stroke:{colour};fill:{colour}}}")
        |> String.concat "\n"

    // Marks are cut out of what lies beneath them, words out of marks.
    let private outlines (paper: string) : string =
        $".ctkd-chart .mark{{stroke:{paper};stroke-width:.6}}\n"
        + $".ctkd-chart .over{{stroke:{paper};stroke-width:3px;stroke-linejoin:round;paint-order:stroke}}"

    let private shared =
        """
.ctkd-chart{font:12px "Segoe UI","Helvetica Neue",Helvetica,Arial,sans-serif;
font-variant-numeric:tabular-nums}
.ctkd-chart text{fill:currentColor}
.ctkd-chart .heading{font-size:13px;font-weight:600}
.ctkd-chart .tick{font-size:11px;opacity:.75}
.ctkd-chart .muted{opacity:.75}
.ctkd-chart .plot{fill:none}
.ctkd-chart .grid{stroke:currentColor;stroke-opacity:.14}
.ctkd-chart .axis{stroke:currentColor;stroke-opacity:.6;fill:none}
.ctkd-chart .line,.ctkd-chart path.line{fill:none;stroke-width:1.8;stroke-linejoin:round}
.ctkd-chart path.dense{stroke-width:1}
.ctkd-chart circle.ring{fill:none;stroke-width:2}
"""

    let private light: string = rules onLight + shared + outlines paper + "\n"

    // Print stays light.
    let private dark (more: string) : string =
        $"@media screen and (prefers-color-scheme:dark){{\n{rules onDark}\n{outlines darkPaper}\n{more}}}\n"

    /// Styles for a page that has light and dark; text and axes inherit its colour.
    let adaptive: string = light + dark ""

    /// The start of a picture that stands alone: styles and paper, light or dark as the reader's screen. `darkRules` hold
    /// on dark only.
    let alone (darkRules: string) : string =
        let ofPage (paper: string) (ink: string) = $".ctkd-chart{{color:{ink}}}\n.ctkd-chart .paper{{fill:{paper}}}\n"

        let styles =
            "svg.ctkd-chart{color-scheme:light dark}\n"
            + ofPage paper ink
            + light
            + dark (ofPage darkPaper darkInk + darkRules)

        Xml.tag "style" [] [ styles ]
        + Xml.leaf "rect" [ "class", "paper"; "width", "100%"; "height", "100%"; "fill", paper ]

    /// The place of a curve's name in the order, which gives its colour and mark.
    let place (order: string list) (name: string) : int = order |> List.tryFindIndex ((=) name) |> Option.defaultValue 0

    /// Whether so many curves need marks beside colours.
    let needsMarks (count: int) : bool = count > mostByColour

    /// A mark in an index's colour and shape.
    let mark (index: int) (x: float, y: float) : string =
        let at (dx: float) (dy: float) = $"{Svg.number (x + dx)} {Svg.number (y + dy)}"
        let css = $"mark {classOf index}"
        let path (d: string) = Xml.leaf "path" [ "class", css; "d", d ]

        let polygon (corners: (float * float) list) =
            path ("M" + (corners |> List.map (fun (dx, dy) -> at dx dy) |> String.concat "L") + "z")

        // A plus of arms 2 a wide and 2 b long, turned by an angle.
        let plus (angle: float) =
            let a, b = 1.1, 3.6

            [ a, a; a, b; -a, b; -a, a; -b, a; -b, -a; -a, -a; -a, -b; a, -b; a, -a; b, -a; b, a ]
            |> List.map (fun (dx, dy) -> dx * cos angle - dy * sin angle, dx * sin angle + dy * cos angle)
            |> polygon

        match index % shapes with
        | 0 -> Xml.leaf "circle" [ "class", css; "cx", Svg.number x; "cy", Svg.number y; "r", "3" ]
        | 1 -> polygon [ -2.7, -2.7; 2.7, -2.7; 2.7, 2.7; -2.7, 2.7 ]
        | 2 -> polygon [ 0.0, -3.8; 3.6, 2.6; -3.6, 2.6 ]
        | 3 -> polygon [ 0.0, -4.0; 4.0, 0.0; 0.0, 4.0; -4.0, 0.0 ]
        | 4 -> polygon [ 0.0, 3.8; 3.6, -2.6; -3.6, -2.6 ]
        | 5 -> plus 0.0
        | _ -> plus (Math.PI / 4.0)
