/// The pages of reports: their size, and how they answer in a real browser.
module Ctkd.Fs.Tests.PageTests

open System
open System.Text
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Browser
open Ctkd.Fs.Tests.PageRuns

/// The first chart's curve of a run, in JavaScript.
let private curve (chart: int) (name: string) : string =
    $"[...document.querySelectorAll('figure > svg')[{chart}].querySelectorAll('.curve')].find(c => c.dataset.run === '{name}')"

/// Scrolls to a chart and returns where on the window a curve's drawn line begins or ends, in CSS pixels.
let private ending (page: Page) (chart: int) (name: string) (atEnd: bool) : float * float =
    pair
        page
        $"""(() => {{
        const line = [...{curve chart name}.querySelectorAll('path.line')].at({(if atEnd then -1 else 0)});
        line.closest('figure').scrollIntoView({{ block: 'center', behavior: 'instant' }});
        const at = line.getPointAtLength({(if atEnd then "line.getTotalLength()" else "0")}).matrixTransform(line.getScreenCTM());
        return [at.x, at.y]; }})()"""

let private tip (page: Page) : string =
    text
        page
        "(t => t.hidden ? 'none' : [...t.children].map(c => c.textContent).join(' | '))(document.querySelector('.tip'))"

/// How far the mark is from a place of the window, in CSS pixels.
let private markOff (page: Page) (x: float, y: float) : float =
    let mx, my =
        pair
            page
            "(b => [b.x + b.width / 2, b.y + b.height / 2])(document.querySelector('.spot').getBoundingClientRect())"

    sqrt ((mx - x) ** 2.0 + (my - y) ** 2.0)

let private key (page: Page) (chart: int) (name: string) : float * float =
    pair
        page
        $"""(() => {{
        const key = [...document.querySelectorAll('figure > svg')[{chart}].querySelectorAll('.key')].find(k => k.dataset.run === '{name}');
        key.closest('figure').scrollIntoView({{ block: 'center', behavior: 'instant' }});
        const box = key.getBoundingClientRect();
        return [box.x + box.width / 2, box.y + box.height / 2]; }})()"""

/// Of all charts that show the run: "hidden" or "shown" as drawn, and the state of the legend entry.
let private states (page: Page) (name: string) : string list =
    text
        page
        $"""[...document.querySelectorAll('figure > svg')].flatMap(svg => {{
        const curve = [...svg.querySelectorAll('.curve')].find(c => c.dataset.run === '{name}');
        const key = [...svg.querySelectorAll('.key')].find(k => k.dataset.run === '{name}');
        return curve ? [(getComputedStyle(curve).display === 'none' ? 'hidden ' : 'shown ') + key.getAttribute('aria-pressed')] : [];
        }}).join()"""
    |> _.Split(',')
    |> List.ofArray

let private last (name: string) : EpochMetrics = few |> List.find (fst >> (=) name) |> snd |> _.Epochs |> List.last

let private number (value: float) : string = value.ToString("G5", Globalization.CultureInfo.InvariantCulture)

let private isQuiet (page: Page) : unit =
    Must.beEmpty (complaints page)

    for address in requests page do
        Must.startWith "file:" address

let private fits (page: Page) (width: int) : unit =
    // A window with a scroll bar has less room than its width.
    let room, needed = pair page "(e => [e.clientWidth, e.scrollWidth])(document.documentElement)"
    Must.lie (float width - 20.0) (float width) room
    Must.lie 0.0 room needed
    Must.equal (string width) (text page "String(innerWidth)")

