module Ctkd.Fs.Tests.EpochSumsTests

open System
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Generators
open FsCheck
open FsCheck.FSharp

/// One batch as plain numbers: logits of three classes, labels, T and dL/dT for each instance, two loss
/// terms.
type private Seen = {
    Logits: float[][]
    Labels: int[]
    T: float[]
    Gradient: float[]
    Terms: float[]
}

/// Images of the training set: enough for every list of batches.
let private images = 1000

let private seen: Gen<Seen> =
    gen {
        let! count = Gen.choose (1, 5)
        let! logits = many count (many 3 (uniform -3.0 3.0))
        let! labels = many count (Gen.choose (0, 2))
        let! t = many count (uniform 1.0 21.0)
        let! gradient = many count (uniform -1.0 1.0)
        let! terms = many 2 (uniform 0.0 5.0)

        return { Logits = logits; Labels = labels; T = t; Gradient = gradient; Terms = terms }
    }

let private add (step: int) (t: BatchTemperature option) (seen: Seen) (sums: EpochSums) : unit =
    let logits = Plain.tensor [ seen.Labels.Length; 3 ] (Array.concat seen.Logits)
    let labels = Tensor.ofInt64s [ seen.Labels.Length ] (Array.map int64 seen.Labels)
    let step = Tensor.ofInt64s [] [| int64 step |]
    EpochSums.add step logits labels t (seen.Terms |> List.ofArray |> List.map Plain.number) sums

let private constant (t: float) (first: int) (count: int) : BatchTemperature = {
    T = Plain.number t
    Gradient = None
    Index = Tensor.arange Device.Cpu count |> Tensor.addInt first
}

/// Batches one after the other, the images from the last place of the set to the first.
let private addAll (batches: Seen list) (sums: EpochSums) : unit =
    let before = batches |> List.scan (fun sum b -> sum + b.Labels.Length) 0

    List.zip batches (List.take batches.Length before)
    |> List.iteri (fun step (seen, before) ->
        let count = seen.Labels.Length

        let temperature = {
            T = Plain.tensor [ count ] seen.T
            Gradient = Some(Plain.tensor [ count ] seen.Gradient)
            Index = Tensor.ofInt64s [ count ] (Array.init count (fun i -> int64 (images - 1 - before - i)))
        }

        add step (Some temperature) seen sums
    )

/// Terms with the given ones broken, in one step.
let private broken (step: int) (terms: float list) (sums: EpochSums) : unit =
    let seen = {
        Logits = [| [| 1.0; 0.0; 0.0 |] |]
        Labels = [| 0 |]
        T = [| 4.0 |]
        Gradient = [||]
        Terms = Array.ofList terms
    }

    add step None seen sums

/// Two images of one logit, the first right.
let private alike: Seen = {
    Logits = [| [| 1.0; 0.0; 0.0 |]; [| 1.0; 0.0; 0.0 |] |]
    Labels = [| 0; 1 |]
    T = [| 5.0; 7.0 |]
    Gradient = [| 0.1; 0.2 |]
    Terms = [| 1.0; 2.0 |]
}

