namespace Ctkd.Fs

open System
open System.Collections.Generic

/// Matches stored tensors with what a model expects.
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
        "U8", DType.Byte
        "BOOL", DType.Bool
    ]

    /// Whether weights of a model have this type; the engine has no other.
    let isOfModels (dtype: string) : bool = SafetensorsLayout.isOfModels dtype

    let private nameOf (dtype: DType) : string = dtypes |> List.find (fun (_, known) -> known = dtype) |> fst

    /// Converts a stored tensor to one of the engine.
    let load (stored: StoredTensor) : Tensor =
        let dtype = dtypes |> List.find (fun (name, _) -> name = stored.DType) |> snd
        Tensor.ofBytes dtype (Array.ofSeq stored.Shape) stored.Bytes.Span

    /// Converts a tensor of the engine to a stored one. Waits for the device.
    let store (name: string) (x: Tensor) : StoredTensor = {
        Name = name
        DType = nameOf (Tensor.dtype x)
        Shape = List.ofArray (Tensor.shape x)
        Bytes = ReadOnlyMemory(Tensor.toBytes x)
    }

    /// An expected tensor: name, element type and shape.
    type Expected = { Name: string; DType: DType; Shape: int64 list }

    /// Returns what a model expects if its weights are stored as `dtype`.
    let expected (dtype: DType) (declarations: Declaration list) : Expected list =
        declarations
        |> List.map (fun d -> {
            Name = d.Name
            DType = Initialise.dtypeOf dtype d.Name
            Shape = List.map int64 d.Shape
        })

    /// Returns what is needed to replace the tensors of a tree.
    let expectedOf (tree: Tree) : Expected list =
        Tree.toList tree
        |> List.map (fun (name, x) -> { Name = name; DType = Tensor.dtype x; Shape = List.ofArray (Tensor.shape x) })

    /// Whether all numbers of a tensor are finite. Waits for the device.
    let isFinite (x: Tensor) : bool =
        Tensor.count x = 0L || Tensor.scoped (fun () -> Tensor.toFloat (Tensor.all (Tensor.isFinite x))) = 1.0

    let private floats = [ DType.Float64; DType.Float32; DType.Float16; DType.BFloat16 ]

    let private integers = [ DType.Int64; DType.Int32; DType.Int16; DType.Int8; DType.Byte ]

    let private converted (dtype: DType) (stored: StoredTensor) : StoredTensor =
        Tensor.scoped (fun () -> load stored |> Tensor.toType dtype |> store stored.Name)

    let private adaptWith
        (convert: DType -> StoredTensor -> StoredTensor)
        (expected: Expected list)
        (stored: StoredTensor list)
        : StoredTensor list =
        let wanted = expected |> List.map (fun e -> e.Name, e) |> Map.ofList
        // A file may have a million tensors.
        let there = stored |> Seq.map _.Name |> HashSet
        let isAmong dtypes name = dtypes |> List.exists (fun dtype -> nameOf dtype = name)

        let change (tensor: StoredTensor) =
            match Map.tryFind tensor.Name wanted with
            | Some e when
                nameOf e.DType <> tensor.DType
                && [ floats; integers ]
                   |> List.exists (fun kind -> isAmong kind tensor.DType && List.contains e.DType kind)
                ->
                convert e.DType tensor
            | _ -> tensor

        let counter (e: Expected) =
            if Layer.isCounter e.Name && e.Shape.IsEmpty && not (there.Contains e.Name) then
                Some {
                    Name = e.Name
                    DType = nameOf DType.Int64
                    Shape = []
                    Bytes = ReadOnlyMemory(Array.zeroCreate sizeof<int64>)
                }
            else
                None

        List.map change stored @ List.choose counter expected

    /// As `adapt`, in the types alone: converts nothing.
    let internal relabel (expected: Expected list) (stored: StoredTensor list) : StoredTensor list =
        adaptWith (fun dtype tensor -> { tensor with DType = nameOf dtype }) expected stored

    /// Adapts tensors from other programs: converts floating-point numbers and integers to the expected widths, and
    /// sets a missing batch counter to 0, since PyTorch before 0.4.1 had none.
    let adapt: Expected list -> StoredTensor list -> StoredTensor list = adaptWith converted

    let private describe (dtype: string) (shape: int64 seq) =
        let text = shape |> Seq.map string |> String.concat ", "
        $"{dtype} [{text}]"

    /// A difference between a stored tensor and the expected one.
    [<NoComparison>]
    type private Difference =
        | Missing of string
        | Unexpected of string
        | Different of Expected * StoredTensor

    let private differences (expected: Expected list) (stored: StoredTensor list) : Difference list =
        let byName = Dictionary<string, StoredTensor>()

        for t in stored do
            byName[t.Name] <- t

        let wanted = expected |> Seq.map _.Name |> HashSet

        [
            for e in expected do
                match byName.TryGetValue e.Name with
                | true, t when t.Shape <> e.Shape || t.DType <> nameOf e.DType -> Different(e, t)
                | true, _ -> ()
                | _ -> Missing e.Name
            for t in stored do
                if not (wanted.Contains t.Name) then Unexpected t.Name
        ]

    /// Names of the stored tensors that are not expected.
    let extra (expected: Expected list) (stored: StoredTensor list) : string list =
        let wanted = expected |> Seq.map _.Name |> HashSet
        stored |> List.filter (fun t -> not (wanted.Contains t.Name)) |> List.map _.Name

    /// Names of the expected tensors that are missing or of another shape or kind. Converts nothing.
    let differing (expected: Expected list) (stored: StoredTensor list) : string list =
        stored
        |> relabel expected
        |> differences expected
        |> List.choose (
            function
            | Missing name -> Some name
            | Different(e, _) -> Some e.Name
            | Unexpected _ -> None
        )

    /// Lists the differences, one line per kind. Truncates long lists: a file may have a million.
    let private explain (all: Difference list) : string =
        let missing =
            all
            |> List.choose (
                function
                | Missing name -> Some name
                | _ -> None
            )

        let unexpected =
            all
            |> List.choose (
                function
                | Unexpected name -> Some name
                | _ -> None
            )

        let different =
            all
            |> List.choose (
                function
                | Different(e, t) -> Some(e, t)
                | _ -> None
            )

        let unpaired (what: string) (candidates: string list) (name: string) =
            let near = Error.nearest candidates name |> List.truncate 1

            let hint = near |> List.map (fun name -> $" (nearest: {Files.printable name})") |> String.concat ""

            $"'{Files.printable name}' is {what}{hint}"

        let listed what say items =
            let more = List.length items - 8
            let rest = if more > 0 then [ $"and {more} more are {what}" ] else []
            (items |> List.truncate 8 |> List.map say) @ rest

        let reshaped (e: Expected, t: StoredTensor) =
            $"'{e.Name}' is {describe t.DType t.Shape}, expected {describe (nameOf e.DType) e.Shape}"

        listed "missing" (unpaired "missing" unexpected) missing
        @ listed "of another shape or type" reshaped different
        @ listed "not expected" (unpaired "not expected" missing) unexpected
        |> List.map (fun line -> "\n  - " + line)
        |> String.concat ""

    /// Checks stored tensors against what is expected, and reports all differences in one error; `what` describes their
    /// use.
    let check what where (expected: Expected list) (stored: StoredTensor list) : Result<unit, Error> =
        match differences expected stored with
        | [] -> Ok()
        | all ->
            Error.fail
                Mismatch
                $"the tensors do not fit {what}; {all.Length} difference(s):{explain all}"
                where
                "give the weights of this model, or name the model that they are of"

    /// Loads the stored tensors onto the device as a tree in the expected order, or reports all differences in one
    /// error.
    let fit what where (device: Device) (expected: Expected list) (stored: StoredTensor list) : Result<Tree, Error> =
        check what where expected stored
        |> Result.map (fun () ->
            let byName = stored |> List.map (fun t -> t.Name, t) |> Map.ofList

            expected
            |> List.map (fun e -> e.Name, Tensor.scope (fun () -> load byName[e.Name] |> Tensor.toDevice device))
            |> Tree.ofSeq
        )
