namespace Ctkd.Fs

open System
open System.IO
open System.Reflection
open System.Security.Cryptography
open System.Text
open System.Text.RegularExpressions

/// A table of text; numeric columns are right-aligned.
type Table = {
    /// The sentence above the table; may be empty.
    Caption: string
    /// One title for each column.
    Header: string list
    /// The cells by row. Short rows are padded with empty cells, long ones cut to the header.
    Rows: string list list
}

/// One block of a report.
[<RequireQualifiedAccess>]
type Section =
    /// Running text; an empty line starts a new paragraph.
    | Text of string
    /// Charts side by side, as many as fit the page.
    | Charts of Chart list
    /// A ruled table.
    | Table of Table
    /// Names and values in two columns.
    | Facts of (string * string) list
    /// Names and values as large figures in a row.
    | Headline of (string * string) list

/// A page of text, charts and tables.
type Report = {
    /// The heading, and the name of the page.
    Title: string
    /// One line below the heading; may be empty.
    Subtitle: string
    /// Heading and blocks of each section, in order; empty headings are omitted.
    Sections: (string * Section list) list
}

/// Writes reports as one self-contained HTML file: no fonts, no network, and no script but the page's own.
[<RequireQualifiedAccess>]
module Report =
    let private styles =
        """
:root{color-scheme:light dark;--ink:#1f2328;--soft:#59636e;--rule:#d8dce1;--paper:#fff;--tile:#f6f7f9}
@media screen and (prefers-color-scheme:dark){
:root{--ink:#e3e6ea;--soft:#9aa4af;--rule:#363c44;--paper:#15181c;--tile:#1d2126}
}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);overflow-wrap:break-word;
font:16px/1.55 "Segoe UI","Helvetica Neue",Helvetica,Arial,sans-serif}
main{max-width:1080px;margin:0 auto;padding:48px 24px 64px}
header{border-bottom:2px solid var(--ink);padding-bottom:16px;margin-bottom:8px}
h1,h2{font-family:Charter,"Iowan Old Style","Source Serif 4",Georgia,"Liberation Serif",serif;line-height:1.2}
h1{font-size:34px;font-weight:600;margin:0;letter-spacing:-.01em}
h2{font-size:22px;font-weight:600;margin:44px 0 14px}
header p{max-width:none;color:var(--soft);font-size:17px;margin:8px 0 0}
p{max-width:72ch;margin:0 0 14px}
.whole{white-space:nowrap}
code{font:.9em "Cascadia Code",Consolas,Menlo,"DejaVu Sans Mono",monospace}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,344px),1fr));gap:20px;
margin:0 0 20px}
figure{margin:0;border:1px solid var(--rule);border-radius:6px;padding:6px 4px 4px}
figure svg{display:block;width:100%;height:auto;touch-action:pan-y}
.key[role]{cursor:pointer;user-select:none}
.key[aria-pressed=false]{opacity:.45;text-decoration:line-through}
.key:focus-visible,.curve:focus{outline:none}
.key:focus-visible .hit{stroke:currentColor}
.curve.off{display:none}
svg.ctkd-chart .chosen .line{stroke-width:3}
svg.lone .line{stroke-dasharray:none}
svg.ctkd-chart .spot{stroke:var(--paper);stroke-width:1.5;pointer-events:none}
.tip{position:absolute;z-index:1;width:max-content;max-width:min(300px,100% - 16px);padding:6px 10px;
border:1px solid var(--rule);border-radius:6px;background:var(--tile);color:var(--ink);font-size:13px;line-height:1.4;
font-variant-numeric:tabular-nums;pointer-events:none;box-shadow:0 2px 8px rgb(0 0 0/.2)}
.tip[hidden]{display:none}
.table{overflow-x:auto;margin:0 0 22px}
table{border-collapse:collapse;border-top:2px solid var(--ink);border-bottom:2px solid var(--ink);
font-size:15px;font-variant-numeric:tabular-nums}
caption{text-align:left;color:var(--soft);padding-bottom:8px}
th,td{text-align:left;padding:6px 18px 6px 8px;vertical-align:top}
th{font-weight:600;vertical-align:bottom;border-bottom:1px solid var(--ink)}
tr+tr td{border-top:1px solid var(--rule)}
.number{text-align:right;padding:6px 6px 6px 12px;white-space:nowrap}
.facts{display:grid;grid-template-columns:minmax(0,max-content) minmax(0,1fr);font-size:15px;margin:0 0 22px}
.facts dt,.facts dd{padding:6px 8px;border-bottom:1px solid var(--rule)}
.facts dt{color:var(--soft);padding-right:32px}
dd{margin:0;font-variant-numeric:tabular-nums}
.headline{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:20px 0 24px}
.headline div{background:var(--tile);border-radius:6px;padding:14px 16px;display:flex;
flex-direction:column-reverse;justify-content:flex-end}
.headline dt{color:var(--soft);font-size:14px;line-height:1.35}
.headline dd{font-size:27px;font-weight:600;line-height:1.25;letter-spacing:-.01em}
@media (max-width:600px){
main{padding:28px 16px 40px}
h1{font-size:27px}
figure{border-width:1px 0 0;border-radius:0;padding:6px 0 0}
.headline{grid-template-columns:repeat(2,minmax(0,1fr))}
.headline dd{font-size:22px}
table{font-size:14px}
th,td{padding:5px 8px 5px 4px}
.number{padding:5px 4px 5px 8px}
}
@media print{
@page{margin:16mm}
body{font-size:10.5pt}
main{max-width:none;padding:0}
.charts{grid-template-columns:1fr 1fr;gap:10px}
figure,tr,.headline,.facts div{break-inside:avoid}
h2{break-after:avoid}
.headline div{border:1px solid var(--rule)}
.headline dd{font-size:19px}
.table{overflow:visible}
.tip{display:none}
}
"""

    /// What a page runs: the file beside this one. XML reads it as data, HTML as comments around it.
    let private script: string =
        use stream = Assembly.GetExecutingAssembly().GetManifestResourceStream "report.js" |> nonNull
        use reader = new StreamReader(stream)
        "/*<![CDATA[*/\n" + reader.ReadToEnd().ReplaceLineEndings "\n" + "/*]]>*/"

    /// Allows styles, and of scripts only this one.
    let private policy: string =
        let hash = SHA256.HashData(Encoding.UTF8.GetBytes script) |> Convert.ToBase64String
        $"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{hash}'"

    // A flag in prose, or a short name with a hyphen in a cell, is one word: a line never breaks in it.
    let private flag = Regex(@"(?<![\w-])--?[A-Za-z][\w-]*", RegexOptions.CultureInvariant)
    let private name = Regex(@"(?<![\w-])-{0,2}[\p{L}\d_.]+(-[\p{L}\d_.]+)+", RegexOptions.CultureInvariant)

    /// The longest word that is kept whole; a longer one would not fit a phone.
    let private longestWhole = 24

    /// Text in which words of a kind are kept whole.
    let private keeping (word: Regex) (tag: string) (content: string) : string =
        let whole (from: int) (found: Match) =
            let kept =
                if found.Length <= longestWhole then
                    Xml.text tag [ "class", "whole" ] found.Value
                else
                    Xml.escape found.Value

            Xml.escape content[from .. found.Index - 1] + kept, found.Index + found.Length

        let pieces, from = Seq.mapFold whole 0 (word.Matches content)
        String.concat "" pieces + Xml.escape content[from..]

    let private prose (content: string) : string = keeping flag "code" content

    let private element (tag: string) (attributes: (string * string) list) (content: string) : string =
        Xml.tag tag attributes [ keeping name "span" content ]

    let private text (content: string) : string =
        content.ReplaceLineEndings("\n").Split("\n\n", StringSplitOptions.RemoveEmptyEntries)
        |> Array.map (fun paragraph -> Xml.tag "p" [] [ prose paragraph ])
        |> String.concat "\n"

    let private namesOf (chart: Chart) : string list = chart.Series |> List.map _.Name |> List.distinct

    let private figure (linked: string list) (chart: Chart) : string =
        let own = namesOf chart
        let isLinked name = List.contains name linked
        let order = if List.exists isLinked own then linked else own
        Xml.tag "figure" [] [ Chart.fragment order 420 290 chart ]

    // 76.3, -1,024, 1.2e-4, 76.3 ± 0.2 %, 12.5 ms, -1.2 to +0.3. Empty cells and dashes are allowed in both kinds of column.
    let private numeric =
        Regex(
            @"^[+\-\u2212]?[0-9][0-9.,]*(e[+\-]?[0-9]+)?((\s?(±|\+/-)\s?|\sto\s[+\-\u2212]?)[0-9][0-9.,]*)?\s?(%|×|[\p{L}/]{1,6})?$",
            RegexOptions.CultureInvariant ||| RegexOptions.IgnoreCase
        )

    let private blank (cell: string) : bool =
        List.contains (cell.Trim()) [ ""; "-"; "\u2013"; "\u2014"; "\u2212"; "n/a" ]

    let private table (table: Table) : string =
        let width = table.Header.Length

        let fill row = row @ List.replicate width "" |> List.truncate width

        let rows = table.Rows |> List.map fill

        let isNumeric column =
            let cells = rows |> List.map (List.item column) |> List.filter (blank >> not)
            not cells.IsEmpty && cells |> List.forall (_.Trim() >> numeric.IsMatch)

        let classes = List.init width (fun column -> if isNumeric column then [ "class", "number" ] else [])

        let line name scope cells = List.map2 (fun css cell -> element name (scope @ css) cell) classes cells

        Xml.tag "div" [ "class", "table" ] [
            Xml.tag "table" [] [
                if table.Caption <> "" then Xml.tag "caption" [] [ prose table.Caption ]

                Xml.tag "thead" [] [ line "th" [ "scope", "col" ] table.Header |> Xml.tag "tr" [] ]
                Xml.tag "tbody" [] (rows |> List.map (line "td" [] >> Xml.tag "tr" []))
            ]
        ]

    let private facts (list: (string * string) list) : string =
        list
        |> List.collect (fun (name, value) -> [ element "dt" [] name; element "dd" [] value ])
        |> Xml.tag "dl" [ "class", "facts" ]

    let private headline (list: (string * string) list) : string =
        list
        |> List.map (fun (name, value) -> Xml.tag "div" [] [ element "dt" [] name; element "dd" [] value ])
        |> Xml.tag "dl" [ "class", "headline" ]

    let private block (linked: string list) (section: Section) : string =
        match section with
        | Section.Text content -> text content
        | Section.Charts list -> list |> List.map (figure linked) |> Xml.tag "div" [ "class", "charts" ]
        | Section.Table content -> table content
        | Section.Facts list -> facts list
        | Section.Headline list -> headline list

    // A run keeps its colour on the whole page: charts that share a name use one order of names.
    let private linkedNames (report: Report) : string list =
        let chartsOf section =
            match section with
            | Section.Charts list -> list
            | Section.Text _
            | Section.Table _
            | Section.Facts _
            | Section.Headline _ -> []

        let names = report.Sections |> List.collect snd |> List.collect chartsOf |> List.map namesOf
        let uses = names |> List.concat |> List.countBy id |> Map.ofList
        names |> List.filter (List.exists (fun name -> uses[name] > 1)) |> List.concat |> List.distinct

    let private chapter (linked: string list) (heading: string, blocks: Section list) : string =
        let title = if heading = "" then [] else [ element "h2" [] heading ]
        title @ List.map (block linked) blocks |> List.map (fun part -> part + "\n") |> Xml.tag "section" []

    let private head (report: Report) : string =
        let meta (name: string) (content: string) = Xml.leaf "meta" [ "name", name; "content", content ]

        Xml.tag "head" [] [
            Xml.leaf "meta" [ "charset", "utf-8" ]
            meta "viewport" "width=device-width, initial-scale=1"
            meta "color-scheme" "light dark"
            Xml.leaf "meta" [ "http-equiv", "Content-Security-Policy"; "content", policy ]
            Xml.text "title" [] report.Title
            Xml.tag "style" [] [ styles; ChartStyle.adaptive ]
        ]

    /// Returns the page as HTML that is also well-formed XML, with all text escaped; save it as UTF-8.
    let html (report: Report) : string =
        let linked = linkedNames report

        let header = [
            element "h1" [] report.Title
            if report.Subtitle <> "" then Xml.tag "p" [] [ prose report.Subtitle ]
        ]

        let body = Xml.tag "header" [] header :: List.map (chapter linked) report.Sections

        [ head report; Xml.tag "body" [] [ Xml.tag "main" [] body; Xml.tag "script" [] [ script ] ] ]
        |> Xml.tag "html" [ "xmlns", "http://www.w3.org/1999/xhtml"; "lang", "en" ]
        |> fun page -> "<!DOCTYPE html>\n" + page + "\n"
