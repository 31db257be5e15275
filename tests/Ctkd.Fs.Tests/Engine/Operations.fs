/// A table of every differentiable function of `Tensor.fsi` with its plain counterpart, to test values, gradients and
/// the rejection of freed tensors.
module Ctkd.Fs.Tests.Operations

open Ctkd.Fs
open Ctkd.Fs.Tests.Oracle

[<NoComparison; NoEquality>]
type Operation = {
    /// The name in `Tensor.fsi`.
    Name: string
    Inputs: Dense list
    Apply: Tensor list -> Tensor
    Naive: Dense list -> Dense
}

/// Distinct numbers in (-2, 2) in random order, none near 0, +-1 or those of another index: far from kinks.
let private spread (index: int) (shape: int list) : Dense =
    let count = List.fold (*) 1 shape
    let order = Rng.ofSeed (index + 1) |> Rng.permutation count
    let value k = (float k + 0.7 - 0.11 * float index) / float count * 4.0 - 2.0

    { Shape = shape; Values = Array.map (int >> value) order }

let private operation name apply naive (shapes: int list list) : Operation = {
    Name = name
    Inputs = List.mapi spread shapes
    Apply = apply
    Naive = naive
}

/// A function of one tensor.
let private unary name (apply: Tensor -> Tensor) (naive: Dense -> Dense) shape : Operation =
    operation name (List.head >> apply) (List.head >> naive) [ shape ]

/// An element-wise function of one tensor.
let private each name apply (naive: float -> float) : Operation =
    unary name apply (fun x -> { x with Values = Array.map naive x.Values }) [ 2; 3 ]

/// As `each`, on positive numbers only.
let private positive name apply naive : Operation =
    let made = each name apply naive

    let raised (x: Dense) = { x with Values = Array.map (fun v -> v + 2.5) x.Values }

    { made with Inputs = List.map raised made.Inputs }

/// An element-wise function of [2, 3] and a broadcast [3].
let private both name (apply: Tensor -> Tensor -> Tensor) (naive: float -> float -> float) : Operation =
    operation
        name
        (fun xs -> apply xs[0] xs[1])
        (fun xs -> tabulate [ 2; 3 ] (fun i -> naive (at xs[0] i) (at xs[1] [ i[1] ])))
        [ [ 2; 3 ]; [ 3 ] ]

let private scalar (x: float) : Dense = { Shape = []; Values = [| x |] }
let private vector (values: float[]) : Dense = { Shape = [ values.Length ]; Values = values }

/// A reduction of [3, 4] to one number.
let private total name apply (naive: float[] -> float) : Operation =
    unary name apply (fun x -> scalar (naive x.Values)) [ 3; 4 ]

/// A reduction of [3, 4] to one number per row.
let private perRow name apply (naive: float[] -> float) : Operation =
    unary name (apply -1) (rows >> Array.map naive >> vector) [ 3; 4 ]

/// A function of each row of [3, 4].
let private rowWise name apply (naive: float[] -> float[]) : Operation =
    unary name (apply -1) (rows >> Array.map naive >> ofRows) [ 3; 4 ]

/// A change of shape with the same numbers.
let private renamed name apply (shape: int list) (result: int list) : Operation =
    unary name apply (fun x -> { x with Shape = result }) shape

/// Selects numbers of a tensor by index.
let private picked name apply (shape: int list) (result: int list) (source: int list -> int list) : Operation =
    unary name apply (fun x -> tabulate result (source >> at x)) shape

let private labels: int64[] = [| 2L; 0L; 3L |]
let private withLabels f (x: Tensor) = f (Tensor.ofInt64s [ 3 ] labels) x
let private entropies (x: Dense) = Array.map2 (fun label row -> crossEntropy (int label) row) labels (rows x)
let private whole = Seq.map int64 >> Array.ofSeq

