namespace Ctkd.Fs

open System
open System.Globalization
open System.IO
open System.Text

/// A file in a tar archive.
type internal TarEntry = { Name: string; Length: int64 }

/// Reads the entries of a tar archive in order, of every usual dialect. Each length is checked before anything is read for
/// it; violations raise `Unpicklable`.
[<RequireQualifiedAccess>]
module internal TarEntries =
    let private refuse (reason: string) : 'T = PickleInput.refuse reason

    let private blockSize = 512
    /// The most entries, and the longest extended header and name.
    let private maxEntries, private maxHeader, private maxName = 100_000, 65_536L, 4_096
    /// Memory of an entry without its name.
    let private entrySize = 200L

    /// Whether a file begins as a tar archive.
    let isTar (start: ReadOnlySpan<byte>) : bool =
        start.Length >= blockSize && start.Slice(257, 5).SequenceEqual(ReadOnlySpan "ustar"B)

    let private text (block: byte[]) (place: int) (length: int) : string =
        let field = ReadOnlySpan(block, place, length)
        let stop = field.IndexOf 0uy
        Encoding.UTF8.GetString(if stop < 0 then field else field.Slice(0, stop))

    /// A number in octal digits, or in binary behind a first bit.
    let private number (block: byte[]) (place: int) (length: int) : int64 =
        if block[place] = 0x80uy then
            let digits = ReadOnlySpan(block, place + 1, length - 1)
            let mutable value = 0L

            for digit in digits do
                if value > Int64.MaxValue / 512L then refuse "a size in it overflows"
                value <- value * 256L + int64 digit

            value
        else
            let digits = (text block place length).Trim ' '

            if digits = "" then
                0L
            elif digits |> Seq.forall (fun c -> c >= '0' && c <= '7') then
                digits |> Seq.fold (fun value digit -> value * 8L + int64 (digit - '0')) 0L
            else
                refuse "a size in it is no number"

    let private checkBlock (block: byte[]) : unit =
        let isSum i = i >= 148 && i < 156
        let sum = block |> Seq.indexed |> Seq.sumBy (fun (i, b) -> if isSum i then 32L else int64 b)

        if number block 148 8 <> sum then
            refuse "the checksum of an entry differs: it is damaged"

    /// Reads exactly this many bytes. Those of a compressed archive count as decompressed.
    let private take (inflation: Inflation) (length: int64) (stream: Stream) : byte[] =
        let left = if stream.CanSeek then stream.Length - stream.Position else length

        if length > left || length > int64 Array.MaxLength then
            refuse $"truncated: an entry announces {length} bytes, more than are there"

        if not stream.CanSeek then Inflation.take length inflation
        let bytes = Array.zeroCreate<byte>(int length)

        if stream.ReadAtLeast(Span bytes, bytes.Length, false) < bytes.Length then
            refuse "it is truncated"

        bytes

    let private skip (length: int64) (stream: Stream) : unit =
        if stream.CanSeek then
            if length > stream.Length - stream.Position then refuse "it is truncated"
            stream.Position <- stream.Position + length
        else
            let buffer = Array.zeroCreate<byte> 65_536
            let mutable left = length

            while left > 0L do
                match stream.Read(buffer, 0, int (min left (int64 buffer.Length))) with
                | 0 -> refuse "it is truncated"
                | count -> left <- left - int64 count

    let private padding (length: int64) : int64 = (int64 blockSize - length % int64 blockSize) % int64 blockSize

    /// The value of a key in an extended header: records of their own length, a space, a key, "=", a value, a line's end.
    let private extended (key: string) (header: byte[]) : string option =
        let rec find (place: int) (last: string option) =
            match ReadOnlySpan(header, place, header.Length - place).IndexOf(byte ' ') with
            | space when space < 1 || space > 6 -> last
            | space ->
                match Int32.TryParse(Encoding.ASCII.GetString(header, place, space)) with
                | true, length when length > space + 1 && length <= header.Length - place ->
                    let record = Encoding.UTF8.GetString(header, place + space + 1, length - space - 2)

                    find
                        (place + length)
                        (if record.StartsWith(key + "=", StringComparison.Ordinal) then
                             Some(record.Substring(key.Length + 1))
                         else
                             last)
                | _ -> refuse "an extended header in it is damaged"

        find 0 None

    let private extendedSize (header: byte[]) : int64 option =
        extended "size" header
        |> Option.map (fun text ->
            match Int64.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture) with
            | true, size -> size
            | _ -> refuse "a size in it is no number"
        )

    /// <summary>Goes through an archive up to the file that is wanted.</summary>
    /// <param name="wanted">The place of a file among the files, from 0; None for all names.</param>
    /// <param name="limit">The most bytes that the stream can have, for one whose length is not known.</param>
    /// <param name="inflation">What may be decompressed into memory.</param>
    /// <param name="stream">The archive, decompressed.</param>
    /// <returns>The files up to the wanted one, and its contents.</returns>
    let read
        (wanted: int option)
        (limit: int64)
        (inflation: Inflation)
        (stream: Stream)
        : TarEntry list * byte[] option =
        let budget = MemoryBudget.create ()
        let entries = ResizeArray<TarEntry>()
        let mutable count = 0
        let mutable passed = 0L
        let mutable longName = None
        let mutable longSize = None
        let mutable contents = None
        let mutable goesOn = true

        let file (longName: string option) (block: byte[]) (length: int64) =
            let prefix = if block[262] = 0uy then text block 345 155 else ""
            let short = text block 0 100
            let name = longName |> Option.defaultValue (if prefix = "" then short else $"{prefix}/{short}")
            if name.Length > maxName then refuse "the name of an entry is too long"
            MemoryBudget.charge (entrySize + 2L * int64 name.Length) budget
            { Name = name; Length = length }

        while goesOn do
            let block = Array.zeroCreate<byte> blockSize

            match stream.ReadAtLeast(Span block, blockSize, false) with
            | 0 when count > 0 -> goesOn <- false
            | size when size < blockSize -> refuse "it is truncated"
            // The archive's end.
            | _ when Array.forall ((=) 0uy) block -> goesOn <- false
            | _ ->
                checkBlock block
                count <- count + 1
                if count > maxEntries then refuse $"it has more than {maxEntries} entries"
                let isHeader = block[156] = byte 'L' || block[156] = byte 'x'

                let length =
                    if isHeader then
                        number block 124 12
                    else
                        Option.defaultValue (number block 124 12) longSize

                if length > Int64.MaxValue / 4L then refuse "a size in it overflows"
                passed <- passed + int64 blockSize + length

                if not stream.CanSeek && passed > limit then
                    refuse $"it decompresses to more than {limit} bytes"

                match char block[156] with
                | 'L'
                | 'x' as kind ->
                    if length > maxHeader then refuse "the name of an entry is too long"
                    let header = take (Inflation.ofFile maxHeader) length stream
                    skip (padding length) stream

                    if kind = 'L' then
                        longName <- Some((Encoding.UTF8.GetString header).TrimEnd '\000')
                    else
                        longName <- extended "path" header |> Option.orElse longName
                        longSize <- extendedSize header |> Option.orElse longSize
                | '0'
                | '\000'
                | '7' ->
                    let entry = file longName block length
                    longName <- None
                    longSize <- None
                    entries.Add entry

                    if wanted = Some(entries.Count - 1) then
                        contents <- Some(take inflation length stream)
                        goesOn <- false
                    else
                        skip (length + padding length) stream
                | _ ->
                    // A folder, a link or a device: nothing to read.
                    longName <- None
                    longSize <- None
                    skip (length + padding length) stream

        List.ofSeq entries, contents