let tests =
    testList "EpochSums" [
        testProperty "the means of an epoch are those over its images"
        <| forAll
            (Gen.nonEmptyListOf seen)
            (fun batches ->
                Tensor.scoped (fun () ->
                    let sums = EpochSums.start Device.Cpu images 2
                    addAll batches sums
                    let means = EpochSums.means sums
                    let count = batches |> List.sumBy _.Labels.Length

                    let over f = (batches |> List.sumBy (fun b -> float b.Labels.Length * f b)) / float count

                    let correct b =
                        Array.map2 (fun z label -> if Oracle.argMax z = label then 1.0 else 0.0) b.Logits b.Labels
                        |> Array.average

                    Must.equal count means.Images
                    Must.beNear 1e-13 1e-14 (over correct) means.Accuracy
                    Must.beNear 1e-13 0.0 (over (fun b -> Array.average b.T)) means.T
                    Must.equal (batches |> Seq.collect _.T |> Seq.min) means.SmallestT
                    Must.equal (batches |> Seq.collect _.T |> Seq.max) means.LargestT
                    // A batch's loss is a mean: its instances' derivatives add up to the batch's by a common
                    // shift of T.
                    Must.beNear 1e-12 1e-13 (over (fun b -> Array.sum b.Gradient)) means.GradientT

                    Must.beSame
                        (batches |> Seq.collect _.T |> Seq.map (float32 >> float) |> Seq.rev |> Array.ofSeq)
                        (EpochSums.temperatures sums)

                    let terms = [| for i in 0..1 -> over (fun b -> b.Terms[i]) |]
                    Must.beClose 1e-13 1e-14 terms (Array.ofList means.Terms)
                    Must.equal None (EpochSums.broken sums)
                )
            )

        test "one T counts for every image of its batch, and without a teacher there is none" {
            Tensor.scoped (fun () ->
                let sums = EpochSums.start Device.Cpu images 2
                add 0 (Some(constant 4.0 0 2)) alike sums
                add 1 (Some(constant 6.0 7 2)) alike sums
                let means = EpochSums.means sums
                Must.equal (5.0, 4.0, 6.0, 0.5) (means.T, means.SmallestT, means.LargestT, means.Accuracy)
                Must.equal [| 4.0; 4.0; 6.0; 6.0 |] (EpochSums.temperatures sums)
                Must.hold (Double.IsNaN means.GradientT)
                let alone = EpochSums.start Device.Cpu images 2
                add 0 None alike alone
                Must.hold (Double.IsNaN (EpochSums.means alone).T)
                Must.beEmpty (EpochSums.temperatures alone)
                Must.equal None (EpochSums.broken alone)
            )
        }

        test "the first step and term that is not finite stays, whatever comes later" {
            let finite, bad = uniform 0.0 1.0, Gen.elements [ nan; infinity; -infinity ]
            let term = Gen.frequency [ 4, finite; 1, bad ]

            check
                (Gen.listOf (many 3 term))
                (fun steps ->
                    Tensor.scoped (fun () ->
                        let sums = EpochSums.start Device.Cpu images 3
                        steps |> List.iteri (fun step terms -> broken step (List.ofArray terms) sums)

                        let expected =
                            steps
                            |> List.indexed
                            |> List.tryPick (fun (step, terms) ->
                                terms
                                |> Array.tryFindIndex (Double.IsFinite >> not)
                                |> Option.map (fun term -> step, term)
                            )

                        Must.equal expected (EpochSums.broken sums)
                    )
                )
        }

        test "a cleared sums has seen nothing" {
            Tensor.scoped (fun () ->
                let sums, fresh = EpochSums.start Device.Cpu images 2, EpochSums.start Device.Cpu images 2
                addAll [ alike ] sums
                broken 7 [ nan; 1.0 ] sums
                Must.equal (Some(7, 0)) (EpochSums.broken sums)
                EpochSums.clear sums
                Must.beSameTree (EpochSums.toTree fresh) (EpochSums.toTree sums)
                Must.equal 0 ((EpochSums.means sums).Images)
            )
        }

        testProperty "a sums goes on from its tensors"
        <| forAll
            (Gen.zip (Gen.listOf seen) (Gen.listOf seen))
            (fun (first, second) ->
                Tensor.scoped (fun () ->
                    let whole, half = EpochSums.start Device.Cpu images 2, EpochSums.start Device.Cpu images 2

                    addAll first whole
                    addAll second whole
                    addAll first half
                    let resumed = EpochSums.toTree half |> Tree.copy |> EpochSums.ofTree
                    addAll second resumed
                    Must.beSameTree (EpochSums.toTree whole) (EpochSums.toTree resumed)
                )
            )

        testProperty
            "reported numbers are means over the images, one for each image or one for the batch, and go on from their tensors"
        <| forAll
            (Gen.nonEmptyListOf seen)
            (fun batches ->
                Tensor.scoped (fun () ->
                    let report (sums: EpochSums) (seen: Seen) =
                        let count = seen.Labels.Length
                        let numbers = [ Plain.tensor [ count ] seen.T; Plain.number seen.Terms[0] ]
                        EpochSums.addReported count numbers sums
                        sums

                    let fresh () = EpochSums.start Device.Cpu images 2 |> EpochSums.reporting 2
                    let sums = List.fold report (fresh ()) batches
                    addAll batches sums
                    let count = batches |> List.sumBy (fun b -> float b.Labels.Length)
                    let over f = (batches |> List.sumBy (fun b -> float b.Labels.Length * f b)) / count
                    let expected = [| over (fun b -> Array.average b.T); over (fun b -> b.Terms[0]) |]
                    Must.beClose 1e-13 0.0 expected (Array.ofList (EpochSums.reported sums))

                    let first, second = List.splitAt (batches.Length / 2) batches
                    let half = List.fold report (fresh ()) first
                    let resumed = EpochSums.toTree half |> Tree.copy |> EpochSums.ofTree
                    let resumed = List.fold report resumed second
                    addAll batches resumed
                    Must.beSameTree (EpochSums.toTree sums) (EpochSums.toTree resumed)

                    EpochSums.clear sums
                    Must.beSameTree (EpochSums.toTree (fresh ())) (EpochSums.toTree sums)
                )
            )

        test "sums without reported numbers have no tensor for them, and numbers without names are refused" {
            Tensor.scoped (fun () ->
                let sums = EpochSums.start Device.Cpu images 2 |> EpochSums.reporting 0
                EpochSums.addReported 2 [] sums
                Must.beEmpty (EpochSums.reported sums)

                Must.equal
                    [ "broken"; "range"; "sums"; "temperatures" ]
                    (Tree.names (EpochSums.toTree sums) |> List.ofSeq |> List.sort)

                Must.refuse "numbers" (fun () -> EpochSums.addReported 2 [ Plain.number 1.0 ] sums)
                let two = EpochSums.reporting 2 sums
                Must.refuse "numbers" (fun () -> EpochSums.addReported 2 [ Plain.number 1.0 ] two)
                Must.refuse "numbers" (fun () -> EpochSums.addReported 2 [] two)
            )
        }

        test "counting leaves no tensors and no graph" {
            Tensor.scoped (fun () ->
                let sums = EpochSums.start Device.Cpu images 1 |> EpochSums.reporting 1
                let logits = Autograd.leaf (Plain.tensor [ 1; 2 ] [| 1.0; 0.0 |])
                let labels = Tensor.ofInt64s [ 1 ] [| 0L |]
                let loss = Loss.crossEntropy labels logits
                let t = Some { constant 1.0 0 1 with T = Tensor.sum logits }
                let step = Tensor.ofInt64s [] [| 0L |]
                let before = Tensor.live ()
                EpochSums.add step logits labels t [ loss ] sums
                EpochSums.addReported 1 [ logits ] sums
                Must.equal before (Tensor.live ())

                for x in Tree.leaves (EpochSums.toTree sums) do
                    Must.notHold x.requires_grad
            )
        }
    ]
