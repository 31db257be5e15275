/// TorchScript files of the library's models, written without PyTorch.
module Ctkd.Fs.Tests.TorchScripts

open System
open System.IO
open System.IO.Compression
open System.Text
open Ctkd.Fs

// ---- the pickle of a module: libtorch knows fewer codes than Python

let private text (value: string) : byte[] =
    let bytes = Encoding.UTF8.GetBytes value
    Array.concat [ "X"B; BitConverter.GetBytes bytes.Length; bytes ]

let private whole (value: int64) : byte[] = Array.append "J"B (BitConverter.GetBytes(int value))
let private tuple (parts: byte[] list) : byte[] = Array.concat [ "("B; Array.concat parts; "t"B ]
let private name (path: string) : byte[] = Encoding.ASCII.GetBytes $"c{path}\n"

let private strides (shape: int64 list) : int64 list =
    (shape, [ 1L ]) ||> List.foldBack (fun extent strides -> extent * strides.Head :: strides) |> List.tail

let private tensor (key: int) (x: Tensor) : byte[] =
    let shape = Tensor.shape x |> List.ofArray

    let storage =
        tuple [
            text "storage"
            name "torch\nFloatStorage"
            text (string key)
            text "cpu"
            whole (Tensor.count x)
        ]

    Array.concat [
        name "torch._utils\n_rebuild_tensor_v2"
        tuple [
            Array.append storage "Q"B
            whole 0L
            tuple (List.map whole shape)
            tuple (List.map whole (strides shape))
            [| 0x89uy |]
            Array.append (name "collections\nOrderedDict") ")R"B
        ]
        "R"B
    ]

let private latin (value: string) : byte[] = Encoding.Latin1.GetBytes value

/// A module's file: its attributes, and the lines of its forward pass over `x0`.
let private file (result: string) (tensors: (string * Tensor) list) (lines: string list) : byte[] =
    let attributes = [
        for i, (attribute, x) in List.indexed tensors do
            Array.append (text attribute) (tensor i x)
        Array.append (text "training") (latin "\x89")
    ]

    let pickle =
        Array.concat [ latin "\x80\002"; name "__torch__\nNet"; latin ")\x81}("; Array.concat attributes; latin "ub." ]

    let code =
        [
            "class Net(Module):"
            let quoted = tensors |> List.map (fun (attribute, _) -> $"\"{attribute}\", ") |> String.concat ""
            $"  __parameters__ = [{quoted}]"
            "  __buffers__ = []"

            for attribute, _ in tensors do
                $"  {attribute} : Tensor"

            "  training : bool"
            "  def forward(self: __torch__.Net,"
            $"    x0: Tensor) -> {result}:"

            for line in lines do
                $"    {line}"
        ]
        |> String.concat "\n"

    TorchPickles.zip CompressionLevel.NoCompression [
        yield "net/data.pkl", pickle
        for i, (_, x) in List.indexed tensors do
            yield $"net/data/{i}", Tensor.scoped (fun () -> x |> Tensor.toType DType.Float32 |> Tensor.toBytes)
        yield "net/code/__torch__.py", Encoding.UTF8.GetBytes(code + "\n")
        yield "net/constants.pkl", latin "\x80\002)."
        yield "net/version", "3\n"B
    ]

/// The TorchScript file of a model of convolutions, normalisations, sums and a classifier.
let ofModel (model: Model) (weights: Tree) : byte[] =
    let attribute (tensor: string) = tensor.Replace('.', '_')
    let lines = ResizeArray<string>()
    let mutable values = 0

    let value (expression: string) : string =
        values <- values + 1
        lines.Add $"x{values} = torch.{expression}"
        $"x{values}"

    let rec add (layer: Layer) (x: string) : string =
        match layer with
        | Conv c ->
            let bias = c.Bias |> Option.map (fun bias -> "self." + attribute bias) |> Option.defaultValue "None"
            let pair n = $"[{n}, {n}]"

            value
                $"conv2d({x}, self.{attribute c.Weight}, {bias}, {pair c.Stride}, {pair c.Padding}, [1, 1], {c.Groups})"
        | BatchNorm n ->
            let tensors = [ n.Scale; n.Shift; n.Mean; n.Variance ] |> List.map (fun t -> "self." + attribute t)
            value $"""batch_norm({x}, {String.concat ", " tensors}, False, 0.1, 1.0000000000000001e-05, True)"""
        | Relu -> value $"relu({x})"
        | GlobalPool -> value $"mean({x}, [2, 3])"
        | Linear d -> value $"linear({x}, self.{attribute d.Weight}, self.{attribute d.Bias})"
        | Sequence layers -> List.fold (fun x layer -> add layer x) x layers
        | Block body -> add body x
        | Tap -> x
        | Residual(body, shortcut) -> value $"add({add body x}, {add shortcut x})"
        | other -> failwith $"%A{other} is not written."

    let result = add (Model.layers model) "x0"
    lines.Add $"return {result}"

    let tensors =
        Tree.toList weights
        |> List.filter (fun (name, _) -> not (Layer.isCounter name))
        |> List.map (fun (name, x) -> attribute name, x)

    file "Tensor" tensors (List.ofSeq lines)

/// A file whose forward pass is these lines over the images `x0` and a tensor `w` [10, 3], with a result of this type.
let ofLinesOf (result: string) (lines: string list) : byte[] =
    let w = Tensor.ofFloats DType.Float32 [ 10; 3 ] (Rng.normals 30 (Rng.ofSeed 1))
    file result [ "w", w ] lines

/// As `ofLinesOf`, with one tensor as its result.
let ofLines (lines: string list) : byte[] = ofLinesOf "Tensor" lines

/// Writes a file.
let write (folder: string) (name: string) (bytes: byte[]) : string =
    let path = Path.Combine(folder, name)
    File.WriteAllBytes(path, bytes)
    path
