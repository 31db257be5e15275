/// Options of training in a step, and in an epoch.
module Ctkd.Fs.Tests.TrainOptionsTests

open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Plans
open Ctkd.Fs.Tests.Folders

let private double (plan: TrainingPlan) : TrainingPlan =
    let wide (teacher: Distillation) = {
        teacher with
            Weights =
                teacher.Weights
                |> Tree.map (fun _ w -> if w.is_floating_point () then Tensor.toType DType.Float64 w else w)
    }

    { plan with Precision = F64; Distillation = Option.map wide plan.Distillation }

/// A plan with trained connectors and a learned temperature.
let private rich () : TrainingPlan = DistillerPlans.plan policies[1] (DistillerPlans.made "vid") |> double

let private hex (state: TrainState) =
    TrainState.toTree state
    |> Tree.toList
    |> List.map (fun (name, x) -> name, System.Convert.ToHexString(Tensor.toBytes x))

/// A state before its first step, the values of an epoch, and the gradients on a batch.
let private gradientsOf (plan: TrainingPlan) (batch: Batch) =
    let state = TrainState.start plan
    let values = EpochValues.create plan 2
    let losses = Plans.losses plan values state batch
    let leaves = Tree.leaves state.Trained
    let ordinary = leaves.Length - Tree.count state.Temperature
    state, values, Autograd.gradientsOrZeros ordinary losses.Total leaves

/// Two epochs over 21 images in batches of 8.
let private train (how: TeacherOptions) (plan: TrainingPlan) : TrainState =
    let set = upload 21 plan

    let rec go (state: TrainState) =
        match Plans.epochOf how plan 1 never set state with
        | Complete state when state.Epoch = 2 -> state
        | Complete state -> go (TrainState.nextEpoch state.Best state)
        | ended -> failwith $"{ended}"

    go (TrainState.start plan)

