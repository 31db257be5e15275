/// Inputs from plain arrays, and models with maps that suit every distiller.
module Ctkd.Fs.Tests.Inputs

open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Oracle
open FsCheck.FSharp

/// Standard normal numbers.
let normal (seed: int) (shape: int list) : Dense = {
    Shape = shape
    Values = Rng.ofSeed seed |> Rng.normals (List.fold (*) 1 shape)
}

/// Any seed.
let seeds: FsCheck.Gen<int> = Gen.choose (0, 1_000_000)

/// `count` labels below the number of classes.
let labels (seed: int) (count: int) (classes: int) : int[] =
    let rng = Rng.ofSeed seed |> Rng.split "labels"
    Array.init count (fun i -> Rng.below classes i rng)

let ofLabels (labels: int[]) : Tensor = Tensor.ofInt64s [ labels.Length ] (Array.map int64 labels)

/// An input at T = 1; logits, pooled features and maps are those of the given outputs.
let input (teacher: Outputs) (student: Outputs) (labels: int[]) : DistillerInput = {
    Teacher = teacher
    Student = student
    Softened = Policy.shared (Plain.number 1.0) teacher.Logits student.Logits
    Labels = ofLabels labels
    Index = Tensor.arange Device.Cpu labels.Length
    Shares = []
    Classify = id
    Key = lazy (Tensor.scalar DType.Int64 Device.Cpu 0.0)
}

/// Outputs for tests that use only the pooled features.
let pooled (features: Tensor) : Outputs = { Features = []; Pooled = features; Logits = features }

/// Outputs for tests that use only the maps.
let mapped (maps: Tensor list) : Outputs =
    let pooled = Tensor.meanOverImage (List.last maps)
    { Features = maps; Pooled = pooled; Logits = pooled }

/// Rotates the rows by two reflections, x (I - 2 v v^T) twice: an orthogonal map with determinant 1.
let rotated (seed: int) (x: Dense) : Dense =
    let d = List.last x.Shape

    let reflect (v: float[]) (row: float[]) =
        let along = Array.fold2 (fun sum a b -> sum + a * b) 0.0 row v / Array.sumBy (fun a -> a * a) v
        Array.map2 (fun a b -> a - 2.0 * along * b) row v

    let turn = reflect (normal seed [ d ]).Values >> reflect (normal (seed + 1) [ d ]).Values
    { x with Values = rows x |> Array.collect turn }

/// A small network with three stages: a stem at full size and two maps, each half the size of the one before.
let threeMaps (widths: int * int * int) (classes: int) : Model =
    let first, second, third = widths

    let stage name stride inputs outputs = [
        Block(Sequence [ Layer.conv name 3 stride inputs outputs; Layer.batchNorm $"{name}.bn" outputs; Relu ])
        Tap
    ]

    {
        Name = $"small{third}"
        Classes = classes
        Body = Sequence(stage "a" 1 3 first @ stage "b" 2 first second @ stage "c" 2 second third @ [ GlobalPool ])
        Classifier = Layer.dense "fc" third classes
        Dropout = 0.0
        Starts = Starts.kaiming
    }

/// A pair with the given shapes.
let pair (teacher: int list list) (student: int list list) : ModelPair =
    let shown name (maps: int list list) : ModelShape = {
        Model = name
        Maps = maps
        Pooled = (if maps.IsEmpty then 4 else (List.last maps).Head)
        Classes = 4
        HasClassifier = true
    }

    {
        Teacher = shown "teacher" teacher
        Student = shown "student" student
        Labels = Array.init 20 (fun i -> i % 4)
        SmallestBatch = 4
    }

/// Returns the error of a result.
let errorOf (result: Result<'T, Error>) : Error =
    match result with
    | Ok _ -> failwith "an error was expected"
    | Result.Error error -> error

/// Initial connectors and memory of a distiller, in float64.
let state (seed: int) (distiller: Distiller) : Tree =
    let rng = Rng.ofSeed seed

    Tree.concat [
        Initialise.tree DType.Float64 Device.Cpu rng distiller.Declares
        distiller.Memory DType.Float64 Device.Cpu rng
    ]

/// The loss of a distiller as a function of its connectors and a student's feature.
let lossOf
    (distiller: Distiller)
    (feature: Dense)
    (input: Tensor -> DistillerInput)
    : Dense list * (Tensor list -> Tensor) =
    let state = state 1 distiller
    let trained = distiller.Declares |> List.filter _.Trained |> List.map _.Name

    let dense name =
        let x = Tree.find name state
        let shape = Tensor.shape x |> Array.map int |> List.ofArray

        // Central differences need a smooth point: this shift keeps a ReLU after the normalisation open.
        let values = if name = "bn.bias" then Array.create shape.Head 10.0 else Tensor.toFloats x
        { Shape = shape; Values = values }

    let f (xs: Tensor list) =
        let given = List.zip trained (List.tail xs) |> Map.ofList
        let tree = state |> Tree.map (fun name x -> Map.tryFind name given |> Option.defaultValue x)
        distiller.Loss tree (input (List.head xs))

    feature :: List.map dense trained, f
