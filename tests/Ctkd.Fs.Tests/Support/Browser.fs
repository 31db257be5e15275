/// Opens pages in a real browser, headless Chromium, for the comparisons of the list `Peer`. It is driven by its DevTools
/// protocol: JSON messages over a web socket.
module Ctkd.Fs.Tests.Browser

open System
open System.Diagnostics
open System.IO
open System.Net.WebSockets
open System.Text
open System.Text.Json
open System.Text.Json.Nodes
open System.Threading
open Expecto

/// The browser: Debian's, or another path.
let private chromium: string =
    Environment.GetEnvironmentVariable "CTKD_CHROMIUM" |> Option.ofObj |> Option.defaultValue "/usr/bin/chromium"

let private patience = TimeSpan.FromSeconds 90.0

/// An open page: sends a command with its parameters and returns the result.
[<NoEquality; NoComparison>]
type Page = {
    Call: string -> (string * obj) list -> JsonElement
    /// The events so far, by name.
    Events: unit -> (string * JsonElement) list
}

/// Waits until the body finds something.
let private until (what: string) (body: unit -> 'T option) : 'T =
    let watch = Stopwatch.StartNew()

    let rec wait () =
        match body () with
        | Some found -> found
        | None when watch.Elapsed > patience -> failtest $"{what} did not happen in {patience.TotalSeconds} s"
        | None ->
            Thread.Sleep 20
            wait ()

    wait ()

/// Where the browser listens, which it writes into its profile's folder.
let private address (profile: string) : Uri option =
    let path = Path.Combine(profile, "DevToolsActivePort")

    if not (File.Exists path) then
        None
    else
        match File.ReadAllLines path with
        | [| port; place |] -> Some(Uri $"ws://127.0.0.1:{port}{place}")
        | _ -> None

let private receive (socket: ClientWebSocket) : JsonElement =
    use limit = new CancellationTokenSource(patience)
    use message = new MemoryStream()
    let buffer = Array.zeroCreate<byte> 65536

    let rec read () =
        let part = socket.ReceiveAsync(ArraySegment buffer, limit.Token).GetAwaiter().GetResult()
        message.Write(buffer, 0, part.Count)
        if not part.EndOfMessage then read ()

    read ()
    JsonDocument.Parse(message.ToArray()).RootElement

let private field (name: string) (json: JsonElement) : JsonElement option =
    match json.TryGetProperty name with
    | true, value -> Some value
    | _ -> None

/// Talks to the browser itself, or with a session to one of its pages.
let private talk (socket: ClientWebSocket) : string option -> Page =
    let events = ResizeArray<string * JsonElement>()
    let mutable sent = 0

    let rec answer (id: int) (command: string) : JsonElement =
        let message = receive socket

        match field "id" message, field "error" message, field "method" message with
        | Some found, None, _ when found.GetInt32() = id -> message.GetProperty "result"
        | Some found, Some error, _ when found.GetInt32() = id -> failtest $"{command}: {error}"
        | _, _, Some name ->
            events.Add(string (name.GetString()), message.GetProperty "params")
            answer id command
        | _ -> answer id command

    fun session -> {
        Events = fun () -> List.ofSeq events
        Call =
            fun command parameters ->
                sent <- sent + 1

                let message =
                    dict [
                        "id", box sent
                        "method", box command
                        "params", box (dict parameters)
                        for id in Option.toList session do
                            "sessionId", box id
                    ]
                    |> JsonSerializer.SerializeToUtf8Bytes

                use limit = new CancellationTokenSource(patience)

                socket
                    .SendAsync(ArraySegment message, WebSocketMessageType.Text, true, limit.Token)
                    .GetAwaiter()
                    .GetResult()

                answer sent command
    }

let private start (profile: string) : Process =
    if not (File.Exists chromium) then
        failtest $"{chromium} is not there: Chromium is needed here (Debian: chromium), or CTKD_CHROMIUM names it"

    let quiet = [ "first-run"; "default-browser-check"; "sandbox" ] |> List.map (fun name -> $"--no-{name}")

    let off =
        [
            "gpu"
            "quic"
            "background-networking"
            "component-update"
            "sync"
            "extensions"
            "dev-shm-usage"
        ]
        |> List.map (fun name -> $"--disable-{name}")

    let start =
        ProcessStartInfo(
            chromium,
            [ "--headless"; $"--user-data-dir={profile}"; "--remote-debugging-port=0" ]
            @ quiet
            @ off
            @ [ "about:blank" ],
            RedirectStandardOutput = true,
            RedirectStandardError = true
        )

    let child = Process.Start start |> Option.ofObj |> Option.get
    // Nothing reads what it says, and a full pipe would stop it.
    child.ErrorDataReceived.Add ignore
    child.OutputDataReceived.Add ignore
    child.BeginErrorReadLine()
    child.BeginOutputReadLine()
    child

/// Deletes the profile, into which the browser's last processes may still write.
let private delete (profile: DirectoryInfo) : unit =
    until
        "the browser's end"
        (fun () ->
            try
                profile.Delete true
                Some()
            with :? IOException ->
                None
        )

/// The value of a JavaScript expression.
let evaluate (page: Page) (expression: string) : JsonElement =
    let answer =
        page.Call "Runtime.evaluate" [ "expression", expression; "returnByValue", true; "awaitPromise", true ]

    match field "exceptionDetails" answer with
    | Some problem -> failtest $"{expression}: {problem}"
    | None ->
        let result = answer.GetProperty "result"
        field "value" result |> Option.defaultValue result

/// The text that an expression gives.
let text (page: Page) (expression: string) : string = (evaluate page expression).ToString()

/// The two numbers that an expression gives as an array.
let pair (page: Page) (expression: string) : float * float =
    let found = evaluate page expression
    found[0].GetDouble(), found[1].GetDouble()

/// What the page and the browser complained about: exceptions, and entries of the log such as refused scripts.
let complaints (page: Page) : string list = [
    for name, what in page.Events() do
        if name = "Runtime.exceptionThrown" || name = "Log.entryAdded" then
            $"{name}: {what}"
]

/// The addresses that the page asked for.
let requests (page: Page) : string list = [
    for name, what in page.Events() do
        if name = "Network.requestWillBeSent" then
            what.GetProperty("request").GetProperty("url").ToString()
]

/// Writes a picture, of the window or of the whole page, into the folder that CTKD_SCREENSHOTS names, if it names one.
let screenshot (page: Page) (isWhole: bool) (name: string) : unit =
    match Environment.GetEnvironmentVariable "CTKD_SCREENSHOTS" |> Option.ofObj with
    | None -> ()
    | Some folder ->
        let answer = page.Call "Page.captureScreenshot" [ "captureBeyondViewport", isWhole ]
        File.WriteAllBytes(Path.Combine(folder, name + ".png"), answer.GetProperty("data").GetBytesFromBase64())

/// Moves the mouse to a place of the window, in CSS pixels; with a click if so told.
let mouse (page: Page) (clicks: bool) (x: float, y: float) : unit =
    let send (kind: string) (button: string) =
        page.Call "Input.dispatchMouseEvent" [ "type", kind; "x", x; "y", y; "button", button; "clickCount", 1 ]
        |> ignore

    send "mouseMoved" "none"

    if clicks then
        send "mousePressed" "left"
        send "mouseReleased" "left"

/// Touches a place of the window and lifts the finger.
let touch (page: Page) (x: float, y: float) : unit =
    let send (kind: string) (points: obj list) =
        page.Call "Input.dispatchTouchEvent" [ "type", kind; "touchPoints", points ] |> ignore

    send "touchStart" [ dict [ "x", x; "y", y ] ]
    send "touchEnd" []

/// Presses a key, named as JavaScript does.
let press (page: Page) (key: string) : unit =
    let code =
        match key with
        | " " -> 32
        | "Tab" -> 9
        | "Enter" -> 13
        | "Escape" -> 27
        | "ArrowLeft" -> 37
        | "ArrowUp" -> 38
        | "ArrowRight" -> 39
        | _ -> 40

    for kind in [ "rawKeyDown"; "keyUp" ] do
        page.Call "Input.dispatchKeyEvent" [ "type", kind; "key", key; "windowsVirtualKeyCode", code ] |> ignore

/// Opens a page of HTML in a window of this width, in the "light" or "dark" scheme, with scripts or without.
let openedWith (scripts: bool) (width: int) (scheme: string) (html: string) (body: Page -> 'T) : 'T =
    let folder = Directory.CreateTempSubdirectory "ctkd-browser-"
    let profile = Path.Combine(folder.FullName, "profile")
    let file = Path.Combine(folder.FullName, "page.html")
    File.WriteAllText(file, html)
    use child = start profile

    try
        use socket = new ClientWebSocket()

        let place =
            until
                "the browser's start"
                (fun () ->
                    if child.HasExited then failtest $"{chromium} ended with {child.ExitCode}"
                    address profile
                )

        use limit = new CancellationTokenSource(patience)
        socket.ConnectAsync(place, limit.Token).GetAwaiter().GetResult()
        let talk = talk socket
        let browser = talk None

        let target =
            (browser.Call "Target.createTarget" [ "url", "about:blank" ]).GetProperty("targetId").ToString()

        let session =
            browser.Call "Target.attachToTarget" [ "targetId", target; "flatten", true ]
            |> fun answer -> answer.GetProperty("sessionId").ToString()

        let page = talk (Some session)

        for domain in [ "Page"; "Runtime"; "Log"; "Network" ] do
            page.Call $"{domain}.enable" [] |> ignore

        let window: (string * obj) list = [
            "width", width
            "height", 900
            "deviceScaleFactor", (if width < 600 then 2 else 1)
            "mobile", width < 600
        ]

        page.Call "Emulation.setDeviceMetricsOverride" window |> ignore
        page.Call "Emulation.setFocusEmulationEnabled" [ "enabled", true ] |> ignore
        page.Call "Emulation.setTouchEmulationEnabled" [ "enabled", width < 600 ] |> ignore
        page.Call "Emulation.setScriptExecutionDisabled" [ "value", not scripts ] |> ignore

        page.Call "Emulation.setEmulatedMedia" [
            "features", [ dict [ "name", "prefers-color-scheme"; "value", scheme ] ]
        ]
        |> ignore

        page.Call "Page.navigate" [ "url", (Uri file).AbsoluteUri ] |> ignore

        until
            "the page's load"
            (fun () ->
                // A command that any state answers: with its answer come the events.
                browser.Call "Browser.getVersion" [] |> ignore
                page.Events() |> List.tryFind (fst >> (=) "Page.loadEventFired")
            )
        |> ignore

        body page
    finally
        child.Kill(entireProcessTree = true)
        child.WaitForExit()
        delete folder

/// Opens a page with its scripts.
let opened (width: int) (scheme: string) (html: string) (body: Page -> 'T) : 'T = openedWith true width scheme html body
