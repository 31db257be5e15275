namespace Ctkd.Fs

open System
open System.Buffers.Binary
open System.IO
open System.IO.Hashing
open System.Runtime.InteropServices
open System.Security.Cryptography
open System.Text

/// The number format of cached features.
type CacheFormat =
    /// As computed.
    | Exact
    /// 16 bits: half the space, but rounded.
    | Float16

/// A frozen teacher's pooled features on disk, with one row per variant (crop and mirroring) of each image. All runs
/// with the same teacher, data, augmentation and arithmetic use the same file, also at the same time. Each row has a
/// checksum: a row that is damaged, or was never or only half written, counts as absent.
[<NoComparison; NoEquality>]
type TeacherCache = {
    Path: string
    /// Numbers per row.
    Width: int
    Format: CacheFormat
    /// Rows from this number on exceed the budget.
    Limit: int64
    File: Microsoft.Win32.SafeHandles.SafeFileHandle
    /// Number of rows requested, and of those found.
    mutable Asked: int64
    mutable Found: int64
    /// Why writing has stopped, such as a full disk.
    mutable Full: string option
} with

    interface IDisposable with
        member cache.Dispose() = cache.File.Dispose()

/// Caches a teacher's features.
[<RequireQualifiedAccess>]
module TeacherCache =
    /// The key lies in a header of this length before the rows.
    let private headerLength = 4096

    let private checksumLength = sizeof<uint32>

    let private itemLength (format: CacheFormat) : int =
        match format with
        | Exact -> sizeof<float32>
        | Float16 -> sizeof<System.Half>

    let private rowLength (cache: TeacherCache) : int = cache.Width * itemLength cache.Format + checksumLength

    let private header (key: string) : byte[] =
        let text = Encoding.UTF8.GetBytes key

        if text.Length >= headerLength then
            invalidArg (nameof key) $"the key must be shorter than {headerLength} bytes, got {text.Length}."

        let bytes = Array.zeroCreate<byte> headerLength
        text.CopyTo(bytes, 0)
        bytes

    let private problem (path: string) (what: string) (next: string) : Result<'T, Error> =
        Error.fail Unwritable what path next

    /// <summary>Opens the file of a key in a folder; creates both if they are missing.</summary>
    /// <param name="folder">The folder with the files of all teachers.</param>
    /// <param name="key">Everything that determines the rows' bits, as text.</param>
    /// <param name="width">Number of features per row.</param>
    /// <param name="budget">The largest size of the file in bytes.</param>
    /// <param name="format">The number format of the features.</param>
    let openFile
        (folder: string)
        (key: string)
        (width: int)
        (budget: int64)
        (format: CacheFormat)
        : Result<TeacherCache, Error> =
        let key = $"ctkd teacher cache 1\n{key}\nformat {format}, {width} features\n"
        let name = Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes key)).Substring(0, 24)
        let path = Path.Combine(folder, name + ".features")
        let expected = header key

        try
            Directory.CreateDirectory folder |> ignore

            let file =
                File.OpenHandle(
                    path,
                    FileMode.OpenOrCreate,
                    FileAccess.ReadWrite,
                    FileShare.ReadWrite ||| FileShare.Delete
                )

            let found = Array.zeroCreate<byte> headerLength
            let length = RandomAccess.Read(file, Span found, 0L)
            if length = 0 then RandomAccess.Write(file, ReadOnlySpan expected, 0L)

            if length > 0 && not (ReadOnlySpan(found).SequenceEqual(ReadOnlySpan expected)) then
                file.Dispose()

                problem
                    path
                    "this is no teacher cache, or it is damaged at its beginning"
                    "delete the file: it is made again"
            else
                let row = int64 (width * itemLength format + checksumLength)

                Ok {
                    Path = path
                    Width = width
                    Format = format
                    Limit = max 0L ((budget - int64 headerLength) / row)
                    File = file
                    Asked = 0L
                    Found = 0L
                    Full = None
                }
        with
        | :? IOException
        | :? UnauthorizedAccessException as refused ->
            problem
                path
                $"the teacher cache cannot be opened: {refused.Message}"
                "name another folder with --teacher-cache"

    let private offset (cache: TeacherCache) (row: int64) : int64 = int64 headerLength + row * int64 (rowLength cache)

    /// Never 0, the content of a hole in the file.
    let private checksum (row: int64) (items: ReadOnlySpan<byte>) : uint32 =
        max 1u (Crc32.HashToUInt32 items ^^^ uint32 (row * 0x9E3779B1L))

    let private decode (format: CacheFormat) (items: Span<byte>) (target: Span<float32>) : unit =
        match format with
        | Exact -> MemoryMarshal.Cast<byte, float32>(items).CopyTo target
        | Float16 ->
            let halves = MemoryMarshal.Cast<byte, System.Half> items

            for i in 0 .. target.Length - 1 do
                target[i] <- System.Half.op_Explicit halves[i]

    let private encode (format: CacheFormat) (source: ReadOnlySpan<float32>) (items: Span<byte>) : unit =
        match format with
        | Exact -> MemoryMarshal.AsBytes(source).CopyTo items
        | Float16 ->
            let halves = MemoryMarshal.Cast<byte, System.Half> items

            for i in 0 .. source.Length - 1 do
                halves[i] <- System.Half.op_Explicit source[i]

    /// Fills the rows of `features` ([rows, width]) that are cached; returns the positions of the others.
    let read (cache: TeacherCache) (rows: int64[]) (features: float32[]) : int[] =
        let bytes = Array.zeroCreate<byte>(rowLength cache)
        let items = bytes.Length - checksumLength

        let missing = [|
            for i in 0 .. rows.Length - 1 do
                let whole =
                    rows[i] < cache.Limit
                    && RandomAccess.Read(cache.File, Span bytes, offset cache rows[i]) = bytes.Length
                    && BinaryPrimitives.ReadUInt32LittleEndian(ReadOnlySpan(bytes, items, checksumLength)) =
                        checksum rows[i] (ReadOnlySpan(bytes, 0, items))

                if whole then
                    decode cache.Format (Span(bytes, 0, items)) (Span(features, i * cache.Width, cache.Width))
                else
                    i
        |]

        cache.Asked <- cache.Asked + int64 rows.Length
        cache.Found <- cache.Found + int64 (rows.Length - missing.Length)
        missing

    /// Caches rows of features. Skips rows beyond the budget, and all rows once the disk is full.
    let write (cache: TeacherCache) (rows: int64[]) (features: ReadOnlySpan<float32>) : unit =
        let bytes = Array.zeroCreate<byte>(rowLength cache)
        let items = bytes.Length - checksumLength
        let mutable i = 0

        while i < rows.Length && cache.Full.IsNone do
            if rows[i] < cache.Limit then
                encode cache.Format (features.Slice(i * cache.Width, cache.Width)) (Span(bytes, 0, items))

                BinaryPrimitives.WriteUInt32LittleEndian(
                    Span(bytes, items, checksumLength),
                    checksum rows[i] (ReadOnlySpan(bytes, 0, items))
                )

                try
                    RandomAccess.Write(cache.File, ReadOnlySpan bytes, offset cache rows[i])
                with :? IOException as problem ->
                    cache.Full <- Some problem.Message

            i <- i + 1
