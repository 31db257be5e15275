/// What a run's steps record of the temperature.
module Ctkd.Fs.Tests.TrainTemperatureTests

open System
open Expecto
open Ctkd.Fs

let private range = Ctkd.publishedRange
let private lambda = Schedule.curriculum 2

let private learned: Policy list = [
    Ctkd.globalPolicy range lambda
    Ctkd.instancePolicy range 8 lambda
    Dtkd.policy 4.0
]

let private measured = { Images = 8; Correct = 2; CorrectTop5 = 6; Loss = 1.5 }

/// The policy with its T moved by a constant, behind everything that it does.
let private shifted (by: float) (policy: Policy) : Policy = {
    policy with
        Soften =
            fun t teacher student ->
                let t = (policy.Soften t teacher student).T
                Policy.shared (Tensor.addNumber by t) teacher student
}

let private plan (policy: Policy) : TrainingPlan = {
    (Plans.taught policy { Plans.alone with Precision = F64 }) with
        LearningRate = Schedule.constant 1e-9
        Pad = 0
        Flip = false
}

/// The mean loss of an epoch of one batch, and its dL/dT.
let private observed (policy: Policy) : float * float =
    Tensor.scoped (fun () ->
        let plan = plan policy
        let state = Plans.complete plan (Plans.upload 8 plan) (TrainState.start plan)
        let means = EpochSums.means state.Sums
        List.last means.Terms, means.GradientT
    )

let tests =
    testList "TrainTemperature" [
        test "dL/dT is what central differences of the loss by a shift of T say" {
            for policy in List.take 2 learned do
                let gradient = snd (observed policy)
                let h = 1e-4
                let up, down = fst (observed (shifted h policy)), fst (observed (shifted -h policy))
                Must.beNear 1e-5 1e-9 ((up - down) / (2.0 * h)) gradient
        }

        test "recording dL/dT changes no bit of the training" {
            Tensor.scoped (fun () ->
                let constant (policy: Policy) : Policy = {
                    policy with
                        Soften =
                            fun t teacher student ->
                                let softening = policy.Soften t teacher student
                                { softening with T = Autograd.stopGradient softening.T }
                }

                for policy in learned do
                    let finish policy =
                        let plan = Plans.taught policy Plans.alone
                        Plans.finish plan (Plans.upload 24 plan) (TrainState.start plan)

                    let recorded, silent = finish policy, finish (constant policy)
                    Must.hold (Double.IsFinite (EpochSums.means recorded.Sums).GradientT)
                    Must.hold (Double.IsNaN (EpochSums.means silent.Sums).GradientT)
                    Must.beSameTree silent.Trained recorded.Trained
            )
        }

        test "an epoch's quantiles are those of the temperatures of all its images" {
            Tensor.scoped (fun () ->
                for policy in learned do
                    let plan = plan policy
                    let state = Plans.complete plan (Plans.upload 22 plan) (TrainState.start plan)
                    let m = Metrics.ofEpoch plan state 0 measured 1.0 None
                    let temperatures = EpochSums.temperatures state.Sums
                    Must.equal 22 temperatures.Length
                    Must.equal (Spread.ofNumbers temperatures) m.SpreadT
                    Must.beNear 1e-6 0.0 (Array.average temperatures) m.T.Value
                    Must.beNear 1e-6 0.0 (Array.min temperatures) m.SmallestT.Value
                    Must.beNear 1e-6 0.0 (Array.max temperatures) m.LargestT.Value
                    Must.equal (Policy.learned policy).IsSome m.SlopeT.IsSome
            )
        }

        test "a constant T has quantiles but neither dL/dT nor a slope" {
            Tensor.scoped (fun () ->
                let plan = plan (Scheduled.fixedAt 4.0)
                let state = Plans.complete plan (Plans.upload 8 plan) (TrainState.start plan)
                let m = Metrics.ofEpoch plan state 0 measured 1.0 None
                Must.equal (Some 4.0, None, None) (m.SpreadT |> Option.map _.Median, m.GradientT, m.SlopeT)
                Must.equal None m.Warning
            )
        }

        test "a set with more images than the plan was made for is refused" {
            Tensor.scoped (fun () ->
                let plan = { plan learned.Head with TrainImages = 7 }
                let state = TrainState.start plan
                let set = Plans.upload 8 plan
                Must.refuse "trainer" (fun () -> Plans.epoch plan 100 Plans.never set state)
            )
        }

        test "a saturated policy is warned of in the first such epoch, and only there" {
            Tensor.scoped (fun () ->
                let lines (theta: float) =
                    let plan = plan learned.Head
                    let set = Plans.upload 8 plan
                    let state = TrainState.start plan
                    Autograd.noGrad (fun () -> Tensor.fillInto (Tree.find "theta" state.Temperature) theta)

                    let rec go (state: TrainState) (lines: EpochMetrics list) =
                        if state.Epoch > 3 then
                            lines
                        else
                            let ended = Plans.complete plan set state
                            let line = Metrics.ofEpoch plan ended 0 measured 1.0 None |> Metrics.warnOnce lines
                            go (TrainState.nextEpoch ended.Best ended) (lines @ [ line ])

                    go state []

                let warned theta = lines theta |> List.map _.Warning.IsSome
                Must.equal [ true; false; false ] (warned 12.0)
                Must.equal [ true; false; false ] (warned -12.0)
                Must.equal [ false; false; false ] (warned 1.0)
            )
        }
    ]
