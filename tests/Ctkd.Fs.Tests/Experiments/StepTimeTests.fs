module Ctkd.Fs.Tests.StepTimeTests

open Expecto
open Ctkd.Fs

let tests =
    testList "StepTime" [
        test "the time of a run is its steps and evaluations, and needs no trained teacher" {
            let s = {
                Runs.small with
                    Subset = 500
                    Teacher = "resnet14"
                    TeacherWeights = "none yet"
                    Epochs = 3
            }

            let time = StepTime.measure s |> Error.orRaise
            Must.equal (32, 3) (time.StepsPerEpoch, time.Epochs)
            Must.hold (time.Step > 0.0 && time.Test > 0.0)
            Must.beNear 1e-12 0.0 (3.0 * (32.0 * time.Step + time.Test)) time.Run
        }

        test "settings without data or with an unknown model are errors" {
            Must.equal
                (Result.Error Usage)
                (StepTime.measure { Runs.small with Data = "cifar10" } |> Result.mapError _.Kind)

            Must.equal
                (Result.Error Usage)
                (StepTime.measure { Runs.small with Student = "none" } |> Result.mapError _.Kind)
        }
    ]
