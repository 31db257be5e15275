namespace Ctkd.Fs

open System
open System.Collections.Generic
open System.Runtime.InteropServices
open Ctkd.Onnx
open Google.Protobuf

/// A value of the graph: its name, and its shape without the batch.
type internal OnnxValue = { Name: string; Shape: int list }

/// Builds a graph node by node. A node is named after its result, and never gets a reserved name.
type internal OnnxGraph(name: string, reserved: string list) =
    let graph = GraphProto(Name = name)
    let names = HashSet<string> reserved
    let stored = HashSet<string>()

    /// Returns the name, or the first unused one of name.2, name.3, ...
    let fresh (name: string) : string =
        Seq.initInfinite (fun i -> if i = 0 then name else $"{name}.{i + 1}") |> Seq.find names.Add

    let store (name: string) (kind: TensorProto.Types.DataType) (shape: int seq) (bytes: byte[]) : string =
        if stored.Add name then
            let tensor =
                TensorProto(Name = name, DataType = int kind, RawData = UnsafeByteOperations.UnsafeWrap bytes)

            tensor.Dims.AddRange(Seq.map int64 shape)
            graph.Initializer.Add tensor

        name

    let typed (kind: TensorProto.Types.DataType) (name: string) (dimensions: TensorShapeProto.Types.Dimension list) =
        let shape = TensorShapeProto()
        shape.Dim.AddRange dimensions

        ValueInfoProto(
            Name = name,
            Type = TypeProto(TensorType = TypeProto.Types.Tensor(ElemType = int kind, Shape = shape))
        )

    let free (name: string) = TensorShapeProto.Types.Dimension(DimParam = name)
    let length (size: int) = TensorShapeProto.Types.Dimension(DimValue = int64 size)

    let described (value: OnnxValue) : ValueInfoProto =
        free "batch" :: List.map length value.Shape |> typed TensorProto.Types.DataType.Float value.Name

    /// Creates an attribute of integers.
    static member Ints (name: string) (values: int seq) : AttributeProto =
        let attribute = AttributeProto(Name = name, Type = AttributeProto.Types.AttributeType.Ints)
        attribute.Ints.AddRange(Seq.map int64 values)
        attribute

    /// Creates an attribute of one word.
    static member Text (name: string) (value: string) : AttributeProto =
        AttributeProto(Name = name, Type = AttributeProto.Types.AttributeType.String, S = ByteString.CopyFromUtf8 value)

    /// Creates an attribute of one integer.
    static member Int (name: string) (value: int) : AttributeProto =
        AttributeProto(Name = name, Type = AttributeProto.Types.AttributeType.Int, I = int64 value)

    /// Creates an attribute of one number.
    static member Float (name: string) (value: float) : AttributeProto =
        AttributeProto(Name = name, Type = AttributeProto.Types.AttributeType.Float, F = float32 value)

    /// The graph built so far.
    member _.Proto: GraphProto = graph

    /// Adds constant float32 numbers, unless the name already exists.
    member _.Floats (name: string) (shape: int list) (values: float32[]) : string =
        store name TensorProto.Types.DataType.Float shape (MemoryMarshal.AsBytes(values.AsSpan()).ToArray())

    /// Adds a tensor's numbers as float32 constants, unless the name already exists.
    member _.Weights (name: string) (shape: int list) (values: Tensor) : string =
        let bytes = Tensor.scoped (fun () -> values |> Tensor.toType DType.Float32 |> Tensor.toBytes)
        store name TensorProto.Types.DataType.Float shape bytes

    /// Adds a constant list of integers.
    member _.Integers (name: string) (values: int list) : string =
        let bytes = values |> List.map int64 |> Array.ofList
        let bytes = MemoryMarshal.AsBytes(bytes.AsSpan()).ToArray()
        store name TensorProto.Types.DataType.Int64 [ values.Length ] bytes

    /// Adds a node with one result, named `result` or else like the node.
    member _.Node (operator: string) (name: string) (result: string option) inputs attributes : string =
        let name = fresh name
        let result = defaultArg result name
        let node = NodeProto(OpType = operator, Name = name)
        node.Input.AddRange(inputs: string list)
        node.Output.Add result
        node.Attribute.AddRange(attributes: AttributeProto list)
        graph.Node.Add node
        result

    /// Declares a value as an input of the graph.
    member _.Input(value: OnnxValue) : unit = graph.Input.Add(described value)

    /// Declares an input of uint8 images [batch, height, width, 3], of any size or of this one.
    member _.BytesInput(name: string, size: (int * int) option) : unit =
        let height, width =
            match size with
            | Some(height, width) -> length height, length width
            | None -> free "height", free "width"

        [ free "batch"; height; width; length 3 ] |> typed TensorProto.Types.DataType.Uint8 name |> graph.Input.Add

    /// Declares a value as an output of the graph.
    member _.Output(value: OnnxValue) : unit = graph.Output.Add(described value)

