/// Checks that the golden tests run all cases, except those of later versions.
module Ctkd.Fs.Tests.GoldenCoverageTests

open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Golden

let private ran = [ GoldenModelTests.models; GoldenLossTests.cases; GoldenTrajectoryTests.trajectories ]

let private named (items: Item list) : string list = items |> List.map _.Name

let tests =
    testList "GoldenCoverage" [
        test "the formulas give the numbers of the description" {
            Must.equal [| 0.99511418951024289; -0.3004053360985186; 0.5590885156314358 |] (units "input" 3)

            Tensor.scoped (fun () -> Must.equal [| 75L; 19L; 53L; 63L |] (Tensor.toInt64s (labels "labels" 4 100)))
        }

        test "something was found and runs" {
            Must.beNonEmpty (List.concat ran)

            if not elsewhere then
                let models = [
                    "resnet8"
                    "resnet20"
                    "resnet56"
                    "resnet8x4"
                    "wrn_16_2"
                    "vgg8"
                    "MobileNetV2"
                    "ShuffleV1"
                ]

                let losses = Map.keys GoldenFeatures.implemented |> List.ofSeq
                let expected = [ models; losses; [ "t1"; "t2"; "t3"; "t4" ] ]

                for expected, ran in List.zip expected ran do
                    Must.beEmpty (List.except (named ran) expected)
        }

        test "no loss case and no trajectory of ours is left aside" {
            if not elsewhere then
                Must.equal (named found.Value.Cases) (named GoldenLossTests.cases)
                Must.equal (named found.Value.Trajectories) (named GoldenTrajectoryTests.trajectories)
        }

        test "whatever is left aside is listed" {
            let found = found.Value

            let aside kind (all: Item list) (ran: Item list) = [
                for item in all do
                    if not (List.exists (fun r -> (r.File, r.Index) = (item.File, item.Index)) ran) then
                        $"{kind} {item.Name} ({item.File})"
            ]

            let lines =
                aside "model" found.Models GoldenModelTests.models
                @ aside "loss case" found.Cases GoldenLossTests.cases
                @ aside "trajectory" found.Trajectories GoldenTrajectoryTests.trajectories
                @ [ for file in found.Others -> $"a file of another form: {file}" ]

            if elsewhere && not lines.IsEmpty then
                printfn "of %s these are of later versions:\n%s" folder (String.concat "\n" lines)

            let total = found.Models.Length + found.Cases.Length + found.Trajectories.Length + found.Others.Length

            Must.equal total ((List.concat ran).Length + lines.Length)
        }
    ]
