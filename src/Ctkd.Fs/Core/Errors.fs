namespace Ctkd.Fs

open System

/// What sort of thing went wrong; it decides the exit code and lets tests match without reading prose.
type ErrorKind =
    /// A value that the user gave is outside its range, unknown or contradictory.
    | Usage
    /// A file or folder that is needed is not there.
    | Missing
    /// A file is there and is not what it should be: truncated, corrupt or hostile.
    | Damaged
    /// Two good things do not belong together, such as a checkpoint and another model.
    | Mismatch
    /// A file cannot be written: permission, full disk, or another process holds it.
    | Unwritable
    /// The tensor engine is absent, incomplete or refused an operation.
    | Engine
    /// Training produced a number that is not finite.
    | Diverged

/// An error as the user meets it: what is wrong, where, and what to do next.
type Error = {
    Kind: ErrorKind
    What: string
    Where: string
    Next: string
} with

    override error.ToString() : string =
        let line label text = if String.IsNullOrEmpty text then "" else $"\n  {label}: {text}"
        error.What + line "where" error.Where + line "next" error.Next

/// An error that left the world of `Result`: raised at the border to C#, scripts and the command line.
exception CtkdException of Error with
    override this.Message = this.Data0.ToString()

    /// The error that was raised.
    member this.Error: Error = this.Data0

[<RequireQualifiedAccess>]
module Error =
    /// An error of the given kind from its three parts.
    let create (kind: ErrorKind) (what: string) (where: string) (next: string) : Error = {
        Kind = kind
        What = what
        Where = where
        Next = next
    }

    /// The number of single-character edits (insert, delete, replace) that turn one name into the other.
    let private distance (a: string) (b: string) : int =
        let step (row: int[]) (x: char) =
            let next = Array.zeroCreate row.Length
            next[0] <- row[0] + 1

            for j in 1 .. b.Length do
                let replace =
                    row[j - 1] + (if Char.ToLowerInvariant x = Char.ToLowerInvariant b[j - 1] then 0 else 1)

                next[j] <- min replace (1 + min row[j] next[j - 1])

            next

        (Seq.fold step [| 0 .. b.Length |] a)[b.Length]

    /// The three candidates nearest to `name`, nearest first. Of very many or very long names only the beginning counts.
    let nearest (candidates: string seq) (name: string) : string list =
        let short (text: string) = text.Substring(0, min text.Length 64)

        candidates
        |> Seq.distinct
        |> Seq.truncate 1000
        |> Seq.sortBy (short >> distance (short name))
        |> Seq.truncate 3
        |> List.ofSeq

    /// "unknown model 'resnet21'": names the nearest candidates.
    let unknown (kind: string) (candidates: string seq) (name: string) : Error =
        let near = nearest candidates name |> String.concat ", "
        create Usage $"unknown {kind} '{name}'" "" $"did you mean one of: {near}?"

    /// Raises the error as an exception: for callers outside `Result`.
    let raise (error: Error) : 'T = raise (CtkdException error)

    /// The value, or the error raised as `CtkdException`.
    let orRaise (result: Result<'T, Error>) : 'T =
        match result with
        | Ok value -> value
        | Error error -> raise error
