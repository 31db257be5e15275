/// Correlations, and the pictures that are not line charts.
module Ctkd.Fs.Tests.PicturesTests

open System
open System.Xml.Linq
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Generators
open FsCheck.FSharp

// ---- correlation ------------------------------------------------------------------------------------------

let private rows =
    gen {
        let! images = Gen.choose (3, 20)
        let! classes = Gen.choose (2, 6)
        return! many images (many classes (uniform -5.0 5.0))
    }

// ---- heat maps and scatter plots --------------------------------------------------------------------------

let private named (name: string) (svg: string) : XElement list =
    XDocument.Parse(svg).Descendants() |> Seq.filter (fun element -> element.Name.LocalName = name) |> List.ofSeq

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

let tests =
    testList "Pictures" [
        testProperty "a correlation matrix is symmetric, has a diagonal of 1 and lies in -1 .. 1"
        <| forAll
            rows
            (fun logits ->
                let matrix = Correlation.matrix logits
                Must.beClose 0.0 1e-12 (Array.concat matrix) (matrix |> Array.transpose |> Array.concat)

                for r in Array.concat matrix do
                    Must.lie (-1.0 - 1e-12) (1.0 + 1e-12) r

                for c in [ 0 .. matrix.Length - 1 ] do
                    Must.equal 1.0 (matrix[c][c])
            )

        testProperty "scaling and shifting a class's logits changes no correlation"
        <| forAll
            rows
            (fun logits ->
                let moved = logits |> Array.map (Array.mapi (fun c z -> float (c + 1) * z - 3.0))
                let difference = Correlation.difference logits moved
                Must.beClose 0.0 1e-10 (Array.zeroCreate difference.Length) (Array.map Array.sum difference)
                Must.beNear 0.0 1e-10 0.0 (Correlation.distance difference)
            )

        test "opposite classes correlate to -1, and one that never changes to 0" {
            let logits = [| [| 1.0; -1.0; 0.1 |]; [| 2.0; -2.0; 0.1 |]; [| 4.0; -4.0; 0.1 |] |]
            let matrix = Correlation.matrix logits
            Must.beClose 0.0 1e-12 [| 1.0; -1.0; 0.0 |] matrix[0]
            Must.equal [| 0.0; 0.0; 1.0 |] matrix[2]
            Must.refuse "logits" (fun () -> Correlation.matrix [| [| 1.0 |] |])
        }

        test "the scale of a heat map is the next 1, 2 or 5 that no cell exceeds" {
            check
                (many 4 (uniform -30.0 30.0))
                (fun values ->
                    let limit = HeatMap.limit [| values |]
                    let largest = values |> Array.map abs |> Array.max
                    Must.hold (limit >= largest * (1.0 - 1e-9) && limit <= 2.5 * largest + 1e-9)
                )

            Must.equal 0.2 (HeatMap.limit [| [| 0.15; -0.12 |] |])
            Must.equal 1.0 (HeatMap.limit [| [| 0.0; nan |] |])
        }

        test "a heat map is an XML file that paints every cell that is not 0" {
            let svg = HeatMap.standalone 400 (map [| [| 0.0; 1.0 |]; [| -1.0; nan |] |])
            let painted = named "path" svg
            Must.equal 2 painted.Length
            Must.equal 2 (painted |> List.map (attribute "fill") |> List.distinct |> List.length)
            Must.contain "&lt;Title&gt; &amp; co" svg
            Must.refuse "map" (fun () -> HeatMap.standalone 400 (map [| [| 1.0 |]; [| 1.0 |] |]))
        }

        test "a heat map of a hundred classes stays small" {
            let rng = Rng.ofSeed 1
            let cells = Rng.uniforms 1.0 10_000 rng |> Array.chunkBySize 100
            Must.lie 100_000 500_000 ((HeatMap.standalone 560 (map cells)).Length)
        }

        test "a scatter plot marks each point and names each class, in six colours by four shapes" {
            let classes = List.init Scatter.mostClasses (fun c -> $"class {c}")

            let scatter = {
                Title = "t"
                Classes = classes
                Points = [ for c in 0 .. Scatter.mostClasses - 1 -> struct (float c, float (c * c)), c ]
            }

            let svg = Scatter.standalone 720 540 scatter
            let marks = named "path" svg @ named "circle" svg
            Must.equal (2 * Scatter.mostClasses) marks.Length

            for name in classes do
                Must.contain $">{name}<" svg

            let more = { scatter with Classes = "one more" :: classes }
            Must.refuse "scatter" (fun () -> Scatter.standalone 720 540 more)
        }

        test "a scatter plot of nothing, and of one point, is a picture too" {
            for points in [ []; [ struct (1.0, 1.0), 0 ]; [ struct (nan, 1.0), 0 ] ] do
                let svg = Scatter.standalone 10 10 { Title = ""; Classes = [ "a" ]; Points = points }
                Must.lack "NaN" svg
                Must.beNonEmpty (named "svg" svg)
        }
    ]