let private elementWise: Operation list = [
    both "add" Tensor.add (+)
    both "sub" Tensor.sub (-)
    both "mul" Tensor.mul (*)
    both "div" Tensor.div (/)
    both "maximum" Tensor.maximum max
    both "minimum" Tensor.minimum min
    both
        "where"
        (fun yes no -> Tensor.where (Tensor.lessThanNumber 0.0 (Tensor.detach yes)) yes no)
        (fun y n -> if y < 0.0 then y else n)
    each "addNumber" (Tensor.addNumber 1.5) (fun x -> x + 1.5)
    each "scale" (Tensor.scale -2.5) (fun x -> -2.5 * x)
    each "addInt" (Tensor.addInt 3) (fun x -> x + 3.0)
    each "mulInt" (Tensor.mulInt -3) (fun x -> -3.0 * x)
    each "neg" Tensor.neg (~-)
    each "abs" Tensor.abs abs
    each "exp" Tensor.exp exp
    positive "log" Tensor.log log
    positive "sqrt" Tensor.sqrt sqrt
    each "softplus" Tensor.softplus (fun x -> log (1.0 + exp x))
    each "sigmoid" Tensor.sigmoid (fun x -> 1.0 / (1.0 + exp -x))
    each "tanh" Tensor.tanh tanh
    each "cos" Tensor.cos cos
    each "relu" Tensor.relu (max 0.0)
    each "clamp" (Tensor.clamp -1.0 1.0) (max -1.0 >> min 1.0)
    each "clone" Tensor.clone id
    each "toType" (Tensor.toType DType.Float64) id
    each "toDevice" (Tensor.toDevice Device.Cpu) id
]

let private reductions: Operation list = [
    total "sum" Tensor.sum Array.sum
    total "mean" Tensor.mean Array.average
    total "max" Tensor.max Array.max
    total "min" Tensor.min Array.min
    total "norm" Tensor.norm (Array.sumBy (fun x -> x * x) >> sqrt)
    perRow "sumOver" Tensor.sumOver Array.sum
    perRow "meanOver" Tensor.meanOver Array.average
    perRow "maxOver" Tensor.maxOver Array.max
    perRow "logSumExp" Tensor.logSumExp logSumExp
    rowWise "softmax" Tensor.softmax softmax
    rowWise "logSoftmax" Tensor.logSoftmax logSoftmax
    rowWise
        "topK"
        (fun dim x ->
            let struct (values, _) = Tensor.topK 2 dim x
            values
        )
        (fun row -> largest 2 row |> Array.map (fun i -> row[i]))
    unary "crossEntropyEach" (withLabels Tensor.crossEntropyEach) (entropies >> vector) [ 3; 4 ]
    unary "crossEntropy" (withLabels Tensor.crossEntropy) (entropies >> Array.average >> scalar) [ 3; 4 ]
    unary
        "meanOverImage"
        Tensor.meanOverImage
        (fun x -> tabulate [ 2; 3 ] (fun i -> indices [ 2; 2 ] |> List.averageBy (fun j -> at x (i @ j))))
        [ 2; 3; 2; 2 ]
]

/// Batch normalisation with fresh running statistics for each call.
let private normaliseBy operator (training: bool) (xs: Tensor list) : Tensor =
    let statistics =
        List.map (Tensor.ofFloats DType.Float64 [ 3 ]) [ [| 0.1; -0.2; 0.3 |]; [| 0.5; 1.0; 2.0 |] ]

    operator training 0.1 1e-5 xs[1] xs[2] statistics[0] statistics[1] xs[0]

let private normalise = normaliseBy Tensor.batchNorm

let private rectified (x: Dense) : Dense = { x with Values = Array.map (max 0.0) x.Values }

/// A long short-term memory over one sequence.
let private lstm (xs: Dense list) : Dense =
    let x, inner, outer = xs[0], xs[1], xs[2]
    let hidden = outer.Shape[1]
    let sigmoid v = 1.0 / (1.0 + exp -v)

    let next (h: float[], c: float[]) (t: int) =
        let gate g =
            let sums (weight: Dense) (v: int -> float) =
                List.sum [ for k in 0 .. weight.Shape[1] - 1 -> at weight [ g; k ] * v k ]

            sums inner (fun k -> at x [ t; 0; k ]) + sums outer (Array.get h) + at xs[3] [ g ] + at xs[4] [ g ]

        let each f = Array.init hidden f
        let input = each (fun k -> sigmoid (gate k))
        let forget = each (fun k -> sigmoid (gate (hidden + k)))
        let cell = each (fun k -> tanh (gate (2 * hidden + k)))
        let output = each (fun k -> sigmoid (gate (3 * hidden + k)))
        let c = each (fun k -> forget[k] * c[k] + input[k] * cell[k])
        each (fun k -> output[k] * tanh c[k]), c

    let zeros = Array.zeroCreate hidden

    {
        Shape = [ x.Shape[0]; 1; hidden ]
        Values = List.scan next (zeros, zeros) [ 0 .. x.Shape[0] - 1 ] |> List.tail |> Seq.collect fst |> Array.ofSeq
    }

