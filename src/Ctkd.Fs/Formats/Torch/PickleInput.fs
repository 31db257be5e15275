namespace Ctkd.Fs

open System
open System.Buffers.Binary
open System.Globalization
open System.Numerics
open System.Text

/// Why a pickle is malformed. Never leaves the reader.
exception internal Unpicklable of string

/// Why a file is not read, and the Python code that writes its weights again, with FILE in place of its name. Never leaves
/// the reader.
exception internal Convertible of reason: string * code: string

/// The name of a forbidden import. Never leaves the reader.
exception internal Forbidden of string

/// The memory in bytes that a file's values may still take, beyond the file itself.
[<ReferenceEquality>]
type internal MemoryBudget = { mutable Left: int64 }

/// Each value is charged before it is created, and never refunded: the total bounds the memory of a file's values
/// whenever the garbage collector runs.
[<RequireQualifiedAccess>]
module internal MemoryBudget =
    /// Twice what the official CIFAR files need, and ten times a checkpoint of ResNet101 with its optimizer.
    let limit = 40_000_000L

    let create () : MemoryBudget = { Left = limit }

    let charge (bytes: int64) (budget: MemoryBudget) : unit =
        if bytes > budget.Left then
            raise (Unpicklable $"its values take more than {limit / 1_000_000L} MB of memory")

        budget.Left <- budget.Left - bytes

/// The bytes of a pickle, the current position, and the memory left for its values.
[<ReferenceEquality>]
type internal PickleInput = { Data: ReadOnlyMemory<byte>; Budget: MemoryBudget; mutable Position: int }

/// Reads the elements of a pickle: counted bytes, integers, lines, and the text forms of protocol 0. Malformed or
/// missing data raises `Unpicklable`, and a length is checked before anything is allocated for it.
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

    /// Charges the memory of the next value; refuses it if it exceeds the budget.
    let charge (bytes: int64) (input: PickleInput) : unit = MemoryBudget.charge bytes input.Budget

    let uint8 (input: PickleInput) : int64 = int64 (take 1L input).Span[0]

    let uint16 (input: PickleInput) : int64 = int64 (BinaryPrimitives.ReadUInt16LittleEndian (take 2L input).Span)

    let int32 (input: PickleInput) : int64 = int64 (BinaryPrimitives.ReadInt32LittleEndian (take 4L input).Span)

    let uint32 (input: PickleInput) : int64 = int64 (BinaryPrimitives.ReadUInt32LittleEndian (take 4L input).Span)
    // A length above the largest int64 becomes negative, and `take` refuses it.
    let uint64 (input: PickleInput) : int64 = BinaryPrimitives.ReadInt64LittleEndian (take 8L input).Span

    let line (input: PickleInput) : string =
        match input.Data.Span.Slice(input.Position).IndexOf(byte '\n') with
        | -1 -> refuse $"truncated: the line at byte {input.Position} does not end"
        | length ->
            // The line, and a builder and its text to undo escapes.
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

    /// Longer texts stay bytes.
    let private longest = 65_536L

    /// A text of `length` bytes. A long one is checked, and neither copied nor charged.
    let text (length: int64) (input: PickleInput) : PickleValue =
        if length <= longest then
            PickleValue.Text(utf8 length input)
        else
            let bytes = take length input

            try
                strictUtf8.GetCharCount bytes.Span |> ignore
                PickleValue.LongText bytes
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

    /// Parses a decimal integer, with or without Python 2's trailing L.
    let integer (text: string) : PickleValue =
        let digits = text.TrimEnd 'L'

        if digits.Length > maxInteger then
            refuse $"it holds an integer of {digits.Length} digits, more than {maxInteger}"

        match BigInteger.TryParse(digits, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture) with
        | true, value -> fitting value
        | _ -> refuse $"'{text}' is no integer"

    /// Decodes a little-endian two's complement integer.
    let longInteger (bytes: ReadOnlyMemory<byte>) : PickleValue =
        if bytes.Length > maxInteger then
            refuse $"it holds an integer of {bytes.Length} bytes, more than {maxInteger}"

        fitting (BigInteger bytes.Span)

    // ---- other text forms of protocol 0

    let real (text: string) : float =
        match Double.TryParse(text, NumberStyles.Float, CultureInfo.InvariantCulture) with
        | true, value -> value
        | _ -> refuse $"'{text}' is no number"

    /// Parses `digits` hexadecimal digits at `start`.
    let private code (text: string) (start: int) (digits: int) : int =
        let part = if start + digits <= text.Length then text.Substring(start, digits) else ""

        match Int32.TryParse(part, NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture) with
        | true, value -> value
        | _ -> refuse "a text in it has a wrong escape sequence"

    /// Undoes escapes; `escape` returns the replacement of what follows a backslash, and its length.
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

    /// Parses a quoted string as printed by Python 2.
    let quoted (text: string) : ReadOnlyMemory<byte> =
        let ends = text.Length >= 2 && (text[0] = '\'' || text[0] = '"') && text[text.Length - 1] = text[0]

        if not ends then refuse "a string in it lacks its quotes"

        let inner = text.Substring(1, text.Length - 2) |> unescape stringEscape
        ReadOnlyMemory(Encoding.Latin1.GetBytes inner)

    /// Decodes text of protocol 0: Latin-1 with the escapes \uXXXX and \UXXXXXXXX.
    let unicode (text: string) : string = unescape unicodeEscape text

    let float64 (input: PickleInput) : float = BinaryPrimitives.ReadDoubleBigEndian (take 8L input).Span