let tests =
    testList "Page" [
        test "a page of 20 runs of 240 epochs is below 1 MB, one of 60 below 3 MB" {
            for count in [ 20; 60 ] do
                let html = pageOf (many count)
                let size = Encoding.UTF8.GetByteCount html
                Must.lie 100_000 (count * 50_000) size
        }

        test "a page of 20 runs that all report both temperatures and sharpness is below 1 MB" {
            let html = pageOf (manyOf [ "dtkd" ] 20)
            Must.lie 100_000 1_000_000 (Encoding.UTF8.GetByteCount html)
        }

        test
            "a comparison of 20 runs with a T for each image is below 1 MB: of each group one run shows how T is spread" {
            let outcome (i: int) (name: string, summary: Summary) : RunOutcome = {
                Folder = $"/runs/{name}"
                Name = $"runs/{name}"
                Settings = {
                    summary.Settings with
                        Seed = i % 5 + 1
                        CurriculumEpochs = 10 * (i / 5 + 1)
                        Epochs = 240
                }
                Record = None
                Epochs = summary.Epochs
                Progress = RunProgress.Whole
            }

            let runs = manyOf [ "ctkd-instance" ] 20 |> List.mapi outcome

            let html =
                Comparison.create Comparison.defaults runs |> Error.orRaise |> ComparisonReport.create |> Report.html

            let spread (run: RunOutcome) = html.Contains $"Temperature over the images: {IO.Path.GetFileName run.Name}"
            Must.equal [ 1; 1; 1; 1 ] (runs |> List.filter spread |> List.map _.Settings.Seed)
            Must.lie 100_000 1_000_000 (Encoding.UTF8.GetByteCount html)
        }
    ]

