namespace Ctkd.Fs

open System
open System.Buffers.Binary
open System.Globalization
open System.Text

/// Why a pickle is refused; it does not leave the reader.
exception internal Unpicklable of string

/// The name that a pickle imports and may not; it does not leave the reader.
exception internal Forbidden of string

/// The bytes of a pickle and the place reached in them.
[<ReferenceEquality>]
type internal PickleInput = { Data: ReadOnlyMemory<byte>; mutable Position: int }

/// The elements of a pickle: counted bytes, integers, lines, and the text forms of protocol 0. Whatever is
/// malformed or not there raises `Unpicklable`; nothing is allocated for a length that is not there.
[<RequireQualifiedAccess>]
module internal PickleInput =
    let refuse (reason: string) : 'T = raise (Unpicklable reason)

    let take (length: int64) (input: PickleInput) : ReadOnlyMemory<byte> =
        let left = input.Data.Length - input.Position

        if length < 0L || length > int64 left then
            refuse $"truncated: {length} bytes are announced at byte {input.Position}, {left} are left"

        let part = input.Data.Slice(input.Position, int length)
        input.Position <- input.Position + int length
        part

    let uint8 (input: PickleInput) : int64 = int64 (take 1L input).Span[0]

    let uint16 (input: PickleInput) : int64 =
        int64 (BinaryPrimitives.ReadUInt16LittleEndian (take 2L input).Span)

    let int32 (input: PickleInput) : int64 =
        int64 (BinaryPrimitives.ReadInt32LittleEndian (take 4L input).Span)

    let uint32 (input: PickleInput) : int64 =
        int64 (BinaryPrimitives.ReadUInt32LittleEndian (take 4L input).Span)
    // A length above the largest int64 becomes negative, which `take` refuses.
    let uint64 (input: PickleInput) : int64 = BinaryPrimitives.ReadInt64LittleEndian (take 8L input).Span

    let line (input: PickleInput) : string =
        match input.Data.Span.Slice(input.Position).IndexOf(byte '\n') with
        | -1 -> refuse $"truncated: the line at byte {input.Position} does not end"
        | length ->
            let text = Encoding.Latin1.GetString (take (int64 length) input).Span
            take 1L input |> ignore
            text

    let private strictUtf8 = UTF8Encoding(false, true)

    let utf8 (bytes: ReadOnlyMemory<byte>) : string =
        try
            strictUtf8.GetString bytes.Span
        with :? DecoderFallbackException ->
            refuse "a text in it is not UTF-8"

    // ---- text forms of protocol 0

    let number (text: string) : int64 =
        match
            Int64.TryParse(text.TrimEnd 'L', NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture)
        with
        | true, value -> value
        | _ -> refuse $"'{text}' is no 64-bit integer"

    let real (text: string) : float =
        match Double.TryParse(text, NumberStyles.Float, CultureInfo.InvariantCulture) with
        | true, value -> value
        | _ -> refuse $"'{text}' is no number"

    /// The code in `digits` hexadecimal digits at `start`.
    let private code (text: string) (start: int) (digits: int) : int =
        let part = if start + digits <= text.Length then text.Substring(start, digits) else ""

        match Int32.TryParse(part, NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture) with
        | true, value -> value
        | _ -> refuse "a text in it has a wrong escape sequence"

    /// Undoes escapes; `escape` tells what follows a backslash and how many characters it took.
    let private unescape (escape: string -> int -> string * int) (text: string) : string =
        let result = StringBuilder(text.Length)
        let mutable i = 0

        while i < text.Length do
            let piece, length = if text[i] = '\\' then escape text (i + 1) else string text[i], 0
            result.Append piece |> ignore
            i <- i + 1 + length

        result.ToString()

    let private stringEscape (text: string) (i: int) : string * int =
        match (if i < text.Length then text[i] else '?') with
        | 'x' -> string (char (code text (i + 1) 2)), 3
        | 'n' -> "\n", 1
        | 'r' -> "\r", 1
        | 't' -> "\t", 1
        | '\\'
        | '\''
        | '"' as same -> string same, 1
        | _ -> refuse "a string in it has an unknown escape sequence"

    let private unicodeEscape (text: string) (i: int) : string * int =
        match (if i < text.Length then text[i] else '?') with
        | 'u' -> string (char (code text (i + 1) 4)), 5
        | 'U' ->
            let value = code text (i + 1) 8

            if Rune.IsValid value then
                (Rune value).ToString(), 9
            else
                refuse "a text in it is not Unicode"
        | _ -> "\\", 0

    /// A string in quotes, as Python 2 prints it.
    let quoted (text: string) : ReadOnlyMemory<byte> =
        let ends = text.Length >= 2 && (text[0] = '\'' || text[0] = '"') && text[text.Length - 1] = text[0]

        if not ends then refuse "a string in it lacks its quotes"

        let inner = text.Substring(1, text.Length - 2) |> unescape stringEscape
        ReadOnlyMemory(Encoding.Latin1.GetBytes inner)

    /// A little-endian integer of any length, of which up to eight bytes are accepted.
    let longInteger (bytes: ReadOnlyMemory<byte>) : int64 =
        match bytes.Length with
        | 0 -> 0L
        | length when length > 8 -> refuse $"it holds an integer of {length} bytes, more than 8"
        | length ->
            let sign = if bytes.Span[length - 1] >= 128uy then 255uy else 0uy
            let wide = Array.create 8 sign
            bytes.CopyTo(Memory wide)
            BinaryPrimitives.ReadInt64LittleEndian(ReadOnlySpan wide)

    /// A text of protocol 0: Latin-1 with the escapes \uXXXX and \UXXXXXXXX.
    let unicode (text: string) : string = unescape unicodeEscape text

    let float64 (input: PickleInput) : float = BinaryPrimitives.ReadDoubleBigEndian (take 8L input).Span
