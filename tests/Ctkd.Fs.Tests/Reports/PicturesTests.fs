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
    Names = []
    Unit = "difference"
    Cells = cells
}

/// The labels along an axis.
let private ticks (axis: string) (svg: string) : string list =
    named "text" svg |> List.filter (attribute "class" >> (=) $"tick {axis}") |> List.map _.Value

/// One point of each class, on a grid.
let private square (classes: int) : Scatter = {
    Title = "t"
    Classes = List.init classes (fun c -> $"class {c}")
    Points = [ for c in 0 .. classes - 1 -> struct (float (c % 10), float (c / 10)), c ]
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

        test "a heat map is an XML file that paints every cell that is not 0 and crosses what is no number" {
            let svg = HeatMap.standalone 400 (map [| [| 0.0; 1.0 |]; [| -1.0; nan |] |])
            let painted, crosses = named "path" svg |> List.partition (attribute "fill" >> (<>) "")
            Must.single crosses |> ignore
            Must.contain "not a number" svg
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

        test "a heat map has a title on both axes and a tick for each of a few classes" {
            let svg = HeatMap.standalone 560 (map (Array.init 10 (fun _ -> Array.zeroCreate 10)))
            Must.equal 2 (named "text" svg |> List.filter (fun text -> text.Value = "class")).Length

            for axis in [ "x"; "y" ] do
                Must.equal [ for c in 0..9 -> string c ] (ticks axis svg)
        }

        test "a heat map of many classes has ticks at round numbers that do not touch" {
            for classes in [ 37; 100; 200; 1000 ] do
                for width in [ 240; 560; 1200 ] do
                    let svg = HeatMap.standalone width (map (Array.init classes (fun _ -> Array.zeroCreate classes)))

                    for axis in [ "x"; "y" ] do
                        let numbers = ticks axis svg |> List.map int
                        let step = numbers[1] - numbers[0]
                        Must.equal [ 0..step .. classes - 1 ] numbers
                        Must.have step [ 1; 2; 5; 10; 20; 50; 100; 200; 500 ]
                        Must.lie 2 100 numbers.Length

                    let places =
                        named "text" svg
                        |> List.filter (attribute "class" >> (=) "tick y")
                        |> List.map (attribute "y" >> float)

                    for a, b in List.pairwise places do
                        Must.lie 12.0 1000.0 (b - a)
        }

        test "a heat map names its classes where the names have room, else it numbers them" {
            let names = ClassNames.ofData "cifar100"
            let cells count = Array.init count (fun _ -> Array.zeroCreate count)
            let svg = HeatMap.standalone 560 { map (cells 10) with Names = List.truncate 10 names }
            Must.equal (List.truncate 10 names) (ticks "x" svg)
            Must.equal (List.truncate 10 names) (ticks "y" svg)
            let many = HeatMap.standalone 560 { map (cells 100) with Names = names }
            Must.equal [ for c in 0..10..90 -> string c ] (ticks "x" many)
            Must.refuse "map" (fun () -> HeatMap.standalone 560 { map (cells 3) with Names = [ "a" ] })
        }

        test "the known data sets have as many class names as classes" {
            for data, classes in [ "digits", 10; "cells", 3; "cifar10", 10; "cifar100", 100; "file", 0 ] do
                Must.equal classes (List.distinct (ClassNames.ofData data)).Length
        }

        test "a scatter plot marks each point and names each class in a legend where it has room" {
            let svg = Scatter.standalone 720 540 (square 24)
            Must.equal (2 * 24) (named "path" svg @ named "circle" svg).Length

            for c in 0..23 do
                Must.contain $">class {c}<" svg

            Must.beEmpty (named "text" svg |> List.filter (attribute "class" >> (=) "over"))
        }

        test "a hundred classes are named at their centres, within the picture and apart from each other" {
            let svg = Scatter.standalone 720 540 { square 100 with Classes = List.init 100 string }
            Must.equal 100 (named "path" svg @ named "circle" svg).Length
            let names = named "text" svg |> List.filter (attribute "class" >> (=) "over")
            Must.equal [ for c in 0..99 -> string c ] (names |> List.map _.Value)
            let places = names |> List.map (fun text -> float (attribute "x" text), float (attribute "y" text))

            for x, y in places do
                Must.lie 0.0 720.0 x
                Must.lie 10.0 540.0 y

            for (i, (x, y)), (j, (u, v)) in List.allPairs (List.indexed places) (List.indexed places) do
                if i < j then Must.hold (abs (x - u) >= 12.0 || abs (y - v) >= 12.0)

            Must.refuse "scatter" (fun () -> Scatter.standalone 720 540 (square (Scatter.mostClasses + 1)))
        }

        test "a scatter plot of nothing, one point or no number says so or draws it" {
            for points in [ []; [ struct (1.0, 1.0), 0 ]; [ struct (nan, 1.0), 0 ] ] do
                let svg = Scatter.standalone 10 10 { Title = ""; Classes = [ "a" ]; Points = points }
                Must.lack "NaN" svg
                Must.beNonEmpty (named "svg" svg)
        }
    ]
