namespace Ctkd.Fs

open System

/// The category of an error. Decides the exit code, and lets tests match errors without parsing text.
type ErrorKind =
    /// A value from the user is out of range, unknown or contradictory.
    | Usage
    /// A required file or folder does not exist.
    | Missing
    /// A file is truncated, corrupt or hostile.
    | Damaged
    /// Two valid things are incompatible, such as a checkpoint and a different model.
    | Mismatch
    /// A file cannot be written: no permission, a full disk, or a lock held by another process.
    | Unwritable
    /// The tensor engine is missing, incomplete or rejected an operation.
    | Engine
    /// Training produced a non-finite number.
    | Diverged

/// An error as shown to the user: what is wrong, where, and what to do next.
type Error = {
    Kind: ErrorKind
    What: string
    Where: string
    Next: string
} with

    override error.ToString() : string =
        let line label text = if String.IsNullOrEmpty text then "" else $"\n  {label}: {text}"
        error.What + line "where" error.Where + line "next" error.Next

/// Carries an `Error` out of `Result`: raised towards C#, scripts and the command line.
exception CtkdException of Error with
    override this.Message = this.Data0.ToString()

    /// The error that was raised.
    member this.Error: Error = this.Data0

[<RequireQualifiedAccess>]
module Error =
    /// Creates an error from its parts.
    let create (kind: ErrorKind) (what: string) (where: string) (next: string) : Error = {
        Kind = kind
        What = what
        Where = where
        Next = next
    }

    /// Fails with an error of the given kind from its three parts.
    let fail (kind: ErrorKind) (what: string) (where: string) (next: string) : Result<'T, Error> =
        Error(create kind what where next)

    /// Levenshtein distance, ignoring case.
    let private distance (a: string) (b: string) : int =
        let step (row: int[]) (x: char) =
            let next = Array.zeroCreate row.Length
            next[0] <- row[0] + 1

            for j in 1 .. b.Length do
                let replace = row[j - 1] + (if Char.ToLowerInvariant x = Char.ToLowerInvariant b[j - 1] then 0 else 1)

                next[j] <- min replace (1 + min row[j] next[j - 1])

            next

        (Seq.fold step [| 0 .. b.Length |] a)[b.Length]

    /// Whether a name is a part of a candidate, ignoring case, and not too short to mean anything.
    let private isPart (name: string) (candidate: string) : bool =
        name.Length >= 3 && candidate.Contains(name, StringComparison.OrdinalIgnoreCase)

    /// Returns the three candidates nearest to `name`, nearest first: those that it is a part of, then by edit distance.
    /// Compares the first 64 characters of the first 1000 candidates.
    let nearest (candidates: string seq) (name: string) : string list =
        let short (text: string) = text.Substring(0, min text.Length 64)

        candidates
        |> Seq.distinct
        |> Seq.truncate 1000
        |> Seq.sortBy (fun candidate ->
            not (isPart (short name) (short candidate)), distance (short name) (short candidate)
        )
        |> Seq.truncate 3
        |> List.ofSeq

    /// Creates the error "unknown model 'resnet21'" with the nearest candidates as a suggestion.
    let unknown (kind: string) (candidates: string seq) (name: string) : Error =
        if String.IsNullOrWhiteSpace name then
            let some = candidates |> Seq.distinct |> Seq.truncate 5 |> String.concat ", "
            create Usage $"unknown {kind} '{name}'" "" $"its name is empty: give one, such as {some}"
        else
            let near = nearest candidates name |> String.concat ", "
            create Usage $"unknown {kind} '{name}'" "" $"did you mean one of: {near}?"

    /// Raises the error as a `CtkdException`.
    let raise (error: Error) : 'T = raise (CtkdException error)

    /// Returns the value, or raises the error as a `CtkdException`.
    let orRaise (result: Result<'T, Error>) : 'T =
        match result with
        | Ok value -> value
        | Error error -> raise error
