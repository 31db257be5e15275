module Ctkd.Fs.Tests.AugmentTests

open System
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Generators
open Ctkd.Fs.Tests.Oracle
open FsCheck
open FsCheck.FSharp

let private mean, private std = [ 0.4; 0.5; 0.6 ], [ 0.2; 0.25; 0.3 ]

/// 12 images of 4 classes, 5 high and 4 wide, so that swapping height and width is noticed.
let private set: ImageSet =
    let square = images 1 12 4 5

    {
        square with
            Width = 4
            Images = Pixels.InMemory(Array.truncate (12 * 3 * 5 * 4) (ImageSet.bytes square))
    }

/// Runs the property on the set in float64 on the device.
let private withSet (property: DeviceSet -> unit) : unit =
    Tensor.scoped (fun () -> property (Augment.upload DType.Float64 Device.Cpu mean std set))

let private pixels: Dense = { Shape = [ 12; 3; 5; 4 ]; Values = Array.map float (ImageSet.bytes set) }

let private normalised (channel: int) (pixel: float) : float = (pixel / 255.0 - mean[channel]) / std[channel]

/// Seed, epoch, padding and whether to mirror.
let private plans: Gen<int * int * int * bool> =
    Gen.zip (Gen.zip anyInt (Gen.choose (1, 300))) (Gen.zip (Gen.choose (0, 3)) (Gen.elements [ true; false ]))
    |> Gen.map (fun ((seed, epoch), (pad, flip)) -> seed, epoch, pad, flip)

let private orderOf (seed, epoch, pad, flip) (set: DeviceSet) : EpochOrder =
    Augment.shuffle (Rng.ofSeed seed) epoch pad flip set

let private numbers (order: EpochOrder) : int64[] list =
    List.map Tensor.toInt64s [ order.Order; order.Row; order.Column; order.Direction ]

