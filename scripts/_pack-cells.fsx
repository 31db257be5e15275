// Packs photographs of blood cells into the library's resource src/Ctkd.Fs/Data/Cells/cells.zip.
//
//     dotnet fsi scripts/_pack-cells.fsx FOLDER
//
// FOLDER holds BCCD (github Shenggan/BCCD_Dataset) with its boxes as COCO's JSON: images/, instances_train.json and
// instances_val.json, which share no photograph. Each box of 20 pixels a side or more is a cell. Of each kind 150 are taken
// for training and 50 for the test, in the order of the SHA-256 of their names; they are cut out, made smaller until no side
// is longer than 64 pixels, and stored as JPEG under train/KIND/ or val/KIND/, named PHOTOGRAPH_BOX.jpg.
#r "nuget: SkiaSharp, 4.155.0"
#r "nuget: SkiaSharp.NativeAssets.Linux.NoDependencies, 4.155.0"

open System
open System.IO
open System.IO.Compression
open System.Security.Cryptography
open System.Text
open System.Text.Json
open SkiaSharp

let perKind = [ "train", 150; "val", 50 ]
let shortest, longest, quality = 20, 64, 85

let kinds = Map [ "RBC", "red blood cell"; "WBC", "white blood cell"; "Platelets", "platelet" ]

type Cell = { Photograph: string; Kind: string; Name: string; Box: SKRectI }

let cells (path: string) : Cell list =
    use file = JsonDocument.Parse(File.ReadAllText path)
    let items (name: string) = file.RootElement.GetProperty(name).EnumerateArray() |> List.ofSeq
    let text (name: string) (item: JsonElement) = item.GetProperty(name).GetString()
    let number (name: string) (item: JsonElement) = item.GetProperty(name).GetInt64()
    let names = Map [ for item in items "categories" -> number "id" item, kinds[text "name" item] ]
    let photographs = Map [ for item in items "images" -> number "id" item, text "file_name" item ]

    [
        for item in items "annotations" do
            let box = [ for side in item.GetProperty("bbox").EnumerateArray() -> int (side.GetDouble()) ]

            match box with
            | [ left; top; width; height ] when min width height >= shortest ->
                let photograph = photographs[number "image_id" item]
                let id = number "id" item

                {
                    Photograph = photograph
                    Kind = names[number "category_id" item]
                    Name = $"{Path.GetFileNameWithoutExtension photograph}_{id}.jpg"
                    Box = SKRectI(left, top, left + width, top + height)
                }
            | _ -> ()
    ]

let order (cell: Cell) : string = cell.Name |> Encoding.UTF8.GetBytes |> SHA256.HashData |> Convert.ToHexString

let chosen (count: int) (cells: Cell list) : Cell list = [
    for kind, own in cells |> List.groupBy _.Kind do
        if own.Length < count then
            failwith $"there are {own.Length} of '{kind}', {count} are needed"

        yield! own |> List.sortBy order |> List.truncate count
]

let jpeg (images: string) (cell: Cell) : byte[] =
    use photograph = SKBitmap.Decode(Path.Combine(images, cell.Photograph))
    use cut = new SKBitmap()

    if not (photograph.ExtractSubset(cut, cell.Box)) then
        failwith $"the box of {cell.Name} is outside its photograph"

    let scale = min 1.0 (float longest / float (max cut.Width cut.Height))
    let side (length: int) = max 1 (int (Math.Round(scale * float length)))
    let info = SKImageInfo(side cut.Width, side cut.Height, cut.ColorType, cut.AlphaType)
    use small = cut.Resize(info, SKSamplingOptions(SKFilterMode.Linear, SKMipmapMode.Linear))
    use data = small.Encode(SKEncodedImageFormat.Jpeg, quality)
    data.ToArray()

match fsi.CommandLineArgs with
| [| _; folder |] ->
    let target = Path.Combine(__SOURCE_DIRECTORY__, "..", "src", "Ctkd.Fs", "Data", "Cells", "cells.zip")
    File.Delete target

    using
        (ZipFile.Open(target, ZipArchiveMode.Create))
        (fun zip ->
            for part, count in perKind do
                let all = cells (Path.Combine(folder, $"instances_{part}.json"))

                for cell in chosen count all |> List.sortBy (fun cell -> cell.Kind, cell.Name) do
                    // JPEG is compressed already.
                    let entry = zip.CreateEntry($"{part}/{cell.Kind}/{cell.Name}", CompressionLevel.NoCompression)
                    entry.LastWriteTime <- DateTimeOffset(1980, 1, 1, 0, 0, 0, TimeSpan.Zero)
                    use stream = entry.Open()
                    stream.Write(ReadOnlySpan(jpeg (Path.Combine(folder, "images")) cell))
        )

    printfn $"{Path.GetFullPath target}: {FileInfo(target).Length} bytes"
| _ ->
    eprintfn
        "usage: dotnet fsi scripts/_pack-cells.fsx FOLDER (with images/, instances_train.json and instances_val.json)"

    exit 2
