module Ctkd.Fs.Tests.CrdTests

open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Generators
open Ctkd.Fs.Tests.Inputs
open Ctkd.Fs.Tests.Oracle
open FsCheck.FSharp

let private options = { Crd.published with Width = 4; Negatives = 6 }

/// Labels of `count` images, unevenly distributed over three classes.
let private classes (count: int) : int[] = Array.init count (fun i -> if i % 5 = 0 then 2 else i % 2)

let private made (count: int) : Distiller =
    let pair = pair [ [ 4; 2; 2 ] ] [ [ 3; 2; 2 ] ]
    Crd.distiller options { pair with Labels = classes count } |> Error.orRaise

/// A batch of the images at the given positions.
let private batch (seed: int) (count: int) (index: int[]) : DistillerInput =
    let features width offset = normal (seed + offset) [ index.Length; width ] |> Plain.ofDense |> Inputs.pooled

    let labels = index |> Array.map (fun i -> (classes count)[i])

    {
        input (features 4 0) (features 3 1) labels with
            Index = ofLabels index
            Key = lazy (Draws.key Device.Cpu seed (Rng.ofSeed 3))
    }

let private norms (x: Tensor) =
    Tensor.toFloats x |> Array.chunkBySize options.Width |> Array.map (Array.sumBy (fun v -> v * v) >> sqrt)

