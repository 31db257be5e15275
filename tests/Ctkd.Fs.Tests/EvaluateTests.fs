module Ctkd.Fs.Tests.EvaluateTests

open Ctkd.Fs
open Ctkd.Fs.Tests.Generators
open FsCheck.FSharp
open Xunit

let private zeros, private ones = [ 0.0; 0.0; 0.0 ], [ 1.0; 1.0; 1.0 ]

/// A property of a set of 23 images and of a random linear classifier with its logits as plain rows.
let private withClassifier
    classes
    seed
    (property: DeviceSet -> (Tensor -> Tensor) -> float[][] -> int[] -> unit)
    : unit =
    Tensor.scoped (fun () ->
        let images = images seed 23 classes 4
        let set = Augment.upload DType.Float64 Device.Cpu zeros ones images
        let weight = Expect.tensor [ classes; 48 ] (Rng.normals (classes * 48) (Rng.ofSeed seed))
        let forward images = images |> Tensor.flatten 1 |> Tensor.linear weight None
        let logits = Expect.numbers (fun () -> forward (Augment.plain 0 23 set).Images)
        property set forward (Array.chunkBySize classes logits) images.Labels
    )

let private cases = Gen.zip3 (Gen.choose (2, 12)) anyInt (Gen.choose (1, 30))

[<Fact>]
let ``accuracy and loss are those of counting by hand`` () =
    check
        cases
        (fun (classes, seed, batch) ->
            withClassifier
                classes
                seed
                (fun set forward logits labels ->
                    let accuracy = Evaluate.accuracy batch forward set

                    let among k =
                        Array.map2 (fun z label -> Array.contains label (Oracle.largest k z)) logits labels

                    let count = Array.filter id >> Array.length
                    let loss = Array.map2 Oracle.crossEntropy labels logits |> Array.average

                    Assert.Equal(
                        (23, count (among 1), count (among 5)),
                        (accuracy.Images, accuracy.Correct, accuracy.CorrectTop5)
                    )

                    Expect.near 1e-12 1e-13 loss accuracy.Loss
                    Expect.near 1e-14 0.0 (100.0 * float (count (among 1)) / 23.0) accuracy.Top1
                    Expect.near 1e-14 0.0 (100.0 * float (count (among 5)) / 23.0) accuracy.Top5
                )
        )

[<Fact>]
let ``the size of the batches does not matter`` () =
    check
        cases
        (fun (classes, seed, batch) ->
            withClassifier
                classes
                seed
                (fun set forward _ _ ->
                    let whole, cut = Evaluate.accuracy 23 forward set, Evaluate.accuracy batch forward set

                    Assert.Equal(
                        (whole.Images, whole.Correct, whole.CorrectTop5),
                        (cut.Images, cut.Correct, cut.CorrectTop5)
                    )

                    Expect.near 1e-13 0.0 whole.Loss cut.Loss
                )
        )

[<Fact>]
let ``evaluation changes no weight, records no gradient and leaves no tensors`` () =
    Expect.leavesNothing (fun () ->
        Tensor.scoped (fun () ->
            let model = ResNet.small "small" 8 [ 4; 4; 8; 8 ] 4

            let weights =
                Model.declarations model |> Initialise.tree DType.Float32 Device.Cpu (Rng.ofSeed 1)

            let before = Tree.copy weights
            let set = Augment.upload DType.Float32 Device.Cpu zeros ones (images 1 10 4 8)

            for leaf in Tree.leaves weights |> Array.filter (fun w -> Tensor.dtype w = DType.Float32) do
                leaf.RequiresGrad <- true

            let forward images =
                let logits = (Model.forward model false weights images).Logits
                Assert.False logits.RequiresGrad
                logits

            let held = Tensor.live ()
            Assert.Equal(10, (Evaluate.accuracy 4 forward set).Images)
            Assert.Equal(held, Tensor.live ())
            Expect.sameTree before weights
        )
    )