let private layers: Operation list = [
    operation "lstm" (fun xs -> Tensor.lstm (Array.ofList xs.Tail) xs.Head) lstm [
        [ 3; 1; 2 ]
        [ 8; 2 ]
        [ 8; 2 ]
        [ 8 ]
        [ 8 ]
    ]
    operation
        "matmul"
        (fun xs -> Tensor.matmul xs[0] xs[1])
        (fun xs ->
            tabulate [ 2; 4 ] (fun i -> List.sum [ for k in 0..2 -> at xs[0] [ i[0]; k ] * at xs[1] [ k; i[1] ] ])
        )
        [ [ 2; 3 ]; [ 3; 4 ] ]
    operation
        "linear"
        (fun xs -> Tensor.linear xs[1] (Some xs[2]) xs[0])
        (fun xs ->
            tabulate
                [ 2; 4 ]
                (fun i ->
                    at xs[2] [ i[1] ] + List.sum [ for k in 0..2 -> at xs[0] [ i[0]; k ] * at xs[1] [ i[1]; k ] ]
                )
        )
        [ [ 2; 3 ]; [ 4; 3 ]; [ 4 ] ]
    operation
        "conv2d"
        (fun xs -> Tensor.conv2d 2 1 2 xs[1] (Some xs[2]) xs[0])
        (fun xs -> conv2d 2 1 2 xs[1] xs[2] xs[0])
        [ [ 2; 4; 5; 4 ]; [ 2; 2; 3; 3 ]; [ 2 ] ]
    operation
        "conv2dRelu"
        (fun xs -> Tensor.conv2dRelu 2 1 2 xs[1] (Some xs[2]) xs[0])
        (fun xs -> conv2d 2 1 2 xs[1] xs[2] xs[0] |> rectified)
        [ [ 2; 4; 5; 4 ]; [ 2; 2; 3; 3 ]; [ 2 ] ]
    operation
        "conv2dAddRelu"
        (fun xs -> Tensor.conv2dAddRelu xs[3] 2 1 2 xs[1] (Some xs[2]) xs[0])
        (fun xs ->
            let convolved = conv2d 2 1 2 xs[1] xs[2] xs[0]
            rectified { convolved with Values = Array.map2 (+) convolved.Values xs[3].Values }
        )
        [ [ 2; 4; 5; 4 ]; [ 2; 2; 3; 3 ]; [ 2 ]; [ 2; 2; 3; 2 ] ]
    operation
        "convTranspose2d"
        (fun xs -> Tensor.convTranspose2d 2 1 xs[1] (Some xs[2]) xs[0])
        (fun xs -> convTranspose2d 2 1 xs[1] xs[2] xs[0])
        [ [ 2; 3; 3; 2 ]; [ 3; 2; 4; 4 ]; [ 2 ] ]
    operation "batchNorm" (normalise true) (fun xs -> batchNorm 1e-5 (channelMoments xs[0]) xs[1] xs[2] xs[0]) [
        [ 2; 3; 2; 2 ]
        [ 3 ]
        [ 3 ]
    ]
    operation
        "batchNormRelu"
        (normaliseBy Tensor.batchNormRelu true)
        (fun xs -> batchNorm 1e-5 (channelMoments xs[0]) xs[1] xs[2] xs[0] |> rectified)
        [ [ 2; 3; 2; 2 ]; [ 3 ]; [ 3 ] ]
    operation
        "batchNormAddRelu"
        (fun xs -> normaliseBy (Tensor.batchNormAddRelu xs[3]) true xs)
        (fun xs ->
            let normalised = batchNorm 1e-5 (channelMoments xs[0]) xs[1] xs[2] xs[0]
            rectified { normalised with Values = Array.map2 (+) normalised.Values xs[3].Values }
        )
        [ [ 2; 3; 2; 2 ]; [ 3 ]; [ 3 ]; [ 2; 3; 2; 2 ] ]
    operation
        "batchNorm"
        (normalise false)
        (fun xs -> batchNorm 1e-5 [| 0.1, 0.5; -0.2, 1.0; 0.3, 2.0 |] xs[1] xs[2] xs[0])
        [ [ 2; 3; 2; 2 ]; [ 3 ]; [ 3 ] ]
    unary "maxPool2d" (Tensor.maxPool2d 3 2 1) (maxPool2d 3 2 1) [ 1; 2; 5; 4 ]
    unary "avgPool2d" (Tensor.avgPool2d 3 2 1) (avgPool2d 3 2 1) [ 1; 2; 5; 4 ]
]

