// Tensors, a loss, a gradient, a schedule. Run with: dotnet fsi scripts/01-quickstart.fsx
#load "_load.fsx"

open Ctkd.Fs

// Logits of a teacher and a student for two images and three classes.
let teacher = Tensor.ofFloats DType.Float32 [ 2; 3 ] [| 4.0; 1.0; 0.0; 0.0; 3.0; 1.0 |]
let student = Tensor.ofFloats DType.Float32 [ 2; 3 ] [| 1.0; 1.0; 0.0; 0.0; 1.0; 2.0 |] |> Autograd.leaf

// The same input at three temperatures: the hotter, the softer.
for t in [ 1.0; 4.0; 20.0 ] do
    let temperature = Tensor.scalar DType.Float32 Device.Cpu t
    let probabilities = teacher |> Loss.soften temperature |> Tensor.softmax -1 |> Tensor.toFloats
    let loss = Loss.kd temperature teacher student |> Tensor.mean
    let gradient = (Autograd.gradients loss [| student |])[0] |> Tensor.norm |> Tensor.toFloat
    printfn $"T = %4.1f{t}: teacher %.2f{probabilities[0]} %.2f{probabilities[1]} %.2f{probabilities[2]}"
    printfn $"          loss %.4f{Tensor.toFloat loss}, norm of its gradient %.4f{gradient}"

// CTKD's curriculum: the adversary's strength over the first ten epochs.
let curriculum = Schedule.curriculum 10
printfn "lambda: %s" (curriculum |> Schedule.sample 12 |> List.map (sprintf "%.3f") |> String.concat " ")

// A learned temperature: the student would lower the loss, theta (behind the reversal) raises it.
let policy = Ctkd.globalPolicy Ctkd.publishedRange curriculum
let theta = Tensor.scalar DType.Float32 Device.Cpu 1.0 |> Autograd.leaf

let values = {
    Strength = Tensor.scalar DType.Float32 Device.Cpu (Schedule.at 10 curriculum)
    T = theta
}

let softened = Policy.soften policy (Tree.ofSeq [ ("theta", theta) ]) values teacher student
let loss = softened.Weight * Loss.kl softened.Teacher softened.Student |> Tensor.mean
let slope = (Autograd.gradients loss [| theta |])[0]
printfn $"T = %.4f{Tensor.toFloat softened.T}, reversed gradient of theta %.6f{Tensor.toFloat slope}"
