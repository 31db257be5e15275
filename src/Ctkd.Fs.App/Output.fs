namespace Ctkd.Fs.App

open System
open System.IO
open System.Text

/// The standard output and the standard error, either of which may be closed, or on a full disk. A training that has run
/// for hours goes on without its text; the exit code then tells that text was lost.
module Output =
    let mutable private outIsLost = false

    /// A writer that drops everything from the first failure on, of which it calls `failed` with the reason.
    type private DroppingWriter(inner: TextWriter, failed: string -> unit) =
        inherit TextWriter()
        let mutable hasFailed = false

        let attempt (write: unit -> unit) =
            if not hasFailed then
                try
                    write ()
                with
                | :? IOException
                | :? UnauthorizedAccessException as problem ->
                    hasFailed <- true
                    failed problem.Message

        override _.Encoding: Encoding = inner.Encoding
        override _.Write(value: char) = attempt (fun () -> inner.Write value)
        override _.Write(value: string | null) = attempt (fun () -> inner.Write value)
        override _.Write(buffer: char[], index: int, count: int) = attempt (fun () -> inner.Write(buffer, index, count))
        override _.WriteLine(value: string | null) = attempt (fun () -> inner.WriteLine value)
        override _.Flush() = attempt inner.Flush

    /// Lets neither writer fail. The loss of the standard output is told once, on the standard error.
    let guard () : unit =
        outIsLost <- false
        Console.SetError(new DroppingWriter(Console.Error, ignore))

        let tell (reason: string) =
            outIsLost <- true
            eprintfn "warning: the standard output cannot be written (%s): going on without it" reason

        Console.SetOut(new DroppingWriter(Console.Out, tell))

    /// The exit code of a command, which fails where its output was lost.
    let exitCode (code: int) : int =
        Console.Out.Flush()
        if code = 0 && outIsLost then 1 else code
