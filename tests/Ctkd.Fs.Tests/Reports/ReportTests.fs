module Ctkd.Fs.Tests.ReportTests

open System
open System.Globalization
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
            Must.beEmpty (elements "script" html)
            Must.lack "<script" html
        }

        test "a report needs nothing from elsewhere" {
            let html = pageOf (everywhere "plain")
            let links = [ "script"; "link"; "img"; "iframe"; "image"; "use"; "a" ]

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
                [ "KD"; "4.0"; "72.61 ± 0.17"; "-1.2e-4"; "438 s"; "1 of 3" ]
                [ "CE"; "–"; "69.06 ± 0.2"; "3"; "" ]
            ]

            let html = pageOf [ tableOf [ "Method"; "T"; "Top-1"; "Gap"; "Time"; "Note" ] rows ]
            let expected = [ ""; "number"; "number"; "number"; "number"; "" ]
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