/// Converts layers to nodes.
[<RequireQualifiedAccess>]
module internal OnnxLayers =
    /// The module of a tensor: "layer1.0.conv1" of "layer1.0.conv1.weight".
    let private moduleOf (tensor: string) : string =
        match tensor.LastIndexOf '.' with
        | at when at > 0 -> tensor.Substring(0, at)
        | _ -> tensor

    let private window kernel stride padding : AttributeProto list = [
        OnnxGraph.Ints "kernel_shape" [ kernel; kernel ]
        OnnxGraph.Ints "strides" [ stride; stride ]
        OnnxGraph.Ints "pads" [ padding; padding; padding; padding ]
    ]

    /// Adds a layer with the given input; returns its output. `result` names the result of a classifier; `tapped`
    /// receives the inputs of taps. User-defined layers must not occur.
    let rec add
        (graph: OnnxGraph)
        (weights: Tree)
        (tapped: OnnxValue -> unit)
        (result: string option)
        (layer: Layer)
        (x: OnnxValue)
        : OnnxValue =
        let stored name =
            let tensor = Tree.find name weights
            let shape = Tensor.shape tensor |> Array.map int |> List.ofArray
            graph.Weights name shape tensor

        let value name : OnnxValue = {
            Name = name
            // Of nested layers only the sum and the join add a node, as their last one.
            Shape = Shapes.behind layer x.Shape
        }

        let node operator name inputs attributes = graph.Node operator name result inputs attributes |> value
        let after operator suffix inputs = node operator $"{x.Name}/{suffix}" (x.Name :: inputs)
        let inner layer x = add graph weights tapped None layer x

        match layer with
        | Conv c ->
            let inputs = x.Name :: stored c.Weight :: (c.Bias |> Option.map stored |> Option.toList)
            let attributes = OnnxGraph.Int "group" c.Groups :: window c.Kernel c.Stride c.Padding
            node "Conv" (moduleOf c.Weight) inputs attributes
        | BatchNorm n ->
            let inputs = x.Name :: List.map stored [ n.Scale; n.Shift; n.Mean; n.Variance ]
            node "BatchNormalization" (moduleOf n.Scale) inputs [ OnnxGraph.Float "epsilon" Layer.epsilon ]
        | Relu -> after "Relu" "relu" [] []
        | Relu6 ->
            let bound name number = graph.Floats name [] [| number |]
            after "Clip" "relu6" [ bound "relu6.low" 0.0f; bound "relu6.high" 6.0f ] []
        | MaxPool(kernel, stride, padding) -> after "MaxPool" "maxpool" [] (window kernel stride padding)
        | AvgPool(kernel, stride, padding) ->
            let counted = OnnxGraph.Int "count_include_pad" 1
            after "AveragePool" "avgpool" [] (counted :: window kernel stride padding)
        | GlobalPool ->
            let pooled = graph.Node "GlobalAveragePool" $"{x.Name}/mean" None [ x.Name ] []
            node "Flatten" $"{x.Name}/pooled" [ pooled ] [ OnnxGraph.Int "axis" 1 ]
        | Linear d ->
            let inputs = [ x.Name; stored d.Weight; stored d.Bias ]
            node "Gemm" (moduleOf d.Weight) inputs [ OnnxGraph.Int "transB" 1 ]
        | Sequence layers -> layers |> List.fold (fun x layer -> inner layer x) x
        | Residual(body, shortcut) ->
            let body, shortcut = inner body x, inner shortcut x
            node "Add" $"{body.Name}/sum" [ body.Name; shortcut.Name ] []
        | Concat branches ->
            let values = branches |> List.map (fun branch -> (inner branch x).Name)
            node "Concat" $"{List.last values}/join" values [ OnnxGraph.Int "axis" 1 ]
        | Channels(first, count) ->
            let stop = first + count
            let number value = graph.Integers $"number.{value}" [ value ]
            let bounds = [ number first; number stop; number 1 ]
            after "Slice" $"channels{first}-{stop - 1}" bounds []
        | Shuffle 1 -> x
        | Shuffle groups ->
            let channels, size = x.Shape.Head, x.Shape.Tail
            // 0 keeps the length of the batch dimension.
            let reshape name from (shape: int list) =
                let constant = graph.Integers ("shape." + String.Join("x", shape.Tail)) shape
                graph.Node "Reshape" $"{x.Name}/{name}" None [ from; constant ] []

            let grouped = reshape "groups" x.Name (0 :: groups :: channels / groups :: size)
            let order = OnnxGraph.Ints "perm" [ 0; 2; 1; 3; 4 ]
            let mixed = graph.Node "Transpose" $"{x.Name}/mixed" None [ grouped ] [ order ]
            reshape "shuffled" mixed (0 :: channels :: size) |> value
        | Tap ->
            tapped x
            x
        | Block body -> inner body x
        | Custom { Name = name }
        | Whole { Name = name } -> invalidArg (nameof layer) $"the layer '{name}' has no ONNX operators."
