module Ctkd.Fs.Tests.SrrlTests

open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Generators
open Ctkd.Fs.Tests.Inputs
open Ctkd.Fs.Tests.Oracle

let private stem = [ 2; 8; 8 ]
let private tensor seed shape = normal seed shape |> Plain.ofDense

/// A distiller and its inputs, with pooled features like those of a teacher of the zoo, and its classifier.
let private setUp (teacher: Model) (student: Model) : Distiller * (Tensor -> DistillerInput) =
    let random seed count = tensor seed [ 8; count ]

    let weights =
        Layer.declarations teacher.Starts (Linear teacher.Classifier)
        |> Initialise.tree DType.Float64 Device.Cpu (Rng.ofSeed 1)

    let classify = Layer.forward weights false (ResizeArray()) (Linear teacher.Classifier)
    let pooled = random 1 teacher.Classifier.In
    let taught = { Inputs.pooled pooled with Logits = classify pooled }

    ModelPair.create 32 32 (Array.init 12 (fun i -> i % student.Classes)) 4 teacher student
    |> Srrl.distiller
    |> Error.orRaise,
    fun features -> {
        input taught (Inputs.pooled features) (Array.zeroCreate 8) with
            Classify = classify
    }

let tests =
    testList "Srrl" [
        test "SRRL works with the classifier of every teacher for small images" {
            let student = Zoo.find "resnet8" 10 |> Error.orRaise

            for published in Zoo.models |> List.filter (fun m -> m.Size = 32) do
                Tensor.scoped (fun () ->
                    let distiller, input = setUp (published.Create 10) student

                    let loss = distiller.Loss (state 1 distiller) (input (tensor 2 [ 8; student.Classifier.In ]))

                    let value = Tensor.toFloat loss
                    Expect.isTrue (value > 0.0 && System.Double.IsFinite value) $"{published.Name}: {value}"
                )
        }

        test "the gradients of SRRL are those of its values, connectors included" {
            Tensor.scoped (fun () ->
                let distiller, input = setUp (threeMaps (2, 3, 4) 3) (threeMaps (2, 3, 5) 3)
                let inputs, f = lossOf distiller (normal 3 [ 8; 5 ]) input
                Must.matchDerivatives f inputs
            )
        }

        test "SRRL is 0 where phi gives the teacher's features" {
            Tensor.scoped (fun () ->
                let model = threeMaps (2, 3, 2) 3
                let distiller, input = setUp model model
                let teacher = (input (tensor 1 [ 8; 2 ])).Teacher.Pooled
                let mean = Tensor.unsqueeze 0 (Tensor.meanOver 0 teacher)
                let centred = teacher - mean
                let deviation = Tensor.sqrt (Tensor.addNumber 1e-5 (Tensor.meanOver 0 (centred * centred)))
                let identity = Plain.tensor [ 2; 2; 1; 1 ] [| 1.0; 0.0; 0.0; 1.0 |]

                let phi name x =
                    match name with
                    | "conv.weight" -> identity
                    | "bn.weight" -> deviation
                    | "bn.bias" -> Tensor.squeeze 0 mean
                    | _ -> x

                // After the ReLU only features above 0 can be reached.
                let input = input teacher
                let positive = Tensor.relu teacher
                let taught = { input.Teacher with Pooled = positive; Logits = input.Classify positive }
                let loss = distiller.Loss (Tree.map phi (state 1 distiller)) { input with Teacher = taught }
                Must.beNear 0.0 1e-24 0.0 (Tensor.toFloat loss)
            )
        }

        test "SRRL refuses other classes and batches of one image" {
            let maps = [ stem ]
            let both = pair maps maps
            let other = { both with Teacher = { both.Teacher with Classes = 7 } }
            Must.contain "4 and 7 classes" ((errorOf (Srrl.distiller other)).What)
            Must.contain "at least 2 images" ((errorOf (Srrl.distiller { both with SmallestBatch = 1 })).What)
        }
    ]
