/// Decoding and cropping beside PIL, in the interpreter that has PyTorch.
module Ctkd.Fs.Tests.PhotoPeerTests

open System
open System.IO
open Expecto
open Ctkd.Images
open Ctkd.Fs
open Ctkd.Fs.Tests.Folders
open Ctkd.Fs.Tests.PhotoFixtures

/// Writes images of all kinds and sizes into a folder, and prints name and CRC-32 of each: of its RGB bytes, and of crops that
/// are resized to 32 x 32.
let private script =
    """
import io, random, sys, zlib
from PIL import Image
r = random.Random(5)
out = sys.argv[1]

def picture(w, h):
    few = Image.frombytes('RGB', (max(1, w // 7), max(1, h // 7)), r.randbytes(3 * max(1, w // 7) * max(1, h // 7)))
    return Image.blend(few.resize((w, h), Image.BICUBIC), Image.frombytes('RGB', (w, h), r.randbytes(3 * w * h)), 0.2)

def kinds(im):
    for sub in (0, 1, 2):
        yield 'jpg', dict(quality=r.randrange(5, 100), subsampling=sub, progressive=r.random() < 0.3), im
    yield 'jpg', dict(quality=90), im.convert('L')
    yield 'jpg', dict(quality=80), im.convert('CMYK')
    yield 'png', {}, im
    yield 'png', {}, im.convert('L')
    yield 'png', {}, im.quantize(50)
    yield 'webp', dict(quality=60), im
    yield 'webp', dict(lossless=True), im
    yield 'bmp', {}, im
    yield 'gif', {}, im.quantize(64)

def crc(im):
    return zlib.crc32(im.tobytes())

n = 0
for w, h in [(1, 1), (8, 8), (17, 31), (64, 48), (101, 67), (250, 188), (333, 500)]:
    for ending, options, im in kinds(picture(w, h)):
        name = f'{n}.{ending}'
        n += 1
        im.save(f'{out}/{name}', **options)
        rgb = Image.open(f'{out}/{name}').convert('RGB')
        top, left = r.randrange(h), r.randrange(w)
        height, width = 1 + r.randrange(h - top), 1 + r.randrange(w - left)
        crop = rgb.crop((left, top, left + width, top + height)).resize((32, 32), Image.BILINEAR)
        flipped = crop.transpose(Image.FLIP_LEFT_RIGHT)
        print(name, w, h, crc(rgb), top, left, height, width, crc(crop), crc(flipped))
"""

let private crop (rgb: byte[]) (columns: int) (cut: Cut) : byte[] =
    let target = Array.zeroCreate<byte>(3 * 32 * 32)
    Resampler().Resize(ReadOnlySpan(Array.append rgb [| 0uy |]), 3, columns, &cut, Span target, 32, 32)
    target

let peer =
    testList "Photos" [
        test "images of every kind, and resized crops of them, have the bytes of PIL" {
            inFolder (fun folder ->
                let lines = (PyTorch.run script [ folder ] []).Trim().Split '\n'
                Must.equal 84 lines.Length

                for line in lines do
                    let words = line.Split ' '
                    let number i = int64 words[i]
                    let file = File.ReadAllBytes(Path.Combine(folder, words[0]))

                    for library in libraries do
                        let rgb, rows, columns = decodeBy library file
                        Must.equal (line, number 1, number 2) (line, int64 columns, int64 rows)
                        Must.equal (line, number 3) (line, int64 (crc rgb))

                        for mirror, expected in [ false, number 8; true, number 9 ] do
                            let at i = int (number i)
                            let cut = Cut(at 4, at 5, at 6, at 7, 32, 32, 0, 0, mirror)
                            Must.equal (line, expected) (line, int64 (crc (crop rgb columns cut)))
            )
        }
    ]
