/// The epochs of acting, learning and mixing (F23), and the validation.
module Ctkd.Fs.Tests.RlkdConfigTests

open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Reference

let tests =
    testList "RlkdConfig" [
        test "the paper's agent chooses from epoch 20 on, learns in every 20th and mixes until 150" {
            let epochs f = [ 1..240 ] |> List.filter f
            Must.equal [ 20..240 ] (epochs (RlkdConfig.chooses RlkdConfig.paper))
            Must.equal [ 20..20..240 ] (epochs (RlkdConfig.learns RlkdConfig.paper))
            let mixed config = epochs (RlkdConfig.mixes config >> Option.isSome)
            Must.equal [ 40..20..140 ] (mixed RlkdConfig.paper)
            Must.equal [ 40..20..240 ] (mixed RlkdConfig.official)
            Must.beEmpty (mixed { RlkdConfig.paper with Mixing = None })
            // The first epoch has no entropies to rank by.
            let always = { RlkdConfig.paper with WarmUp = 0; Every = 1 }
            Must.equal [ 2..150 ] (mixed always)
        }

        test "images are mixed in the epochs of learning but the first" {
            reading (fun expected ->
                let epochs = [ 1..60 ] |> List.filter (RlkdConfig.mixes RlkdConfig.official >> Option.isSome)
                // The reference counts from 0 and looks at an epoch's end.
                let ends = epochs |> List.map (fun e -> float (e - 2)) |> Array.ofList
                Must.equal (expected "mix_epochs_zero_based_end") ends
            )
        }

        test "the published agents have no mistakes, and all mistakes are named at once" {
            Must.beEmpty (RlkdConfig.mistakes RlkdConfig.paper)
            Must.beEmpty (RlkdConfig.mistakes RlkdConfig.official)
            let wrong = { RlkdConfig.paper with Every = 0; CoolestT = 10.0; Factor = RlkdFactor.Ramp 0 }
            Must.equal 3 (RlkdConfig.mistakes wrong).Length
        }
    ]