/// The published formula of one side, with Z computed from these scores.
let private side (memory: Dense) (embedding: Dense) (contrast: int[][]) : float =
    let n, m = float memory.Shape.Head, float (contrast[0].Length - 1)
    let rows' = rows memory

    let raw =
        Array.map2
            (fun e -> Array.map (fun i -> exp (Array.fold2 (fun sum a b -> sum + a * b) 0.0 e rows'[i] / 0.07)))
            (rows embedding)
            contrast

    let z = (raw |> Array.concat |> Array.average) * n
    let pn, eps = 1.0 / n, 1e-7
    let p = raw |> Array.map (Array.map (fun r -> r / z))
    let hit = p |> Array.sumBy (fun row -> log (row[0] / (row[0] + m * pn + eps)))
    let miss = p |> Array.sumBy (Array.tail >> Array.sumBy (fun x -> log (m * pn / (x + m * pn + eps))))
    -(hit + miss) / float contrast.Length

let tests =
    testList "Crd" [
        test "the memory's rows of a batch become unit vectors and all others stay to the bit" {
            let batches = Gen.zip seeds (Gen.choose (1, 12) |> Gen.bind (fun n -> many n (Gen.choose (0, 19))))

            check
                batches
                (fun (seed, index) ->
                    Tensor.scoped (fun () ->
                        let distiller = made 20
                        let state = state seed distiller
                        let before = Tree.copy state
                        distiller.Remember state (batch seed 20 index)

                        for name in [ "memory_student"; "memory_teacher" ] do
                            let rows tree = Tree.find name tree |> Tensor.toFloats |> Array.chunkBySize options.Width

                            let after, before, norms = rows state, rows before, norms (Tree.find name state)

                            for i in 0..19 do
                                if Array.contains i index then
                                    Must.beNear 1e-12 0.0 1.0 norms[i]
                                    Must.differ before[i] after[i]
                                else
                                    Must.beSame before[i] after[i]
                    )
                )
        }

        test "of an image that occurs twice in a batch the last instance is remembered" {
            Tensor.scoped (fun () ->
                let memory () = normal 1 [ 5; 4 ] |> Plain.ofDense
                let embeddings = normal 2 [ 4; 4 ] |> Plain.ofDense
                let twice, once = memory (), memory ()
                Crd.remember options twice (ofLabels [| 3; 1; 3; 3 |]) embeddings

                Crd.remember options once (ofLabels [| 3; 1 |]) (Tensor.indexSelect 0 (ofLabels [| 3; 1 |]) embeddings)

                Must.beSame (Tensor.toFloats once) (Tensor.toFloats twice)
            )
        }

        test "a remembered row is the normalised mean of the old row and the embedding" {
            Tensor.scoped (fun () ->
                let memory = Plain.tensor [ 2; 2 ] [| 1.0; 0.0; 5.0; 5.0 |]

                Crd.remember
                    { options with Width = 2 }
                    memory
                    (ofLabels [| 0 |])
                    (Plain.tensor [ 1; 2 ] [| 0.0; 1.0 |])

                Must.beClose 1e-15 0.0 [| sqrt 0.5; sqrt 0.5; 5.0; 5.0 |] (Tensor.toFloats memory)
            )
        }

        test "negatives are images of other classes, every one of them equally often" {
            Tensor.scoped (fun () ->
                let count, draws = 20, 20_000
                let labels = classes count
                let tables = state 1 (made count)
                let key = Draws.key Device.Cpu 0 (Rng.ofSeed 1)

                let drawn =
                    Crd.negatives draws tables (ofLabels [| 0; 1; 2 |]) key
                    |> Tensor.toInt64s
                    |> Array.chunkBySize draws

                for label in 0..2 do
                    let seen = drawn[label] |> Array.countBy int |> Map.ofArray

                    let others = [
                        for i in 0 .. count - 1 do
                            if labels[i] <> label then i
                    ]

                    Must.equal others (seen |> Map.toList |> List.map fst)
                    let expected = float draws / float others.Length
                    // Five standard deviations of a count.
                    for n in Map.values seen do
                        Must.lie (expected - 5.0 * sqrt expected) (expected + 5.0 * sqrt expected) (float n)
            )
        }

        testProperty "negatives are a function of the key"
        <| forAll
            seeds
            (fun seed ->
                Tensor.scoped (fun () ->
                    let tables = state 1 (made 20)

                    let draw index =
                        Draws.key Device.Cpu index (Rng.ofSeed seed)
                        |> Crd.negatives 50 tables (ofLabels [| 0; 2 |])
                        |> Tensor.toInt64s

                    Must.equal (draw 0) (draw 0)
                    Must.differ (draw 0) (draw 1)

                    Must.differ ((Array.chunkBySize 50 (draw 0))[0]) ((Array.chunkBySize 50 (draw 0))[1])
                )
            )

        testPropertyWithConfig (times 30) "a side of CRD is the published formula, in value and gradient"
        <| forAll
            (Gen.zip seeds (Gen.choose (1, 4)))
            (fun (seed, batch) ->
                Tensor.scoped (fun () ->
                    let unit (x: Dense) = {
                        x with
                            Values =
                                rows x
                                |> Array.collect (fun r ->
                                    let n = sqrt (Array.sumBy (fun v -> v * v) r) in Array.map (fun v -> v / n) r
                                )
                    }

                    let memory, embedding = unit (normal seed [ 9; 4 ]), unit (normal (seed + 1) [ batch; 4 ])

                    let contrast = Array.init batch (fun i -> labels (seed + i) 7 9)
                    let index = contrast |> Array.concat |> ofLabels |> Tensor.reshape [| int64 batch; 7L |]
                    let loss z e = Crd.side options z (Plain.ofDense memory) index e

                    Must.beNear
                        1e-10
                        1e-12
                        (side memory embedding contrast)
                        (Tensor.toFloat (loss (Plain.number 0.0) (Plain.ofDense embedding)))
                    // Z is a constant for the gradient.
                    Must.matchDerivatives (List.head >> loss (Plain.number 1234.5)) [ embedding ]
                )
            )

        test "Z is fixed at the first batch" {
            Tensor.scoped (fun () ->
                let distiller = made 20
                let state = state 1 distiller

                let z () = [| for name in [ "z_student"; "z_teacher" ] -> Tensor.toFloat (Tree.find name state) |]

                Must.beSame [| 0.0; 0.0 |] (z ())
                distiller.Loss state (batch 1 20 [| 1; 2; 3 |]) |> ignore
                let first = z ()

                for z in first do
                    Must.hold (z > 0.0)

                distiller.Loss state (batch 2 20 [| 4; 5 |]) |> ignore
                Must.beSame first (z ())
            )
        }

        test "memories begin uniform with rows of norm 1 on average" {
            Tensor.scoped (fun () ->
                let state = state 1 (made 4_000)
                let values = Tree.find "memory_teacher" state |> Tensor.toFloats
                let bound = 1.0 / sqrt (4.0 / 3.0)

                for v in values do
                    Must.lie (-bound) bound v

                Must.beNear 0.0 0.02 1.0 (sqrt (Array.averageBy (fun v -> v * v) values * 4.0))
                Must.differ values (Tree.find "memory_student" state |> Tensor.toFloats)
            )
        }

        test "CRD refuses images of one class, and settings that make no sense" {
            let maps = [ [ 4; 2; 2 ] ]
            let one = { pair maps maps with Labels = [| 2; 2; 2 |] }
            Must.contain "of one" ((errorOf (Crd.distiller options one)).What)
            let both = pair maps maps

            for bad in
                [
                    { options with Width = 0 }
                    { options with Negatives = 0 }
                    { options with Temperature = 0.0 }
                    { options with Momentum = 1.0 }
                ] do
                Must.refuse "options" (fun () -> Crd.distiller bad both)
        }
    ]
