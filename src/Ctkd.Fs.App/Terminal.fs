namespace Ctkd.Fs.App

open System
open System.IO
open System.Runtime.InteropServices
open System.Threading
open Spectre.Console
open Spectre.Console.Rendering
open Ctkd.Fs

/// Words for a shell.
module Shell =
    /// A path as one word: quoted where a shell would split or change it.
    let word (path: string) : string =
        let isPlain (c: char) = Char.IsAsciiLetterOrDigit c || "/._-+=:,@%".Contains c

        if path <> "" && Seq.forall isPlain path then
            path
        else
            let escaped = path.Replace("'", "'\\''")
            $"'{escaped}'"

/// Exit codes of the command.
module ExitCode =
    let ok = 0
    let failed = 1
    let usage = 2

/// An error as `--json` prints it.
type ErrorReport = {
    /// usage, missing, damaged, mismatch, unwritable, engine or diverged.
    Kind: string
    What: string
    Where: string
    Next: string
}

module ErrorReport =

    /// The four parts of an error.
    let ofError (error: Error) : ErrorReport = {
        Kind = $"{error.Kind}".ToLowerInvariant()
        What = error.What
        Where = error.Where
        Next = error.Next
    }

/// Ctrl-C and SIGTERM stop a run between two steps; a second one ends the process at once. Within a second it counts as the
/// same signal: launchers pass on to their child what the whole process group received.
module Signals =
    let mutable private received = 0
    let mutable private since = 0L

    let private register (signal: PosixSignal) (exitCode: int) : IDisposable =
        PosixSignalRegistration.Create(
            signal,
            fun context ->
                context.Cancel <- true

                let now = Environment.TickCount64

                if Interlocked.CompareExchange(&since, now, 0L) = 0L then
                    Volatile.Write(&received, exitCode)
                elif now - Volatile.Read &since > 1000L then
                    eprintfn "stopped at once by the second signal: the checkpoints written so far are whole"
                    exit exitCode
        )

    /// Listens until disposed. A command that trains listens from its first moment on: a signal that comes earlier ends the
    /// process as it ends any other.
    let listen () : IDisposable =
        let registrations = [
            register PosixSignal.SIGINT 130
            register PosixSignal.SIGTERM 143
            // The terminal was closed; under nohup the signal stays ignored.
            register PosixSignal.SIGHUP 129
        ]

        {
            new IDisposable with
                member _.Dispose() = registrations |> List.iter _.Dispose()
        }

    /// From now on the end of the standard input is a stop, too: a parent holds its other end.
    let stopAtEndOfInput () : unit =
        let read () =
            while Console.In.Read() >= 0 do
                ()

            Interlocked.CompareExchange(&received, 143, 0) |> ignore

        Thread(read, IsBackground = true).Start()

    /// Whether a stop was asked for.
    let stop () : bool = Volatile.Read &received <> 0

    /// 130 or 143 after a signal, else 0.
    let exitCode () : int = Volatile.Read &received

