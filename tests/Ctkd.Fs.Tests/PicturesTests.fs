/// Correlations, and the pictures that are not line charts.
module Ctkd.Fs.Tests.PicturesTests

open System
open System.Xml.Linq
open Ctkd.Fs
open Ctkd.Fs.Tests.Generators
open FsCheck.FSharp
open Xunit

// ---- correlation ------------------------------------------------------------------------------------------

let private rows =
    gen {
        let! images = Gen.choose (3, 20)
        let! classes = Gen.choose (2, 6)
        return! many images (many classes (uniform -5.0 5.0))
    }

[<Fact>]
let ``a correlation matrix is symmetric, has a diagonal of 1 and lies in -1 .. 1`` () =
    check
        rows
        (fun logits ->
            let matrix = Correlation.matrix logits
            Expect.close 0.0 1e-12 (Array.concat matrix) (matrix |> Array.transpose |> Array.concat)
            Assert.All(Array.concat matrix, fun r -> Assert.InRange(r, -1.0 - 1e-12, 1.0 + 1e-12))
            Assert.All([ 0 .. matrix.Length - 1 ], fun c -> Assert.Equal(1.0, matrix[c][c]))
        )

[<Fact>]
let ``scaling and shifting a class's logits changes no correlation`` () =
    check
        rows
        (fun logits ->
            let moved = logits |> Array.map (Array.mapi (fun c z -> float (c + 1) * z - 3.0))
            let difference = Correlation.difference logits moved
            Expect.close 0.0 1e-10 (Array.zeroCreate difference.Length) (Array.map Array.sum difference)
            Expect.near 0.0 1e-10 0.0 (Correlation.distance difference)
        )

[<Fact>]
let ``opposite classes correlate to -1, and one that never changes to 0`` () =
    let logits = [| [| 1.0; -1.0; 0.1 |]; [| 2.0; -2.0; 0.1 |]; [| 4.0; -4.0; 0.1 |] |]
    let matrix = Correlation.matrix logits
    Expect.close 0.0 1e-12 [| 1.0; -1.0; 0.0 |] matrix[0]
    Assert.Equal<float[]>([| 0.0; 0.0; 1.0 |], matrix[2])
    Expect.refuses "logits" (fun () -> Correlation.matrix [| [| 1.0 |] |])

// ---- heat maps and scatter plots --------------------------------------------------------------------------

let private named (name: string) (svg: string) : XElement list =
    XDocument.Parse(svg).Descendants()
    |> Seq.filter (fun element -> element.Name.LocalName = name)
    |> List.ofSeq

let private attribute (name: string) (element: XElement) : string =
    match element.Attribute(XName.Get name) with
    | null -> ""
    | value -> value.Value

let private map (cells: float[][]) : HeatMap = {
    Title = "<Title> & co"
    Label = "class"
    Unit = "difference"
    Cells = cells
}

[<Fact>]
let ``the scale of a heat map is the next 1, 2 or 5 that no cell exceeds`` () =
    check
        (many 4 (uniform -30.0 30.0))
        (fun values ->
            let limit = HeatMap.limit [| values |]
            let largest = values |> Array.map abs |> Array.max
            Assert.True(limit >= largest * (1.0 - 1e-9) && limit <= 2.5 * largest + 1e-9)
        )

    Assert.Equal(0.2, HeatMap.limit [| [| 0.15; -0.12 |] |])
    Assert.Equal(1.0, HeatMap.limit [| [| 0.0; nan |] |])

[<Fact>]
let ``a heat map is an XML file that paints every cell that is not 0`` () =
    let svg = HeatMap.standalone 400 (map [| [| 0.0; 1.0 |]; [| -1.0; nan |] |])
    let painted = named "path" svg
    Assert.Equal(2, painted.Length)
    Assert.Equal(2, painted |> List.map (attribute "fill") |> List.distinct |> List.length)
    Assert.Contains("&lt;Title&gt; &amp; co", svg)
    Expect.refuses "map" (fun () -> HeatMap.standalone 400 (map [| [| 1.0 |]; [| 1.0 |] |]))

[<Fact>]
let ``a heat map of a hundred classes stays small`` () =
    let rng = Rng.ofSeed 1
    let cells = Rng.uniforms 1.0 10_000 rng |> Array.chunkBySize 100
    Assert.InRange((HeatMap.standalone 560 (map cells)).Length, 100_000, 500_000)

[<Fact>]
let ``a scatter plot marks each point and names each class, in six colours by four shapes`` () =
    let classes = List.init Scatter.mostClasses (fun c -> $"class {c}")

    let scatter = {
        Title = "t"
        Classes = classes
        Points = [ for c in 0 .. Scatter.mostClasses - 1 -> struct (float c, float (c * c)), c ]
    }

    let svg = Scatter.standalone 720 540 scatter
    let marks = named "path" svg @ named "circle" svg
    Assert.Equal(2 * Scatter.mostClasses, marks.Length)

    for name in classes do
        Assert.Contains($">{name}<", svg)

    let more = { scatter with Classes = "one more" :: classes }
    Expect.refuses "scatter" (fun () -> Scatter.standalone 720 540 more)

[<Fact>]
let ``a scatter plot of nothing, and of one point, is a picture too`` () =
    for points in [ []; [ struct (1.0, 1.0), 0 ]; [ struct (nan, 1.0), 0 ] ] do
        let svg = Scatter.standalone 10 10 { Title = ""; Classes = [ "a" ]; Points = points }
        Assert.DoesNotContain("NaN", svg, StringComparison.Ordinal)
        Assert.NotEmpty(named "svg" svg)
