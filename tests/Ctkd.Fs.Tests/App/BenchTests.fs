module Ctkd.Fs.Tests.BenchTests

open Expecto
open Ctkd.Fs
open Ctkd.Fs.App
open Ctkd.Fs.App.BenchSides

let private sides = BenchSides.all Device.Cpu (Some "ctkd.dll")

let private chosen (names: string list) (precision: string option) : string list =
    BenchSides.choose names precision sides |> Error.orRaise |> List.map _.Name

let private refused (names: string list) (precision: string option) (sides: Side list) : Error =
    match BenchSides.choose names precision sides with
    | Ok chosen -> failtest $"{names} chooses {chosen}"
    | Result.Error error -> error

let tests =
    testList "Bench" [
        test "a side is chosen by its name alone, and by how its name begins" {
            for side in sides do
                Must.equal [ side ] (BenchSides.choose [ side.Name ] None sides |> Error.orRaise)

            Must.equal [ "ours-f32"; "ours-bf16" ] (chosen [ "ours" ] None)
            Must.equal 4 (chosen [ "torchsharp" ] None).Length

            Must.equal [ "torchsharp-tuned-f32"; "torchsharp-tuned-bf16" ] (chosen [ "torchsharp-tuned" ] None)

            Must.equal [ "pytorch-published-f32" ] (chosen [ "pytorch-published" ] None)
        }

        test "sides keep their order, come once, and may be of one precision" {
            let expected = [ "ours-bf16"; "beside-bf16"; "pytorch-bf16"; "pytorch-tuned-bf16" ]
            Must.equal expected (chosen [ "pytorch"; "ours"; "beside"; "ours-bf16" ] (Some "bf16"))
        }

        test "a name that no side bears is refused with the nearest, and so is a choice that leaves none" {
            for names in [ [ "ours"; "torchsharp-tune" ]; [ "" ]; [ "ours-" ]; [ "f32" ] ] do
                let error = refused names None sides
                Must.equal Usage error.Kind
                Must.contain $"unknown side '{List.last names}'" error.What

            let unnamed = BenchSides.all Device.Cpu None
            Must.contain "unknown side 'beside'" (refused [ "beside" ] None unnamed).What

            let error = refused [ "pytorch-published" ] (Some "bf16") sides
            Must.contain "no side is left" error.What
        }

        test "ours is compared with every other side of its precision, start by start" {
            let sides = sides |> BenchSides.choose [ "ours"; "beside"; "torchsharp-f32" ] None |> Error.orRaise

            Must.equal
                [ "ours-f32"; "ours-bf16"; "beside-f32"; "beside-bf16"; "torchsharp-f32" ]
                (sides |> List.map _.Name)

            // Seconds of the sides in two rounds of one start and one of another.
            let seconds = [
                [| [| 1.0; 0.5; 2.0; 0.25; 3.0 |]; [| 2.0; 0.5; 2.0; 0.5; 8.0 |] |]
                [| [| 1.0; 0.5; 3.0; 1.0; 5.0 |] |]
            ]

            let found = Bench.ratios sides "step" seconds

            Must.equal [
                "ours-f32", "beside-f32", 2.0, [ 1.5; 3.0 ]
                "ours-f32", "torchsharp-f32", 4.0, [ 3.5; 5.0 ]
                "ours-bf16", "beside-bf16", 1.0, [ 0.75; 2.0 ]
            ] [ for ratio in found -> ratio.Ours, ratio.Theirs, ratio.Times.Median, ratio.Starts ]

            Must.equal { Median = 2.0; Low = 1.0; High = 3.0 } found.Head.Times
            Must.equal [ "step"; "step"; "step" ] [ for ratio in found -> ratio.Part ]
        }
    ]
