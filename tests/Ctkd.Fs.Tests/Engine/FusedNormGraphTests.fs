/// The fused normalisation in libtorch's graph, and where libtorch's operators replace it.
module Ctkd.Fs.Tests.FusedNormGraphTests

open System
open System.Threading
open Expecto
open Ctkd.Engine
open TorchSharp
open Ctkd.Fs.Tests.FusedNormTests

type private Tensor = torch.Tensor

let private graph =
    testList "graph" [
        test "gradients of gradients are those of libtorch's operators" {
            for residual in [ false; true ] do
                for relu in [ false; true ] do
                    inScope (fun () ->
                        let inputs =
                            draw 7L { plain with Residual = residual; Relu = relu; Shape = [ 4L; 16L; 5L; 3L ] }

                        let second (norm: Norm) (inputs: Inputs) : Tensor list =
                            let mean, var = running inputs
                            let y = norm inputs mean var relu
                            let leaves = Array.ofList (leaves inputs)

                            let first =
                                torch.autograd.grad (
                                    [| y |],
                                    leaves,
                                    [| inputs.Up |],
                                    retain_graph = true,
                                    create_graph = true
                                )
                            // of x, weight and bias: a residual's gradient is linear
                            let size =
                                Seq.take 3 first
                                |> Seq.map (fun g -> g.square().sum())
                                |> Seq.reduce (fun a b -> a + b)

                            let result = torch.autograd.grad ([| size |], leaves[..1])
                            FusedNorm.Release()
                            List.ofSeq result

                        for expected, actual in List.zip (second operators (inDouble inputs)) (second fused inputs) do
                            Must.lie 0.0 1e-4 (distance expected actual)
                    )
        }

        test "a graph that is kept gives the same gradients again" {
            inScope (fun () ->
                let inputs = draw 8L plain
                let mean, var = running inputs
                let y = fused inputs mean var true
                let leaves = Array.ofList (leaves inputs)

                let first =
                    torch.autograd.grad ([| y |], leaves, [| inputs.Up |], retain_graph = true)
                    |> Seq.map floats
                    |> List.ofSeq

                let again = differentiate y inputs |> List.map floats
                List.iter2 Must.beSame first again
            )
        }

        test "gradients that reach it expanded or with channels outermost" {
            inScope (fun () ->
                let inputs = draw 9L { plain with Relu = false }

                for up in [ torch.tensor(0.5f).expand(inputs.X.shape); inputs.Up.contiguous () ] do
                    let results norm = run norm false { inputs with Up = up }

                    let theirs, ours =
                        all (run operators false (inDouble { inputs with Up = up })), all (results fused)

                    List.iter2 (fun t o -> Must.lie 0.0 1e-4 (distance (t + scalar 1.0) (o + scalar 1.0))) theirs ours
            )
        }

        test "without a graph only the running statistics change" {
            inScope (fun () ->
                let inputs = draw 10L plain
                let mean, var = running inputs
                use _ = torch.no_grad ()
                let y = fused inputs mean var true
                Must.notHold y.requires_grad
                let other, otherVar = running inputs
                let expected = operators inputs other otherVar true
                Must.lie 0.0 1e-5 (distance expected y)
                Must.lie 0.0 1e-6 (distance other mean)
                Must.lie 0.0 1e-6 (distance otherVar var)
            )
        }

        test "frozen parameters get no gradient and x gets its own" {
            inScope (fun () ->
                let inputs = draw 11L plain

                let frozen = {
                    inputs with
                        Weight = inputs.Weight.detach ()
                        Bias = inputs.Bias.detach ()
                        Residual = None
                }

                let mean, var = running frozen
                let y = fused frozen mean var true

                let gradient = Seq.exactlyOne (torch.autograd.grad ([| y |], [| frozen.X |], [| frozen.Up |]))

                FusedNorm.Release()
                let mean, var = running frozen
                let expected = operators frozen mean var true

                let expected = Seq.exactlyOne (torch.autograd.grad ([| expected |], [| frozen.X |], [| frozen.Up |]))

                Must.lie 0.0 1e-5 (distance expected gradient)
            )
        }

        test "nothing is left, with a scope and without" {
            Natives.Load() |> ignore
            use x = leaf (Dispatcher.ChannelsLast(torch.randn [| 4L; 16L; 8L; 8L |]))
            use weight = leaf (torch.ones [| 16L |])
            use bias = leaf (torch.zeros [| 16L |])
            use mean = torch.zeros [| 16L |]
            use var = torch.ones [| 16L |]

            let step () : unit =
                use y = FusedNorm.BatchNormRelu(x, weight, bias, mean, var, 0.1, 1e-5, true)
                use z = FusedNorm.BatchNormAddRelu(y, x, weight, bias, mean, var, 0.1, 1e-5, true)
                use loss = z.sum ()

                for gradient in torch.autograd.grad ([| loss |], [| x; weight; bias |]) do
                    gradient.Dispose()

                FusedNorm.Release()
                // a forward pass whose graph is unused
                FusedNorm.BatchNormRelu(x, weight, bias, mean, var, 0.1, 1e-5, true).Dispose()

            step ()
            // without a garbage collection afterwards: all of it was freed at once
            let before = live ()
            step ()
            Must.equal before torch.Tensor.TotalCount
            let before = live ()
            inScope step
            Must.equal before (live ())
        }

        test "several threads train at once" {
            let failures = Collections.Concurrent.ConcurrentBag<exn>()

            let work () : unit =
                inScope (fun () ->
                    let inputs = draw 12L plain
                    let first = all (run fused true inputs) |> List.map floats

                    for _ in 1..20 do
                        List.iter2 Must.beSame first (all (run fused true inputs) |> List.map floats)
                )

            let threads = [
                for _ in 1..3 ->
                    Thread(fun () ->
                        try
                            work ()
                        with error ->
                            failures.Add error
                    )
            ]

            threads |> List.iter _.Start()
            threads |> List.iter _.Join()
            Must.beEmpty failures
        }
    ]

