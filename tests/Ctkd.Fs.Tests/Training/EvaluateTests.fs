module Ctkd.Fs.Tests.EvaluateTests

open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Generators
open FsCheck
open FsCheck.FSharp

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
        let weight = Plain.tensor [ classes; 48 ] (Rng.normals (classes * 48) (Rng.ofSeed seed))
        let forward images = images |> Tensor.flatten 1 |> Tensor.linear weight None
        let logits = Plain.numbers (fun () -> forward (Augment.plain 0 23 set).Images)
        property set forward (Array.chunkBySize classes logits) images.Labels
    )

let private cases = Gen.zip3 (Gen.choose (2, 12)) anyInt (Gen.choose (1, 30))

// ---- calibration and likeness -----------------------------------------------------------------------------

/// A set whose image i says i, and a classifier that looks its logits up.
let private lookup (logits: float[][]) (labels: int[]) : DeviceSet * (Tensor -> Tensor) =
    let set: ImageSet = {
        Name = "numbered"
        Classes = logits[0].Length
        Channels = 3
        Height = 1
        Width = 1
        Images = Pixels.InMemory(Array.init (3 * labels.Length) (fun i -> byte (i / 3)))
        Labels = labels
    }

    let table = Plain.tensor [ logits.Length; logits[0].Length ] (Array.concat logits)

    let forward (images: Tensor) =
        let number = images |> Tensor.flatten 1 |> Tensor.select 1 0 |> Tensor.scale 255.0
        Tensor.indexSelect 0 (number |> Tensor.addNumber 0.5 |> Tensor.toType DType.Int64) table

    Augment.upload DType.Float64 Device.Cpu zeros ones set, forward

let private calibration (logits: float[][]) (labels: int[]) : float =
    Tensor.scoped (fun () ->
        let set, forward = lookup logits labels
        (Evaluate.fully 7 None forward (OnDevice set)).CalibrationError
    )

/// The formula of Guo et al. as plainly as possible.
let private naiveError (logits: float[][]) (labels: int[]) : float =
    let seen =
        Array.map2 (fun z label -> Array.max (Oracle.softmax z), Oracle.argMax z = label) logits labels

    [ 1..15 ]
    |> List.sumBy (fun m ->
        let inside =
            seen |> Array.filter (fun (c, _) -> c > float (m - 1) / 15.0 && (c <= float m / 15.0 || m = 15))

        if inside.Length = 0 then
            0.0
        else
            let accuracy = inside |> Array.averageBy (fun (_, correct) -> if correct then 1.0 else 0.0)
            float inside.Length / float seen.Length * abs (accuracy - Array.averageBy fst inside)
    )

let private rows =
    gen {
        let! classes = Gen.choose (2, 6)
        let! count = Gen.choose (1, 60)
        let! scale = Gen.elements [ 0.1; 1.0; 5.0; 100.0 ]
        let! logits = many count (many classes (uniform -scale scale))
        let! labels = many count (Gen.choose (0, classes - 1))
        return logits, labels
    }

