/// The distillers with connectors and no memory: VID, SRRL and FitNet.
module Ctkd.Fs.Tests.ConnectorTests

open Ctkd.Fs
open Ctkd.Fs.Tests.Generators
open Ctkd.Fs.Tests.Lessons
open Ctkd.Fs.Tests.Oracle
open Xunit

let private stem = [ 2; 8; 8 ]
let private tensor seed shape = normal seed shape |> Expect.ofDense

/// The loss of a distiller as a function of its connectors and a student's feature.
let private lossOf
    (distiller: Distiller)
    (feature: Dense)
    (lesson: Tensor -> Lesson)
    : Dense list * (Tensor list -> Tensor) =
    let state = state 1 distiller
    let trained = distiller.Declares |> List.filter _.Trained |> List.map _.Name

    let dense name =
        let x = Tree.find name state
        let shape = Tensor.shape x |> Array.map int |> List.ofArray

        // Central differences need a smooth place: this shift keeps a ReLU behind the normalisation open.
        let values = if name = "bn.bias" then Array.create shape.Head 10.0 else Tensor.toFloats x
        { Shape = shape; Values = values }

    let f (xs: Tensor list) =
        let given = List.zip trained (List.tail xs) |> Map.ofList
        let tree = state |> Tree.map (fun name x -> Map.tryFind name given |> Option.defaultValue x)
        distiller.Loss tree (lesson (List.head xs))

    feature :: List.map dense trained, f

// ---- VID ----------------------------------------------------------------------------------------

let private vidPairing = pairing [ stem; [ 3; 2; 2 ]; [ 2; 2; 2 ] ] [ stem; [ 2; 4; 4 ]; [ 4; 1; 1 ] ]

let private vidLesson (student: Tensor) : Lesson =
    let stem = tensor 1 [ 2; 2; 8; 8 ]
    let teacher = [ stem; tensor 2 [ 2; 3; 2; 2 ]; tensor 3 [ 2; 2; 2; 2 ] ]
    lesson (mapped teacher) (mapped [ stem; student; tensor 4 [ 2; 4; 1; 1 ] ]) [| 0; 1 |]

[<Fact>]
let ``VID has a regressor and a variance of 5 for each channel of each map behind the stem`` () =
    let distiller = Vid.distiller vidPairing |> Error.orRaise
    let state = state 1 distiller

    Assert.Equal<(string * int list) list>(
        [
            "1.regressor.0.weight", [ 3; 2; 1; 1 ]
            "1.regressor.2.weight", [ 3; 3; 1; 1 ]
            "1.regressor.4.weight", [ 3; 3; 1; 1 ]
            "1.log_scale", [ 3 ]
            "2.regressor.0.weight", [ 2; 4; 1; 1 ]
            "2.regressor.2.weight", [ 2; 2; 1; 1 ]
            "2.regressor.4.weight", [ 2; 2; 1; 1 ]
            "2.log_scale", [ 2 ]
        ],
        distiller.Declares |> List.map (fun d -> d.Name, d.Shape)
    )

    let variance =
        Expect.numbers (fun () -> Tree.find "1.log_scale" state |> Tensor.softplus |> Tensor.addNumber 1e-5)

    Expect.close 1e-12 0.0 [| 5.0; 5.0; 5.0 |] variance

[<Fact>]
let ``the gradients of VID are those of its values, connectors included`` () =
    Tensor.scoped (fun () ->
        let distiller = Vid.distiller vidPairing |> Error.orRaise
        let inputs, f = lossOf distiller (normal 5 [ 2; 2; 4; 4 ]) vidLesson
        Expect.gradientsMatch f inputs
    )

[<Fact>]
let ``VID of a prediction that is right everywhere is half the logarithm of the variance`` () =
    Tensor.scoped (fun () ->
        let map = tensor 1 [ 2; 3; 4; 4 ]
        let scale = Expect.tensor [ 3 ] [| 1.0; 2.0; 3.0 |]
        let softplus x = log (1.0 + exp x) + 1e-5
        let expected = [ 1.0; 2.0; 3.0 ] |> List.averageBy (softplus >> log)
        Expect.near 1e-12 0.0 (0.5 * expected) (Tensor.toFloat (Vid.loss scale map map))
    )

// ---- SRRL ---------------------------------------------------------------------------------------

/// Pooled features as a teacher of the zoo has them, and its classifier.
let private classroom (teacher: Model) (student: Model) : Distiller * (Tensor -> Lesson) =
    let random seed count = tensor seed [ 8; count ]

    let weights =
        Layer.declarations teacher.Starts (Linear teacher.Classifier)
        |> Initialise.tree DType.Float64 Device.Cpu (Rng.ofSeed 1)

    let classify = Layer.forward weights false (ResizeArray()) (Linear teacher.Classifier)
    let pooled = random 1 teacher.Classifier.In
    let taught = { Lessons.pooled pooled with Logits = classify pooled }

    Pairing.create 32 32 (Array.init 12 (fun i -> i % student.Classes)) 4 teacher student
    |> Srrl.distiller
    |> Error.orRaise,
    fun features -> {
        lesson taught (Lessons.pooled features) (Array.zeroCreate 8) with
            Classify = classify
    }