let private guards =
    testList "guards" [
        test "which tensors suit the kernels" {
            Natives.Load() |> ignore

            let suits (device: DeviceType) (kind: torch.ScalarType) (shape: int64 list) (strides: int64 list) =
                FusedNorm.Suits(device, kind, ReadOnlySpan(Array.ofList shape), ReadOnlySpan(Array.ofList strides))

            let onCpu = suits DeviceType.CPU
            Must.hold (onCpu torch.float32 [ 2L; 16L; 3L; 4L ] [ 192L; 1L; 64L; 16L ])
            Must.hold (onCpu torch.bfloat16 [ 2L; 4096L; 1L; 1L ] [ 4096L; 1L; 99L; 99L ])
            Must.notHold (suits DeviceType.CUDA torch.float32 [ 2L; 16L; 3L; 4L ] [ 192L; 1L; 64L; 16L ])
            Must.notHold (onCpu torch.float64 [ 2L; 16L; 3L; 4L ] [ 192L; 1L; 64L; 16L ])
            Must.notHold (onCpu torch.float16 [ 2L; 16L; 3L; 4L ] [ 192L; 1L; 64L; 16L ])
            // channels outermost, 100 and 0 channels, too many, one value per channel, none, gaps in memory, not an
            // image
            Must.notHold (onCpu torch.float32 [ 2L; 16L; 3L; 4L ] [ 192L; 12L; 4L; 1L ])
            Must.notHold (onCpu torch.float32 [ 2L; 100L; 3L; 4L ] [ 1200L; 1L; 400L; 100L ])
            Must.notHold (onCpu torch.float32 [ 2L; 0L; 3L; 4L ] [ 0L; 1L; 0L; 0L ])
            Must.notHold (onCpu torch.float32 [ 2L; 4112L; 1L; 1L ] [ 4112L; 1L; 4112L; 4112L ])
            Must.notHold (onCpu torch.float32 [ 1L; 16L; 1L; 1L ] [ 16L; 1L; 16L; 16L ])
            Must.notHold (onCpu torch.float32 [ 0L; 16L; 3L; 4L ] [ 192L; 1L; 64L; 16L ])
            Must.notHold (onCpu torch.float32 [ 2L; 16L; 3L; 4L ] [ 384L; 1L; 64L; 16L ])
            Must.notHold (onCpu torch.float32 [ 32L; 16L ] [ 16L; 1L ])
        }

        test "what does not suit goes to libtorch's operators, to the bit" {
            inScope (fun () ->
                for change in
                    [
                        (fun (i: Inputs) -> { i with X = leaf (i.X.contiguous ()) })
                        (fun (i: Inputs) -> {
                            i with
                                Residual = Option.map (fun (r: Tensor) -> leaf (r.contiguous ())) i.Residual
                        })
                        inDouble
                    ] do
                    let inputs = change (draw 13L plain)

                    List.iter2
                        (fun a b -> Must.beSame (floats a) (floats b))
                        (all (run operators true inputs))
                        (all (run fused true inputs))

                let hundred = draw 14L { plain with Shape = [ 4L; 100L; 5L; 5L ] }

                List.iter2
                    (fun a b -> Must.beSame (floats a) (floats b))
                    (all (run operators true hundred))
                    (all (run fused true hundred))
            )
        }
    ]

let tests = testSequenced (testList "FusedNorm" [ graph; guards ])