let tests =
    testList "Evaluate" [
        testProperty "accuracy and loss are those of counting by hand"
        <| forAll
            cases
            (fun (classes, seed, batch) ->
                withClassifier
                    classes
                    seed
                    (fun set forward logits labels ->
                        let accuracy = Evaluate.accuracy batch forward (OnDevice set)

                        let among k =
                            Array.map2 (fun z label -> Array.contains label (Oracle.largest k z)) logits labels

                        let count = Array.filter id >> Array.length
                        let loss = Array.map2 Oracle.crossEntropy labels logits |> Array.average

                        Must.equal
                            (23, count (among 1), count (among 5))
                            (accuracy.Images, accuracy.Correct, accuracy.CorrectTop5)

                        Must.beNear 1e-12 1e-13 loss accuracy.Loss
                        Must.beNear 1e-14 0.0 (100.0 * float (count (among 1)) / 23.0) accuracy.Top1
                        Must.beNear 1e-14 0.0 (100.0 * float (count (among 5)) / 23.0) accuracy.Top5
                    )
            )

        testProperty "the size of the batches does not matter"
        <| forAll
            cases
            (fun (classes, seed, batch) ->
                withClassifier
                    classes
                    seed
                    (fun set forward _ _ ->
                        let accuracy batch = Evaluate.accuracy batch forward (OnDevice set)
                        let whole, cut = accuracy 23, accuracy batch

                        Must.equal
                            (whole.Images, whole.Correct, whole.CorrectTop5)
                            (cut.Images, cut.Correct, cut.CorrectTop5)

                        Must.beNear 1e-13 0.0 whole.Loss cut.Loss
                    )
            )

        test "evaluation changes no weight, records no gradient and leaves no tensors" {
            Must.leaveNothing (fun () ->
                Tensor.scoped (fun () ->
                    let model = ResNet.small "small" 8 [ 4; 4; 8; 8 ] 4

                    let weights = Model.declarations model |> Initialise.tree DType.Float32 Device.Cpu (Rng.ofSeed 1)

                    let before = Tree.copy weights
                    let set = Augment.upload DType.Float32 Device.Cpu zeros ones (images 1 10 4 8)

                    for leaf in Tree.leaves weights |> Array.filter (fun w -> Tensor.dtype w = DType.Float32) do
                        leaf.requires_grad <- true

                    let forward images =
                        let logits = (Model.forward model false weights images).Logits
                        Must.notHold logits.requires_grad
                        logits

                    let held = Tensor.live ()
                    Must.equal 10 ((Evaluate.accuracy 4 forward (OnDevice set)).Images)
                    Must.equal held (Tensor.live ())
                    Must.beSameTree before weights
                )
            )
        }

        testProperty "the calibration error is that of the formula, and lies in 0 .. 1"
        <| forAll
            rows
            (fun (logits, labels) ->
                let error = calibration logits labels
                Must.beNear 1e-10 1e-12 (naiveError logits labels) error
                Must.lie 0.0 1.0 error
            )

        test "a set whose confidence is its accuracy is calibrated, one that is surely wrong is not at all" {
            // At a confidence of 3/4 three images of four are right, at 2/5 two of five.
            let group (confidence: float) right count =
                Array.init
                    count
                    (fun i ->
                        let rest = (1.0 - confidence) / 3.0
                        [| log confidence; log rest; log rest; log rest |], (if i < right then 0 else 1)
                    )

            let logits, labels = Array.append (group 0.75 3 4) (group 0.4 4 10) |> Array.unzip
            Must.beNear 0.0 1e-12 0.0 (calibration logits labels)
            Must.beNear 1e-12 0.0 1.0 (calibration [| [| 800.0; 0.0 |] |] [| 1 |])
            Must.beNear 0.0 1e-12 0.0 (calibration [| [| 800.0; 0.0 |] |] [| 0 |])
        }

        testProperty "a model agrees with itself on all images, and its divergence from itself is 0"
        <| forAll
            rows
            (fun (logits, labels) ->
                Tensor.scoped (fun () ->
                    let set, forward = lookup logits labels
                    let evaluation = Evaluate.fully 7 (Some forward) forward (OnDevice set)

                    Must.equal (Some 100.0, 0.0) (evaluation.Agreement, evaluation.Likeness.Value.Divergence)
                )
            )

        testProperty "agreement and divergence are those of counting by hand, and no divergence is negative"
        <| forAll
            cases
            (fun (classes, seed, batch) ->
                withClassifier
                    classes
                    seed
                    (fun set forward logits _ ->
                        let other = logits |> Array.map (Array.mapi (fun i z -> 0.3 * z - float i))
                        let shift = Array.init classes (fun i -> -float i) |> Plain.tensor [ classes ]
                        let teacher images = Tensor.scale 0.3 (forward images) + shift
                        let evaluation = Evaluate.fully batch (Some teacher) forward (OnDevice set)
                        let likeness = evaluation.Likeness.Value

                        let agreed =
                            Array.map2 (fun a b -> Oracle.argMax a = Oracle.argMax b) other logits
                            |> Array.filter id
                            |> Array.length

                        Must.equal agreed likeness.Agreed

                        Must.beNear
                            1e-10
                            1e-12
                            (Array.map2 Oracle.kl other logits |> Array.average)
                            likeness.Divergence

                        Must.hold (likeness.Divergence >= -1e-12)
                        Must.equal (Evaluate.accuracy batch forward (OnDevice set)) evaluation.Accuracy
                    )
            )

        test "without a teacher nothing is said of one" {
            Tensor.scoped (fun () ->
                let set, forward = lookup [| [| 1.0; 0.0 |] |] [| 0 |]
                let evaluation = Evaluate.fully 7 None forward (OnDevice set)
                Must.equal (None, None) (evaluation.Likeness, evaluation.Agreement)
            )
        }

        test "outputs are those of the first images, whatever the batch" {
            Tensor.scoped (fun () ->
                let logits = Array.init 9 (fun i -> [| float i; -1.0 |])
                let set, forward = lookup logits (Array.zeroCreate 9)

                let shown images : Outputs =
                    let z = forward images
                    { Features = []; Pooled = Tensor.scale 2.0 z; Logits = z }

                for batch, images in [ 4, 9; 1, 3; 20, 100 ] do
                    let seen = Evaluate.outputs batch shown images (OnDevice set)
                    let expected = Array.truncate images logits |> Array.concat
                    Must.equal expected (Tensor.toFloats seen.Logits)
                    Must.equal (Array.map ((*) 2.0) expected) (Tensor.toFloats seen.Pooled)
            )
        }
    ]
