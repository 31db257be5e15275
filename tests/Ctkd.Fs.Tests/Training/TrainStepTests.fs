/// One step of training against the textbook, in every precision and memory format.
module Ctkd.Fs.Tests.TrainStepTests

open System
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Plans

let tests =
    testList "TrainStep" [
        test "a step is one textbook step along the gradient of the losses" {
            for policy in policies do
                for decay in [ true; false ] do
                    Tensor.scoped (fun () ->
                        let decaying = { Sgd.defaults with WeightDecay = 0.1 }

                        let plan =
                            taught policy {
                                alone with
                                    Precision = F64
                                    DecayTemperature = decay
                                    Optimiser = Optimiser.Sgd decaying
                            }

                        let batch = Augment.plain 0 8 (upload 8 plan)
                        let values = EpochValues.create plan 2
                        let reference = TrainState.start plan
                        let state = TrainState.start plan
                        let names = Model.trainedNames plan.Student

                        let trained (state: TrainState) =
                            Tree.concat [
                                Tree.filter names.Contains state.Student
                                Tree.prefixed "temperature/" state.Temperature
                            ]

                        let leaves = trained reference
                        let losses = Plans.losses plan values reference batch
                        let gradients = Autograd.gradients losses.Total (Tree.leaves leaves)

                        let expected =
                            Array.map2
                                (fun (name: string, p) gradient ->
                                    let isTemperature = name.StartsWith "temperature/"

                                    let sgd =
                                        if isTemperature && not decay then
                                            { decaying with WeightDecay = 0.0 }
                                        else
                                            decaying

                                    let struct (next, _) =
                                        Sgd.next sgd values.LearningRate gradient (Tensor.scale 0.0 p) p

                                    name, Tensor.toFloats next
                                )
                                (Array.ofList (Tree.toList leaves))
                                gradients

                        let after = trained (Plans.step plan values state batch)

                        for name, values in expected do
                            Must.beClose 1e-12 1e-14 values (Tensor.toFloats (Tree.find name after))
                    )
        }

        test "the losses are those of teacher and student, weighted by their values" {
            Tensor.scoped (fun () ->
                let plan = taught policies[0] { alone with Precision = F64 }
                let teaching = plan.Distillation.Value
                let batch = Augment.plain 0 8 (upload 8 plan)
                let state = TrainState.start plan
                let losses = Plans.losses plan (EpochValues.create plan 1) state batch
                let teacher = (Model.forward teaching.Model false teaching.Weights batch.Images).Logits
                let rows = Tensor.toFloats >> Array.chunkBySize 4

                let kd = Array.map2 (Oracle.kd 4.0) (rows teacher) (rows losses.Student.Logits) |> Array.average

                let labels = Tensor.toInt64s batch.Labels |> Array.map int
                let ce = Array.map2 Oracle.crossEntropy labels (rows losses.Student.Logits) |> Array.average

                Must.beClose
                    1e-11
                    1e-13
                    [| ce; kd |]
                    (losses.Terms |> List.map (snd >> Tensor.toFloat) |> Array.ofList)

                Must.beNear 1e-11 0.0 (0.1 * ce + 0.9 * kd) (Tensor.toFloat losses.Total)
            )
        }

        test "bf16 keeps weights, velocities and losses in float32" {
            Tensor.scoped (fun () ->
                let plan = taught policies[2] { alone with Precision = Bf16 }
                let state = TrainState.start plan |> finish plan (upload 20 plan)
                let types = TrainState.toTree state |> Tree.leaves |> Array.map Tensor.dtype |> Set.ofArray
                Must.equal (Set [ DType.Float32; DType.Float64; DType.Int64 ]) types

                for term in (EpochSums.means state.Sums).Terms do
                    Must.hold (Double.IsFinite term)
            )
        }

        test "channels last gives the same step as channels first" {
            Tensor.scoped (fun () ->
                let weights channelsLast =
                    let plan = taught policies[1] { alone with Precision = F64; ChannelsLast = channelsLast }

                    TrainState.start plan
                    |> finish plan (upload 20 plan)
                    |> _.Student
                    |> Tree.leaves
                    |> Array.collect Tensor.toFloats

                Must.beClose 1e-9 1e-12 (weights false) (weights true)
            )
        }

        test "a prepared teacher teaches the same with fewer operations, in float64 the very same" {
            Tensor.scoped (fun () ->
                for precision, tolerance in [ F64, 0.0; F32, 1e-5 ] do
                    let plan = taught policies[0] { alone with ChannelsLast = true; Precision = precision }
                    let prepared = TrainingPlan.prepareTeacher plan
                    let teaching = prepared.Distillation.Value
                    Must.hold (Tensor.isChannelsLast (Tree.find "conv.weight" teaching.Weights))
                    let normalised = Macs.ofLayer [ 3; 8; 8 ] (Model.layers teaching.Model)
                    Must.equal (precision = F64) (normalised.Normalised > 0L)
                    let batch = Augment.plain 0 8 (upload 8 plan)

                    let total plan =
                        (Plans.losses plan (EpochValues.create plan 1) (TrainState.start plan) batch).Total
                        |> Tensor.toFloat

                    let expected = total plan
                    Must.lie 0.0 (tolerance * abs expected) (abs (total prepared - expected))
            )
        }

        test "a layer of one's own is trained like the others" {
            Tensor.scoped (fun () ->
                let gain = { Name = "gain"; Shape = [ 4; 1; 1 ]; Initial = Fill 1.0; Trained = true }

                let own =
                    Custom {
                        Name = "gain"
                        Declares = [ gain ]
                        Forward = fun weights _ x -> x * Tree.find "gain" weights
                        OutputShape = id
                    }

                let student = {
                    tiny 4 4 with
                        Body = Sequence [ Layer.conv "conv" 3 1 3 4; own; Relu; GlobalPool ]
                }

                let plan = { alone with Student = student }
                let state = TrainState.start plan |> finish plan (upload 20 plan)
                Must.equal (3L * 4L * 9L + 4L + 20L) (Model.parameterCount student)
                Must.equal [ 4 ] (Shapes.behind student.Body [ 3; 8; 8 ])
                Must.haveNo 1.0 (Tree.find "gain" state.Student |> Tensor.toFloats)
            )
        }

        test "a model with dropout drops in training only, and the same at every repetition" {
            Tensor.scoped (fun () ->
                let plan = { alone with Student = { tiny 4 4 with Dropout = 0.5 } }
                let set = upload 20 plan
                let weights (state: TrainState) = Tree.find "fc.weight" state.Student |> Tensor.toFloats
                let trained () = TrainState.start plan |> finish plan set |> weights
                let first = trained ()
                Engine.seed Device.Cpu 99UL
                Must.equal first (trained ())
                let without = { plan with Student = tiny 4 4 }
                Must.differ first (TrainState.start without |> finish without set |> weights)
                let state = TrainState.start plan
                let images = Tensor.ofFloats DType.Float32 [ 2; 3; 8; 8 ] (Rng.normals 384 (Rng.ofSeed 1))

                let logits model = (Model.forward model false state.Student images).Logits |> Tensor.toFloats

                Must.equal (logits without.Student) (logits plan.Student)
            )
        }

        test "a student learns what its labels say" {
            Tensor.scoped (fun () ->
                // The label is the brightest quarter of the range that the image's pixels lie in.
                let random = Generators.images 3 64 4 8
                let pixels = ImageSet.bytes random
                let shade i = byte (64 * random.Labels[i / 192] + int pixels[i] / 8)
                let images = { random with Images = Pixels.InMemory(Array.init pixels.Length shade) }
                let plan = { alone with Epochs = 15; Batch = 16; LearningRate = Schedule.constant 0.1 }
                let set = Augment.upload DType.Float32 Device.Cpu [ 0.5; 0.5; 0.5 ] [ 0.3; 0.3; 0.3 ] images
                let state = TrainState.start plan |> finish plan set

                let forward images = (TrainingPlan.forward plan plan.Student false state.Student images).Logits

                Must.lie 90.0 100.0 ((Evaluate.accuracy 64 forward (OnDevice set)).Top1)
            )
        }
    ]
