/// Masks of states (F21, B4).
module Ctkd.Fs.Tests.UpdaterTests

open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Parts
open Ctkd.Fs.Tests.Reference

let tests =
    testList "Updater" [
        test "the estimator descends its error, then the mask the error of masked states and its own size" {
            Tensor.scoped (fun () ->
                let pack = Updater.pack 3
                let masker, estimator = learner 1 pack, learner 2 pack
                let meanSquare (x: Tensor) = Tensor.toFloats x |> Array.averageBy (fun v -> v * v)

                for reward in [ Plain.number 0.4; normals 8 [ 7 ] ] do
                    let states = normals 1 [ 7; 3 ]
                    let error = meanSquare (Updater.estimate (Learner.weights estimator) states - reward)
                    let mask = Updater.mask (Learner.weights masker) states |> Tensor.clone

                    let struct (maskLoss, estimatorLoss) =
                        Updater.train RlkdUpdater.Estimated 5e-3 (burst 1) masker estimator reward states

                    Must.beNear 1e-12 0.0 error (Tensor.toFloat estimatorLoss)
                    // The mask's loss sees the estimator after its step.
                    let estimated = Updater.estimate (Learner.weights estimator) (mask * states)

                    Must.beNear
                        1e-12
                        0.0
                        (meanSquare (estimated - reward) + 5e-3 * Array.average (Tensor.toFloats mask))
                        (Tensor.toFloat maskLoss)
            )
        }

        test "the mask keeps what the estimator needs" {
            // States whose return is that of their sum: a mask that went to 0 would leave no way to tell them apart.
            Tensor.scoped (fun () ->
                let pack = Updater.pack 3
                let masker, estimator = learner 5 pack, learner 6 pack
                let states = Inputs.normal 7 [ 64; 3 ] |> Plain.ofDense |> Tensor.abs
                let returns = Tensor.sumOver 1 states
                let adam = Adam.ofRate 1e-2

                for update in 0..99 do
                    let steps = Adam.ahead adam 10 (Plain.number (10.0 * float update))

                    Updater.train RlkdUpdater.Estimated 5e-3 steps masker estimator returns states |> ignore

                let error states =
                    let difference = Updater.estimate (Pack.views pack estimator.Weights) states - returns
                    Tensor.mean (difference * difference) |> Tensor.toFloat

                let mask = Updater.mask (Pack.views pack masker.Weights) states
                let bound = 1.5 * max 0.01 (error states)
                Expect.isTrue (error (mask * states) < bound) $"{error (mask * states)} beyond {bound}"
                Must.lie 0.5 1.0 (Tensor.toFloat (Tensor.mean mask))
            )
        }

        test "the mask lets go of states that say nothing of the return" {
            Tensor.scoped (fun () ->
                let pack = Updater.pack 3
                let masker, estimator = learner 5 pack, learner 6 pack
                let states = Inputs.normal 7 [ 64; 3 ] |> Plain.ofDense |> Tensor.abs
                let adam = Adam.ofRate 1e-2

                for update in 0..149 do
                    let steps = Adam.ahead adam 10 (Plain.number (10.0 * float update))
                    // As of training: small, and of either sign whatever the states are.
                    let reward = Plain.number (if update % 2 = 0 then 0.05 else -0.05)
                    Updater.train RlkdUpdater.Estimated 5e-3 steps masker estimator reward states |> ignore

                let mask = Updater.mask (Pack.views pack masker.Weights) states |> Tensor.mean |> Tensor.toFloat

                Must.lie 0.0 0.05 mask
            )
        }

        test "as released the mask goes to 0" {
            Tensor.scoped (fun () ->
                let pack = Updater.pack 3
                let masker, estimator = learner 5 pack, learner 6 pack
                let untouched = Tensor.toFloats estimator.Weights
                let states = Inputs.normal 7 [ 64; 3 ] |> Plain.ofDense |> Tensor.abs
                let adam = Adam.ofRate 1e-3

                for update in 0..59 do
                    let steps = Adam.ahead adam 10 (Plain.number (10.0 * float update))

                    Updater.train RlkdUpdater.Collapsing 5e-3 steps masker estimator (Plain.number 0.3) states
                    |> ignore

                let mask = Updater.mask (Pack.views pack masker.Weights) states |> Tensor.mean |> Tensor.toFloat

                Must.lie 0.0 0.02 mask
                Must.beSame untouched (Tensor.toFloats estimator.Weights)
            )
        }

        test "masks of states" {
            reading (fun expected ->
                let pack = Updater.pack 3
                let states = trajectory 6
                let mask = Updater.mask (Pack.views pack (formulaFromLast pack)) states
                exactly (expected "state_detector.masks") mask
                exactly (expected "state_detector.masked_obs") (mask * states)
                exactly (expected "state_detector.loss1") (Tensor.sum mask)
            )
        }
    ]
