/// Colours, shapes and schemes of all pictures, read from what is drawn.
module Ctkd.Fs.Tests.PaletteTests

open System
open System.Text.RegularExpressions
open System.Xml.Linq
open Expecto
open Ctkd.Fs

let private runs (count: int) : Series list = [
    for i in 1..count -> { Name = $"run {i}"; Points = [ for x in 0..11 -> float x, float (i * x) ] }
]

let private chart (count: int) : string =
    Chart.standalone 720 360 { Chart.defaults with Title = "t"; Series = runs count }

let private map: string =
    HeatMap.standalone 400 {
        Title = "t"
        Label = "class"
        Names = []
        Unit = "difference"
        Cells = [| [| 0.0; 1.0 |]; [| -0.5; 0.0 |] |]
    }

let private points (classes: int) : string =
    Scatter.standalone 720 540 {
        Title = "t"
        Classes = List.init classes string
        Points = [ for c in 0 .. classes - 1 -> struct (float c, float (c * c)), c ]
    }

/// The styles of a picture before its dark rules, and these.
let private schemes (svg: string) : string * string =
    let styles = Regex.Match(svg, "<style>(.*?)</style>", RegexOptions.Singleline).Groups[1].Value
    let at = styles.LastIndexOf("@media screen and (prefers-color-scheme:dark)", StringComparison.Ordinal)
    styles[.. at - 1], styles[at..]

/// A colour of #rgb or #rrggbb as three numbers from 0 to 1.
let private parse (text: string) : float[] =
    let digits = text.TrimStart '#'
    let digits = if digits.Length = 3 then String.collect (fun c -> $"{c}{c}") digits else digits
    [| for i in 0..2 -> float (Convert.ToInt32(digits.Substring(2 * i, 2), 16)) / 255.0 |]

let private found (pattern: string) (styles: string) : float[] list = [
    for rule in Regex.Matches(styles, pattern) -> parse rule.Groups[1].Value
]

let private palette: string -> float[] list = found @"\.k\d+\{stroke:(#[0-9a-f]+);fill:"
let private paper (styles: string) : float[] = found @"\.paper\{fill:(#[0-9a-f]+)\}" styles |> Must.single
let private ink (styles: string) : float[] = found @"\.ctkd-chart\{color:(#[0-9a-f]+)\}" styles |> Must.single

let private both: (float[] * float[] list) list =
    let light, dark = schemes (chart 2)
    [ for styles in [ light; dark ] -> paper styles, palette styles ]

// ---- contrast and distance of colours ---------------------------------------------------------------------

let private linear (colour: float[]) : float[] =
    colour |> Array.map (fun c -> if c <= 0.04045 then c / 12.92 else ((c + 0.055) / 1.055) ** 2.4)

/// The contrast ratio of WCAG 2, 1 to 21.
let private contrast (a: float[]) (b: float[]) : float =
    let luminance colour = Array.fold2 (fun sum w c -> sum + w * c) 0.05 [| 0.2126; 0.7152; 0.0722 |] (linear colour)
    let a, b = luminance a, luminance b
    max a b / min a b

let private times (matrix: float[][]) (v: float[]) : float[] =
    matrix |> Array.map (fun row -> Array.fold2 (fun sum a b -> sum + a * b) 0.0 row v)

/// OKLab (Ottosson 2020) of linear red, green and blue; a distance of 0.02 is just visible.
let private okLab (rgb: float[]) : float[] =
    rgb
    |> times [|
        [| 0.4122214708; 0.5363325363; 0.0514459929 |]
        [| 0.2119034982; 0.6806995451; 0.1073969566 |]
        [| 0.0883024619; 0.2817188376; 0.6299787005 |]
    |]
    |> Array.map Math.Cbrt
    |> times [|
        [| 0.2104542553; 0.7936177850; -0.0040720468 |]
        [| 1.9779984951; -2.4285922050; 0.4505937099 |]
        [| 0.0259040371; 0.7827717662; -0.8086757660 |]
    |]

/// What eyes without red, green or blue cones see (Machado, Oliveira and Fernandes 2009, severity 1), in linear light.
let private without: (string * float[][]) list = [
    "red",
    [|
        [| 0.152286; 1.052583; -0.204868 |]
        [| 0.114503; 0.786281; 0.099216 |]
        [| -0.003882; -0.048116; 1.051998 |]
    |]
    "green",
    [|
        [| 0.367322; 0.860646; -0.227968 |]
        [| 0.280085; 0.672501; 0.047413 |]
        [| -0.011820; 0.042940; 0.968881 |]
    |]
    "blue",
    [|
        [| 1.255528; -0.076749; -0.178779 |]
        [| -0.078411; 0.930809; 0.147602 |]
        [| 0.004733; 0.691367; 0.303900 |]
    |]
]

let private distance (a: float[]) (b: float[]) : float =
    Array.fold2 (fun sum x y -> sum + (x - y) * (x - y)) 0.0 a b |> sqrt

