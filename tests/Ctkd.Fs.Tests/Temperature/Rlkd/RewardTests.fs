/// The reward's factors and accuracies (F17, F18, F27).
module Ctkd.Fs.Tests.RewardTests

open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Reference

let tests =
    testList "Reward" [
        test "the reward's factors by epoch" {
            reading (fun expected ->
                let check key kind epochs =
                    for epoch in epochs do
                        Must.beClose 1e-6 0.0 (expected $"{key}.{epoch}") [| Reward.factor kind epoch |]

                check "reward_mult_official_cifar" RlkdFactor.CosineCifar [ 20..20..240 ]
                check "reward_mult_official_imagenet" RlkdFactor.CosineImageNet [ 20..20..120 ]
                check "recommended.ramp_E80" (RlkdFactor.Ramp 80) [ 20; 40; 60; 80; 100; 240 ]
            )
        }

        test "the accuracy of a batch, over instances and over classes" {
            reading (fun expected ->
                let accuracy kind = Reward.accuracy kind (labels ()) (student ())
                exactly (expected "recommended.micro_acc") (accuracy RlkdAccuracy.Micro)
                exactly (expected "macro_acc.value") (accuracy RlkdAccuracy.Macro)
                // Predictions 0 0 1 2 for 0 0 0 1 of four classes.
                let predictions = [| 0; 0; 1; 2 |]
                let logits = tabulate 4 4 (fun i j -> if predictions[int i] = int j then 1.0 else 0.0)
                let labels = Tensor.ofInt64s [ 4 ] [| 0L; 0L; 0L; 1L |]
                exactly [| 2.0 / 9.0 |] (Reward.accuracy RlkdAccuracy.Macro labels logits)
                exactly [| 0.5 |] (Reward.accuracy RlkdAccuracy.Micro labels logits)
            )
        }
    ]
