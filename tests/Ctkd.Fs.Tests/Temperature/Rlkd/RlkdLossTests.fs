/// The losses under RLKD's temperatures, against reference numbers (F1 to F6, F25, F26).
module Ctkd.Fs.Tests.RlkdLossTests

open System
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Reference

/// A distiller's loss of the reference logits at given temperatures.
let private lost (distiller: Distiller) (t: Tensor) : Tensor =
    let teacher, student = teacher (), student ()
    let labels = Tensor.toInt64s (labels ()) |> Array.map int

    distiller.Loss Tree.empty {
        Inputs.input (Inputs.pooled teacher) (Inputs.pooled student) labels with
            Softened = Policy.shared t teacher student
    }

let tests =
    testList "RlkdLoss" [
        test "the distillation loss of each instance's temperature, and its gradient" {
            reading (fun expected ->
                let leaf = Autograd.leaf (student ())
                let each = Loss.kd (temperatures ()) (teacher ()) leaf
                exactly (expected "kl_loss.per_instance") each
                exactly (expected "kl_loss.value") (Tensor.mean each)

                exactly (expected "kl_loss.grad") (Autograd.gradients (Tensor.mean each) [| leaf |] |> Array.head)

                exactly (expected "kl_loss.uniform_T4") (Loss.kd (uniform ()) (teacher ()) (student ()) |> Tensor.mean)
            )
        }

        test "the published broadcast of T squared over the batch is another loss" {
            reading (fun expected ->
                let t = temperatures ()
                exactly (expected "itkd_loss_broadcast") (lost (Distiller.meanWeight Kd.distiller) t)
                let ours = Loss.kd t (teacher ()) (student ()) |> Tensor.mean |> Tensor.toFloat
                Must.hold (abs (ours - (expected "itkd_loss_broadcast")[0]) > 1.0)
            )
        }

        test "DKD of a uniform temperature, of each instance's, and as released" {
            reading (fun expected ->
                let dkd a b = Dkd.distiller a b (Inputs.pair [] []) |> Error.orRaise

                for a, b in [ 1.0, 2.0; 1.0, 8.0; 1.0, 0.0; 0.0, 1.0 ] do
                    let key = $"a%.0f{a}_b%.0f{b}"
                    exactly (expected $"dkd_uniformT4_{key}") (lost (dkd a b) (uniform ()))
                    exactly (expected $"dkd_per_instance_mean_{key}") (lost (dkd a b) (temperatures ()))

                    exactly (expected $"dkd_official_{key}") (lost (Distiller.meanWeight (dkd a b)) (temperatures ()))

                let warm = Schedule.warmUp 1.0 20

                for epoch in [ 1; 10; 20; 40 ] do
                    exactly
                        (expected $"dkd_warm.{epoch}")
                        (Tensor.scale
                            (Schedule.at epoch warm)
                            (lost (Distiller.meanWeight (dkd 1.0 2.0)) (temperatures ())))
            )
        }

        test "SP, PKT, VID and CRD on the same features" {
            reading (fun expected ->
                let s = tabulate 4 6 (fun i k -> sin (0.31 * (6.0 * i + k) + 0.2))
                let t = tabulate 4 8 (fun i k -> cos (0.17 * (8.0 * i + k)))
                exactly (expected "similarity") (Sp.loss t s)
                exactly (expected "pkt") (Pkt.loss t s)

                let map shape f = vector (Array.fold (*) 1 shape) f |> Tensor.reshape (Array.map int64 shape)

                let conv k inputs =
                    tabulate 3 inputs (fun a b -> sin (0.37 * a + 0.61 * b + 0.11 * k) / sqrt (float inputs))
                    |> Tensor.reshape [| 3L; int64 inputs; 1L; 1L |]

                let convolve weight = Tensor.conv2d 1 0 1 weight None

                let predicted =
                    map [| 2; 2; 4; 4 |] (fun n -> sin (0.13 * n))
                    |> Tensor.avgPool2d 2 2 0
                    |> convolve (conv 1.0 2)
                    |> Tensor.relu
                    |> convolve (conv 2.0 3)
                    |> Tensor.relu
                    |> convolve (conv 3.0 3)

                let start = log (exp (5.0 - 1e-5) - 1.0)
                let logScale = Plain.tensor [ 3 ] [| start; start; start |]

                exactly
                    (expected "vid.value")
                    (Vid.loss logScale (map [| 2; 3; 2; 2 |] (fun n -> cos (0.29 * n))) predicted)

                // Three instances with four scores each, given as exp(score) / Z: an embedding picks its column.
                let x = expected "crd_contrast_loss.x"
                let rows = Array.init 150 (fun n -> if n < 36 && n % 3 = n / 12 then log x[n / 3] else 0.0)
                let contrast = Tensor.ofInt64s [ 3; 4 ] (Array.init 12 int64)
                let options = { Crd.published with Temperature = 1.0 }
                let identity = tabulate 3 3 (fun i j -> if i = j then 1.0 else 0.0)
                let z = Plain.tensor [ 1 ] [| 1.0 |] |> Tensor.sum

                exactly
                    (expected "crd_contrast_loss.value")
                    (Crd.side options z (Plain.tensor [ 50; 3 ] rows) contrast identity)
            )
        }

        test "the released baselines: a temperature by hand, and the decay of a gradient reversal" {
            reading (fun expected ->
                let right =
                    teacher ()
                    |> Tensor.softmax -1
                    |> Tensor.gather 1 (Tensor.unsqueeze 1 (labels ()))
                    |> Tensor.squeeze 1

                let wave = right |> Tensor.neg |> Tensor.addNumber 1.0 |> Tensor.scale Math.PI |> Tensor.cos
                let t = wave |> Tensor.addNumber 1.0 |> Tensor.scale (0.5 * 9.0) |> Tensor.addNumber 1.0
                exactly (expected "manual_kd.T") t

                let divergence = Loss.kl (Loss.soften t (teacher ())) (Loss.soften t (student ())) |> Tensor.mean

                exactly (expected "manual_kd.loss") (divergence * Tensor.mean t * Tensor.mean t)

                for kind, schedule in
                    [ "cosine", Schedule.cosine 0.0 -1.0 100; "linear", Schedule.linear 0.0 -1.0 100 ] do
                    for epoch in [ 0; 25; 50; 99; 100; 200 ] do
                        Must.beClose 1e-8 1e-9 (expected $"mlp_decay.{kind}.{epoch}") [| Schedule.at epoch schedule |]
            )
        }

        test "logits of 30 at T = 0.1 give finite losses and gradients" {
            Tensor.scoped (fun () ->
                let logits seed =
                    (Inputs.normal seed [ 4; 5 ]).Values
                    |> Array.map (fun v -> 30.0 * float (sign v))
                    |> Tensor.ofFloats DType.Float32 [ 4; 5 ]

                let t = Tensor.full DType.Float32 Device.Cpu 0.1 [| 4L |]
                let student = Autograd.leaf (logits 1)
                let softened = Policy.shared t (logits 2) student
                let labels = Inputs.ofLabels [| 0; 1; 2; 3 |]

                for loss in [ Loss.kd t (logits 2) student; Dkd.loss 1.0 2.0 labels softened ] do
                    let gradient = Autograd.gradients (Tensor.mean loss) [| student |] |> Array.head

                    for v in Tensor.toFloats loss do
                        Must.hold (System.Double.IsFinite v)

                    for v in Tensor.toFloats gradient do
                        Must.hold (System.Double.IsFinite v)
            )
        }
    ]
