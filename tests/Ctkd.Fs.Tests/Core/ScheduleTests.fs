module Ctkd.Fs.Tests.ScheduleTests

open System
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Generators
open FsCheck
open FsCheck.FSharp
open TorchSharp

let private values = uniform -100.0 100.0
let private lengths = Gen.oneof [ Gen.choose (1, 300); Gen.constant Int32.MaxValue ]
let private factors = Gen.oneof [ uniform 0.0 1.0; Gen.elements [ 0.0; 1.0 ] ]

let private milestones: Gen<int list> =
    Gen.choose (1, 400) |> Gen.listOf |> Gen.map (List.distinct >> List.sort)

/// A schedule from a start to a stop, with both and its length.
type private Ramp = { Schedule: Schedule; Start: float; Stop: float; Epochs: int }

let private ramp: Gen<Ramp> =
    gen {
        let! kind = Gen.elements [ Schedule.linear; Schedule.cosine ]
        let! start = values
        let! stop = Gen.oneof [ values; Gen.constant start ]
        let! epochs = lengths

        return {
            Schedule = kind start stop epochs
            Start = start
            Stop = stop
            Epochs = epochs
        }
    }

/// A decay with its start.
let private decay: Gen<float * Schedule> =
    gen {
        let! start = values
        let! factor = factors
        let! every = lengths
        let! milestones = milestones

        return!
            Gen.elements [ start, Schedule.step start factor every; start, Schedule.multiStep start factor milestones ]
    }

let private any: Gen<Schedule> =
    let simple = Gen.oneof [ Gen.map Schedule.constant values; Gen.map _.Schedule ramp; Gen.map snd decay ]
    Gen.oneof [ simple; Gen.map3 Schedule.joined simple lengths simple; Gen.map2 Schedule.product simple simple ]

/// The rounding error of numbers of this size.
let private rounding (size: float) : float = 4e-16 * size

