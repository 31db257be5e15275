/// Every distiller under every policy, as a plan trains them.
module Ctkd.Fs.Tests.TrainDistillerTests

open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Plans
open Ctkd.Fs.Tests.DistillerPlans

let private finite (what: string) (tree: Tree) : unit =
    for name, x in Tree.toList tree do
        if not (Array.forall System.Double.IsFinite (Tensor.toFloats x)) then
            failtest $"{what}: {name} is not finite"

let tests =
    testList "TrainDistiller" [
        test "every distiller under every policy trains two steps with finite gradients at every batch size" {
            for batch in [ 1; 2; 7; 64 ] do
                Tensor.scoped (fun () ->
                    let set = upload images { alone with Student = student }

                    for policy in everyPolicy do
                        for distiller in everyDistiller batch do
                            match distiller with
                            | Result.Error error -> Must.equal (1, Usage) (batch, error.Kind)
                            | Ok distiller ->
                                Tensor.scoped (fun () ->
                                    let what = $"{distiller.Name} under {policy.Name}, {batch} images"
                                    let plan = { plan policy distiller with Batch = batch }
                                    let values = EpochValues.create plan 1
                                    let images i = Augment.plain (i * batch) ((i + 1) * batch) set
                                    let first = Plans.step plan values (TrainState.start plan) (images 0)
                                    let second = Plans.step plan values first (images 1)
                                    // A velocity is a sum of gradients: one that is not finite stays.
                                    finite what second.Velocity
                                    finite what second.Trained
                                    Must.equal None (EpochSums.broken second.Sums)
                                )
                )
        }

        test "only RKD and SRRL need two images, and say so before training and in it" {
            let refused =
                everyDistiller 1
                |> List.choose (
                    function
                    | Result.Error e -> Some e.What
                    | Ok _ -> None
                )

            Must.equal 2 refused.Length

            for what in refused do
                Must.contain "at least 2 images" what

            Tensor.scoped (fun () ->
                let plan = plan everyPolicy.Head (made "rkd")
                let set = upload images plan

                let step () =
                    Plans.step plan (EpochValues.create plan 1) (TrainState.start plan) (Augment.plain 0 1 set)

                Must.throw<System.ArgumentException>(fun () -> step () |> ignore) |> ignore
            )
        }

        test "losses are float32 under bfloat16, whatever they look at" {
            for distiller in everyDistiller 8 |> List.map Error.orRaise do
                Tensor.scoped (fun () ->
                    let plan = { plan everyPolicy.Head distiller with Precision = Bf16 }
                    let set = upload 8 plan

                    let losses =
                        Plans.losses plan (EpochValues.create plan 1) (TrainState.start plan) (Augment.plain 0 8 set)

                    for name, loss in losses.Terms do
                        Must.equal (name, DType.Float32) (name, Tensor.dtype loss)
                        Expect.isTrue (System.Double.IsFinite(Tensor.toFloat loss)) name
                )
        }

        test "losses do not depend on the memory format" {
            for distiller in everyDistiller 8 |> List.map Error.orRaise do
                Tensor.scoped (fun () ->
                    let loss channelsLast =
                        let plan = { plan everyPolicy.Head distiller with ChannelsLast = channelsLast }
                        let set = upload 8 plan

                        (Plans.losses plan (EpochValues.create plan 1) (TrainState.start plan) (Augment.plain 0 8 set))
                            .Total
                        |> Tensor.toFloat

                    Must.beNear 1e-4 1e-6 (loss false) (loss true)
                )
        }

        test "a plan with every distiller leaves no tensors behind a step" {
            Tensor.scoped (fun () ->
                let distiller =
                    everyDistiller 8
                    |> List.map Error.orRaise
                    |> List.take 11
                    |> List.map (fun d -> 1.0, d)
                    |> Distiller.sum

                let plan = plan everyPolicy.Head distiller
                let set = upload 16 plan
                let values, batch = EpochValues.create plan 1, Augment.plain 0 8 set
                let first = Plans.step plan values (TrainState.start plan) batch
                let held = Tensor.live ()
                Plans.step plan values first batch |> ignore
                Must.equal held (Tensor.live ())
            )
        }
    ]