let tests =
    testList "TrainOptions" [
        test "a step is one of the optimiser along all gradients together, shortened" {
            for optimiser in [ Optimiser.AdamW { AdamW.defaults with WeightDecay = 0.3 }; Optimiser.defaults ] do
                for decay in [ true; false ] do
                    for longest in [ 1e-3; 1e9 ] do
                        Tensor.scoped (fun () ->
                            let plan = {
                                rich () with
                                    Optimiser = optimiser
                                    DecayTemperature = decay
                                    ClipGradients = Some longest
                            }

                            let batch = Augment.plain 0 8 (upload 8 plan)
                            let reference, values, gradients = gradientsOf plan batch

                            Must.haveOne
                                (fun (name: string) -> name.StartsWith "connectors/")
                                (Tree.names reference.Trained)

                            let temperatures = Tree.count reference.Temperature
                            Must.equal 1 temperatures

                            let total =
                                gradients |> Array.collect Tensor.toFloats |> Array.sumBy (fun g -> g * g) |> sqrt

                            let share = min 1.0 (longest / (total + 1e-6))

                            let expected =
                                Array.mapi2
                                    (fun i (p: Tensor) gradient ->
                                        let isTemperature = i >= gradients.Length - temperatures

                                        let plain =
                                            if isTemperature && not decay then
                                                Optimiser.withoutDecay optimiser
                                            else
                                                optimiser

                                        let gradient = Tensor.scale share gradient
                                        let zero = Tensor.scale 0.0 p

                                        match plain with
                                        | Optimiser.Sgd sgd ->
                                            let struct (next, _) = Sgd.next sgd values.LearningRate gradient zero p
                                            Tensor.toFloats next
                                        | Optimiser.AdamW adam ->
                                            let struct (next, _, _) =
                                                AdamW.next adam values.LearningRate 1 gradient (zero, zero) p

                                            Tensor.toFloats next
                                    )
                                    (Tree.leaves reference.Trained)
                                    gradients

                            let after = Plans.step plan values (TrainState.start plan) batch

                            for expected, (name, p) in Seq.zip expected (Tree.toList after.Trained) do
                                Expect.isTrue (expected.Length > 0) name
                                // Adam divides by the size of a gradient, of which nothing but rounding may be left.
                                Must.beClose 1e-9 1e-9 expected (Tensor.toFloats p)
                        )
        }

        test "the average of a run is that of the weights after its steps" {
            Tensor.scoped (fun () ->
                let plan = { taught policies[1] alone with Average = Some 0.8 }
                let set = upload 24 plan
                let steps = ResizeArray<Tree>()

                let rec go (state: TrainState) =
                    match Plans.epoch plan 100 (fun _ _ -> true) set state with
                    | Stopped state ->
                        steps.Add(Tree.copy state.Student)
                        go state
                    | Complete state ->
                        steps.Add(Tree.copy state.Student)
                        state
                    | ended -> failwith $"{ended}"

                let state = go (TrainState.start plan)
                Must.equal 3 steps.Count
                let deployed = TrainState.deployed state
                Must.equal (Tree.names state.Student) (Tree.names deployed)
                let trained = Model.trainedNames plan.Student

                for name, x in Tree.toList deployed do
                    let at i = Tree.find name steps[i] |> Tensor.toFloats
                    let weighted a b c = (0.64 * a + 0.8 * b + c) / 2.44
                    let expected = if trained.Contains name then Array.map3 weighted (at 0) (at 1) (at 2) else at 2
                    Must.beClose 1e-6 1e-7 expected (Tensor.toFloats x)

                Must.beSameTree state.Student (TrainState.deployed { state with Average = Tree.empty })
            )
        }

        test "averaging changes no weight of the training" {
            Tensor.scoped (fun () ->
                let plan = taught policies[1] alone
                let without = train TeacherOutputs.simple plan
                let averaged = train TeacherOutputs.simple { plan with Average = Some 0.9 }
                Must.beSameTree without.Student averaged.Student
                Must.beSameTree without.Velocity averaged.Velocity
            )
        }

        test "student and teacher see the same blends, and the loss counts both labels" {
            Tensor.scoped (fun () ->
                let plan = { taught policies[0] alone with Mixup = Some 0.7 } |> double |> TrainingPlan.prepareTeacher
                let set = upload 21 plan

                for ahead in [ 1; 2; 3 ] do
                    let trainer = { trainer plan set with Teacher = { TeacherOutputs.simple with Ahead = ahead } }
                    let parts = Train.parts trainer (TrainState.start plan)
                    let plain = Train.parts { trainer with Plan = { plan with Mixup = None } } (TrainState.start plan)

                    for step in 0..2 do
                        let input = parts.Teacher.At step
                        let mix = input.Batch.Mix.Value
                        let share = (Tensor.toFloats mix.Weight)[0]
                        Must.lie 0.0 1.0 share
                        let unmixed = (plain.Teacher.At step).Batch
                        let key = TrainingPlan.random "mixup" 1 plan
                        let alone = Mixup.steps 0.7 key plan.Batch step unmixed
                        Must.beSame (Tensor.toFloats alone.Images) (Tensor.toFloats input.Batch.Images)
                        Must.equal (Tensor.toInt64s alone.Mix.Value.Other) (Tensor.toInt64s mix.Other)
                        let seen = (TeacherOutputs.ofImages plan input.Batch.Images).Value

                        Must.beClose
                            1e-12
                            1e-12
                            (Tensor.toFloats seen.Logits)
                            (Tensor.toFloats input.Teacher.Value.Logits)

                        let losses = Plans.losses plan parts.Values (TrainState.start plan) input.Batch
                        let ce labels = Loss.crossEntropy labels losses.Student.Logits |> Tensor.toFloat
                        let expected = share * ce input.Batch.Labels + (1.0 - share) * ce mix.Other
                        Must.beNear 1e-12 0.0 expected (snd losses.Terms.Head |> Tensor.toFloat)

                    parts.Teacher.Free()
                    plain.Teacher.Free()
            )
        }

        test "a run with mixup repeats to the bit, and another seed or alpha is another run" {
            Tensor.scoped (fun () ->
                let plan = { taught policies[1] alone with Mixup = Some 0.4 }
                let first = hex (train TeacherOutputs.simple plan)
                Must.equal first (hex (train TeacherOutputs.simple plan))
                let others = [ { plan with Seed = 2 }; { plan with Mixup = Some 0.5 }; { plan with Mixup = None } ]

                for other in others do
                    Must.differ first (hex (train TeacherOutputs.simple other))
            )
        }

        test "mixup is refused beside cached features and beside an agent" {
            inFolder (fun folder ->
                Tensor.scoped (fun () ->
                    let plan = TrainingPlan.prepareTeacher { taught policies[0] alone with Mixup = Some 0.4 }
                    let width = plan.Distillation.Value.Model.Classifier.In
                    use cache = TeacherCache.openFile folder "key" width 1_000_000L Exact |> Error.orRaise
                    let how = { TeacherOutputs.simple with Cache = Some cache }
                    Must.refuse "options" (fun () -> train how plan)
                    let acting = { taught (Rlkd.policy eager 4.0) alone with Mixup = Some 0.4 }
                    Must.refuse "trainer" (fun () -> train TeacherOutputs.simple acting)
                )
            )
        }

        test "a best evaluation has stalled when it has not risen for so many epochs" {
            let best: Best = { Epoch = 3; Top1 = 50.0; ValTop1 = None }

            for epoch, patience, expected in [ 4, 1, false; 5, 1, true; 5, 2, false; 6, 2, true; 9, 2, true ] do
                Must.equal (epoch, patience, expected) (epoch, patience, Best.hasStalled (Some patience) epoch best)

            Must.notHold (Best.hasStalled None 1000 best)
            Must.notHold (Best.hasStalled (Some 1) 1 Best.none)
        }

        test
            "the better epoch is that of the higher top-1 on the validation, else on the test, and the earlier of equals" {
            let at epoch top1 validation : Best = { Epoch = epoch; Top1 = top1; ValTop1 = validation }

            for best, later, expected in
                [
                    Best.none, at 1 10.0 None, 1
                    Best.none, at 1 0.0 None, 0
                    Best.none, at 1 90.0 (Some 0.0), 0
                    at 1 50.0 None, at 2 50.0 None, 1
                    at 1 50.0 None, at 2 50.1 None, 2
                    at 1 50.0 (Some 40.0), at 2 60.0 (Some 40.0), 1
                    at 1 50.0 (Some 40.0), at 2 45.0 (Some 41.0), 2
                ] do
                Must.equal expected (Best.better best later).Epoch

            Must.contain "best top-1 on the validation, 40.00 % of epoch 1," (Best.stalled 2 4 (at 1 50.0 (Some 40.0)))
        }
    ]