let tests =
    testList "Schedule" [
        testPropertyWithConfig (times 1000) "a schedule has a finite value in every epoch that an int can name"
        <| forAll
            (Gen.zip any anyInt)
            (fun (schedule, epoch) ->
                Expect.isTrue (Double.IsFinite(Schedule.at epoch schedule)) $"{schedule} at {epoch}"
            )

        test "a schedule starts with its start" {
            check ramp (fun ramp -> Must.equal ramp.Start (Schedule.at 0 ramp.Schedule))
            check decay (fun (start, schedule) -> Must.equal start (Schedule.at 0 schedule))
            check values (fun value -> Must.equal value (Schedule.at 0 (Schedule.constant value)))
        }

        test "a schedule keeps its start in every epoch before" {
            check
                (Gen.zip ramp (Gen.oneof [ Gen.choose (-500, 0); Gen.constant Int32.MinValue ]))
                (fun (ramp, epoch) -> Must.equal ramp.Start (Schedule.at epoch ramp.Schedule))

            checkMany
                300
                (Gen.zip decay (Gen.oneof [ Gen.choose (-500, 1); Gen.constant Int32.MinValue ]))
                (fun ((start, schedule), epoch) -> Must.equal start (Schedule.at epoch schedule))
        }

        testProperty "a ramp reaches its stop and keeps it"
        <| forAll
            (Gen.zip ramp (Gen.choose (0, 500)))
            (fun (ramp, further) ->
                let epoch = ramp.Epochs + min further (Int32.MaxValue - ramp.Epochs)
                Must.beNear 0.0 (rounding 200.0) ramp.Stop (Schedule.at epoch ramp.Schedule)
            )

        testPropertyWithConfig (times 500) "a ramp stays between its start and its stop and never turns back"
        <| forAll
            (Gen.zip3 ramp anyInt anyInt)
            (fun (ramp, one, other) ->
                let earlier, later =
                    Schedule.at (min one other) ramp.Schedule, Schedule.at (max one other) ramp.Schedule

                let direction = float (sign (ramp.Stop - ramp.Start))

                let steps = [ ramp.Start; earlier; later; ramp.Stop ] |> List.map ((*) direction) |> List.pairwise

                for (a, b) in steps do
                    Expect.isTrue (a <= b + rounding 200.0) $"{a} then {b}"
            )

        testPropertyWithConfig (times 500) "a decay stays between its start and 0 and never turns back"
        <| forAll
            (Gen.zip3 decay anyInt anyInt)
            (fun ((start, schedule), one, other) ->
                let size epoch = abs (Schedule.at epoch schedule)
                Must.hold (abs start >= size (min one other) && size (min one other) >= size (max one other))
                Must.hold (Schedule.at one schedule * start >= 0.0)
            )

        testProperty "a product is the product in every epoch"
        <| forAll
            (Gen.zip3 any any anyInt)
            (fun (one, other, epoch) ->
                let expected = Schedule.at epoch one * Schedule.at epoch other
                Must.beSame [| expected |] [| Schedule.at epoch (Schedule.product one other) |]
            )

        test "a warm-up and a cosine are those of PyTorch's schedulers, alone and together" {
            let rate, stop, epochs = 0.1, 0.001, 12

            let theirs (scheduler: torch.optim.Optimizer -> torch.optim.lr_scheduler.LRScheduler) =
                use weight = new TorchSharp.Modules.Parameter(Plain.number 1.0)
                use sgd = torch.optim.SGD([ weight ], rate)
                let scheduler = scheduler sgd

                [
                    for _ in 1..epochs do
                        (Seq.head sgd.ParamGroups).LearningRate
                        scheduler.step ()
                ]

            let cosine = Schedule.annealed rate stop epochs

            let expected = theirs (fun sgd -> torch.optim.lr_scheduler.CosineAnnealingLR(sgd, float epochs, stop))

            Must.beClose 1e-12 1e-15 (Array.ofList expected) (Array.ofList (Schedule.sample epochs cosine))

            for n in [ 0; 1; 3; 12; 50 ] do
                let warm = Schedule.warmingUp n

                if n > 0 then
                    let linear sgd = torch.optim.lr_scheduler.LinearLR(sgd, 1.0 / float (n + 1), 1.0, n)
                    let ours = Schedule.product warm (Schedule.constant rate)
                    Must.beClose 1e-12 0.0 (Array.ofList (theirs linear)) (Array.ofList (Schedule.sample epochs ours))

                for epoch in 1..epochs do
                    let factor = min (float epoch / float (n + 1)) 1.0
                    Must.beNear 1e-15 0.0 factor (Schedule.at epoch warm)
                    let product = Schedule.product warm cosine
                    Must.beNear 1e-15 0.0 (factor * Schedule.at epoch cosine) (Schedule.at epoch product)

            Must.refuse "epochs" (fun () -> Schedule.warmingUp -1)
            Must.equal 1.0 (Schedule.at Int32.MaxValue (Schedule.warmingUp Int32.MaxValue))
        }

        test "a rate that is annealed starts in full and never reaches its stop in a run" {
            let rates = Schedule.sample 10 (Schedule.annealed 0.1 0.0 10)
            Must.equal 0.1 rates.Head
            Must.hold (List.last rates > 0.0)
            Must.equal (List.sortDescending rates) rates
            Must.beNear 0.0 1e-17 0.0 (Schedule.at 11 (Schedule.annealed 0.1 0.0 10))
        }

        test "the middle of a ramp is half of it" {
            for ramp in [ Schedule.linear; Schedule.cosine ] do
                Must.beNear 1e-15 0.0 3.0 (Schedule.at 5 (ramp 1.0 5.0 10))

            Must.beNear 1e-15 0.0 2.0 (Schedule.at 1 (Schedule.linear 1.0 5.0 4))
        }

        test "an epoch equal to a milestone is not yet decayed" {
            let rate = Schedule.multiStep 0.05 0.1 [ 150; 180; 210 ]

            let expected = [
                1, 0.05
                150, 0.05
                151, 0.005
                180, 0.005
                181, 0.0005
                210, 0.0005
                211, 0.00005
                240, 0.00005
            ]

            for epoch, value in expected do
                Must.beNear 1e-14 0.0 value (Schedule.at epoch rate)
        }

        test "a step decays after every so many epochs" {
            let expected = [ 8.0; 8.0; 4.0; 4.0; 2.0 ]
            Must.equal expected (Schedule.sample 5 (Schedule.step 8.0 0.5 2))
        }

        test "the curriculum has the published values" {
            let values =
                List.map (fun epoch -> Schedule.at epoch (Schedule.curriculum 10)) [ 0; 1; 2; 3; 10; 11; 240 ]

            let expected = [ 0.0; 0.02447; 0.09549; 0.20611; 1.0; 1.0; 1.0 ]
            Must.beClose 0.0 5e-6 (Array.ofList expected) (Array.ofList values)
            Must.equal 1.0 values[4]
        }

        testProperty "joined schedules agree with their halves"
        <| forAll
            (Gen.zip3 any any (Gen.zip lengths anyInt))
            (fun (first, next, (epochs, epoch)) ->
                let expected = if epoch <= epochs then Schedule.at epoch first else Schedule.at (epoch - epochs) next

                Must.equal expected (Schedule.at epoch (Schedule.joined first epochs next))
            )

        testProperty "a sample is the values of the epochs from 1"
        <| forAll
            (Gen.zip any (Gen.choose (0, 30)))
            (fun (schedule, count) ->
                Must.equal [ for epoch in 1..count -> Schedule.at epoch schedule ] (Schedule.sample count schedule)
            )

        test "a warm-up reaches its weight in a straight line and keeps it" {
            let at epoch = Schedule.warmUp 2.0 20 |> Schedule.at epoch
            Must.equal [ 0.0; 0.5; 1.0; 2.0; 2.0 ] (List.map at [ 0; 5; 10; 20; 240 ])
        }

        test "equal schedules are equal values" {
            Must.equal (Schedule.cosine 0.0 1.0 10) (Schedule.curriculum 10)
            Must.differ (Schedule.linear 0.0 1.0 10) (Schedule.curriculum 10)
        }

        test "numbers that are not finite are refused by name" {
            for bad in [ nan; infinity; -infinity ] do
                Must.refuse "value" (fun () -> Schedule.constant bad)
                Must.refuse "start" (fun () -> Schedule.linear bad 1.0 1)
                Must.refuse "stop" (fun () -> Schedule.linear 1.0 bad 1)
                Must.refuse "start" (fun () -> Schedule.cosine bad 1.0 1)
                Must.refuse "stop" (fun () -> Schedule.cosine 1.0 bad 1)
                Must.refuse "start" (fun () -> Schedule.step bad 1.0 1)
                Must.refuse "factor" (fun () -> Schedule.step 1.0 bad 1)
                Must.refuse "start" (fun () -> Schedule.multiStep bad 1.0 [ 1 ])
                Must.refuse "factor" (fun () -> Schedule.multiStep 1.0 bad [ 1 ])
        }

        test "lengths below one epoch and milestones out of order are refused by name" {
            for bad in [ 0; -1; Int32.MinValue ] do
                Must.refuse "every" (fun () -> Schedule.step 1.0 0.1 bad)
                Must.refuse "epochs" (fun () -> Schedule.linear 0.0 1.0 bad)
                Must.refuse "epochs" (fun () -> Schedule.cosine 0.0 1.0 bad)
                Must.refuse "epochs" (fun () -> Schedule.curriculum bad)

                Must.refuse "epochs" (fun () -> Schedule.joined (Schedule.constant 1.0) bad (Schedule.constant 2.0))

                Must.refuse "milestones" (fun () -> Schedule.multiStep 1.0 0.1 [ bad ])

            Must.refuse "milestones" (fun () -> Schedule.multiStep 1.0 0.1 [ 2; 1 ])
        }
    ]
