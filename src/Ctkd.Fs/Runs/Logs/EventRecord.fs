namespace Ctkd.Fs

open System
open System.Buffers.Binary
open System.IO
open System.Numerics
open Google.Protobuf

/// How often numbers lie in intervals that follow each other: each ends at its limit, which belongs to it, and the first begins at
/// the smallest number.
type Histogram = {
    Smallest: float
    Largest: float
    Sum: float
    SumOfSquares: float
    /// Rising; the last one is the largest number.
    Limits: float[]
    Counts: float[]
}

/// Making histograms.
[<RequireQualifiedAccess>]
module Histogram =

    /// Counts finite numbers in `bins` intervals of equal width; None without numbers.
    let ofNumbers (bins: int) (numbers: float[]) : Histogram option =
        if numbers.Length = 0 then
            None
        else
            let smallest, largest = Array.min numbers, Array.max numbers
            let width = (largest - smallest) / float bins
            let bins = if width > 0.0 then bins else 1

            let limits =
                Array.init bins (fun i -> if i = bins - 1 then largest else smallest + width * float (i + 1))

            let counts = Array.zeroCreate<float> bins

            for number in numbers do
                let found = Array.BinarySearch(limits, number)
                let bin = if found >= 0 then found else ~~~found
                counts[bin] <- counts[bin] + 1.0

            Some {
                Smallest = smallest
                Largest = largest
                Sum = Array.sum numbers
                SumOfSquares = numbers |> Array.sumBy (fun number -> number * number)
                Limits = limits
                Counts = counts
            }

/// A value of an event: TensorBoard has scalars as 32-bit floats.
[<RequireQualifiedAccess>]
type EventValue =
    | Scalar of float
    | Histogram of Histogram

/// What an event tells.
[<RequireQualifiedAccess>]
type EventContent =
    /// The version of the format: what every file begins with.
    | Version
    /// The run resumes: what earlier files hold of this step and later ones no longer counts.
    | Resumed
    /// Values by their tags.
    | Values of (string * EventValue) list

/// An event of TensorBoard's files.
type RunEvent = {
    /// Seconds since 1970, UTC.
    WallTime: float
    Step: int64
    Content: EventContent
}

/// The records of TensorBoard's event files: length, its checksum, the event as protobuf, its checksum. Fields have the numbers of
/// TensorFlow's event.proto and summary.proto.
[<RequireQualifiedAccess>]
module EventRecord =

    /// CRC-32C of bytes (Castagnoli, as iSCSI has it).
    let crc32c (bytes: byte[]) : uint32 =
        let mutable crc = UInt32.MaxValue

        for value in bytes do
            crc <- BitOperations.Crc32C(crc, value)

        ~~~crc

    /// The checksum of a record: rotated and shifted, as that of data that hold checksums must be.
    let private maskedCrc (bytes: byte[]) : uint32 = BitOperations.RotateRight(crc32c bytes, 15) + 0xa282ead8u

    // ---- protobuf ----

    let private message (write: CodedOutputStream -> unit) : ByteString =
        use stream = new MemoryStream()
        use out = new CodedOutputStream(stream, true)
        write out
        out.Flush()
        ByteString.CopyFrom(stream.ToArray())

    let private part (field: int) (value: ByteString) (out: CodedOutputStream) : unit =
        out.WriteTag(field, WireFormat.WireType.LengthDelimited)
        out.WriteBytes value

    let private double (field: int) (value: float) (out: CodedOutputStream) : unit =
        out.WriteTag(field, WireFormat.WireType.Fixed64)
        out.WriteDouble value

    let private doubles (field: int) (values: float[]) (out: CodedOutputStream) : unit =
        part field (message (fun inner -> values |> Array.iter inner.WriteDouble)) out

    let private whole (field: int) (value: int64) (out: CodedOutputStream) : unit =
        out.WriteTag(field, WireFormat.WireType.Varint)
        out.WriteInt64 value

    let private histogram (h: Histogram) : ByteString =
        message (fun out ->
            [ h.Smallest; h.Largest; Array.sum h.Counts; h.Sum; h.SumOfSquares ]
            |> List.iteri (fun i value -> double (i + 1) value out)

            doubles 6 h.Limits out
            doubles 7 h.Counts out
        )

    let private value (tag: string, value: EventValue) : ByteString =
        message (fun out ->
            part 1 (ByteString.CopyFromUtf8 tag) out

            match value with
            | EventValue.Scalar number ->
                out.WriteTag(2, WireFormat.WireType.Fixed32)
                out.WriteFloat(float32 number)
            | EventValue.Histogram counts -> part 5 (histogram counts) out
        )

    /// SessionLog.START
    let private start = 1L

    let private event (event: RunEvent) : ByteString =
        message (fun out ->
            double 1 event.WallTime out
            whole 2 event.Step out

            match event.Content with
            | EventContent.Version -> part 3 (ByteString.CopyFromUtf8 "brain.Event:2") out
            | EventContent.Values values ->
                part 5 (message (fun out -> values |> List.iter (fun item -> part 1 (value item) out))) out
            | EventContent.Resumed -> part 7 (message (whole 1 start)) out
        )

    // ---- records ----

    /// The record of an event.
    let ofEvent (e: RunEvent) : byte[] =
        let data = (event e).ToByteArray()
        let length, crc = Array.zeroCreate<byte> 8, Array.zeroCreate<byte> 4
        BinaryPrimitives.WriteInt64LittleEndian(Span length, int64 data.Length)

        let checksum (bytes: byte[]) =
            BinaryPrimitives.WriteUInt32LittleEndian(Span crc, maskedCrc bytes)
            Array.copy crc

        Array.concat [ length; checksum length; data; checksum data ]
