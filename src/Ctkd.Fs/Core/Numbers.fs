namespace Ctkd.Fs

open System
open System.Globalization

/// Reads numbers as people write them: with a decimal point and no thousands separator, in every language of the machine.
/// A comma separates the numbers of a list, and is refused inside a number, where it could mean either.
[<RequireQualifiedAccess>]
module Numbers =

    let private parse (text: string) : float option =
        match Double.TryParse(text, NumberStyles.Float, CultureInfo.InvariantCulture) with
        | true, value -> Some value
        | _ -> None

    /// Whether a text has one comma among digits, and nothing says what it means.
    let private isAmbiguous (text: string) : bool =
        Text.RegularExpressions.Regex.IsMatch(text, @"^[+-]?\d+,\d+([eE][+-]?\d+)?$")

    /// The one number that a text with several commas or points can mean: "1,000.5", "1.000,5", "1,000,000", ",5".
    let private meant (text: string) : string option =
        let comma, point = text.LastIndexOf ',', text.LastIndexOf '.'
        let isDecimalComma = comma > point && text.IndexOf ',' = comma

        let plain =
            if comma < 0 then text.Replace(".", "")
            elif isDecimalComma then text.Replace(".", "").Replace(',', '.')
            else text.Replace(",", "")

        parse plain |> Option.map (fun _ -> plain)

    /// Why a text is no number: for "0,05" both readings of the comma.
    let private refusal (text: string) : string =
        match meant text with
        | Some _ when isAmbiguous text ->
            let thousands = text.Replace(",", "") |> parse |> Option.get
            $"{text.Replace(',', '.')} with a decimal comma, {string thousands} with a thousands separator"
        | Some number -> $"written with a decimal point and no thousands separator it is {number}"
        | None -> "not a number"

    /// Reads a finite number: 0.05, 5e-4, -1. The error says why the text is none.
    let read (text: string) : Result<float, string> =
        match parse text with
        | Some value when Double.IsFinite value -> Ok value
        | Some _ -> Error "not finite"
        | None -> Error(refusal (text.Trim()))

    /// Reads a whole number of 32 bits. The error says why the text is none.
    let readWhole (text: string) : Result<int, string> =
        match Int32.TryParse(text, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture) with
        | true, value -> Ok value
        | _ ->
            match parse text with
            | Some value when abs value > float Int32.MaxValue -> Error "out of range"
            | Some value when value = Math.Floor value -> Error $"a whole number is written {value:F0}"
            | Some _ -> Error "not a whole number"
            | None -> Error(refusal (text.Trim()))

    /// The items of a list, separated by commas, spaces or both, with or without brackets: "1,2,3", "[1, 2, 3]", "1 2 3".
    let items (text: string) : string list =
        let inner = text.Trim().TrimStart('[').TrimEnd(']').Trim()

        if inner = "" then
            []
        else
            [
                for part in inner.Split ',' do
                    match part.Split([| ' '; '\t' |], StringSplitOptions.RemoveEmptyEntries) with
                    | [||] -> ""
                    | words -> yield! words
            ]

    /// Reads every item, or says which is refused and why.
    let all (read: string -> Result<'T, string>) (items: string list) : Result<'T list, string> =
        let add item rest =
            match read item with
            | Ok value -> rest |> Result.map (fun values -> value :: values)
            | Error reason -> Error $"'{item}' is {reason}"

        List.foldBack add items (Ok [])

    /// Reads a list of numbers. Refuses "0,5": it could be one number or two.
    let readList (text: string) : Result<float list, string> =
        let words = text.Split([| ' '; '['; ']' |], StringSplitOptions.RemoveEmptyEntries)

        match words |> Array.tryFind isAmbiguous with
        | Some word ->
            let point, space = word.Replace(',', '.'), word.Replace(',', ' ')
            Error $"'{word}' is {point} with a decimal comma, and two numbers otherwise: write {point}, or {space}"
        | None -> items text |> all read
