module Ctkd.Fs.Tests.CellsTests

open System.Security.Cryptography
open System.Text
open Expecto
open Ctkd.Fs

let private load () : Splits = Datasets.load "cells" None |> Error.orRaise

let private photos (set: ImageSet) : PhotoSet =
    match set.Images with
    | Pixels.InFiles photos -> photos
    | Pixels.InMemory _ -> failwith "cells are photographs"

let private bytes (set: ImageSet) : byte[][] =
    let source = (photos set).Source

    Array.init
        source.Count
        (fun i ->
            let mutable buffer = Array.empty<byte>
            let length = source.Read(i, &buffer)
            Array.truncate length buffer
        )

/// The photograph that a cell was cut from: SPLIT/KIND/PHOTOGRAPH_BOX.jpg.
let private photograph (path: string) : string =
    let name = Array.last (path.Split '/')
    name.Substring(0, name.LastIndexOf '_')

let private settings (assignments: string list) : Settings =
    (assignments |> List.map (Resolve.set >> Error.orRaise) |> Resolve.settings None |> Error.orRaise).Settings

let tests =
    testList "Cells" [
        test "each kind of cell has 150 photographs to train with and 50 to test with" {
            let cells = load ()
            Must.equal [ "platelet"; "red blood cell"; "white blood cell" ] cells.ClassNames

            for set, count in [ cells.Train, 150; cells.Test, 50 ] do
                Must.hold (Result.isOk (ImageSet.create "embedded" set))

                Must.equal (List.replicate 3 count) [
                    for kind in 0..2 -> set.Labels |> Array.filter ((=) kind) |> Array.length
                ]
        }

        test "no cell of a test photograph is trained with, and each label is its folder's" {
            let cells = load ()
            let from (set: ImageSet) = (photos set).Files.Paths |> Array.map photograph |> Set
            Must.beEmpty (Set.toList (Set.intersect (from cells.Train) (from cells.Test)))
            Must.hold ((from cells.Train).Count > 200)

            for set in [ cells.Train; cells.Test ] do
                for path, label in Array.zip (photos set).Files.Paths set.Labels do
                    Must.equal cells.ClassNames[label] (path.Split('/')[1])
        }

        test "the embedded file is below a megabyte and every photograph is as it was packed, no side above 64 pixels" {
            use stream = typeof<Splits>.Assembly.GetManifestResourceStream "cells.zip" |> nonNull
            Must.lie 1L 1_000_000L stream.Length
            let cells = load ()

            for set in [ cells.Train; cells.Test ] do
                for jpeg in bytes set do
                    let header = Ctkd.Images.Decoder.ReadHeader(System.ReadOnlySpan jpeg)
                    Must.lie 1 64 (max header.Height header.Width)

            // Computed by Python's zipfile and hashlib over names and bytes in order.
            let hash =
                [ cells.Train; cells.Test ]
                |> Seq.collect (fun set -> Seq.zip (photos set).Files.Paths (bytes set))
                |> Seq.collect (fun (path, jpeg) -> Seq.append (Encoding.UTF8.GetBytes path) jpeg)
                |> Array.ofSeq
                |> SHA256.HashData
                |> System.Convert.ToHexStringLower

            Must.equal "141792cadc9554d21edb95863695dac7f2e0ee451675d7024e47fe508caef955" hash
        }

        test
            "cells are seen at 48 x 48 pixels for 60 epochs, and other photographs at 224 x 224, unless another size is given" {
            Must.equal (48, 60) (let s = settings [ "data=cells" ] in s.Photos.Size, s.Epochs)

            Must.equal
                (32, 5)
                (let s = settings [ "data=cells"; "photos.size=32"; "epochs=5" ] in s.Photos.Size, s.Epochs)

            Must.equal (224, 100) (let s = settings [ "data=photos" ] in s.Photos.Size, s.Epochs)
            Must.equal 224 (settings [ "data=cells"; "photos.size=224" ]).Photos.Size
        }

        test "a recipe on cells sees them at 48 x 48 pixels" {
            let recipe = Recipes.find "ctkd/vgg13-vgg8/kd/ctkd-global" |> Error.orRaise
            let asked = [ Resolve.set "data=cells" |> Error.orRaise ]
            Must.equal 48 (Resolve.settings (Some recipe) asked |> Error.orRaise).Settings.Photos.Size
            Must.equal 224 (Resolve.settings (Some recipe) [] |> Error.orRaise).Settings.Photos.Size
        }
    ]