/// Text, tables and progress: on a terminal in colour with a live bar, elsewhere as plain lines.
/// With `json` people's text goes to the standard error, so that the standard output holds JSON only.
type Terminal(json: bool) =
    let redirected = if json then Console.IsErrorRedirected else Console.IsOutputRedirected
    let plain = redirected || Environment.GetEnvironmentVariable "NO_COLOR" |> String.IsNullOrEmpty |> not
    let writer = if json then Console.Error else Console.Out

    let console =
        AnsiConsole.Create(
            AnsiConsoleSettings(
                Ansi = (if plain then AnsiSupport.No else AnsiSupport.Detect),
                ColorSystem = (if plain then ColorSystemSupport.NoColors else ColorSystemSupport.Detect),
                Interactive = (if plain then InteractionSupport.No else InteractionSupport.Detect),
                Out = AnsiConsoleOutput writer
            )
        )

    /// A line of text.
    member _.Say(text: string) : unit =
        if plain then
            writer.WriteLine text
        else
            let text = Markup.Escape text

            let colour = if text.StartsWith("warning", StringComparison.Ordinal) then "yellow" else "default"

            console.MarkupLine $"[{colour}]{text}[/]"

    /// The columns of the terminal. .NET asks the standard output only.
    member private _.Width: int =
        let told = if Console.IsOutputRedirected then 0 else Console.BufferWidth
        TextTable.width told (Environment.GetEnvironmentVariable "COLUMNS")

    /// A table with borders.
    member private _.Bordered(table: Table) : IRenderable =
        let drawn = Spectre.Console.Table().RoundedBorder()
        let wrapping = TextTable.wrapping table

        for i, (header, isNumeric) in List.zip table.Header (TextTable.numeric table) |> List.indexed do
            let column = TableColumn(Markup.Escape header, NoWrap = (i <> wrapping))
            drawn.AddColumn(if isNumeric then column.RightAligned() else column) |> ignore

        for row in table.Rows do
            drawn.AddRow(row |> List.map Markup.Escape |> Array.ofList) |> ignore

        drawn

    /// A table, laid out for the terminal's width; columns of numbers are right-aligned.
    member this.Table(table: Table) : unit =
        let width = this.Width

        match TextTable.layout (not plain) (if redirected then None else Some width) table with
        | TableLayout.Aligned -> TextTable.aligned table |> List.iter this.Say
        | TableLayout.Blocks -> TextTable.blocks width table |> List.iter this.Say
        | TableLayout.Bordered ->
            console.Profile.Width <- width
            console.Write(this.Bordered table)

    /// A line that is copied as it is, such as a command to go on with: it is never wrapped.
    member _.Line(text: string) : unit = writer.WriteLine text

    /// Whether there is a terminal for a live bar.
    member private _.IsLive: bool =
        not plain && console.Profile.Capabilities.Interactive && console.Profile.Capabilities.Ansi

    /// Runs the body with a task that a live bar shows.
    member private _.Live (title: string) (total: float) (body: ProgressTask -> 'T) : 'T =
        let columns: ProgressColumn[] = [|
            TaskDescriptionColumn()
            ProgressBarColumn()
            PercentageColumn()
            RemainingTimeColumn()
        |]

        console
            .Progress(AutoClear = true, HideCompleted = false)
            .Columns(columns)
            .Start(fun context -> body (context.AddTask(Markup.Escape title, true, total)))

    /// Runs the body with a function that is told how many are done, and of how many, and shows it on a terminal.
    member this.Counting (title: string) (body: (int -> int -> unit) -> 'T) : 'T =
        if this.IsLive then
            this.Live title 1.0 (fun task -> body (fun count total -> task.Value <- float count / float total))
        else
            body (fun _ _ -> ())

    /// Runs the body with hooks that show its progress over `epochs` epochs.
    member this.Progress (title: string) (epochs: int) (body: Hooks -> 'T) : 'T =
        let hooks = { Hooks.none with Say = this.Say; Stop = Signals.stop }
        let pace = Pace epochs

        if not this.IsLive then
            body {
                hooks with
                    OnBatch = fun epoch step steps -> pace.Batch(epoch, step, steps)
                    OnEpoch = fun m -> EpochLine.text title (Some epochs) (pace.Left m.Epoch) m |> this.Say
            }
        else
            this.Live
                title
                (float epochs)
                (fun task ->
                    body {
                        hooks with
                            OnBatch =
                                fun epoch step steps -> task.Value <- float (epoch - 1) + float step / float steps
                            OnEpoch =
                                // The bar has the time that is left.
                                fun m -> task.Description <- Markup.Escape(EpochLine.text title (Some epochs) None m)
                    }
                )

    /// Runs the body with a function that shows a table in place of the one before, below the lines that are said; without a
    /// terminal it shows nothing.
    member this.Redrawing(body: (Table -> unit) -> 'T) : 'T =
        if not this.IsLive then
            body ignore
        else
            let target (table: Table) : IRenderable =
                let width = this.Width
                console.Profile.Width <- width

                match TextTable.layout true (Some width) table with
                | TableLayout.Bordered -> this.Bordered table
                | TableLayout.Aligned -> Text(TextTable.aligned table |> String.concat "\n")
                | TableLayout.Blocks -> Text(TextTable.blocks width table |> String.concat "\n")

            let live (context: LiveDisplayContext) = body (fun table -> context.UpdateTarget(target table))
            console.Live(Text.Empty).AutoClear(true).Start(Func<LiveDisplayContext, 'T> live)

    /// Prints an error on the standard error, and on the standard output as JSON, when JSON was asked for. Returns its exit
    /// code.
    member this.Fail(error: Error) : int =
        eprintfn "error: %O" error

        this.Json {| Error = ErrorReport.ofError error |}

        if error.Kind = ErrorKind.Usage then ExitCode.usage else ExitCode.failed

    /// A value as one line of JSON, when JSON was asked for.
    member _.Json<'T>(value: 'T) : unit = if json then Console.Out.WriteLine(Ctkd.Fs.Json.write value)

    /// Runs a command's body; errors become messages and exit codes. A body that has told what is wrong returns false: the
    /// exit code 1. Ctrl-C ends the process.
    member this.Judged(body: unit -> Result<bool, Error>) : int =
        let outcome =
            Engine.working
                ""
                "check that files and folders are what their names say, that you may use them, and that the disk has room"
                body

        match outcome with
        | Result.Error error -> this.Fail error
        | Ok true -> ExitCode.ok
        | Ok false -> ExitCode.failed

    /// As `Judged`, of a body that only errors keep from the exit code 0.
    member this.Guarded(body: unit -> Result<unit, Error>) : int =
        this.Judged(fun () -> body () |> Result.map (fun () -> true))

    /// Runs the body of a command that trains: as `Guarded`, but the exit code is that of the signal, if one came
    /// (`Signals.listen`).
    member this.Stoppable(body: unit -> Result<unit, Error>) : int =
        let code = this.Guarded body
        if code = ExitCode.ok then Signals.exitCode () else code
