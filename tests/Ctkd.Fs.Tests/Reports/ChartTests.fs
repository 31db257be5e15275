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

        test "the legend names each of forty curves and makes the picture taller, so that the plot keeps its room" {
            let svg = draw (chartOf [ for i in 1..40 -> named $"run %d{i}" [ 0.0, float i; 1.0, float i ] ])
            let names = elements "text" svg |> ofClass "name" |> List.map _.Value
            Must.equal [ for i in 1..40 -> $"run {i}" ] names
            let _, top, _, bottom = rectangle svg
            Must.lie 150.0 300.0 (bottom - top)
            let lowest = elements "text" svg |> ofClass "name" |> List.map (attribute "y" >> number) |> List.max
            Must.lie lowest (lowest + 20.0) top
        }

        test "long names that differ at their ends stay different in the legend" {
            let name i = $"resnet56-to-resnet20-ctkd-instance-seed-%d{i}-rate-0.05"

            let names (series: Series list) =
                draw (chartOf series) |> elements "text" |> ofClass "name" |> List.map _.Value

            let points = [ 0.0, 1.0; 1.0, 2.0 ]
            let two = names [ named (name 1) points; named (name 2) points ]
            Must.equal 2 (List.distinct two).Length
            Must.lie 1 36 (names [ named (name 1) points ]).Head.Length
        }

        test "names and titles of a hundred thousand letters are cut and take no time" {
            let long = String('x', 100_000)
            let series = [ for i in 1..2 -> named $"{long}{i}" [ 0.0, 1.0; 1.0, 2.0 ] ]
            let svg = draw { chartOf series with Title = long }
            let shown = elements "text" svg |> List.map _.Value.Length
            Must.lie 1 100 (List.max shown)
        }

        test "curves on the same pixels take turns in dashes, and only where they lie on each other" {
            let shared = [ for x in 0..10 -> float x, float x ]
            let other = [ for x in 0..10 -> float x, (if x <= 5 then float x else 5.0) ]
            let paths series = draw (chartOf series) |> elements "path"
            let dashes = paths [ named "a" shared; named "b" shared; named "c" [ 0.0, 3.0; 10.0, 0.0 ] ]

            let value name path = attribute name path
            let lengths = (value "stroke-dasharray" dashes[0]).Split ' ' |> Array.map number
            Must.equal [| 9.0; 9.0 |] lengths
            Must.equal (value "d" dashes[0]) (value "d" dashes[1])
            Must.equal (value "stroke-dasharray" dashes[0]) (value "stroke-dasharray" dashes[1])
            // The second begins to draw where the first stops.
            let turn = number (value "stroke-dashoffset" dashes[0]) - number (value "stroke-dashoffset" dashes[1])
            Must.beNear 0.0 0.02 9.0 ((turn + 18.0) % 18.0)
            Must.equal "" (value "stroke-dasharray" dashes[2])

            let parted = paths [ named "a" shared; named "b" other ]
            Must.equal [ "9 9"; ""; "9 9"; "" ] (parted |> List.map (value "stroke-dasharray"))
        }

        test "several lone points on the same pixel are rings around each other" {
            let svg = draw (chartOf [ for i in 1..3 -> named $"run %d{i}" [ 1.0, 80.0 ] ])
            let radii = elements "circle" svg |> List.map (attribute "r" >> number)
            Must.equal [ 9.5; 6.0; 2.5 ] radii
            Must.equal 2 (elements "circle" svg |> ofClass "ring").Length
        }

        test "the description says which curves are equal" {
            let points = [ 1.0, 0.5; 2.0, 1.0 ]
            let svg = draw (chartOf [ named "a" points; named "b" [ 1.0, 0.5 ]; named "c" points ])
            Must.endWith "Equal: a = c." (elements "desc" svg |> List.exactlyOne).Value
        }

        test "a chart names and describes itself" {
            let svg = draw (chartOf [ named "CTKD" [ 1.0, 10.5; 2.0, 73.9 ] ])
            Must.equal "img" (elements "svg" svg |> List.exactlyOne |> attribute "role")
            Must.equal "Test accuracy" ((elements "title" svg |> List.head).Value)

            Must.contain
                "CTKD: 2 points from 10.5 to 73.9, the last 73.9."
                ((elements "desc" svg |> List.exactlyOne).Value)
        }

        test "an inline chart follows light and dark on the page's paper, a file on its own" {
            let chart = chartOf [ named "run" [ 1.0, 1.0 ] ]

            for svg in [ Chart.svg 440 300 chart; draw chart ] do
                Must.contain "prefers-color-scheme:dark" svg

            Must.lack "paper" (Chart.svg 440 300 chart)
            elements "rect" (draw chart) |> Must.haveOne (fun rect -> attribute "class" rect = "paper")
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
