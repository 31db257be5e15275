namespace Ctkd.Fs

open System
open System.Buffers.Binary

/// The checksum of zip files.
[<RequireQualifiedAccess>]
module internal Crc32 =
    /// What one byte does to the checksum when `distance` bytes follow it, for the distances 0 to 7: eight
    /// bytes at a time are several times as fast as one.
    let private tables: uint32[][] =
        let shift (value: uint32) = if value &&& 1u = 1u then 0xEDB88320u ^^^ (value >>> 1) else value >>> 1

        let first = Array.init 256 (fun i -> Seq.fold (fun value _ -> shift value) (uint32 i) [ 1..8 ])
        let further = Array.map (fun value -> first[int (value &&& 0xFFu)] ^^^ (value >>> 8))
        Array.scan (fun table _ -> further table) first [| 1..7 |]

    /// The bytes of the number, each through the table of its distance from `last`.
    let private through (last: int) (value: uint32) : uint32 =
        tables[last][int (value >>> 24)]
        ^^^ tables[last + 1][int ((value >>> 16) &&& 0xFFu)]
        ^^^ tables[last + 2][int ((value >>> 8) &&& 0xFFu)]
        ^^^ tables[last + 3][int (value &&& 0xFFu)]

    /// The checksum of the bytes.
    let compute (bytes: ReadOnlySpan<byte>) : uint32 =
        let mutable value = UInt32.MaxValue
        let mutable i = 0

        while i + 8 <= bytes.Length do
            let low = BinaryPrimitives.ReadUInt32LittleEndian(bytes.Slice i)
            let high = BinaryPrimitives.ReadUInt32LittleEndian(bytes.Slice(i + 4))
            value <- through 4 (value ^^^ low) ^^^ through 0 high
            i <- i + 8

        while i < bytes.Length do
            value <- tables[0][int ((value ^^^ uint32 bytes[i]) &&& 0xFFu)] ^^^ (value >>> 8)
            i <- i + 1

        ~~~value
