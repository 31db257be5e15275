module Ctkd.Fs.Tests.ChartTests

open System
open System.Globalization
open System.Text.RegularExpressions
open System.Threading
open System.Xml.Linq
open Expecto
open Ctkd.Fs
open FsCheck
open FsCheck.FSharp

let private named (name: string) (points: (float * float) list) : Series = { Name = name; Points = points }

let private chartOf (series: Series list) : Chart = {
    Chart.defaults with
        Title = "Test accuracy"
        XLabel = "Epoch"
        YLabel = "Top-1 accuracy, %"
        Series = series
}

let private draw (chart: Chart) : string = Chart.standalone 440 300 chart

let private elements (name: string) (svg: string) : XElement list =
    (XDocument.Parse svg).Descendants() |> Seq.filter (fun element -> element.Name.LocalName = name) |> List.ofSeq

let private attribute (name: string) (element: XElement) : string =
    match element.Attribute(XName.Get name) with
    | null -> ""
    | found -> found.Value

let private number (text: string) : float = Double.Parse(text, CultureInfo.InvariantCulture)

let private ofClass (css: string) (found: XElement list) : XElement list =
    found |> List.filter (attribute "class" >> _.Contains(css))

/// The drawn curves: the points of each line, and each dot as a line of one point.
let private curves (svg: string) : (float * float) list list =
    let point (pair: string) =
        let parts = pair.Split ','
        number parts[0], number parts[1]

    let line path = (attribute "d" path).TrimStart('M').Split ' ' |> Array.map point |> List.ofArray
    let dot circle = [ number (attribute "cx" circle), number (attribute "cy" circle) ]
    List.map line (elements "path" svg) @ List.map dot (elements "circle" svg)

/// Left, top, right and bottom of the plot.
let private rectangle (svg: string) : float * float * float * float =
    let plot = elements "rect" svg |> ofClass "plot" |> List.exactlyOne
    let value name = number (attribute name plot)
    value "x", value "y", value "x" + value "width", value "y" + value "height"

let private inPlot (svg: string) : bool =
    let left, top, right, bottom = rectangle svg
    let between low high value = value >= low - 0.011 && value <= high + 0.011

    curves svg |> List.concat |> List.forall (fun (x, y) -> between left right x && between top bottom y)

let private ticks (axis: string) (svg: string) : float list =
    elements "text" svg
    |> ofClass $"tick {axis}"
    |> List.map (fun text -> number (text.Value.Replace('\u2212', '-').Replace(",", "")))

let private plain: Gen<float> = Gen.choose (-1000000, 1000000) |> Gen.map (fun k -> float k / 1000.0)

let private somePoints: Arbitrary<(float * float) list> =
    Gen.zip plain plain |> Gen.nonEmptyListOf |> Arb.fromGen