[<Fact>]
let ``SRRL works with the classifier of every teacher for small images`` () =
    let student = Zoo.find "resnet8" 10 |> Error.orRaise

    for published in Zoo.models |> List.filter (fun m -> m.Size = 32) do
        Tensor.scoped (fun () ->
            let distiller, lesson = classroom (published.Create 10) student
            let loss = distiller.Loss (state 1 distiller) (lesson (tensor 2 [ 8; student.Classifier.In ]))
            let value = Tensor.toFloat loss
            Assert.True(value > 0.0 && System.Double.IsFinite value, $"{published.Name}: {value}")
        )

[<Fact>]
let ``the gradients of SRRL are those of its values, connectors included`` () =
    Tensor.scoped (fun () ->
        let distiller, lesson = classroom (threeMaps (2, 3, 4) 3) (threeMaps (2, 3, 5) 3)
        let inputs, f = lossOf distiller (normal 3 [ 8; 5 ]) lesson
        Expect.gradientsMatch f inputs
    )

[<Fact>]
let ``SRRL is 0 where phi gives the teacher's features`` () =
    Tensor.scoped (fun () ->
        let model = threeMaps (2, 3, 2) 3
        let distiller, lesson = classroom model model
        let teacher = (lesson (tensor 1 [ 8; 2 ])).Teacher.Pooled
        let mean = Tensor.unsqueeze 0 (Tensor.meanOver 0 teacher)
        let centred = teacher - mean
        let deviation = Tensor.sqrt (Tensor.addNumber 1e-5 (Tensor.meanOver 0 (centred * centred)))
        let identity = Expect.tensor [ 2; 2; 1; 1 ] [| 1.0; 0.0; 0.0; 1.0 |]

        let phi name x =
            match name with
            | "conv.weight" -> identity
            | "bn.weight" -> deviation
            | "bn.bias" -> Tensor.squeeze 0 mean
            | _ -> x

        // Behind the ReLU only features above 0 can be met.
        let lesson = lesson teacher
        let positive = Tensor.relu teacher
        let taught = { lesson.Teacher with Pooled = positive; Logits = lesson.Classify positive }
        let loss = distiller.Loss (Tree.map phi (state 1 distiller)) { lesson with Teacher = taught }
        Expect.near 0.0 1e-24 0.0 (Tensor.toFloat loss)
    )

[<Fact>]
let ``SRRL refuses other classes and batches of one image`` () =
    let maps = [ stem ]
    let both = pairing maps maps
    let other = { both with Teacher = { both.Teacher with Classes = 7 } }
    Assert.Contains("4 and 7 classes", (errorOf (Srrl.distiller other)).What)
    Assert.Contains("at least 2 images", (errorOf (Srrl.distiller { both with SmallestBatch = 1 })).What)

// ---- FitNet -------------------------------------------------------------------------------------

[<Fact>]
let ``FitNet's regressor meets maps that are equal, twice or half as large`` () =
    for side, kernel in [ 4, 1; 8, 3; 2, 4 ] do
        Tensor.scoped (fun () ->
            let distiller =
                pairing [ stem; [ 3; 4; 4 ] ] [ stem; [ 2; side; side ] ]
                |> FitNet.distiller 1
                |> Error.orRaise

            Assert.Equal<int list>([ kernel; kernel ], distiller.Declares.Head.Shape |> List.skip 2)
            let teacher = mapped [ tensor 1 [ 2; 2; 8; 8 ]; tensor 2 [ 2; 3; 4; 4 ] ]
            let lesson student = lesson teacher (mapped [ teacher.Features.Head; student ]) [| 0; 1 |]
            let inputs, f = lossOf distiller (normal 3 [ 2; 2; side; side ]) lesson
            // A bias in front of a batch normalisation has no effect; its gradient is 0 but for rounding.
            Expect.gradientsMatch f inputs
        )

[<Fact>]
let ``FitNet refuses maps of other sizes, a hint that is not there and single pixels of single images`` () =
    let refuse hint teacher student why =
        let error = errorOf (FitNet.distiller hint (pairing teacher student))
        Assert.Contains(why, error.What)

    refuse 1 [ stem; [ 3; 4; 4 ] ] [ stem; [ 3; 3; 3 ] ] "equal, double or half"
    refuse 1 [ stem; [ 3; 4; 4 ] ] [ stem; [ 3; 8; 4 ] ] "equal, double or half"
    refuse 2 [ stem; [ 3; 4; 4 ] ] [ stem; [ 3; 4; 4 ]; [ 3; 4; 4 ] ] "teacher has no map 2"
    refuse 0 [] [ stem ] "teacher has no map 0"
    let single = { pairing [ [ 3; 1; 1 ] ] [ [ 3; 1; 1 ] ] with SmallestBatch = 1 }
    Assert.Contains("at least 2 images", (errorOf (FitNet.distiller 0 single)).What)
