/// Results of the fused normalisation, and helpers of its tests.
module Ctkd.Fs.Tests.FusedNormTests

open System
open System.Threading
open Expecto
open FsCheck
open FsCheck.FSharp
open Ctkd.Engine
open TorchSharp

type private Tensor = torch.Tensor

/// A normalisation: its options, and the shape [N, C, H, W].
type Case = { BFloat16: bool; Residual: bool; Relu: bool; Shape: int64 list; Offset: float }

/// Leaves of the graph, and the gradient of the result.
[<ReferenceEquality>]
type Inputs = { X: Tensor; Residual: Tensor option; Weight: Tensor; Bias: Tensor; Up: Tensor }

/// The result, the gradients in the order of the leaves, and the running statistics.
[<ReferenceEquality>]
type Results = { Y: Tensor; Gradients: Tensor list; Running: Tensor list }

let scalar (x: float) : Scalar = Scalar.op_Implicit x
let cast (kind: torch.ScalarType) (x: Tensor) : Tensor = x.to_type kind
let leaf (x: Tensor) : Tensor = x.detach().requires_grad_ true
let leaves (inputs: Inputs) = [ inputs.X; inputs.Weight; inputs.Bias ] @ Option.toList inputs.Residual

type Norm = Inputs -> Tensor -> Tensor -> bool -> Tensor

let fused: Norm =
    fun i mean var relu ->
        match i.Residual with
        | None -> FusedNorm.BatchNormRelu(i.X, i.Weight, i.Bias, mean, var, 0.1, 1e-5, relu)
        | Some r -> FusedNorm.BatchNormAddRelu(i.X, r, i.Weight, i.Bias, mean, var, 0.1, 1e-5, relu)

let operators: Norm =
    fun i mean var relu ->
        let y = torch.nn.functional.batch_norm (i.X, mean, var, i.Weight, i.Bias, true, 0.1, 1e-5)

        let y =
            match i.Residual with
            | None -> y
            | Some r -> y + r

        if relu then y.relu () else y

let running (inputs: Inputs) : Tensor * Tensor =
    let channels, kind = inputs.Weight.numel (), inputs.Weight.dtype
    torch.zeros ([| channels |], dtype = kind), torch.ones ([| channels |], dtype = kind)

let differentiate (y: Tensor) (inputs: Inputs) : Tensor list =
    let gradients = torch.autograd.grad ([| y |], Array.ofList (leaves inputs), [| inputs.Up |])
    FusedNorm.Release()
    List.ofSeq gradients

let run (norm: Norm) (relu: bool) (inputs: Inputs) : Results =
    let mean, var = running inputs
    let y = norm inputs mean var relu

    { Y = y; Gradients = differentiate y inputs; Running = [ mean; var ] }

let inDouble (inputs: Inputs) : Inputs =
    let double = cast torch.float64 >> leaf

    {
        X = double inputs.X
        Residual = Option.map double inputs.Residual
        Weight = double inputs.Weight
        Bias = double inputs.Bias
        Up = (double inputs.Up).detach()
    }

/// Random inputs with channels innermost, whose channels differ in mean and spread. If a ReLU's argument is so near 0
/// that rounding may decide its sign, the result's gradient is 0.
let draw (seed: int64) (case: Case) : Inputs =
    torch.random.manual_seed seed |> ignore
    let kind = if case.BFloat16 then torch.bfloat16 else torch.float32
    let channels = case.Shape[1]
    let normal () = torch.randn (Array.ofList case.Shape)
    let perChannel () = torch.randn [| 1L; channels; 1L; 1L |]
    let image = cast kind >> Dispatcher.ChannelsLast >> leaf

    let inputs = {
        X = image (normal () * perChannel().exp() + perChannel () + torch.tensor (float32 case.Offset))
        Residual = if case.Residual then Some(image (normal ())) else None
        Weight = leaf (torch.randn [| channels |])
        Bias = leaf (torch.randn [| channels |])
        Up = (image (normal ())).detach()
    }

    let double = inDouble inputs
    let mean, var = running double

    let clear =
        (operators double mean var false).detach().abs().gt(scalar (if case.BFloat16 then 0.05 else 1e-3))

    { inputs with Up = Dispatcher.ChannelsLast(inputs.Up * cast kind clear) }

