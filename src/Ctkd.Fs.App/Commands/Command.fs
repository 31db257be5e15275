namespace Ctkd.Fs.App

open Ctkd.Fs

/// What every command does around its body.
module Command =

    /// Wrong usage: what is wrong, and what to do.
    let usage (what: string) (next: string) : Result<'T, Error> =
        Result.Error(Error.create ErrorKind.Usage what "" next)

    /// The names of precisions and policies, as help lists them.
    let precisions: string = String.concat ", " Settings.precisions
    let policies: string = String.concat ", " Settings.policies

    /// The precision of a flag, or the default one.
    let precision (name: string option) : Result<Precision, Error> =
        match name with
        | Some name when List.contains name Settings.precisions -> Names.find<Precision> "precision" name
        | Some name -> Result.Error(Error.unknown "precision" Settings.precisions name)
        | None -> Ok Settings.defaults.Precision

    /// Runs a command's body; errors become messages and exit codes. Ctrl-C ends the process.
    let guarded (terminal: Terminal) (body: unit -> Result<unit, Error>) : int =
        let outcome =
            try
                Engine.guarded body
            with CtkdException error ->
                Result.Error error

        match outcome with
        | Result.Error error -> terminal.Fail error
        | Ok() -> ExitCode.ok

    /// Runs the body of a command that trains: as `guarded`, but Ctrl-C and SIGTERM stop it between two steps, and the exit
    /// code is then theirs.
    let stoppable (terminal: Terminal) (body: unit -> Result<unit, Error>) : int =
        use _ = Signals.listen ()
        let code = guarded terminal body
        if code = ExitCode.ok then Signals.exitCode () else code
