namespace Ctkd.Fs

open System
open System.Globalization
open System.Security.Cryptography
open System.Text

/// Lines of a text, one after the other.
type internal LineReader(where: string, text: string) =
    let mutable next = 0
    let mutable number = 0

    /// The number of the last line that was taken, from 1.
    member _.Number = number

    /// Whether no line is left.
    member _.IsAtEnd = next >= text.Length

    /// What is wrong with the last line.
    member _.Wrong(reason: string) : Result<'T, Error> =
        let what = $"line {number} of the index is wrong: {reason}"
        Error.fail Damaged what where "make it again from the images"

    /// The next line; every line ends in a newline.
    member this.Take() : Result<string, Error> =
        number <- number + 1

        match (if next < text.Length then text.IndexOf('\n', next) else -1) with
        | -1 -> this.Wrong "it is missing, or cut short"
        | ending ->
            let line = text.Substring(next, ending - next)
            next <- ending + 1
            Ok line

/// The list of a set's images as text: the classes, then a line for each image with path, bytes, label, and the mark of its
/// content. It says what was trained with, and has a hash.
[<RequireQualifiedAccess>]
module PhotoIndex =
    let private first = "ctkd index of photographs 2"

    /// The most images or classes: labels and places are 32-bit numbers, and memory is bounded.
    let private most = 100_000_000

    let private isPlain (c: char) : bool = c <> '\\' && not (Char.IsControl c) && not (Char.IsSurrogate c)

    /// Control characters, backslashes and halves of surrogate pairs as \uXXXX.
    let internal escape (text: string) : string =
        if Seq.forall isPlain text then
            text
        else
            let result = StringBuilder()
            let mutable i = 0

            while i < text.Length do
                if isPlain text[i] then
                    result.Append text[i] |> ignore
                elif i + 1 < text.Length && Char.IsSurrogatePair(text[i], text[i + 1]) then
                    result.Append(text[i]).Append(text[i + 1]) |> ignore
                    i <- i + 1
                else
                    result.Append($"\\u{int text[i]:x4}") |> ignore

                i <- i + 1

            result.ToString()

    /// The text that was escaped, or nothing where the escapes are wrong.
    let internal unescape (text: string) : string option =
        if not (text.Contains '\\') then
            Some text
        else
            let result = StringBuilder()

            let rec go (from: int) =
                match text.IndexOf('\\', from) with
                | -1 ->
                    result.Append(text, from, text.Length - from) |> ignore
                    true
                | at ->
                    result.Append(text, from, at - from) |> ignore
                    let digits = if at + 6 <= text.Length then text.AsSpan(at + 2, 4) else ReadOnlySpan()

                    match UInt16.TryParse(digits, NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture) with
                    | true, code when text[at + 1] = 'u' ->
                        result.Append(char code) |> ignore
                        go (at + 6)
                    | _ -> false

            if go 0 then Some(result.ToString()) else None

    /// Whether a path stays below its root.
    let private isBelow (path: string) : bool =
        path <> ""
        && not (path.Contains '\000')
        && not (IO.Path.IsPathRooted path)
        && path.Split '/' |> Array.forall (fun part -> part <> "" && part <> "." && part <> "..")

    /// Appends the text of a set.
    let internal append (result: StringBuilder) (files: PhotoFiles) : unit =
        let line (text: string) = result.Append(text).Append('\n') |> ignore
        line first
        line $"classes\t{files.Classes.Length}"
        files.Classes |> List.iter (escape >> line)
        line $"images\t{files.Paths.Length}"

        for i in 0 .. files.Paths.Length - 1 do
            line $"{escape files.Paths[i]}\t{files.Lengths[i]}\t{files.Labels[i]}\t{files.Marks[i]:x8}"

    /// The text of a set.
    let write (files: PhotoFiles) : string =
        let result = StringBuilder()
        append result files
        result.ToString()

    /// SHA-256 of the text as UTF-8, in hexadecimal digits.
    let hash (files: PhotoFiles) : string =
        write files |> Encoding.UTF8.GetBytes |> SHA256.HashData |> Convert.ToHexStringLower

    let internal number (text: string) : int64 option =
        match Int64.TryParse(text, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture) with
        | true, value -> Some value
        | _ -> None

    /// A CRC-32 in eight hexadecimal digits.
    let internal crc (text: string) : uint32 option =
        if text.Length = 8 && Seq.forall Char.IsAsciiHexDigit text then
            Some(Convert.ToUInt32(text, 16))
        else
            None

    let private count (lines: LineReader) (name: string) : Result<int, Error> =
        lines.Take()
        |> Result.bind (fun line ->
            match line.Split '\t' with
            | [| key; value |] when key = name ->
                match number value with
                | Some count when count >= 0L && count <= int64 most -> Ok(int count)
                | _ -> lines.Wrong $"'{Files.printable value}' is no number of {name}"
            | _ -> lines.Wrong $"it is not '{name}' and their number"
        )

    /// Reads `count` lines. Memory grows with what is there, not with what is declared.
    let internal rows (lines: LineReader) (count: int) (read: string -> Result<'T, Error>) : Result<'T[], Error> =
        let rows = ResizeArray<'T>()
        let mutable failure = None

        while failure.IsNone && rows.Count < count do
            match lines.Take() |> Result.bind read with
            | Ok row -> rows.Add row
            | Result.Error error -> failure <- Some error

        match failure with
        | Some error -> Result.Error error
        | None -> Ok(rows.ToArray())

    let private image
        (lines: LineReader)
        (classes: int)
        (line: string)
        : Result<struct (string * int64 * int * uint32), Error> =
        match line.Split '\t' with
        | [| path; length; label; mark |] ->
            match unescape path, number length, number label, crc mark with
            | Some path, Some length, Some label, Some mark when
                isBelow path && length >= 0L && label >= -1L && label < int64 classes
                ->
                Ok(struct (path, length, int label, mark))
            | _ -> lines.Wrong $"'{Files.printable line}' is no path below the folder, length, label and mark"
        | _ -> lines.Wrong "it has not four parts"

    /// Reads the text of a set from lines.
    let internal readFrom (root: string) (lines: LineReader) : Result<PhotoFiles, Error> =
        lines.Take()
        |> Result.bind (fun line -> if line = first then count lines "classes" else lines.Wrong $"it is not '{first}'")
        |> Result.bind (fun classes ->
            rows
                lines
                classes
                (fun line ->
                    match unescape line with
                    | Some name when name <> "" -> Ok name
                    | _ -> lines.Wrong "it is no name of a class"
                )
        )
        |> Result.bind (fun classes ->
            if (Array.distinct classes).Length < classes.Length then
                lines.Wrong "a class is there twice"
            else
                count lines "images"
                |> Result.bind (fun images -> rows lines images (image lines classes.Length))
                |> Result.map (fun images -> {
                    Root = root
                    Classes = List.ofArray classes
                    Paths = images |> Array.map (fun struct (path, _, _, _) -> path)
                    Lengths = images |> Array.map (fun struct (_, length, _, _) -> length)
                    Marks = images |> Array.map (fun struct (_, _, _, mark) -> mark)
                    Labels = images |> Array.map (fun struct (_, _, label, _) -> label)
                })
        )

    /// <summary>Reads the text of a set.</summary>
    /// <param name="where">Where the text is from, for messages.</param>
    /// <param name="root">The folder of the images.</param>
    /// <param name="text">What <c>write</c> made.</param>
    let parse (where: string) (root: string) (text: string) : Result<PhotoFiles, Error> =
        let lines = LineReader(where, text)

        readFrom root lines
        |> Result.bind (fun files -> if lines.IsAtEnd then Ok files else lines.Wrong "more lines follow than it says")
