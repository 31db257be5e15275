namespace Ctkd.Fs

open System

/// PyTorch's pickles: tensors and storages as inert objects, whose bytes lie elsewhere in the file.
[<RequireQualifiedAccess>]
module internal TorchPickle =
    /// Arguments: storage, offset, shape, strides; then the element type, if the storage has none.
    let tensorKind = "torch.Tensor"
    /// Arguments: element type, key, number of elements.
    let storageKind = "torch.storage"
    let deviceKind = "torch.device"
    let pairsKind = "collections.OrderedDict"

    /// The element type of a storage by its class name. Untyped storages count bytes.
    let private storages: Map<string, string> =
        Map [
            "torch.DoubleStorage", "F64"
            "torch.FloatStorage", "F32"
            "torch.HalfStorage", "F16"
            "torch.BFloat16Storage", "BF16"
            "torch.LongStorage", "I64"
            "torch.IntStorage", "I32"
            "torch.ShortStorage", "I16"
            "torch.CharStorage", "I8"
            "torch.ByteStorage", "U8"
            "torch.BoolStorage", "BOOL"
            "torch.UntypedStorage", "U8"
            "torch.storage.UntypedStorage", "U8"
            "torch.storage._UntypedStorage", "U8"
        ]

    /// Supported element types of tensors, by PyTorch's names.
    let dtypes: Map<string, string> =
        Map [
            "torch.float64", "F64"
            "torch.float32", "F32"
            "torch.float16", "F16"
            "torch.bfloat16", "BF16"
            "torch.int64", "I64"
            "torch.int32", "I32"
            "torch.int16", "I16"
            "torch.int8", "I8"
            "torch.uint8", "U8"
            "torch.bool", "BOOL"
        ]

    /// Element types that occur only as settings of a checkpoint, not in tensors.
    let private otherDtypes = [ "torch.complex32"; "torch.complex64"; "torch.complex128" ]

    let private inert (kind: string) (arguments: PickleValue list) : PickleValue =
        PickleValue.Object { Kind = kind; Arguments = arguments; State = PickleValue.Nothing }

    let private notCalled (_: PickleValue list) : Result<PickleValue, string> = Error "it may not be called here"

    // ---- tensors

    // `requires_grad` and the backward hooks are irrelevant. The arguments are checked when a tensor is read.
    let private tensor (arguments: PickleValue list) : Result<PickleValue, string> =
        match arguments with
        | _ :: _ :: _ :: _ :: _ :: _ :: PickleValue.Dictionary notes :: _ when notes.Count > 0 ->
            Error "a tensor has notes, such as a sign that is not yet applied: save it with .clone()"
        | storage :: offset :: extents :: strides :: _ -> Ok(inert tensorKind [ storage; offset; extents; strides ])
        | _ -> Error "a tensor has a storage, an offset, extents and strides"

    let private typedTensor (arguments: PickleValue list) : Result<PickleValue, string> =
        match arguments with
        | [ storage; offset; extents; strides; _; _; PickleValue.Global dtype ] ->
            match Map.tryFind dtype dtypes with
            | Some dtype -> Ok(inert tensorKind [ storage; offset; extents; strides; PickleValue.Text dtype ])
            | None -> Error $"tensors of the type {dtype} are not read"
        | _ -> Error "a tensor has a storage, an offset, extents, strides, a type and no notes"

    let private parameter (arguments: PickleValue list) : Result<PickleValue, string> =
        match arguments with
        | (PickleValue.Object o as value) :: _ when o.Kind = tensorKind -> Ok value
        | _ -> Error "a parameter is made of a tensor"

    // ---- containers: arguments of constructors are never copied, since a pickle may call one many times

    let private orderedDictionary (arguments: PickleValue list) : Result<PickleValue, string> =
        match arguments with
        | [] -> Ok(PickleValue.Dictionary(ResizeArray()))
        | [ PickleValue.Sequence _ as pairs ] -> Ok(inert pairsKind [ pairs ])
        | _ -> Error "it is made of nothing or of a list"

    let private counter (arguments: PickleValue list) : Result<PickleValue, string> =
        match arguments with
        | [] -> Ok(PickleValue.Dictionary(ResizeArray()))
        | [ PickleValue.Dictionary _ as counts ] -> Ok counts
        | _ -> Error "it is made of nothing or of a dictionary"

    let private defaultDictionary (_: PickleValue list) : Result<PickleValue, string> =
        Ok(PickleValue.Dictionary(ResizeArray()))

    let private set (arguments: PickleValue list) : Result<PickleValue, string> =
        match arguments with
        | [ PickleValue.Sequence _ as items ] -> Ok items
        | _ -> Error "it is made of a list"

    let private size (arguments: PickleValue list) : Result<PickleValue, string> =
        match arguments with
        | [ PickleValue.Tuple _ as extents ] -> Ok extents
        | _ -> Error "it is made of a tuple"

    // ---- the table

    let private functions: (string * PickleConstructor) list = [
        "torch._utils._rebuild_tensor", tensor
        "torch._utils._rebuild_tensor_v2", tensor
        "torch._utils._rebuild_tensor_v3", typedTensor
        "torch._utils._rebuild_parameter", parameter
        "torch.Size", size
        "torch.device", (inert deviceKind >> Ok)
        "collections.OrderedDict", orderedDictionary
        "collections.Counter", counter
        "collections.defaultdict", defaultDictionary
        for python in [ "builtins"; "__builtin__" ] do
            $"{python}.set", set

            // The default factories of defaultdict.
            for name in [ "dict"; "list"; "int"; "float" ] do
                $"{python}.{name}", notCalled
    ]

    let private names: (string * PickleConstructor) list =
        [ yield! storages.Keys; yield! dtypes.Keys; yield! otherDtypes ] |> List.map (fun name -> name, notCalled)

    /// All globals that a PyTorch file may import.
    let allowed: Map<string, PickleConstructor> =
        List.concat [ Map.toList Numpy.allowed; functions; names ] |> Map.ofList

    /// A key is part of a path, and is compared and copied for each tensor. PyTorch's keys are numbers.
    let private isKey (value: PickleValue) : bool =
        let isPlain (c: char) = Char.IsAsciiLetterOrDigit c || c = '_' || c = '-'

        let length =
            match value with
            | PickleValue.Text text -> text.Length
            | PickleValue.Bytes bytes -> bytes.Length
            | _ -> 0

        length >= 1 && length <= 256 && PickleValue.text value |> Option.exists (Seq.forall isPlain)

    let private typed (owner: string) (key: PickleValue) (count: int64) : Result<PickleValue, string> =
        match Map.tryFind owner storages with
        | None -> Error $"{owner} is no type of a storage"
        | Some dtype when count >= 0L && isKey key ->
            Ok(inert storageKind [ PickleValue.Text dtype; key; PickleValue.Whole count ])
        | Some _ -> Error "the name of a storage is malformed"

    /// Resolves a pickle's name of a storage; its original device is irrelevant.
    let storage (name: PickleValue) : Result<PickleValue, string> =
        let kind, rest =
            match name with
            | PickleValue.Tuple(kind :: rest) -> kind, rest
            | _ -> PickleValue.Nothing, []

        match rest with
        | _ when PickleValue.isText "module" kind -> Error "it holds the source of a module: save only its state_dict"
        | _ when not (PickleValue.isText "storage" kind) -> Error "it refers to what is no storage"
        | [ PickleValue.Global owner; key; _; PickleValue.Whole count ]
        | [ PickleValue.Global owner; key; _; PickleValue.Whole count; PickleValue.Nothing ] -> typed owner key count
        | [ _; _; _; _; PickleValue.Tuple _ ] -> Error "a storage is a part of another: save it again"
        | _ -> Error "the name of a storage is malformed"

    /// Returns a storage's element type, key and number of elements.
    let describe (storage: PickleValue) : (string * string * int64) option =
        match storage with
        | PickleValue.Object o when o.Kind = storageKind ->
            match o.Arguments with
            | [ PickleValue.Text dtype; key; PickleValue.Whole count ] ->
                PickleValue.text key |> Option.map (fun key -> dtype, key, count)
            | _ -> None
        | _ -> None
