module Ctkd.Fs.Tests.DecoderTests

open System
open System.Buffers.Binary
open Expecto
open Ctkd.Images
open Ctkd.Fs
open Ctkd.Fs.Tests.PhotoFixtures
open SkiaSharp

let private reasonOf (file: byte[]) : string =
    let reasons =
        libraries
        |> List.map (fun library -> (Must.throw<PhotoException>(fun () -> decodeBy library file |> ignore)).Message)

    Must.single (List.distinct reasons)

let private decodesTo (rgb: byte[]) (columns: int) (file: byte[]) : unit =
    for library in libraries do
        Must.equal (rgb, rgb.Length / 3 / columns, columns) (decodeBy library file)

/// Of a pattern without neighbours that are alike, by one of its channels.
let private channel (c: int) : byte[] = [|
    for y in 0 .. height - 1 do
        for x in 0 .. width - 1 -> (pixel x y)[c]
|]

let private deep (samples: int) (low: int -> byte) : byte[][] = [|
    for y in 0 .. height - 1 do
        [|
            for x in 0 .. width - 1 do
                for c in 0 .. samples - 1 do
                    yield! [| (pixel x y)[c]; low (x + 5 * y + c) |]
        |]
|]

let tests =
    testList "Decoder" [
        test "images of every kind decode to the bytes of PIL, with either library for JPEG" {
            for fixture in ofPil |> List.filter (fun fixture -> fixture.Name <> "transparent.gif") do
                for library in libraries do
                    let rgb, rows, columns = decodeBy library fixture.Bytes
                    Must.equal (fixture.Name, (fixture.Crc, height, width)) (fixture.Name, (crc rgb, rows, columns))
        }

        test "a decoder that is disposed twice frees what it holds once, and libjpeg-turbo decodes nothing after" {
            for library in libraries do
                let decoder = new Decoder(library)
                decoder.Dispose()
                decoder.Dispose()

                if library = JpegLibrary.Turbo then
                    Must.throw<ObjectDisposedException>(fun () ->
                        let mutable pixels = Array.empty<byte>
                        let mutable rows, columns = 0, 0
                        decoder.Decode(ReadOnlySpan(jpeg 1 30 20), &pixels, &rows, &columns)
                    )
                    |> ignore
        }

        test "of 16 bits the upper 8 are taken" {
            let low i = byte (37 * i)
            decodesTo pattern width (png 16 2 width (deep 3 low))
            let grey = channel 0 |> Array.collect (Array.replicate 3)
            decodesTo grey width (png 16 0 width (deep 1 low))
        }

        test "transparent pixels keep their colours, and those of a GIF are black" {
            let rgba = [|
                for y in 0 .. height - 1 do
                    [|
                        for x in 0 .. width - 1 do
                            yield! Array.append (pixel x y) [| byte (if x = 3 then 0 else 9 * x) |]
                    |]
            |]

            decodesTo pattern width (png 8 6 width rgba)
            let rgb, _, _ = decode (find "transparent.gif")
            let opaque, _, _ = decode (find "two frames.gif")

            let differing = [
                for i in 0 .. rgb.Length / 3 - 1 do
                    if rgb[3 * i .. 3 * i + 2] <> opaque[3 * i .. 3 * i + 2] then i
            ]

            Must.beNonEmpty differing
            Must.hold (differing |> List.forall (fun i -> rgb[3 * i .. 3 * i + 2] = [| 0uy; 0uy; 0uy |]))
        }

        test "plain PNG and BMP files decode to their pixels" {
            decodesTo pattern width (pngOf width pattern)
            decodesTo pattern width (bmp width pattern)
            decodesTo [| 9uy; 8uy; 7uy |] 1 (pngOf 1 [| 9uy; 8uy; 7uy |])
        }

        test "a header tells format, size and orientation" {
            let header (file: byte[]) = Decoder.ReadHeader(ReadOnlySpan file)
            Must.equal (PhotoHeader(PhotoFormat.Jpeg, width, height, 1)) (header (find "cmyk.jpg"))
            Must.equal (PhotoHeader(PhotoFormat.WebP, width, height, 1)) (header (find "lossy.webp"))
            Must.equal (PhotoHeader(PhotoFormat.Gif, width, height, 1)) (header (find "two frames.gif"))
            Must.equal (PhotoHeader(PhotoFormat.Bmp, width, height, 1)) (header (bmp width pattern))
            Must.equal (PhotoHeader(PhotoFormat.Png, width, height, 1)) (header (pngOf width pattern))
        }

        test "EXIF's orientation is told and does not turn the pixels" {
            let upright = find "420.jpg"
            let expected, _, _ = decode upright

            for orientation in 1..8 do
                let file = turned orientation upright
                decodesTo expected width file
                Must.equal orientation (Decoder.ReadHeader(ReadOnlySpan file)).Orientation
        }

        test "both libraries give the same bytes for sizes of every remainder, long sides and single pixels" {
            for columns, rows in [ 1, 1; 8191, 16; 16, 8191; 2, 3; 500, 375 ] @ [ for k in 15..33 -> k, 48 - k ] do
                let file = jpeg (columns + rows) columns rows
                let expected, _, _ = decode file
                decodesTo expected columns file
        }

        test "files that are no images say what they are" {
            Must.equal "it is empty" (reasonOf [||])
            Must.equal "it holds zeros instead of an image" (reasonOf (Array.zeroCreate 5000))
            Must.contain "HTML" (reasonOf "<!DOCTYPE html><html>Not found</html>"B)
            Must.contain "no JPEG, PNG" (reasonOf "BM is not always a bitmap, but may begin a text"B)
            Must.contain "TIFF" (reasonOf (Array.append "II*\000"B (Array.zeroCreate 99)))
            Must.contain "HEIC" (reasonOf (Array.append "\000\000\000\024ftypheic"B (Array.zeroCreate 99)))
            Must.contain "no JPEG, PNG" (reasonOf [| 0xFFuy; 0xD8uy; 0x12uy; 0uy; 0uy |])
        }

        test "an image cut at any place is refused, or complete without what is cut off" {
            for fixture in ofPil do
                let whole, _, _ = decode fixture.Bytes

                for length in 0 .. fixture.Bytes.Length - 1 do
                    for library in libraries do
                        let result =
                            try
                                let rgb, _, _ = decodeBy library fixture.Bytes[.. length - 1]
                                Some rgb
                            with :? PhotoException ->
                                None

                        // The ends of other files hold no pixels.
                        match result with
                        | Some _ when fixture.Name.EndsWith ".jpg" ->
                            failtest $"{fixture.Name} of {length} bytes is decoded"
                        | Some rgb -> Must.equal (fixture.Name, length, crc whole) (fixture.Name, length, crc rgb)
                        | None -> ()
        }

        test "a bomb is refused by its header before memory is taken" {
            for columns, rows in [ 60_000, 60_000; 10_001, 10_000; 65_536, 1; 1, 100_000 ] do
                let file = bomb columns rows
                let before = GC.GetAllocatedBytesForCurrentThread()
                Must.contain $"{columns} x {rows} pixels" (reasonOf file)
                Must.lie 0L 1_000_000L (GC.GetAllocatedBytesForCurrentThread() - before)

            let jpeg = Array.copy (find "420.jpg")
            // The frame's marker: two bytes, length, precision, then height and width.
            let frame = MemoryExtensions.IndexOf(ReadOnlySpan jpeg, ReadOnlySpan [| 0xFFuy; 0xC0uy |])
            BinaryPrimitives.WriteUInt16BigEndian(jpeg.AsSpan(frame + 5), 65_500us)
            BinaryPrimitives.WriteUInt16BigEndian(jpeg.AsSpan(frame + 7), 65_500us)
            Must.contain "65500 x 65500 pixels" (reasonOf jpeg)
        }

        test "what follows an image is ignored" {
            let expected, _, _ = decode (find "444.jpg")
            decodesTo expected width (Array.append (find "444.jpg") (Array.init 1000 byte))
        }

        test "libjpeg-turbo can be forced where it is installed, and is an error elsewhere" {
            if Decoder.HasTurbo then
                use decoder = new Decoder(JpegLibrary.Turbo)
                Must.hold (not (isNull (box decoder)))
            else
                Must.throw<DllNotFoundException>(fun () -> (new Decoder(JpegLibrary.Turbo)).Dispose()) |> ignore
        }

        test "2,000 damaged images are decoded or refused, by both libraries alike" {
            let sources = [|
                for fixture in ofPil do
                    fixture.Bytes
                bmp width pattern
                pngOf width pattern
                png 16 2 width (deep 3 byte)
                encoded SKEncodedImageFormat.Webp 60 40 30 (fun x y k -> x * y + 50 * k)
                turned 6 (jpeg 3 40 30)
            |]

            let mutable decoded, different = 0, 0

            for i in 0..1999 do
                let rng = Rng.ofSeed i
                let file = Array.copy sources[i % sources.Length]

                for k in 0 .. Rng.below 4 0 rng do
                    let at = Rng.below file.Length (3 * k + 1) rng

                    match Rng.below 3 (3 * k + 2) rng with
                    | 0 -> file[at] <- byte (Rng.below 256 (3 * k + 3) rng)
                    | 1 -> file[at] <- file[at] ^^^ (1uy <<< Rng.below 8 (3 * k + 3) rng)
                    | _ ->
                        let length = min (Rng.below 40 (3 * k + 3) rng) (file.Length - at)
                        Array.fill file at length 0xFFuy

                let results =
                    libraries
                    |> List.map (fun library ->
                        try
                            let rgb, rows, columns = decodeBy library file
                            Ok(crc rgb, rows, columns)
                        with :? PhotoException as problem ->
                            Error problem.Message
                    )

                let size = Result.map (fun (_, rows, columns) -> rows, columns)
                let outcome = results |> List.map size |> List.distinct |> Must.single
                if (List.distinct results).Length > 1 then different <- different + 1
                if Result.isOk outcome then decoded <- decoded + 1

            // Neither all nor none: the damage is neither too slight nor too great to test anything.
            Must.lie 200 1800 decoded
            // Where damage leads to coefficients beyond any image's, the sums of the libraries overflow differently.
            Must.lie 0 20 different
        }
    ]