let floats (x: Tensor) : float[] = (x.detach () |> cast torch.float64).contiguous().data<float>().ToArray()

let distance (expected: Tensor) (actual: Tensor) : float =
    let norm (x: Tensor) = x.norm().item<float>()
    let expected, actual = cast torch.float64 (expected.detach ()), cast torch.float64 (actual.detach ())
    norm (actual - expected) / (norm expected + 1e-30)

let all (results: Results) : Tensor list = results.Y :: results.Gradients @ results.Running

let inScope (body: unit -> unit) : unit =
    Natives.Load() |> ignore
    use _ = torch.NewDisposeScope()
    body ()

/// Checks the error against float64: at most 1e-5 or 1.5 times that of libtorch's operators in float32, 1.05 times theirs
/// in bfloat16.
let isAsNear (seed: int64) (case: Case) : unit =
    inScope (fun () ->
        let inputs = draw seed case
        let exact = all (run operators case.Relu (inDouble inputs))
        let theirs = all (run operators case.Relu inputs)
        let ours = all (run fused case.Relu inputs)

        for i, (e, t, o) in List.indexed (List.zip3 exact theirs ours) do
            Must.equal (List.ofArray t.shape) (List.ofArray o.shape)
            Must.hold (t.dtype = o.dtype)
            let allowed = if case.BFloat16 then 1.05 * distance e t + 1e-5 else max 1e-5 (1.5 * distance e t)
            Expect.isLessThanOrEqual (distance e o) allowed $"tensor {i} of {case}, libtorch: {distance e t}"
    )

let private cases: Arbitrary<Case> =
    gen {
        let! bfloat16, residual, relu = Gen.three (Gen.elements [ true; false ])
        let! channels = Gen.elements [ 16L; 32L; 48L; 64L; 80L; 128L; 256L ]
        let! batch, height, width = Gen.three (Gen.choose (1, 9))
        let! offset = Gen.elements [ 0.0; 0.0; 30.0; 1000.0 ]

        return {
            BFloat16 = bfloat16
            Residual = residual
            Relu = relu
            Shape = [ int64 batch + 1L; channels; int64 height; int64 width ]
            Offset = offset
        }
    }
    // With fewer values per channel the gradient of x cancels: it is a rounding error itself, so relative errors are
    // meaningless.
    |> Gen.where (fun case -> case.Shape[0] * case.Shape[2] * case.Shape[3] >= 16L)
    |> Arb.fromGen

let plain: Case = {
    BFloat16 = false
    Residual = true
    Relu = true
    Shape = [ 8L; 32L; 13L; 11L ]
    Offset = 0.0
}

