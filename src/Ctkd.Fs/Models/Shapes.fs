namespace Ctkd.Fs

/// A layer with its input and output shape for one image: [C; H; W], or [C] after the global pool.
[<NoComparison>]
type Traced = { Layer: Layer; Input: int list; Output: int list }

/// Shape inference without weights.
[<RequireQualifiedAccess>]
module Shapes =

    /// Returns the number of elements.
    let elements (shape: int list) : int64 = shape |> List.fold (fun n size -> n * int64 size) 1L

    /// The output shape of a sliding window.
    let private windowed channels kernel stride padding (input: int list) : int list =
        match input with
        | [ _; height; width ] when min height width + 2 * padding >= kernel ->
            let reduced size = (size + 2 * padding - kernel) / stride + 1
            [ channels; reduced height; reduced width ]
        | _ ->
            invalidArg (nameof input) $"an image [C; H; W] of at least {kernel} x {kernel} is expected, got %A{input}."

    let private expectChannels (what: string) (channels: int) (input: int list) : unit =
        if input.Head <> channels then
            invalidArg (nameof input) $"{what} expects {channels} channels, got %A{input}."

    /// The output shape of a layer without nested layers.
    let private single (layer: Layer) (input: int list) : int list =
        match layer with
        | Conv c ->
            expectChannels c.Weight c.In input
            windowed c.Out c.Kernel c.Stride c.Padding input
        | BatchNorm n ->
            expectChannels n.Scale n.Channels input
            input
        | Linear d ->
            expectChannels d.Weight d.In input
            [ d.Out ]
        | MaxPool(kernel, stride, padding)
        | AvgPool(kernel, stride, padding) -> windowed input.Head kernel stride padding input
        | GlobalPool -> [ input.Head ]
        | Channels(first, count) ->
            if first + count > input.Head then
                invalidArg (nameof input) $"channels {first} to {first + count - 1} are asked of %A{input}."

            count :: input.Tail
        | Shuffle groups ->
            if input.Head % groups <> 0 then
                invalidArg (nameof input) $"%A{input} has no {groups} equal groups of channels."

            input
        | Custom custom -> custom.OutputShape input
        | Whole whole -> [ whole.Classes ]
        | Relu
        | Relu6
        | Tap
        | Sequence _
        | Residual _
        | Concat _
        | Block _ -> input

    /// Returns every layer in execution order for an image of the given shape, and the final shape. A sum or join comes
    /// after its branches. Raises `ArgumentException` if a shape does not fit.
    let rec trace (layer: Layer) (input: int list) : Traced list * int list =
        let joined (branches: Layer list) (output: int list list -> int list) =
            let inner, outputs = branches |> List.map (fun branch -> trace branch input) |> List.unzip
            let output = output outputs
            List.concat inner @ [ { Layer = layer; Input = input; Output = output } ], output

        match layer with
        | Sequence layers ->
            let inner, output = List.mapFold (fun shape layer -> trace layer shape) input layers
            List.concat inner, output
        | Block body -> trace body input
        | Residual(body, shortcut) ->
            joined
                [ body; shortcut ]
                (fun outputs ->
                    if outputs[0] <> outputs[1] then
                        invalidArg (nameof input) $"a sum of the shapes %A{outputs[0]} and %A{outputs[1]}."

                    outputs[0]
                )
        | Concat branches ->
            joined
                branches
                (fun outputs ->
                    if outputs |> List.exists (fun output -> output.Tail <> outputs.Head.Tail) then
                        invalidArg (nameof input) $"branches of the shapes %A{outputs} cannot be joined."

                    List.sumBy List.head outputs :: outputs.Head.Tail
                )
        | _ ->
            let output = single layer input
            [ { Layer = layer; Input = input; Output = output } ], output

    /// Returns the layer's output shape for one image of the given shape.
    let behind (layer: Layer) (input: int list) : int list = snd (trace layer input)

    /// Returns the shapes of the features that the layer's taps record.
    let tapped (traced: Traced list) : int list list =
        traced
        |> List.collect (fun t ->
            match t.Layer with
            | Tap -> [ t.Input ]
            | Whole whole -> whole.Maps t.Input
            | _ -> []
        )

    /// Returns the total downsampling factor: the smallest sensible height and width.
    let rec totalStride (layer: Layer) : int =
        match layer with
        | Conv c -> c.Stride
        | MaxPool(_, stride, _)
        | AvgPool(_, stride, _) -> stride
        | Sequence layers -> List.fold (fun stride layer -> stride * totalStride layer) 1 layers
        | Concat branches -> branches |> List.map totalStride |> List.max
        | Residual(body, _)
        | Block body -> totalStride body
        | BatchNorm _
        | Relu
        | Relu6
        | GlobalPool
        | Linear _
        | Channels _
        | Shuffle _
        | Tap
        | Custom _
        | Whole _ -> 1