let tests =
    testList "Augment" [
        testProperty "without padding and mirroring a batch is the images in the epoch's order, normalised"
        <| forAll
            (Gen.zip anyInt (Gen.choose (1, 300)))
            (fun (seed, epoch) ->
                withSet (fun set ->
                    let order = orderOf (seed, epoch, 0, false) set
                    let images = Tensor.toInt64s order.Order
                    let batch = Augment.batch 0 order 2 9 set

                    let expected =
                        tabulate
                            [ 7; 3; 5; 4 ]
                            (fun i -> normalised i[1] (at pixels (int images[i[0] + 2] :: i.Tail)))

                    Must.equal [| 7L; 3L; 5L; 4L |] (Tensor.shape batch.Images)
                    Must.beClose 1e-13 1e-14 expected.Values (Tensor.toFloats batch.Images)
                )
            )

        testProperty "a crop is what loops over pixels cut from the padded image"
        <| forAll
            plans
            (fun (seed, epoch, pad, flip) ->
                withSet (fun set ->
                    let order = orderOf (seed, epoch, pad, flip) set

                    match numbers order with
                    | [ images; rows; columns; directions ] ->
                        let pixel (i: int list) =
                            let row = int rows[i[0]] + i[2] - pad
                            let column = int columns[i[0]] + int directions[i[0]] * i[3] - pad
                            normalised i[1] (padded pixels [ int images[i[0]]; i[1]; row; column ])

                        let expected = tabulate pixels.Shape pixel

                        Must.beClose
                            1e-13
                            1e-14
                            expected.Values
                            (Tensor.toFloats (Augment.batch pad order 0 12 set).Images)
                    | other -> failtest $"{other.Length} columns"
                )
            )

        testProperty "an order stays inside the padded image"
        <| forAll
            plans
            (fun (seed, epoch, pad, flip) ->
                withSet (fun set ->
                    let order = orderOf (seed, epoch, pad, flip) set

                    let rows, columns, directions =
                        Tensor.toInt64s order.Row, Tensor.toInt64s order.Column, Tensor.toInt64s order.Direction

                    let inside limit = fun (v: int64) -> Must.lie 0L limit v
                    Seq.iter (inside (2L * int64 pad)) rows
                    Seq.iter (inside (2L * int64 pad + 3L)) columns

                    Seq.iter (inside (2L * int64 pad + 3L)) (Array.map2 (fun c d -> c + 3L * d) columns directions)

                    for d in directions do
                        Must.hold (d = 1L || (d = -1L && flip))
                )
            )

        test "every shift comes equally often and every second image is mirrored" {
            Tensor.scoped (fun () ->
                let many = Augment.upload DType.Float32 Device.Cpu mean std (images 2 9_000 4 2)
                let order = Augment.shuffle (Rng.ofSeed 1) 1 1 true many
                let mirrored = Tensor.toInt64s order.Direction |> Array.filter ((=) -1L)
                // Four standard deviations of a binomial distribution.
                Must.lie (4_500 - 190) (4_500 + 190) mirrored.Length

                let left =
                    Array.map2
                        (fun c d -> if d = 1L then c else c - 1L)
                        (Tensor.toInt64s order.Column)
                        (Tensor.toInt64s order.Direction)

                let shifts = Array.zip (Tensor.toInt64s order.Row) left |> Array.countBy id
                Must.equal 9 shifts.Length

                for (_, count) in shifts do
                    Must.lie (1_000 - 120) (1_000 + 120) count
            )
        }

        testProperty "labels follow their images, and an epoch sees every image once"
        <| forAll
            (Gen.zip plans (Gen.choose (1, 12)))
            (fun (order, size) ->
                withSet (fun set ->
                    let made = orderOf order set
                    let _, _, pad, _ = order

                    let batches = [
                        for start in 0..size..11 -> Augment.batch pad made start (min 12 (start + size)) set
                    ]

                    let images = Tensor.toInt64s made.Order
                    Must.equal (Array.init 12 int64) (Array.sort images)
                    let labels = batches |> List.map (_.Labels >> Tensor.toInt64s) |> Array.concat
                    Must.equal (images |> Array.map (fun i -> i % 4L)) labels
                    let index = batches |> List.map (_.Index >> Tensor.toInt64s) |> Array.concat
                    Must.equal images index
                    let whole = (Augment.batch pad made 0 12 set).Images |> Tensor.toFloats
                    Must.beSame whole (batches |> List.map (_.Images >> Tensor.toFloats) |> Array.concat)
                )
            )

        testProperty "one seed and epoch give one order, another epoch or seed another"
        <| forAll
            plans
            (fun (seed, epoch, pad, flip) ->
                withSet (fun set ->
                    let numbers seed epoch = numbers (orderOf (seed, epoch, pad, flip) set)
                    Must.equal (numbers seed epoch) (numbers seed epoch)
                    Must.differ ((numbers seed epoch).Head) ((numbers seed (epoch + 1)).Head)
                    Must.differ ((numbers seed epoch).Head) ((numbers (seed ^^^ 1) epoch).Head)
                )
            )

        testProperty "the numbers of a batch lie between those of black and white"
        <| forAll
            plans
            (fun order ->
                withSet (fun set ->
                    let _, _, pad, _ = order
                    let batch = Augment.batch pad (orderOf order set) 0 12 set

                    for channel in 0..2 do
                        let values = batch.Images |> Tensor.select 1 channel |> Tensor.toFloats
                        let slack = 1e-12

                        for v in values do
                            Must.lie (normalised channel 0.0 - slack) (normalised channel 255.0 + slack) v
                )
            )

        test "for evaluation the images come as they are, in their order" {
            withSet (fun set ->
                let batch = Augment.plain 3 8 set

                let expected = tabulate [ 5; 3; 5; 4 ] (fun i -> normalised i[1] (at pixels (i[0] + 3 :: i.Tail)))

                Must.beClose 1e-13 1e-14 expected.Values (Tensor.toFloats batch.Images)
                Must.equal [| 3L; 0L; 1L; 2L; 3L |] (Tensor.toInt64s batch.Labels)
                Must.equal [| 3L .. 7L |] (Tensor.toInt64s batch.Index)
            )
        }

        test "a batch has the type of the set and the labels are int64" {
            for dtype in [ DType.Float32; DType.Float64 ] do
                Tensor.scoped (fun () ->
                    let set = Augment.upload dtype Device.Cpu mean std set
                    Must.equal DType.Byte (Tensor.dtype set.Images)
                    let order = Augment.shuffle (Rng.ofSeed 1) 1 1 true set

                    for batch in [ Augment.batch 1 order 0 4 set; Augment.plain 0 4 set ] do
                        Must.equal (dtype, DType.Int64) (Tensor.dtype batch.Images, Tensor.dtype batch.Labels)
                )
        }

        test "sets, plans and batches own exactly the tensors that they name" {
            Must.leaveNothing (fun () ->
                let held = Tensor.live ()
                let set = Augment.upload DType.Float32 Device.Cpu mean std set
                let order = Augment.shuffle (Rng.ofSeed 1) 1 2 true set
                Must.equal (held + 8L) (Tensor.live ())
                let batches = [ Augment.batch 2 order 0 4 set; Augment.plain 0 4 set ]
                Must.equal (held + 14L) (Tensor.live ())
                List.iter Tensor.free (Augment.tensors order)
                batches |> List.collect (fun b -> [ b.Images; b.Labels; b.Index ]) |> List.iter Tensor.free
                List.iter Tensor.free [ set.Images; set.Labels; set.Mean; set.Std ]
            )
        }
    ]
