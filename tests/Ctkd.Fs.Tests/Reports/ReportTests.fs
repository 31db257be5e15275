module Ctkd.Fs.Tests.ReportTests

open System
open System.Globalization
open System.Security.Cryptography
open System.Text
open System.Text.RegularExpressions
open System.Threading
open System.Xml.Linq
open Expecto
open Ctkd.Fs
open FsCheck

let private elements (name: string) (html: string) : XElement list =
    (XDocument.Parse html).Descendants()
    |> Seq.filter (fun element -> element.Name.LocalName = name)
    |> List.ofSeq

let private attribute (name: string) (element: XElement) : string =
    match element.Attribute(XName.Get name) with
    | null -> ""
    | found -> found.Value

let private texts (name: string) (html: string) : string list = elements name html |> List.map _.Value

let private pageOf (blocks: Section list) : string =
    Report.html { Title = "CTKD"; Subtitle = "one run"; Sections = [ "Result", blocks ] }

let private chartOf (names: string list) : Chart =
    let curve name : Series = { Name = name; Points = [ 1.0, 2.5; 2.0, 3.5 ] }
    { Chart.defaults with Title = "Accuracy"; Series = List.map curve names }

let private tableOf (header: string list) (rows: string list list) : Section =
    Section.Table { Caption = "Accuracy"; Header = header; Rows = rows }

/// Every kind of block, holding the given text wherever text goes.
let private everywhere (text: string) : Section list = [
    Section.Text text
    Section.Charts [ { chartOf [ text ] with Title = text; XLabel = text; YLabel = text } ]
    Section.Table { Caption = text; Header = [ text; text ]; Rows = [ [ text; text ]; [] ] }
    Section.Facts [ text, text ]
    Section.Headline [ text, text ]
]