let peer =
    testList "Page" [
        for width, device in [ 1280, "desktop"; 390, "phone" ] do
            for scheme in [ "light"; "dark" ] do
                test $"at the width of a {device}, {scheme}, nothing is wider than the window and a curve answers" {
                    opened
                        width
                        scheme
                        fewPage
                        (fun page ->
                            fits page width

                            Must.equal
                                "true"
                                (text page $"String(matchMedia('(prefers-color-scheme:{scheme})').matches)")

                            let place = ending page 0 "ctkd & <friends>" true
                            if width < 600 then touch page place else mouse page false place
                            let m = last "ctkd & <friends>"
                            Must.equal $"ctkd & <friends> | epoch: 40 | top-1 %%: {number m.Top1}" (tip page)
                            Must.lie 0.0 2.0 (markOff page place)
                            screenshot page false $"window-{device}-{scheme}"
                            fits page width

                            let paper = text page "getComputedStyle(document.querySelector('.tip')).backgroundColor"
                            Must.equal (if scheme = "dark" then "rgb(29, 33, 38)" else "rgb(246, 247, 249)") paper
                            isQuiet page
                            screenshot page true $"whole-{device}-{scheme}"
                        )
                }

        test "a label lies within the window at every point" {
            opened
                390
                "light"
                fewPage
                (fun page ->
                    for chart in 0..2 do
                        for atEnd in [ false; true ] do
                            mouse page false (ending page chart "kd" atEnd)
                            Must.startWith "kd | epoch: " (tip page)

                            let left, right =
                                pair
                                    page
                                    "(b => [b.left, b.right])(document.querySelector('.tip').getBoundingClientRect())"

                            Must.lie 0.0 right left
                            Must.lie left 390.0 right
                            fits page 390
                )
        }

        test "the pointer away from the plot takes label and mark away" {
            opened
                1280
                "light"
                fewPage
                (fun page ->
                    mouse page false (ending page 0 "kd" true)
                    Must.startWith "kd" (tip page)
                    mouse page false (2.0, 2.0)
                    Must.equal "none" (tip page)
                    Must.equal "0" (text page "String(document.querySelectorAll('.spot, .chosen').length)")
                )
        }

        test "a touch shows the point, and a touch elsewhere takes it away" {
            opened
                390
                "light"
                fewPage
                (fun page ->
                    touch page (ending page 1 "alone" true)
                    let loss = number (last "alone").Loss
                    Must.equal $"alone | epoch: 40 | nats: {loss}" (tip page)
                    touch page (195.0, 3.0)
                    Must.equal "none" (tip page)
                )
        }

        test "a click on a legend entry hides the run in all charts, and another shows it again" {
            opened
                1280
                "light"
                fewPage
                (fun page ->
                    let before = states page "kd"
                    Must.equal [ for _ in before -> "shown true" ] before
                    Must.lie 4 20 before.Length
                    mouse page true (key page 0 "kd")
                    Must.equal [ for _ in before -> "hidden false" ] (states page "kd")
                    Must.equal "shown true" (states page "alone").Head
                    screenshot page false "hidden"

                    let place = ending page 0 "alone" true
                    mouse page false place
                    Must.startWith "alone" (tip page)
                    mouse page true (key page 2 "kd")
                    Must.equal before (states page "kd")
                    isQuiet page
                )
        }

        test "a hidden curve does not answer" {
            opened
                1280
                "light"
                fewPage
                (fun page ->
                    let place = ending page 0 "kd" true
                    mouse page false place
                    Must.startWith "kd" (tip page)
                    mouse page true (key page 0 "kd")
                    mouse page false place
                    Must.lack "kd |" ((tip page).Replace("ctkd", ""))
                )
        }

        test "a click on a curve shows the point there" {
            opened
                1280
                "light"
                fewPage
                (fun page ->
                    mouse page true (ending page 0 "kd" false)
                    Must.startWith "kd | epoch: 1 | " (tip page)
                )
        }

        test "of curves on the same pixels a lone one that is left has no gaps" {
            opened
                1280
                "light"
                fewPage
                (fun page ->
                    let isDashed () =
                        let dash = "l => getComputedStyle(l).strokeDasharray !== 'none'"
                        let line = curve 5 "alone"
                        text page $"String([...{line}.querySelectorAll('path.line')].some({dash}))"

                    Must.equal "true" (isDashed ())
                    mouse page true (key page 5 "kd")
                    Must.equal "true" (isDashed ())
                    mouse page true (key page 5 "ctkd & <friends>")
                    Must.equal "false" (isDashed ())
                    mouse page true (key page 5 "kd")
                    Must.equal "true" (isDashed ())
                )
        }

        test "the keyboard goes to the legend and the curves, from point to point, and hides" {
            opened
                1280
                "light"
                fewPage
                (fun page ->
                    let focused () =
                        text page "document.activeElement.dataset.run + ' ' + document.activeElement.classList[0]"

                    press page "Tab"
                    Must.equal "alone key" (focused ())
                    press page "ArrowRight"
                    Must.equal "kd key" (focused ())
                    press page " "
                    Must.equal "hidden false" (states page "kd").Head
                    press page "Enter"
                    Must.equal "shown true" (states page "kd").Head
                    press page "Tab"
                    Must.equal "alone curve" (focused ())
                    Must.startWith "alone | epoch: 40 | " (tip page)
                    press page "ArrowLeft"
                    Must.startWith "alone | epoch: 39 | " (tip page)
                    press page "ArrowDown"
                    Must.startWith "kd | epoch: 40 | " (tip page)
                    press page "Escape"
                    Must.equal "none" (tip page)
                    isQuiet page
                )
        }

        test "without scripts the page reads as before" {
            openedWith
                false
                1280
                "light"
                fewPage
                (fun page ->
                    fits page 1280

                    Must.equal
                        "0"
                        (text page "String(document.querySelectorAll('.tip, [role=button], [tabindex]').length)")

                    screenshot page false "no-script"
                )
        }

        test "no script but the page's own runs" {
            let foreign =
                "<script>document.title = 'taken'</script><img src=\"x\" onerror=\"document.title = 'taken'\"/>"

            opened
                1280
                "light"
                (fewPage.Replace("</body>", foreign + "</body>"))
                (fun page ->
                    Must.equal "Four policies" (text page "document.title")
                    Must.equal "status" (text page "document.querySelector('.tip').getAttribute('role')")
                    Must.beNonEmpty (complaints page)
                )
        }

        test "a page of 60 runs of 240 epochs opens and answers at once" {
            opened
                1280
                "light"
                (pageOf (many 60))
                (fun page ->
                    fits page 1280
                    let place = ending page 0 "resnet20-dtkd-seed-15" true
                    let watch = Diagnostics.Stopwatch.StartNew()
                    mouse page false place
                    Must.matchRegex @"^resnet20-[a-z-]+-seed-[0-9]+ \| epoch: 240 \| " (tip page)
                    Must.lie 0.0 5.0 watch.Elapsed.TotalSeconds
                    screenshot page false "many"
                    screenshot page true "many-whole"
                    isQuiet page
                )
        }
    ]
