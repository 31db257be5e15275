module Ctkd.Fs.Tests.WeightAverageTests

open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Generators
open FsCheck.FSharp

/// A tree of one trained tensor, one buffer and one counter.
let private tree (trained: float[]) (buffer: float[]) (counter: int64) : Tree =
    Tree.ofSeq [
        "w", Plain.tensor [ trained.Length ] trained |> Autograd.leaf
        "mean", Plain.tensor [ buffer.Length ] buffer
        "batches", Tensor.ofInt64s [] [| counter |]
    ]

/// The averages after each step, from a start that they must not remember.
let private averages (decay: float) (steps: float[][]) : Tree list =
    let average = WeightAverage.start Device.Cpu (tree [| 1e3; -1e3; 7.0 |] [| 9.0 |] 0L)

    [
        for i in 0 .. steps.Length - 1 do
            WeightAverage.update decay (tree steps[i] [| float i |] (int64 i)) average
            WeightAverage.weights average |> Tree.copy
    ]

let private decays = Gen.oneof [ Gen.elements [ 0.0; 0.9; 0.999; 0.9999999 ]; uniform 0.0 1.0 ]

let private steps = Gen.choose (1, 30) |> Gen.bind (fun count -> many count (many 3 (uniform -2.0 2.0)))

let tests =
    testList "WeightAverage" [
        testProperty "after every step it is the mean of the weights so far, the weight of each by its age"
        <| forAll
            (Gen.zip decays steps)
            (fun (decay, steps) ->
                Tensor.scoped (fun () ->
                    let decay = min decay 0.9999999

                    averages decay steps
                    |> List.iteri (fun t average ->
                        let shares = Array.init (t + 1) (fun i -> decay ** float (t - i))

                        let expected =
                            Array.init
                                3
                                (fun k ->
                                    (Array.mapi (fun i s -> s * steps[i][k]) shares |> Array.sum) / Array.sum shares
                                )

                        Must.beClose 1e-12 1e-13 expected (Tree.find "w" average |> Tensor.toFloats)
                    )
                )
            )

        testProperty "the first step is taken as it is, and without decay every one, to the bit"
        <| forAll
            (Gen.zip decays steps)
            (fun (decay, steps) ->
                Tensor.scoped (fun () ->
                    let first = averages decay steps |> List.head
                    Must.beSame steps[0] (Tree.find "w" first |> Tensor.toFloats)
                    let last = averages 0.0 steps |> List.last
                    Must.beSame (Array.last steps) (Tree.find "w" last |> Tensor.toFloats)
                )
            )

        test "late in a run it is decay times the average and the rest of the weights" {
            Tensor.scoped (fun () ->
                let steps = Array.init 400 (fun i -> Rng.normals 3 (Rng.ofSeed i))
                let all = averages 0.9 steps |> List.map (Tree.find "w" >> Tensor.toFloats) |> Array.ofList
                let expected = Array.map2 (fun a w -> 0.9 * a + 0.1 * w) all[398] steps[399]
                Must.beClose 1e-12 1e-14 expected all[399]
            )
        }

        test "buffers are copied, counters too, and the weights stay leaves of their own" {
            Tensor.scoped (fun () ->
                let steps = Array.create 5 [| 1.0; 2.0; 3.0 |]
                let last = averages 0.9 steps |> List.last
                Must.equal [| 4.0 |] (Tree.find "mean" last |> Tensor.toFloats)
                Must.equal [| 4L |] (Tree.find "batches" last |> Tensor.toInt64s)
                let weights = tree [| 1.0; 2.0; 3.0 |] [| 0.0 |] 0L
                let average = WeightAverage.start Device.Cpu weights
                let before = Tensor.live ()
                WeightAverage.update 0.9 weights average
                Must.equal before (Tensor.live ())
                Must.hold (Tree.find "w" weights).requires_grad
                Must.notHold (Tree.find "w" (WeightAverage.weights average)).requires_grad
            )
        }

        test "single precision is averaged in single precision, by a share computed in double" {
            Tensor.scoped (fun () ->
                let weights value = Tree.ofSeq [ "w", Tensor.ofSingles [ 1 ] [| value |] |> Autograd.leaf ]
                let average = WeightAverage.start Device.Cpu (weights 0.0f)

                for _ in 1..3000 do
                    WeightAverage.update 0.999 (weights 1.5f) average

                Must.equal DType.Float32 (Tree.find "w" (WeightAverage.weights average) |> Tensor.dtype)
                Must.equal [| 1.5f |] (Tree.find "w" (WeightAverage.weights average) |> Tensor.toSingles)
            )
        }
    ]