let tests =
    testList "Report" [
        testProperty "a report is well-formed XML whatever its texts"
        <| fun (characters: char list) ->
            let text = "\u0000<\uD800&" + String(Array.ofList characters)
            let report = { Title = text; Subtitle = text; Sections = [ text, everywhere text; "", [] ] }
            (elements "html" (Report.html report)).Length = 1

        test "no text of a report becomes markup" {
            let html = pageOf (everywhere "<script src='https://example.org/x.js'>&</script>")
            let plain = elements "script" (pageOf []) |> Must.single
            Must.equal plain.Value (elements "script" html |> Must.single |> _.Value)
            Must.lack "<script " html
        }

        test "a page runs its own script alone: the policy names the hash of what HTML reads between the tags" {
            let html = pageOf (everywhere "plain")
            let opening = "<script>"
            let start = html.IndexOf(opening, StringComparison.Ordinal) + opening.Length
            let script = html[start .. html.IndexOf("</script>", StringComparison.Ordinal) - 1]
            let hash = Convert.ToBase64String(SHA256.HashData(Encoding.UTF8.GetBytes script))

            let policy =
                elements "meta" html
                |> List.filter (attribute "http-equiv" >> (=) "Content-Security-Policy")
                |> Must.single

            Must.equal
                $"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{hash}'"
                (attribute "content" policy)

            Must.equal (elements "script" html |> Must.single |> attribute "src") ""
            Must.lack "\r" html
        }

        test "a curve carries the points that it draws, each number once and as short as it reads" {
            let chart = {
                Chart.defaults with
                    XLabel = "epoch"
                    YLabel = "top-1 %"
                    YRange = Some(0.0, 100.0)
                    Series = [
                        {
                            Name = "a"
                            Points = [ 1.0, 71.534; 2.0, nan; 3.0, 72.1; 4.0, 110.0; 5.0, 73.0 ]
                        }
                        {
                            Name = "b"
                            Points = [ for epoch in 1..240 -> float epoch, (if epoch < 150 then 0.05 else 5e-3) ]
                        }
                        {
                            Name = "c"
                            Points = [ 1.25, 1.23456789; 2.5, 9.0; 3.75, 10.0; 5.0, 11.0; 6.0, 11.0 ]
                        }
                    ]
            }

            let html = pageOf [ Section.Charts [ chart ] ]

            let groups =
                elements "g" html |> List.filter (attribute "class" >> _.StartsWith("curve ", StringComparison.Ordinal))

            Must.equal [
                "a", "1 3 5", "71.534 72.1 73"
                "b", "1..240", "0.05*149 0.005*91"
                "c", "1.25 2.5 3.75 5 6", "1.2346 9..11 11"
            ] [ for g in groups -> attribute "data-run" g, attribute "data-x" g, attribute "data-y" g ]

            let plot = elements "rect" html |> List.filter (attribute "class" >> (=) "plot") |> Must.single

            Must.equal [ "epoch"; "0 240"; "top-1 %"; "0 100" ] [
                for name in [ "data-x-name"; "data-x-range"; "data-y-name"; "data-y-range" ] -> attribute name plot
            ]

            let keys = elements "g" html |> List.filter (attribute "class" >> (=) "key")
            Must.equal [ "a"; "b"; "c" ] (keys |> List.map (attribute "data-run"))
        }

        test "curves that meet for a few pixels stay whole on a page, those that lie on each other take turns" {
            let noisy = [ for i in 0..200 -> float i, (if i % 10 < 2 then 5.0 else float (i % 7)) ]
            let other = [ for i in 0..200 -> float i, (if i % 10 < 2 then 5.0 else float (i % 5) + 7.0) ]
            let series name points : Series = { Name = name; Points = points }
            let dashes html = elements "path" html |> List.map (attribute "stroke-dasharray" >> (<>) "")
            let page series = pageOf [ Section.Charts [ { Chart.defaults with Series = series } ] ]
            Must.equal [ false; false ] (dashes (page [ series "a" noisy; series "b" other ]))
            Must.equal [ true; true ] (dashes (page [ series "a" noisy; series "b" noisy ]))
        }

        test "a picture by itself has neither script nor data" {
            for svg in [ Chart.svg 420 290 (chartOf [ "a" ]); Chart.standalone 420 290 (chartOf [ "a" ]) ] do
                Must.lack "data-" svg
                Must.lack "script" svg
                Must.lack "class=\"key" svg
        }

        test "a curve of a page is drawn where a picture by itself draws it, to the tenth of a pixel" {
            let chart = chartOf [ "a" ]
            let wave = [ for i in 0..200 -> float i, 50.0 + 40.0 * sin (float (i * i) / 900.0) ]
            let chart = { chart with Series = [ { Name = "a"; Points = wave } ] }
            let path html = elements "path" html |> Must.single |> attribute "d"
            let numbers (d: string) = [| for found in Regex.Matches(d, @"-?[0-9]*\.?[0-9]+") -> float found.Value |]
            let exact = numbers (path (Chart.svg 420 290 chart))
            let short = path (pageOf [ Section.Charts [ chart ] ])
            let steps = numbers short |> Array.chunkBySize 2
            let sums = steps |> Array.scan (fun sum step -> Array.map2 (+) sum step) [| 0.0; 0.0 |] |> Array.tail
            Must.matchRegex "^M[0-9.]+ [0-9.]+l" short
            Must.beClose 0.0 0.0551 exact (Array.concat sums)
            Must.hold (float short.Length < 0.7 * float (path (Chart.svg 420 290 chart)).Length)
        }

        test "a report needs nothing from elsewhere" {
            let html = pageOf (everywhere "plain")
            let links = [ "link"; "img"; "iframe"; "image"; "use"; "a" ]

            for name in links do
                Must.beEmpty (elements name html)

            for part in [ "url("; "@import"; "@font-face"; "src=" ] do
                Must.lack part html

            Must.contain
                "default-src 'none'"
                (elements "meta" html |> List.map (attribute "content") |> String.concat "\n")
        }

        test "a report is an HTML page in light, dark and print" {
            let html = pageOf []
            Must.startWith "<!DOCTYPE html>\n<html" html
            Must.contain "prefers-color-scheme:dark" html
            Must.contain "@media print" html
            Must.contain "width=device-width" html
            Must.equal [ "CTKD" ] (texts "title" html)
            Must.equal [ "CTKD" ] (texts "h1" html)
            Must.equal [ "Result" ] (texts "h2" html)
        }

        test "an empty line starts a paragraph" {
            let html = pageOf [ Section.Text "one\nline\r\n\r\ntwo" ]
            Must.equal [ "one run"; "one\nline"; "two" ] (texts "p" html)
        }

        test "a line never breaks within a flag or within a short name in a cell" {
            let html =
                pageOf [
                    Section.Text "raise --t-scale, or try -h; not the well-known min-max step <of> a&b"
                    tableOf [ "run" ] [ [ "ctkd-instance" ]; [ "a run of ctkd-global & more" ]; [ "-1.2e-4" ] ]
                    Section.Facts [ "--curriculum-stop", "kd-t4" ]
                    Section.Headline [ "ctkd-global", "90 %" ]
                ]

            let whole = elements "code" html @ elements "span" html
            Must.equal [ "--t-scale"; "-h" ] (texts "code" html)

            Must.equal
                [ "ctkd-instance"; "ctkd-global"; "-1.2e-4"; "--curriculum-stop"; "kd-t4"; "ctkd-global" ]
                (texts "span" html)

            Must.equal [ "whole" ] (whole |> List.map (attribute "class") |> List.distinct)
            Must.contain ".whole{white-space:nowrap}" html

            Must.have "raise --t-scale, or try -h; not the well-known min-max step <of> a&b" (texts "p" html)
        }

        test "a name too long for a phone may break" {
            let html = pageOf [ Section.Facts [ "run", "resnet56-to-resnet20-ctkd-instance-seed-1" ] ]
            Must.beEmpty (elements "span" html)
        }

        test "columns of numbers are set flush right" {
            let rows = [
                [ "KD"; "4.0"; "72.61 ± 0.17"; "-1.2e-4"; "438 s"; "1 of 3"; "-1.2 to +0.3" ]
                [ "CE"; "–"; "69.06 ± 0.2"; "3"; ""; ""; "69.06 to 70.1 %" ]
            ]

            let html = pageOf [ tableOf [ "Method"; "T"; "Top-1"; "Gap"; "Time"; "Note"; "Interval" ] rows ]
            let expected = [ ""; "number"; "number"; "number"; "number"; ""; "number" ]
            let classes name = elements name html |> List.map (attribute "class")
            Must.equal expected (classes "th")
            Must.equal (expected @ expected) (classes "td")
        }

        testProperty "every row has as many cells as the header"
        <| fun (header: int list) (rows: int list list) ->
            let cells = List.map string
            let html = pageOf [ tableOf (cells header) (List.map cells rows) ]
            (elements "td" html).Length = header.Length * rows.Length

        test "facts and headline keep names and values in order" {
            let facts = [ "Teacher", "resnet56"; "Student", "resnet20" ]

            for html in [ pageOf [ Section.Facts facts ]; pageOf [ Section.Headline facts ] ] do
                Must.equal facts (List.zip (texts "dt" html) (texts "dd" html))
        }

        test "a run has one colour on the whole page" {
            let charts = [ chartOf [ "CE"; "KD"; "CTKD" ]; chartOf [ "CTKD" ]; chartOf [ "else" ] ]
            let html = pageOf [ Section.Charts charts ]
            let styles = elements "path" html |> List.map (attribute "class")
            Must.equal 5 styles.Length
            Must.equal styles[2] styles[3]
            Must.equal styles[0] styles[4]
            Must.equal 3 (styles |> List.distinct |> List.length)
        }

        test "a report does not depend on the culture" {
            let before = Thread.CurrentThread.CurrentCulture
            let expected = pageOf (everywhere "text")

            try
                for culture in [ "de-DE"; "sv-SE"; "tr-TR" ] do
                    Thread.CurrentThread.CurrentCulture <- CultureInfo.GetCultureInfo culture
                    Must.equal expected (pageOf (everywhere "text"))
            finally
                Thread.CurrentThread.CurrentCulture <- before
        }
    ]