let withThreads (count: int) (body: unit -> 'T) : 'T =
    let before = torch.get_num_threads ()
    torch.set_num_threads count

    try
        body ()
    finally
        torch.set_num_threads before

let live () : int64 =
    for _ in 1..2 do
        GC.Collect()
        GC.WaitForPendingFinalizers()

    torch.Tensor.TotalCount

let private values =
    testList "values" [
        testPropertyWithConfig
            { FsCheckConfig.defaultConfig with maxTest = 60 }
            "as near to float64 as libtorch's operators"
        <| Prop.forAll cases (fun case -> isAsNear 1L case)

        test "rows of many chunks" {
            for bfloat16 in [ false; true ] do
                for shape in
                    [ [ 64L; 16L; 32L; 32L ]; [ 5L; 64L; 33L; 31L ]; [ 3L; 1024L; 9L; 7L ]; [ 2L; 4096L; 5L; 3L ] ] do
                    isAsNear 2L { plain with BFloat16 = bfloat16; Shape = shape }
        }

        test "a mean far from 0 takes nothing from the variance" {
            inScope (fun () ->
                let inputs = draw 3L { plain with Offset = 3000.0; Relu = false }
                let exact = run operators false (inDouble inputs)
                let ours = run fused false inputs
                // an unseen batch has 1 in part: the difference is the batch's own variance
                for expected, actual in List.zip exact.Running ours.Running do
                    Must.lie 0.0 1e-6 (distance expected actual)
            )
        }

        test "a constant channel" {
            inScope (fun () ->
                let inputs = draw 4L { plain with Residual = false; Relu = false }
                let x = leaf (Dispatcher.ChannelsLast(torch.full ([| 8L; 32L; 13L; 11L |], scalar 7.7)))
                let ours = run fused false { inputs with X = x }
                let expected = inputs.Bias.reshape(1L, -1L, 1L, 1L).expand(x.shape)
                Must.lie 0.0 1e-3 ((ours.Y - expected).abs().max() |> floats |> Seq.exactlyOne)

                Must.lie
                    0.0
                    1e-6
                    ((ours.Running[1] - torch.full ([| 32L |], scalar 0.9)).abs().max() |> floats |> Seq.exactlyOne)
            )
        }

        test "the same bits with one thread and with more" {
            inScope (fun () ->
                for bfloat16 in [ false; true ] do
                    let case = { plain with BFloat16 = bfloat16; Shape = [ 16L; 48L; 32L; 31L ] }
                    let inputs = draw 5L case
                    let one = withThreads 1 (fun () -> all (run fused true inputs))

                    for threads in [ 2; 3; 7 ] do
                        let many = withThreads threads (fun () -> all (run fused true inputs))
                        List.iter2 (fun a b -> Must.beSame (floats a) (floats b)) one many
            )
        }

        test "bfloat16 results are rounded as libtorch rounds" {
            inScope (fun () ->
                let random = Random 1
                // arbitrary bits, and midpoints between two neighbours
                let bits = [|
                    for i in 0..2047 -> if i % 2 = 0 then random.Next() else (random.Next() &&& ~~~0xffff) ||| 0x8000
                |]

                let bias = Array.map BitConverter.Int32BitsToSingle (Array.append [| Int32.MaxValue |] bits[1..])

                let channels = int64 bias.Length

                let x = Dispatcher.ChannelsLast((torch.randn [| 3L; channels; 2L; 1L |]).to_type torch.bfloat16)

                let weight, mean, var =
                    torch.zeros [| channels |], torch.zeros [| channels |], torch.ones [| channels |]

                let y = FusedNorm.BatchNormRelu(x, weight, torch.tensor bias, mean, var, 0.1, 1e-5, false)

                let expected =
                    (torch.tensor bias).to_type(torch.bfloat16).reshape(1L, channels, 1L, 1L).expand(y.shape)

                let texts = floats >> Array.map string
                Must.equal (texts expected) (texts y)
            )
        }

        test "NaN and infinity reach what they reach in libtorch" {
            let odd (x: Tensor) : string list = [ for v in floats x -> if Double.IsFinite v then "" else string v ]

            let infinities = [ Double.PositiveInfinity; Double.NegativeInfinity ]
            // libtorch's own types disagree on an infinite weight
            let places = [
                (fun i -> i.X), infinities
                (fun i -> i.Weight), []
                (fun i -> i.Bias), infinities
                (fun i -> i.Up), infinities
                (fun i -> i.Residual.Value), infinities
            ]

            for bfloat16 in [ false; true ] do
                for place, values in places do
                    for value in Double.NaN :: values do
                        // among the first rows, which shift the others, and after them
                        for index in 0L .. 1L do
                            inScope (fun () ->
                                let inputs = draw 6L { plain with BFloat16 = bfloat16; Shape = [ 2L; 16L; 3L; 5L ] }

                                let target = (place inputs).detach()
                                let value = torch.tensor(value).to_type target.dtype

                                target[Array.create (int (target.dim ())) (torch.TensorIndex.Single index)] <- value

                                let theirs, ours = run operators true inputs, run fused true inputs
                                List.iter2 (fun t o -> Must.equal (odd t) (odd o)) (all theirs) (all ours)
                            )
        }
    ]

let tests = testSequenced (testList "FusedNorm" [ values ])
