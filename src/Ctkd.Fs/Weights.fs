namespace Ctkd.Fs

open System

/// Stored tensors against what a model asks for.
[<RequireQualifiedAccess>]
module Weights =
    let private dtypes: (string * DType) list = [
        "F32", DType.Float32
        "F64", DType.Float64
        "F16", DType.Float16
        "BF16", DType.BFloat16
        "I64", DType.Int64
        "I32", DType.Int32
        "I16", DType.Int16
        "I8", DType.Int8
        "U8", DType.UInt8
        "BOOL", DType.Bool
    ]

    let private nameOf (dtype: DType) : string = dtypes |> List.find (fun (_, known) -> known = dtype) |> fst

    /// A tensor of the engine from a stored one.
    let load (stored: StoredTensor) : Tensor =
        let dtype = dtypes |> List.find (fun (name, _) -> name = stored.DType) |> snd
        Tensor.ofBytes dtype (Array.ofSeq stored.Shape) stored.Bytes.Span

    /// A stored tensor from one of the engine. Waits for the device.
    let store (name: string) (x: Tensor) : StoredTensor = {
        Name = name
        DType = nameOf (Tensor.dtype x)
        Shape = List.ofArray (Tensor.shape x)
        Bytes = ReadOnlyMemory(Tensor.toBytes x)
    }

    /// What is expected of a tensor: element type and shape.
    type Expected = { Name: string; DType: DType; Shape: int64 list }

    /// What a model expects when its weights are kept in `dtype`.
    let expected (dtype: DType) (declarations: Declaration list) : Expected list =
        declarations
        |> List.map (fun d -> {
            Name = d.Name
            DType = Initialise.dtypeOf dtype d.Name
            Shape = List.map int64 d.Shape
        })

    /// What a tree holds.
    let expectedOf (tree: Tree) : Expected list =
        Tree.toList tree
        |> List.map (fun (name, x) -> {
            Name = name
            DType = Tensor.dtype x
            Shape = List.ofArray (Tensor.shape x)
        })

    let private describe (dtype: string) (shape: int64 seq) =
        let text = shape |> Seq.map string |> String.concat ", "
        $"{dtype} [{text}]"

    /// Everything in which the stored tensors differ from what is expected: missing, unexpected, of another shape or type.
    /// Each is put into words only when asked: a hostile file may have a million of them.
    let private differences (expected: Expected list) (stored: StoredTensor list) : (unit -> string) list =
        let byName = stored |> List.map (fun t -> t.Name, t) |> Map.ofList
        let wanted = expected |> List.map _.Name |> Set.ofList
        let surplus = stored |> List.map _.Name |> List.filter (wanted.Contains >> not)

        let missing (name: string) () =
            match Error.nearest surplus name with
            | [] -> $"'{name}' is missing"
            | near :: _ -> $"'{name}' is missing (nearest: {Files.printable near})"

        let different (e: Expected) (t: StoredTensor) () =
            $"'{e.Name}' is {describe t.DType t.Shape}, expected {describe (nameOf e.DType) e.Shape}"

        [
            for e in expected do
                match Map.tryFind e.Name byName with
                | None -> missing e.Name
                | Some t when t.Shape <> e.Shape || t.DType <> nameOf e.DType -> different e t
                | Some _ -> ()
            for name in surplus do
                fun () -> $"'{Files.printable name}' is not expected"
        ]

    /// The stored tensors as a tree in the expected order and on the device, or every difference in one error.
    let fit
        what
        where
        (device: Device)
        (expected: Expected list)
        (stored: StoredTensor list)
        : Result<Tree, Error> =
        match differences expected stored with
        | [] ->
            let byName = stored |> List.map (fun t -> t.Name, t) |> Map.ofList

            expected
            |> List.map (fun e ->
                e.Name, Tensor.scope (fun () -> load byName[e.Name] |> Tensor.toDevice device)
            )
            |> Tree.ofSeq
            |> Ok
        | all ->
            let shown = all |> List.truncate 8 |> List.map (fun d -> "\n  - " + d ()) |> String.concat ""
            let more = if all.Length > 8 then $"\n  - and {all.Length - 8} more" else ""

            Result.Error(
                Error.create
                    Mismatch
                    $"the tensors do not fit {what}; {all.Length} difference(s):{shown}{more}"
                    where
                    "name the model and the number of classes that this file was written for"
            )