let tests =
    testList "Chart" [
        testProperty "a chart is well-formed XML whatever its texts and numbers"
        <| fun (characters: char list) points range ->
            let name = "\u0000<\uD800&" + String(Array.ofList characters)

            let chart = {
                chartOf [ named name points ] with
                    Title = name
                    YLabel = name
                    YRange = range
            }

            [ draw chart; Chart.svg 640 360 chart; Chart.svg -1 0 chart ]
            |> List.forall (fun svg -> (elements "svg" svg).Length = 1)

        testProperty "no number in a chart is NaN or infinite"
        <| fun points range ->
            let svg = draw { chartOf [ named "run" points ] with YRange = range }
            not (Regex.IsMatch(svg, "nan|infinity|∞", RegexOptions.IgnoreCase))

        testProperty "every point that is drawn lies within the plot"
        <| fun points range -> inPlot (draw { chartOf [ named "run" points ] with YRange = range })

        test "coordinates have at most two decimals" {
            let svg = draw (chartOf [ named "run" [ for i in 0..50 -> float i, sin (float i) ] ])
            let drawn = List.collect (fun name -> elements name svg) [ "rect"; "line"; "path"; "text"; "g" ]
            let values = drawn |> Seq.collect _.Attributes() |> Seq.map _.Value

            for value in values do
                Must.notMatchRegex "\\.[0-9]{3}" value
        }

        test "texts are escaped" {
            let svg =
                draw {
                    chartOf [ named "<script>alert(1)</script>" [ 1.0, 1.0 ] ] with
                        Title = "a & b < \"c\""
                }

            Must.lack "<script" svg
            Must.contain "&lt;script&gt;" svg
            Must.contain "a &amp; b &lt; &quot;c&quot;" svg
        }

        test "thousands of points become few and keep the lowest and the highest" {
            let noise = Random 1
            let points = [ for i in 0..19999 -> float i, noise.NextDouble() ]
            let spiked = points |> List.updateAt 7001 (7001.0, 9.0) |> List.updateAt 15003 (15003.0, -5.0)
            let extremes = [ 0.0, 0.5; 7001.0, 9.0; 15003.0, -5.0; 19999.0, 0.5 ]
            let range points = draw (chartOf [ named "run" points ]) |> curves |> List.concat |> List.map snd
            let dense, sparse = range spiked, range extremes
            Must.lie 100 (4 * 440) dense.Length
            Must.equal (List.min sparse) (List.min dense)
            Must.equal (List.max sparse) (List.max dense)
        }

        testProperty "ticks are round, equally spaced and cover the data"
        <| Prop.forAll
            somePoints
            (fun points ->
                let svg = draw (chartOf [ named "run" points ])

                let round values =
                    let steps = values |> List.pairwise |> List.map (fun (a: float, b) -> Math.Round(b - a, 9))

                    let mantissa = steps[0] / Math.Pow(10.0, floor (log10 steps[0] + 1e-9))
                    let isRound = List.exists (fun m -> abs (mantissa - m) < 1e-6) [ 1.0; 2.0; 5.0 ]
                    isRound && List.forall (fun step -> abs (step - steps[0]) < 1e-6) steps

                let xs, ys = ticks "x" svg, ticks "y" svg

                let lowest, highest = points |> List.map snd |> List.min, points |> List.map snd |> List.max

                round xs && round ys && List.head ys <= lowest + 1e-6 && List.last ys >= highest - 1e-6
            )

        test "whole numbers such as epochs get whole ticks" {
            let svg = draw (chartOf [ named "run" [ 0.0, 0.1; 1.0, 0.2; 2.0, 0.4 ] ])
            Must.equal [ 0.0; 1.0; 2.0 ] (ticks "x" svg)
        }

        test "large and small numbers share one exponent" {
            let labels ys =
                draw (chartOf [ named "run" (List.indexed ys |> List.map (fun (i, y) -> float i, y)) ])
                |> elements "text"
                |> ofClass "tick y"
                |> List.map _.Value

            Must.equal [ "0"; "1e8"; "2e8"; "3e8"; "4e8" ] (labels [ 0.0; 4e8 ])
            Must.equal [ "\u22121e\u22126"; "0"; "1e\u22126"; "2e\u22126" ] (labels [ -1e-6; 2e-6 ])
        }

        test "a point that is not finite breaks the line" {
            let svg =
                draw (
                    chartOf [
                        named "run" [ 1.0, 1.0; 2.0, 2.0; 3.0, nan; 4.0, 3.0; 5.0, 1.0; infinity, 1.0; 6.0, 2.0 ]
                    ]
                )

            Must.equal 2 ((elements "path" svg).Length)
            Must.equal 1 ((elements "circle" svg).Length)
        }

        test "a curve is cut where it leaves the given range" {
            let chart = chartOf [ named "run" [ 0.0, 0.5; 1.0, 2.5; 2.0, 0.5 ] ]
            let svg = draw { chart with YRange = Some(0.0, 1.0) }
            let _, top, _, bottom = rectangle svg
            let heights = curves svg |> List.map (List.map snd)

            Must.equal [ [ (top + bottom) / 2.0; top ]; [ top; (top + bottom) / 2.0 ] ] (List.sort heights |> List.rev)
        }

        test "a range that does not rise counts as none" {
            let chart = chartOf [ named "run" [ 0.0, 0.5; 1.0, 2.5 ] ]
            let ranges = [ 1.0, 1.0; 2.0, 1.0; nan, 1.0; 0.0, infinity ]

            for range in ranges do
                Must.equal (draw chart) (draw { chart with YRange = Some range })
        }

        test "a single point is a dot and an empty curve says so" {
            let svg = draw (chartOf [ named "one" [ 3.0, 1e-6 ]; named "none" [] ])
            Must.single (elements "circle" svg) |> ignore
            Must.contain "none (no data)" svg
            elements "text" (draw (chartOf [])) |> Must.haveOne (fun text -> text.Value = "no data")
        }

        test "twenty-four curves look different" {
            let svg = draw (chartOf [ for i in 1..24 -> named $"run %d{i}" [ 0.0, float i; 1.0, float i ] ])
            let styles = elements "path" svg |> List.map (attribute "class")
            Must.equal 24 ((List.distinct styles).Length)
            elements "text" svg |> Must.haveOne _.Value.StartsWith("+", StringComparison.Ordinal)
        }

        test "a chart names and describes itself" {
            let svg = draw (chartOf [ named "CTKD" [ 1.0, 10.5; 2.0, 73.9 ] ])
            Must.equal "img" (elements "svg" svg |> List.exactlyOne |> attribute "role")
            Must.equal "Test accuracy" ((elements "title" svg |> List.head).Value)

            Must.contain
                "CTKD: 2 points from 10.5 to 73.9, the last 73.9."
                ((elements "desc" svg |> List.exactlyOne).Value)
        }

        test "an inline chart follows light and dark, a file is on white" {
            let chart = chartOf [ named "run" [ 1.0, 1.0 ] ]
            Must.contain "prefers-color-scheme:dark" (Chart.svg 440 300 chart)
            Must.lack "prefers-color-scheme" (draw chart)
            elements "rect" (draw chart) |> Must.haveOne (fun rect -> attribute "fill" rect = "#fff")
        }

        test "a chart does not depend on the culture" {
            let chart = chartOf [ named "run" [ for i in 0..40 -> -0.5 * float i, 12345.678 * float i ] ]
            let before = Thread.CurrentThread.CurrentCulture
            let expected = draw chart

            try
                for culture in [ "de-DE"; "sv-SE"; "ar-SA"; "fa-IR" ] do
                    Thread.CurrentThread.CurrentCulture <- CultureInfo.GetCultureInfo culture
                    Must.equal expected (draw chart)
            finally
                Thread.CurrentThread.CurrentCulture <- before
        }
    ]
