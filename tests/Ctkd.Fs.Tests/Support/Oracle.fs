/// Plain reference implementations: loops over arrays of float64.
module Ctkd.Fs.Tests.Oracle

/// An array with a shape, row-major.
type Dense = { Shape: int list; Values: float[] }

/// Returns all indices of a shape in row-major order.
let rec indices (shape: int list) : int list list =
    match shape with
    | [] -> [ [] ]
    | length :: rest -> [
        for i in 0 .. length - 1 do
            for tail in indices rest -> i :: tail
      ]

/// Creates an array whose elements are a function of their index.
let tabulate (shape: int list) (element: int list -> float) : Dense = {
    Shape = shape
    Values = indices shape |> List.map element |> Array.ofList
}

/// Returns the element at an index.
let at (x: Dense) (index: int list) : float =
    x.Values[List.fold2 (fun offset length i -> offset * length + i) 0 x.Shape index]

/// Returns the element at an index, or 0 outside.
let padded (x: Dense) (index: int list) : float =
    if List.forall2 (fun length i -> i >= 0 && i < length) x.Shape index then
        at x index
    else
        0.0

/// Returns the rows of a matrix.
let rows (x: Dense) : float[][] = Array.chunkBySize (List.last x.Shape) x.Values

/// Creates a matrix of rows.
let ofRows (rows: float[][]) : Dense = { Shape = [ rows.Length; rows[0].Length ]; Values = Array.concat rows }

// ---- one row of logits --------------------------------------------------------------------------

let logSumExp (z: float[]) : float =
    let largest = Array.max z
    largest + log (Array.sumBy (fun x -> exp (x - largest)) z)

let logSoftmax (z: float[]) : float[] =
    let total = logSumExp z
    Array.map (fun x -> x - total) z

let softmax (z: float[]) : float[] = Array.map exp (logSoftmax z)

let kl (teacher: float[]) (student: float[]) : float =
    Array.map2 (fun p q -> exp p * (p - q)) (logSoftmax teacher) (logSoftmax student) |> Array.sum

let kd (t: float) (teacher: float[]) (student: float[]) : float =
    let soften = Array.map (fun z -> z / t)
    t * t * kl (soften teacher) (soften student)

let crossEntropy (label: int) (z: float[]) : float = -(logSoftmax z)[label]

/// Returns the indices of the k largest values, largest first.
let largest (k: int) (z: float[]) : int[] =
    z |> Array.indexed |> Array.sortByDescending snd |> Array.truncate k |> Array.map fst

let argMax (z: float[]) : int = (largest 1 z)[0]

// ---- layers -------------------------------------------------------------------------------------

let private reduced (size: int) (kernel: int) (stride: int) (padding: int) : int =
    (size + 2 * padding - kernel) / stride + 1

let private square (size: int) : (int * int) list = List.allPairs [ 0 .. size - 1 ] [ 0 .. size - 1 ]

let conv2d (stride: int) (padding: int) (groups: int) (weight: Dense) (bias: Dense) (x: Dense) : Dense =
    match x.Shape, weight.Shape with
    | [ images; _; height; width ], [ outputs; inputs; kernel; _ ] ->
        let size length = reduced length kernel stride padding

        tabulate
            [ images; outputs; size height; size width ]
            (fun index ->
                let n, o, row, column = index[0], index[1], index[2], index[3]
                let first = o / (outputs / groups) * inputs

                at bias [ o ]
                + List.sum [
                    for i in 0 .. inputs - 1 do
                        for dy, dx in square kernel ->
                            let source = [ n; first + i; row * stride - padding + dy; column * stride - padding + dx ]

                            at weight [ o; i; dy; dx ] * padded x source
                ]
            )
    | _ -> invalidArg (nameof x) "an image and a kernel are expected"

/// Every input pixel spreads its kernel over the output: weight [inputs, outputs, kernel, kernel].
let convTranspose2d (stride: int) (padding: int) (weight: Dense) (bias: Dense) (x: Dense) : Dense =
    let kernel, outputs = weight.Shape[2], weight.Shape[1]
    let size length = (length - 1) * stride - 2 * padding + kernel

    tabulate
        [ x.Shape[0]; outputs; size x.Shape[2]; size x.Shape[3] ]
        (fun index ->
            at bias [ index[1] ]
            + List.sum [
                for i in 0 .. x.Shape[1] - 1 do
                    for row in 0 .. x.Shape[2] - 1 do
                        for column in 0 .. x.Shape[3] - 1 do
                            let dy, dx = index[2] + padding - row * stride, index[3] + padding - column * stride

                            at x [ index[0]; i; row; column ] * padded weight [ i; index[1]; dy; dx ]
            ]
        )

/// Reduces each window of a pooling by a function of its numbers inside the image.
let private pool kernel stride padding (reduce: float list -> float) (x: Dense) : Dense =
    let height, width = x.Shape[2], x.Shape[3]
    let size length = reduced length kernel stride padding

    tabulate
        [ x.Shape[0]; x.Shape[1]; size height; size width ]
        (fun index ->
            reduce [
                for dy, dx in square kernel do
                    let row, column = index[2] * stride - padding + dy, index[3] * stride - padding + dx

                    if row >= 0 && row < height && column >= 0 && column < width then
                        at x [ index[0]; index[1]; row; column ]
            ]
        )

let maxPool2d kernel stride padding (x: Dense) : Dense = pool kernel stride padding List.max x

/// Counts zeros of the padding.
let avgPool2d kernel stride padding (x: Dense) : Dense =
    pool kernel stride padding (fun inside -> List.sum inside / float (kernel * kernel)) x

/// Returns mean and biased variance per channel of [N, C, H, W].
let channelMoments (x: Dense) : (float * float)[] =
    Array.init
        x.Shape[1]
        (fun c ->
            let values = indices x.Shape |> List.filter (fun i -> i[1] = c) |> List.map (at x)
            let mean = List.average values
            mean, List.averageBy (fun v -> (v - mean) ** 2.0) values
        )

/// (x - mean) / sqrt(variance + epsilon) * weight + bias, with the given moments per channel.
let batchNorm (epsilon: float) (moments: (float * float)[]) (weight: Dense) (bias: Dense) (x: Dense) : Dense =
    tabulate
        x.Shape
        (fun index ->
            let c = index[1]
            let mean, variance = moments[c]
            (at x index - mean) / sqrt (variance + epsilon) * at weight [ c ] + at bias [ c ]
        )

// ---- optimiser ----------------------------------------------------------------------------------

/// PyTorch's SGD: new parameter and new momentum buffer (none before the first step).
let sgd (momentum: float) (decay: float) (nesterov: bool) (rate: float) (g: float) (buffer: float option) (p: float) =
    let g = g + decay * p
    let buffer = buffer |> Option.map (fun b -> momentum * b + g) |> Option.defaultValue g
    let direction = if nesterov then g + momentum * buffer else buffer
    p - rate * direction, buffer

// ---- gradients ----------------------------------------------------------------------------------

/// d f / d x[i] by central differences of fourth order.
let derivative (f: float[] -> float) (x: float[]) (i: int) : float =
    let h = 1e-3 * max 1.0 (abs x[i])
    let shifted steps = f (Array.mapi (fun j v -> if i = j then v + steps * h else v) x)
    (8.0 * (shifted 1.0 - shifted -1.0) - (shifted 2.0 - shifted -2.0)) / (12.0 * h)
