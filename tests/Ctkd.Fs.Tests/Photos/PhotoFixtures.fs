/// Images that tests make, and those that PIL made.
module Ctkd.Fs.Tests.PhotoFixtures

open System
open System.Buffers.Binary
open System.IO
open System.IO.Compression
open System.IO.Hashing
open Ctkd.Images
open SkiaSharp
open Ctkd.Fs.Tests.PilImages

let width, height = 29, 19

/// The pattern's three values at a place.
let pixel (x: int) (y: int) : byte[] = [| byte (7 * x + 13 * y); byte (x * y * 3 + 40); byte (255 - 9 * x + 2 * y) |]

/// The pattern as RGB.
let pattern: byte[] = [|
    for y in 0 .. height - 1 do
        for x in 0 .. width - 1 do
            yield! pixel x y
|]

let crc (bytes: byte[]) : uint32 = Crc32.HashToUInt32(ReadOnlySpan bytes)

/// A PNG file of rows of bytes, the depth and the kind of colour as PNG numbers them.
let png (depth: int) (colour: int) (columns: int) (rows: byte[][]) : byte[] =
    let big (value: uint32) =
        let bytes = Array.zeroCreate<byte> 4
        BinaryPrimitives.WriteUInt32BigEndian(Span bytes, value)
        bytes

    let chunk (name: string) (body: byte[]) =
        let named = Array.append (Text.Encoding.ASCII.GetBytes name) body
        Array.concat [ big (uint32 body.Length); named; big (crc named) ]

    let header =
        Array.concat [ big (uint32 columns); big (uint32 rows.Length); [| byte depth; byte colour; 0uy; 0uy; 0uy |] ]

    use packed = new MemoryStream()

    using
        (new ZLibStream(packed, CompressionLevel.Optimal))
        (fun stream -> rows |> Array.iter (fun row -> stream.Write(Array.append [| 0uy |] row, 0, row.Length + 1)))

    Array.concat [
        [| 0x89uy; 0x50uy; 0x4Euy; 0x47uy; 0x0Duy; 0x0Auy; 0x1Auy; 0x0Auy |]
        chunk "IHDR" header
        chunk "IDAT" (packed.ToArray())
        chunk "IEND" [||]
    ]

/// A PNG file of RGB bytes.
let pngOf (columns: int) (rgb: byte[]) : byte[] = png 8 2 columns (Array.chunkBySize (3 * columns) rgb)

/// A PNG file whose header declares a size, without the pixels.
let bomb (columns: int) (rows: int) : byte[] =
    let file = pngOf 1 [| 1uy; 2uy; 3uy |]
    BinaryPrimitives.WriteInt32BigEndian(file.AsSpan 16, columns)
    BinaryPrimitives.WriteInt32BigEndian(file.AsSpan 20, rows)
    BinaryPrimitives.WriteUInt32BigEndian(file.AsSpan 29, crc file[12..28])
    file

/// A Windows bitmap of RGB bytes.
let bmp (columns: int) (rgb: byte[]) : byte[] =
    let rows = rgb.Length / 3 / columns
    let stride = (3 * columns + 3) / 4 * 4
    let file = Array.zeroCreate<byte>(54 + stride * rows)
    "BM"B.CopyTo(file, 0)
    let put (at: int) (value: int) = BinaryPrimitives.WriteInt32LittleEndian(file.AsSpan at, value)
    List.iter2 put [ 2; 10; 14; 18; 22 ] [ file.Length; 54; 40; columns; rows ]
    file[26] <- 1uy
    file[28] <- 24uy

    for y in 0 .. rows - 1 do
        for i in 0 .. 3 * columns - 1 do
            // Rows from below, blue first.
            file[54 + (rows - 1 - y) * stride + i] <- rgb[3 * (columns * y + i / 3) + 2 - i % 3]

    file

/// An image encoded by Skia: pixels by a formula of place and channel.
let encoded (format: SKEncodedImageFormat) (quality: int) (columns: int) (rows: int) (value: int -> int -> int -> int) =
    use bitmap = new SKBitmap(columns, rows, SKColorType.Rgba8888, SKAlphaType.Opaque)

    bitmap.Pixels <-
        Array.init
            (columns * rows)
            (fun i ->
                let c k = byte (value (i % columns) (i / columns) k)
                SKColor(c 0, c 1, c 2)
            )

    use data = bitmap.Encode(format, quality)
    data.ToArray()

/// A JPEG file with a smooth pattern that depends on a number.
let jpeg (seed: int) (columns: int) (rows: int) : byte[] =
    encoded SKEncodedImageFormat.Jpeg 85 columns rows (fun x y k -> x * (k + 1) + y * 2 + seed * 37)

/// A JPEG file with EXIF's orientation.
let turned (orientation: int) (file: byte[]) : byte[] =
    let exif =
        Array.concat [
            [| 0xFFuy; 0xE1uy; 0uy; 34uy |]
            "Exif\000\000"B
            "MM\000*\000\000\000\b"B
            [|
                0uy
                1uy
                0x01uy
                0x12uy
                0uy
                3uy
                0uy
                0uy
                0uy
                1uy
                0uy
                byte orientation
                0uy
                0uy
                0uy
                0uy
                0uy
                0uy
            |]
        ]

    Array.concat [ file[..1]; exif; file[2..] ]

/// Decodes with a library for JPEG. Returns RGB, rows and columns.
let decodeBy (library: JpegLibrary) (file: byte[]) : byte[] * int * int =
    use decoder = new Decoder(library)
    let mutable pixels = Array.empty<byte>
    let mutable rows, columns = 0, 0
    decoder.Decode(ReadOnlySpan file, &pixels, &rows, &columns)
    Array.init (3 * rows * columns) (fun i -> pixels[i / 3 * 4 + i % 3]), rows, columns

let decode: byte[] -> byte[] * int * int = decodeBy JpegLibrary.Skia

/// The libraries for JPEG that are installed.
let libraries: JpegLibrary list =
    JpegLibrary.Skia :: (if Decoder.HasTurbo then [ JpegLibrary.Turbo ] else [])

/// What PIL made.
let ofPil: Fixture list = PilImages.all

/// One of them.
let find (name: string) : byte[] = (ofPil |> List.find (fun fixture -> fixture.Name = name)).Bytes
