module Ctkd.Fs.Tests.ModelTests

open System
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Generators
open FsCheck
open FsCheck.FSharp

let private zoo (name: string) (classes: int) : Model = Zoo.find name classes |> Error.orRaise

let private fresh (seed: int) (model: Model) : Tree =
    Model.declarations model |> Initialise.tree DType.Float32 Device.Cpu (Rng.ofSeed seed)

let private images (count: int) (size: int) : Tensor =
    let shape = [ count; 3; size; size ]
    Tensor.ofFloats DType.Float32 shape (Rng.normals (count * 3 * size * size) (Rng.ofSeed 4))

let tests =
    testList "Model" [
        test "logits are the classifier of the pooled features, which are the mean of the last map" {
            Tensor.scoped (fun () ->
                let model = zoo "resnet8" 5
                let weights = fresh 1 model
                let outputs = Autograd.noGrad (fun () -> Model.forward model false weights (images 3 8))
                let tensor name = Tree.find name weights
                let pooled = Tensor.meanOverImage (List.last outputs.Features)
                Must.beSame (Tensor.toFloats pooled) (Tensor.toFloats outputs.Pooled)
                let logits = Tensor.linear (tensor "fc.weight") (Some(tensor "fc.bias")) outputs.Pooled
                Must.beSame (Tensor.toFloats logits) (Tensor.toFloats outputs.Logits)
            )
        }

        test "names are unique and the trained ones have no running statistics" {
            for name in Zoo.names do
                let declared = zoo name 10 |> Model.declarations
                Must.equal declared.Length (declared |> List.distinctBy _.Name |> List.length)
                let buffers = [ "running_mean"; "running_var"; "num_batches_tracked" ]

                for d in declared do
                    Must.equal
                        (not (List.exists (fun (b: string) -> d.Name.EndsWith b) buffers))
                        (Set.contains d.Name (Model.trainedNames (zoo name 10)))
        }

        // ---- initialisation -----------------------------------------------------------------------------

        test "convolutions start normal with the deviation of He for their fan-out" {
            let model = zoo "resnet20" 10

            Tensor.scoped (fun () ->
                for name, weight in Tree.toList (fresh 1 model) |> List.filter (fun (_, w) -> Tensor.rank w = 4) do
                    let values, shape = Tensor.toFloats weight, Tensor.shape weight
                    let deviation = sqrt (2.0 / float (shape[0] * shape[2] * shape[3]))
                    let count = float values.Length
                    let actual = values |> Array.averageBy (fun v -> v * v) |> sqrt
                    // Four and a half standard errors of each statistic.
                    Expect.isTrue (abs (Array.average values) < 4.5 * deviation / sqrt count) name

                    Expect.isTrue
                        (abs (actual / deviation - 1.0) < 4.5 / sqrt (2.0 * count))
                        $"{name}: {actual}, expected {deviation}"
            )
        }

        test "the classifier starts uniform within 1 over the root of its fan-in" {
            Tensor.scoped (fun () ->
                let weights = fresh 1 (zoo "resnet8" 100)

                for name, tolerance in [ "fc.weight", 0.001; "fc.bias", 0.05 ] do
                    let values = Tree.find name weights |> Tensor.toFloats

                    for v in values do
                        Must.lie (-0.125) 0.125 v

                    Expect.isTrue (Array.max values > 0.125 - tolerance && Array.min values < -0.125 + tolerance) name

                    let deviation = values |> Array.averageBy (fun v -> v * v) |> sqrt
                    Must.beNear 0.0 (4.0 * 0.125 / sqrt (float values.Length)) (0.125 / sqrt 3.0) deviation
            )
        }

        test "normalisations start as the identity with no batch counted" {
            Tensor.scoped (fun () ->
                let weights = fresh 1 (zoo "resnet8" 10)

                let all suffix =
                    Tree.toList weights
                    |> List.filter (fun (name, _) -> name.Contains "bn" && name.EndsWith(suffix: string))
                    |> List.collect (snd >> Tensor.toFloats >> List.ofArray)
                    |> List.distinct

                Must.equal
                    [ [ 1.0 ]; [ 0.0 ]; [ 0.0 ]; [ 1.0 ]; [ 0.0 ] ]
                    (List.map all [ ".weight"; ".bias"; "_mean"; "_var"; "_tracked" ])

                let counters = Model.counters weights
                Must.equal 9 counters.Length

                for c in counters do
                    Must.equal DType.Int64 (Tensor.dtype c)
            )
        }

        testProperty "one seed gives one set of weights and another seed another"
        <| forAll
            anyInt
            (fun seed ->
                Tensor.scoped (fun () ->
                    let model = ResNet.small "small" 8 [ 2; 2; 4; 4 ] 3
                    Must.beSameTree (fresh seed model) (fresh seed model)
                    let conv seed = fresh seed model |> Tree.find "conv1.weight" |> Tensor.toFloats
                    Must.differ (conv seed) (conv (seed ^^^ 1))
                )
            )

        test "a longer list of declarations does not change the tensors before" {
            Tensor.scoped (fun () ->
                let small, large = fresh 3 (zoo "resnet8" 10), fresh 3 (zoo "resnet14" 10)

                for name in Tree.names small do
                    Must.equal (Tensor.toBytes (Tree.find name small)) (Tensor.toBytes (Tree.find name large))
            )
        }

        test "weights in float32 are those in float64, rounded" {
            Tensor.scoped (fun () ->
                let model = zoo "resnet8" 10

                let exact = Model.declarations model |> Initialise.tree DType.Float64 Device.Cpu (Rng.ofSeed 1)

                for name, x in Tree.toList (fresh 1 model) do
                    Must.beSame
                        (Tree.find name exact |> Tensor.toFloats |> Array.map (float32 >> float))
                        (Tensor.toFloats x)
            )
        }

        // ---- sizes, names -------------------------------------------------------------------------------

        test "images that the strides do not fit are refused with the smallest size" {
            let model = zoo "resnet20" 10
            Must.equal 4 (Model.smallestInput model)

            for height, width in [ 4, 4; 8, 8; 4, 32; 32, 32 ] do
                Must.equal (Ok()) (Model.checkInput height width model)

            for height, width in [ 3, 32; 32, 3; 1, 1; 0, 0; -4, 8 ] do
                match Model.checkInput height width model with
                | Ok() -> failtest $"{height} x {width} was accepted"
                | Error error ->
                    Must.equal Usage error.Kind
                    Must.contain $"resnet20 cannot see images of {height} x {width}" error.What
                    Must.contain "at least 4 x 4" error.Next
        }

        test "a batch that leaves a normalisation one value a channel is refused, and no other is" {
            Tensor.scoped (fun () ->
                for name, size, fits in
                    [
                        "vgg8", 8, false
                        "vgg8", 32, true
                        "ShuffleV2", 8, false
                        "ShuffleV2", 32, true
                        "resnet8", 8, true
                        "resnet8", 4, false
                    ] do
                    let model = zoo name 10
                    let train count = (Model.forward model true (fresh 1 model) (images count size)).Logits
                    Must.equal (Ok()) (Model.checkBatch 2 size size model)

                    for v in Tensor.toFloats (train 2) do
                        Must.hold (Double.IsFinite v)

                    match Model.checkBatch 1 size size model with
                    | Ok() ->
                        Expect.isTrue fits name

                        for v in Tensor.toFloats (train 1) do
                            Must.hold (Double.IsFinite v)
                    | Error error ->
                        Expect.isFalse fits name
                        Must.contain $"{name} cannot be trained on a batch of one image" error.What
                        Must.refuse "x" (fun () -> train 1)
            )
        }

        test "a ResNet sees its smallest image" {
            Tensor.scoped (fun () ->
                let model = zoo "resnet8" 10
                let logits = (Model.forward model true (fresh 1 model) (images 4 4)).Logits

                for v in Tensor.toFloats logits do
                    Must.hold (Double.IsFinite v)
            )
        }

        test "depths that are not 6 n + 2 are refused" {
            let depths = Gen.choose (-100, 200) |> Gen.filter (fun depth -> depth < 8 || depth % 6 <> 2)

            check depths (fun depth -> Must.refuse "depth" (fun () -> ResNet.small "odd" depth [ 16; 16; 32; 64 ] 10))

            check
                (Gen.choose (1, 30))
                (fun n -> Must.equal 10 ((ResNet.small "even" (6 * n + 2) [ 16; 16; 32; 64 ] 10).Classes))
        }

        test "an unknown model is an error of usage with the nearest names" {
            for wrong, near in
                [
                    "resnet21", "resnet20"
                    "ResNet20", "resnet20"
                    "resnet8x5", "resnet8x4"
                    "resnet-110", "resnet110"
                ] do
                match Zoo.find wrong 10 with
                | Ok model -> failtest $"'{wrong}' gave {model.Name}"
                | Error error ->
                    Must.equal Usage error.Kind
                    Must.contain $"'{wrong}'" error.What
                    Must.contain $" {near}" error.Next
        }
    ]
