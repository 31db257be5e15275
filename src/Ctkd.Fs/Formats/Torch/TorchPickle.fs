namespace Ctkd.Fs

open System

/// PyTorch's pickles: tensors and storages as inert objects, whose bytes lie elsewhere in the file. Any other class is an
/// inert object too.
[<RequireQualifiedAccess>]
module internal TorchPickle =
    /// Arguments: storage, offset, shape, strides; then the element type, if the storage has none.
    let tensorKind = "torch.Tensor"
    /// Arguments: element type, key, number of elements.
    let storageKind = "torch.storage"
    let deviceKind = "torch.device"
    /// Arguments: what it is, in words. A tensor that is not read.
    let unreadKind = "torch.Tensor, unread"
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
            "torch.ComplexFloatStorage", "C64"
            "torch.ComplexDoubleStorage", "C128"
            "torch.QInt8Storage", "QI8"
            "torch.QUInt8Storage", "QU8"
            "torch.QInt32Storage", "QI32"
            "torch.QUInt4x2Storage", "QU4X2"
            "torch.QUInt2x4Storage", "QU2X4"
        ]

    /// Bytes per element of a storage; the types of quantised tensors are PyTorch's alone.
    let itemSizes: Map<string, int64> =
        (SafetensorsLayout.itemSizes, [ "QI8", 1L; "QU8", 1L; "QI32", 4L; "QU4X2", 1L; "QU2X4", 1L ])
        ||> List.fold (fun sizes (dtype, size) -> Map.add dtype size sizes)

    /// Element types of tensors, by PyTorch's names.
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
            "torch.uint16", "U16"
            "torch.uint32", "U32"
            "torch.uint64", "U64"
            "torch.complex64", "C64"
            "torch.complex128", "C128"
            "torch.float8_e4m3fn", "F8_E4M3"
            "torch.float8_e5m2", "F8_E5M2"
            "torch.float8_e8m0fnu", "F8_E8M0"
        ]

    let private notCalled (_: PickleValue list) : Result<PickleValue, string> = Error "it may not be called here"

    // ---- tensors

    let private unread (what: string) : Result<PickleValue, string> =
        Ok(PickleValue.inert unreadKind [ PickleValue.Text what ])

    // `requires_grad` and the backward hooks are irrelevant. The arguments are checked when a tensor is read.
    let private tensor (arguments: PickleValue list) : Result<PickleValue, string> =
        match arguments with
        | _ :: _ :: _ :: _ :: _ :: _ :: PickleValue.Dictionary notes :: _ when notes.Count > 0 ->
            unread "a tensor whose sign or conjugation is not yet applied"
        | storage :: offset :: extents :: strides :: _ ->
            Ok(PickleValue.inert tensorKind [ storage; offset; extents; strides ])
        | _ -> Error "a tensor has a storage, an offset, extents and strides"

    let private typedTensor (arguments: PickleValue list) : Result<PickleValue, string> =
        match arguments with
        | storage :: offset :: extents :: strides :: _ :: _ :: PickleValue.Global dtype :: _ ->
            match Map.tryFind dtype dtypes with
            | Some dtype ->
                Ok(PickleValue.inert tensorKind [ storage; offset; extents; strides; PickleValue.Text dtype ])
            | None -> unread $"a tensor of the type {dtype}"
        | _ -> Error "a tensor has a storage, an offset, extents, strides, a type and no notes"

    let private isTensor (value: PickleValue) : bool =
        match value with
        | PickleValue.Object o -> o.Kind = tensorKind || o.Kind = unreadKind
        | _ -> false

    /// What is made of a tensor, or of a numpy array, and is as good as it.
    let private ofTensor (arguments: PickleValue list) : Result<PickleValue, string> =
        match arguments with
        | value :: _ when isTensor value || (Numpy.array value).IsSome -> Ok value
        | _ -> Error "a parameter is made of a tensor"

    /// Functions that make tensors: a subclass of Tensor is made by a call of one of them.
    let private tensors: Map<string, PickleConstructor> =
        let rebuild name = $"torch._utils._rebuild_{name}"

        Map [
            rebuild "tensor", tensor
            rebuild "tensor_v2", tensor
            rebuild "tensor_v3", typedTensor
            rebuild "parameter", ofTensor
            rebuild "parameter_with_state", ofTensor
            rebuild "device_tensor_from_numpy", ofTensor
            rebuild "device_tensor_from_cpu_tensor", ofTensor
            rebuild "qtensor", (fun _ -> unread "a quantised tensor")
            rebuild "sparse_tensor", (fun _ -> unread "a sparse tensor")
            rebuild "sparse_csr_tensor", (fun _ -> unread "a sparse tensor")
            rebuild "nested_tensor", (fun _ -> unread "a nested tensor")
            rebuild "meta_tensor_no_storage", (fun _ -> unread "a tensor without numbers, of the device meta")
            rebuild "wrapper_subclass", (fun _ -> unread "a tensor that wraps others")
        ]

    let private subclass (arguments: PickleValue list) : Result<PickleValue, string> =
        match arguments with
        | PickleValue.Global make :: PickleValue.Global kind :: PickleValue.Tuple rest :: _ ->
            match Map.tryFind make tensors with
            | Some make -> make rest
            | None -> unread $"a tensor of the class {kind}"
        | _ -> Error "it is made of a function, a class and arguments"

    // ---- containers: arguments of constructors are never copied, since a pickle may call one many times

    let private orderedDictionary (arguments: PickleValue list) : Result<PickleValue, string> =
        match arguments with
        | [] -> Ok(PickleValue.Dictionary(ResizeArray()))
        | [ PickleValue.Sequence _ as pairs ] -> Ok(PickleValue.inert pairsKind [ pairs ])
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

    // Protocols 0 and 1 make any instance so: its class, the built-in class below it, and the value of that.
    let private reconstruct (arguments: PickleValue list) : Result<PickleValue, string> =
        match arguments with
        | [ PickleValue.Global kind; _; held ] ->
            let entries, items =
                match held with
                | PickleValue.Dictionary _ -> held, PickleValue.Nothing
                | PickleValue.Sequence _ -> PickleValue.Nothing, held
                | _ -> PickleValue.Nothing, PickleValue.Nothing

            Ok(
                PickleValue.Object {
                    Kind = kind
                    Arguments = []
                    State = PickleValue.Nothing
                    Entries = entries
                    Items = items
                }
            )
        | _ -> Error "it is made of two classes and a value"

    // ---- the table

    let private functions: (string * PickleConstructor) list = [
        yield! Map.toList tensors

        // Subclasses of numpy's array, and its rarer forms, are inert.
        for KeyValue(name, make) in Numpy.allowed do
            if name.StartsWith("numpy.", StringComparison.Ordinal) && name <> Numpy.arrayKind then
                name,
                (fun arguments ->
                    match make arguments with
                    | Ok value -> Ok value
                    | Error _ -> Ok(PickleValue.inert name arguments)
                )
        "torch._tensor._rebuild_from_type_v2", subclass
        "copyreg._reconstructor", reconstruct
        "copy_reg._reconstructor", reconstruct
        "torch.Size", size
        "torch.device", (PickleValue.inert deviceKind >> Ok)
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
        [ yield! storages.Keys; yield! dtypes.Keys ] |> List.map (fun name -> name, notCalled)

    /// Modules and built-in functions that pickles misuse to run commands. No checkpoint needs them.
    let private dangerous =
        Set.ofList [
            yield! [
                "os"
                "posix"
                "nt"
                "subprocess"
                "sys"
                "shutil"
                "socket"
                "importlib"
                "runpy"
                "pty"
                "commands"
            ]
            for python in [ "builtins"; "__builtin__" ] do
                for name in [ "eval"; "exec"; "execfile"; "compile"; "open"; "apply"; "__import__" ] do
                    $"{python}.{name}"
        ]

    /// Whether a name that is not allowed may stand as inert data: any but those that only an attack has.
    let isInert (name: string) : bool =
        let owner = name.Substring(0, max 0 (name.LastIndexOf '.'))
        not (dangerous.Contains name || dangerous.Contains owner)

    /// All globals that a PyTorch file may import for more than their names.
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
            Ok(PickleValue.inert storageKind [ PickleValue.Text dtype; key; PickleValue.Whole count ])
        | Some _ -> Error "the name of a storage is malformed"

    /// Resolves a pickle's name of a storage; its original device is irrelevant.
    let storage (name: PickleValue) : Result<PickleValue, string> =
        let kind, rest =
            match name with
            | PickleValue.Tuple(kind :: rest) -> kind, rest
            | _ -> PickleValue.Nothing, []

        match rest with
        // The class of a whole module, with its source code beside it.
        | PickleValue.Global _ as owner :: _ when PickleValue.isText "module" kind -> Ok owner
        | _ when not (PickleValue.isText "storage" kind) -> Error "it refers to what is no storage"
        | [ PickleValue.Global owner; key; _; PickleValue.Whole count ]
        | [ PickleValue.Global owner; key; _; PickleValue.Whole count; PickleValue.Nothing ] -> typed owner key count
        | [ _; _; _; _; PickleValue.Tuple _ ] -> Error "a storage is a part of another: save it again"
        | _ -> Error "the name of a storage is malformed"

    /// The rules for PyTorch's pickles, with a way to find a storage by its name.
    let rules (outside: PickleValue -> Result<PickleValue, string>) : PickleRules = {
        Allowed = allowed
        IsInert = isInert
        Outside = outside
    }

    /// Returns a storage's element type, key and number of elements.
    let describe (storage: PickleValue) : (string * string * int64) option =
        match storage with
        | PickleValue.Object o when o.Kind = storageKind ->
            match o.Arguments with
            | [ PickleValue.Text dtype; key; PickleValue.Whole count ] ->
                PickleValue.text key |> Option.map (fun key -> dtype, key, count)
            | _ -> None
        | _ -> None
