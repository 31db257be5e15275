namespace Ctkd.Fs

open System
open System.Buffers.Binary
open System.Globalization
open System.Numerics
open System.Text

/// Why a pickle is refused; it does not leave the reader.
exception internal Unpicklable of string

/// The name that a pickle imports and may not; it does not leave the reader.
exception internal Forbidden of string

/// How many bytes of memory the values of a file may still take, beyond the file itself.
[<ReferenceEquality>]
type internal MemoryBudget = { mutable Left: int64 }

/// What each value of a file takes is charged before it is made, and never given back: whatever the values
/// are and whenever their memory is collected, they cannot take more than the whole.
[<RequireQualifiedAccess>]
module internal MemoryBudget =
    /// The official CIFAR files need half of it, and a checkpoint of ResNet101 with its optimizer a tenth.
    let limit = 40_000_000L

    let create () : MemoryBudget = { Left = limit }

    let charge (bytes: int64) (budget: MemoryBudget) : unit =
        if bytes > budget.Left then
            raise (Unpicklable $"its values take more than {limit / 1_000_000L} MB of memory")

        budget.Left <- budget.Left - bytes

/// The bytes of a pickle, the place reached in them, and the memory that its values may take.
[<ReferenceEquality>]
type internal PickleInput = { Data: ReadOnlyMemory<byte>; Budget: MemoryBudget; mutable Position: int }

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

    /// Memory that the next value takes; what exceeds the budget is refused before it is made.
    let charge (bytes: int64) (input: PickleInput) : unit = MemoryBudget.charge bytes input.Budget

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
            // The line, and what undoing its escapes takes: a builder and its text.
            charge (8L * int64 length) input
            let text = Encoding.Latin1.GetString (take (int64 length) input).Span
            take 1L input |> ignore
            text

    let private strictUtf8 = UTF8Encoding(false, true)

    let utf8 (length: int64) (input: PickleInput) : string =
        let bytes = take length input
        charge (2L * length) input

        try
            strictUtf8.GetString bytes.Span
        with :? DecoderFallbackException ->
            refuse "a text in it is not UTF-8"

    // ---- text forms of protocol 0

    let number (text: string) : int64 =
        match Int64.TryParse(text, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture) with
        | true, value -> value
        | _ -> refuse $"'{text}' is no 64-bit integer"

    // ---- integers of any length

    /// Longer integers are refused: no file of weights needs them, and they are slow to print.
    let private maxInteger = 256

    let private fitting (value: BigInteger) : PickleValue =
        if value >= BigInteger Int64.MinValue && value <= BigInteger Int64.MaxValue then
            PickleValue.Whole(int64 value)
        else
            PickleValue.Large value

    /// An integer in digits, with Python 2's L behind it or without.
    let integer (text: string) : PickleValue =
        let digits = text.TrimEnd 'L'

        if digits.Length > maxInteger then
            refuse $"it holds an integer of {digits.Length} digits, more than {maxInteger}"

        match BigInteger.TryParse(digits, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture) with
        | true, value -> fitting value
        | _ -> refuse $"'{text}' is no integer"

    /// A little-endian integer in two's complement.
    let longInteger (bytes: ReadOnlyMemory<byte>) : PickleValue =
        if bytes.Length > maxInteger then
            refuse $"it holds an integer of {bytes.Length} bytes, more than {maxInteger}"

        fitting (BigInteger bytes.Span)

    // ---- other text forms of protocol 0

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

    /// A text of protocol 0: Latin-1 with the escapes \uXXXX and \UXXXXXXXX.
    let unicode (text: string) : string = unescape unicodeEscape text

    let float64 (input: PickleInput) : float = BinaryPrimitives.ReadDoubleBigEndian (take 8L input).Span