/// The smallest distance of two colours as eyes see them.
let private nearest (seen: float[] -> float[]) (colours: float[] list) : float =
    let places = colours |> List.map (linear >> seen >> Array.map (max 0.0 >> min 1.0) >> okLab)

    List.allPairs (List.indexed places) (List.indexed places)
    |> List.filter (fun ((i, _), (j, _)) -> i < j)
    |> List.map (fun ((_, a), (_, b)) -> distance a b)
    |> List.min

let private marks (svg: string) : XElement list =
    (XDocument.Parse svg).Descendants()
    |> Seq.filter (fun element ->
        match element.Attribute(XName.Get "class") with
        | null -> false
        | css -> css.Value.StartsWith("mark ", StringComparison.Ordinal)
    )
    |> List.ofSeq

/// Colour and shape of a mark, wherever it is: the number of its corners and the direction of its first edge.
let private look (mark: XElement) : string =
    let value (name: string) =
        match mark.Attribute(XName.Get name) with
        | null -> ""
        | found -> found.Value

    let numbers = [| for n in Regex.Matches(value "d", @"-?[\d.]+") -> float n.Value |]

    let direction =
        if numbers.Length = 0 then
            "round"
        else
            let angle = Math.Atan2(numbers[3] - numbers[1], numbers[2] - numbers[0]) * 180.0 / Math.PI
            string (15.0 * Math.Round(angle / 15.0))

    let css = value "class"
    $"{css}, {numbers.Length / 2} corners, {direction}"

let tests =
    testList "Palette" [
        test "ten colours have a contrast of at least 3 to 1 to their paper, on light and on dark" {
            for paper, colours in both do
                Must.equal 10 (List.length colours)

                for colour in colours do
                    Must.lie 3.0 21.0 (contrast paper colour)
        }

        test "every two of the ten colours are told apart, by eyes without red, green or blue cones too" {
            for _, colours in both do
                Must.lie 0.15 1.0 (nearest id colours)

                for missing, matrix in without do
                    let distance = nearest (times matrix) colours
                    Expect.isTrue (distance > 0.065) $"%.3f{distance} without {missing} cones"
        }

        test "a colour keeps its hue from light to dark" {
            let hue colour =
                let lab = okLab (linear colour)
                Math.Atan2(lab[2], lab[1]) * 180.0 / Math.PI

            for light, dark in List.zip (snd both[0]) (snd both[1]) do
                let turn = abs (hue light - hue dark)
                Must.lie 0.0 45.0 (min turn (360.0 - turn))
        }

        test "every kind of picture follows the reader's light or dark scheme, with its paper and its text" {
            for svg in [ chart 2; chart 12; map; points 10; points 100 ] do
                let light, dark = schemes svg
                Must.beClose 0.0 1e-9 [| 1.0; 1.0; 1.0 |] (paper light)
                Must.lie 1.0 1.5 (contrast [| 0.0; 0.0; 0.0 |] (paper dark))

                for styles in [ light; dark ] do
                    Must.lie 12.0 21.0 (contrast (paper styles) (ink styles))

                // Programs that read no styles get white paper beneath dark text.
                Must.contain "<rect class=\"paper\" width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>" svg
        }

        test "a heat map's shades leave the paper's colour step by step, on light and on dark" {
            let light, dark = schemes map

            let ofLight shade =
                Regex.Match(map, $"class=\"{shade}\"[^>]*fill=\"(#[0-9a-f]+)\"").Groups[1].Value |> parse

            let ofDark shade = found $@"\.{shade}\{{fill:(#[0-9a-f]+)\}}" dark |> Must.single

            for paper, shade in [ paper light, ofLight; paper dark, ofDark ] do
                for side in [ "n"; "p" ] do
                    let contrasts = "p0" :: [ for k in 1..32 -> $"{side}{k}" ] |> List.map (shade >> contrast paper)
                    Must.beNear 1e-9 0.0 1.0 contrasts.Head
                    Must.equal (List.sort contrasts) contrasts
                    Must.lie 7.0 21.0 (List.last contrasts)
        }

        test "the page of a report rules its charts: they bring no paper and no styles" {
            let html =
                Report.html {
                    Title = "t"
                    Subtitle = ""
                    Sections = [ "", [ Section.Charts [ { Chart.defaults with Series = runs 2 } ] ] ]
                }

            let svg = html.Substring(html.IndexOf("<svg", StringComparison.Ordinal))
            Must.lack "paper" svg
            Must.lack "<style" svg
            let light, dark = schemes html
            Must.equal (both |> List.map snd) [ palette light; palette dark ]
        }

        test "seventy curves differ from each other in colour or mark, and so do seventy classes" {
            for svg in [ chart 70; points 70 ] do
                Must.equal 70 (marks svg |> List.map look |> List.distinct |> List.length)
        }

        test "up to four curves differ by colour alone, more have marks on data points that do not meet" {
            Must.beEmpty (marks (chart 4))
            let svg = chart 5
            // Two on each curve and one in the legend.
            Must.hold ((marks svg).Length >= 5 * 3)
        }
    ]
