// Packs the handwritten digits of the UCI repository into the library's resource src/Ctkd.Fs/Data/digits.bin.
//
//     dotnet fsi scripts/_pack-digits.fsx FOLDER
//
// FOLDER holds optdigits.tra and optdigits.tes: one image a line, 64 values from 0 to 16 and the digit.
// The resource is Brotli over one plane after another, first the 64 pixel planes, then the labels; a plane is one
// byte for each of the 3,823 training images and the 1,797 test images. Planes compress better than images.
open System.IO
open System.IO.Compression

let parse (line: string) : byte[] =
    let values = line.Split ',' |> Array.map byte

    if values.Length <> 65 || Array.exists (fun v -> v > 16uy) values || values[64] > 9uy then
        failwith $"no image of a digit: {line}"

    values

let read (expected: int) (path: string) : byte[][] =
    let rows = File.ReadLines path |> Seq.map parse |> Array.ofSeq

    if rows.Length <> expected then
        failwith $"{path} holds {rows.Length} images, expected are {expected}"

    rows

let compress (bytes: byte[]) : byte[] =
    use target = new MemoryStream()

    using (new BrotliStream(target, CompressionLevel.SmallestSize)) (fun brotli -> brotli.Write(bytes, 0, bytes.Length))

    target.ToArray()

match fsi.CommandLineArgs with
| [| _; folder |] ->
    let file (name: string) = Path.Combine(folder, name)
    let rows = Array.append (read 3823 (file "optdigits.tra")) (read 1797 (file "optdigits.tes"))
    let packed = compress (Array.concat (Array.transpose rows))
    let target = Path.Combine(__SOURCE_DIRECTORY__, "..", "src", "Ctkd.Fs", "Data", "digits.bin")
    File.WriteAllBytes(target, packed)
    printfn $"{Path.GetFullPath target}: {packed.Length} bytes"
| _ ->
    eprintfn "usage: dotnet fsi scripts/_pack-digits.fsx FOLDER (with optdigits.tra and optdigits.tes)"
    exit 2