let private shapes: Operation list = [
    renamed "reshape" (Tensor.reshape [| 3L; -1L |]) [ 2; 3; 2 ] [ 3; 4 ]
    renamed "unsqueeze" (Tensor.unsqueeze 1) [ 2; 3 ] [ 2; 1; 3 ]
    renamed "squeeze" (Tensor.squeeze 1) [ 2; 1; 3 ] [ 2; 3 ]
    renamed "flatten" (Tensor.flatten 1) [ 2; 3; 2 ] [ 2; 6 ]
    renamed "channelsLast" Tensor.channelsLast [ 2; 3; 2; 2 ] [ 2; 3; 2; 2 ]
    // Channel j comes from group j % 3, where it is the (j / 3)-th of two.
    picked
        "shuffleChannels"
        (Tensor.shuffleChannels 3)
        [ 2; 6; 2; 1 ]
        [ 2; 6; 2; 1 ]
        (fun i -> [ i[0]; i[1] % 3 * 2 + i[1] / 3; i[2]; i[3] ])
    picked "expand" (Tensor.expand (whole [ 4; 3 ])) [ 1; 3 ] [ 4; 3 ] (fun i -> [ 0; i[1] ])
    picked "transpose" (Tensor.transpose 0 1) [ 2; 3 ] [ 3; 2 ] List.rev
    picked "permute" (Tensor.permute (whole [ 2; 0; 1 ])) [ 2; 3; 4 ] [ 4; 2; 3 ] (fun i -> [ i[1]; i[2]; i[0] ])
    picked "select" (Tensor.select 1 2) [ 2; 3 ] [ 2 ] (fun i -> i @ [ 2 ])
    picked "slice" (Tensor.slice 1 1 3) [ 2; 4 ] [ 2; 2 ] (fun i -> [ i[0]; i[1] + 1 ])
    picked
        "indexSelect"
        (fun x -> Tensor.indexSelect 0 (Tensor.ofInt64s [ 3 ] [| 2L; 0L; 2L |]) x)
        [ 3; 2 ]
        [ 3; 2 ]
        (fun i -> [ [ 2; 0; 2 ][i[0]]; i[1] ])
    picked
        "gather"
        (fun x -> Tensor.gather 1 (Tensor.ofInt64s [ 2; 2 ] [| 2L; 0L; 1L; 1L |]) x)
        [ 2; 3 ]
        [ 2; 2 ]
        (fun i -> [ i[0]; [ 2; 0; 1; 1 ][2 * i[0] + i[1]] ])
    unary
        "padImage"
        (Tensor.padImage 1)
        (fun x -> tabulate [ 1; 2; 4; 5 ] (fun i -> padded x [ i[0]; i[1]; i[2] - 1; i[3] - 1 ]))
        [ 1; 2; 2; 3 ]
    operation
        "cat"
        (Tensor.cat 0)
        (fun xs -> tabulate [ 5; 2 ] (fun i -> if i[0] < 2 then at xs[0] i else at xs[1] [ i[0] - 2; i[1] ]))
        [ [ 2; 2 ]; [ 3; 2 ] ]
    operation "stack" (Tensor.stack 1) (fun xs -> tabulate [ 2; 2; 3 ] (fun i -> at xs[i[1]] [ i[0]; i[2] ])) [
        [ 2; 3 ]
        [ 2; 3 ]
    ]
]

/// All operations.
let all: Operation list = elementWise @ reductions @ layers @ shapes

/// The functions of `Tensor.fsi` without gradients.
let others: string list =
    [
        "scope scoped scopeWith unscoped live free ofFloats ofSingles ofInt64s ofBytes scalar zeros full arange"
        "toFloats toSingles toInt64s toFloat toBytes shape size rank count dtype device isChannelsLast detach"
        "eq eqNumber less lessThanNumber logicalAnd logicalNot isFinite mix argMax all any"
        "copyInto addInto reluInto fillInto rowsInto"
        "dropout addIntInto sgdInto adamInto adamWInto lerpInto resizeImage"
    ]
    |> List.collect (fun line -> List.ofArray (line.Split ' '))
