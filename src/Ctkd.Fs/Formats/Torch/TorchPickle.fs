namespace Ctkd.Fs

open System

/// PyTorch's pickles: tensors and storages, whose bytes lie elsewhere in the file. An object of any other class is inert.
[<RequireQualifiedAccess>]
module internal TorchPickle =
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
            "torch.ComplexFloatStorage", "C64"
            "torch.ComplexDoubleStorage", "C128"
            "torch.QInt8Storage", "QI8"
            "torch.QUInt8Storage", "QU8"
            "torch.QInt32Storage", "QI32"
            "torch.QUInt4x2Storage", "QU4X2"
            "torch.QUInt2x4Storage", "QU2X4"
        ]

    /// Bytes per element of a storage; the types of quantised tensors are PyTorch's alone.
    let private itemSizes: Map<string, int64> =
        (SafetensorsLayout.itemSizes, [ "QI8", 1L; "QU8", 1L; "QI32", 4L; "QU4X2", 1L; "QU2X4", 1L ])
        ||> List.fold (fun sizes (dtype, size) -> Map.add dtype size sizes)

    /// Bytes per element of a type.
    let itemSize (dtype: string) : int64 =
        Map.tryFind dtype itemSizes
        |> Option.defaultWith (fun () -> PickleInput.refuse $"a tensor in it has the unknown type {dtype}")

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

    let private unread (what: UnreadTensor) : Result<PickleValue, string> = Ok(PickleValue.Unread what)

    let private view storage offset extents strides (dtype: string option) : Result<PickleValue, string> =
        Ok(
            PickleValue.Tensor {
                Storage = storage
                Offset = offset
                Extents = extents
                Strides = strides
                DType = dtype
            }
        )

    // `requires_grad` and the backward hooks are irrelevant. The arguments are checked when a tensor is read.
    let private tensor (arguments: PickleValue list) : Result<PickleValue, string> =
        match arguments with
        | _ :: _ :: _ :: _ :: _ :: _ :: PickleValue.Dictionary notes :: _ when notes.Count > 0 ->
            unread UnreadTensor.Unresolved
        | storage :: offset :: extents :: strides :: _ -> view storage offset extents strides None
        | _ -> Error "a tensor has a storage, an offset, extents and strides"

    let private typedTensor (arguments: PickleValue list) : Result<PickleValue, string> =
        match arguments with
        | storage :: offset :: extents :: strides :: _ :: _ :: PickleValue.Global dtype :: _ ->
            match Map.tryFind dtype dtypes with
            | Some _ as known -> view storage offset extents strides known
            | None -> unread (UnreadTensor.OfUnknownType dtype)
        | _ -> Error "a tensor has a storage, an offset, extents, strides, a type and no notes"

    let private isTensor (value: PickleValue) : bool =
        match value with
        | PickleValue.Tensor _
        | PickleValue.Unread _ -> true
        | _ -> false

    /// What is made of a tensor, or of a numpy array, and is as good as it.
    let private ofTensor (arguments: PickleValue list) : Result<PickleValue, string> =
        match arguments with
        | value :: _ when isTensor value || Numpy.isArray value -> Ok value
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
            rebuild "qtensor", (fun _ -> unread UnreadTensor.Quantised)
            rebuild "sparse_tensor", (fun _ -> unread UnreadTensor.Sparse)
            rebuild "sparse_csr_tensor", (fun _ -> unread UnreadTensor.Sparse)
            rebuild "nested_tensor", (fun _ -> unread UnreadTensor.Nested)
            rebuild "meta_tensor_no_storage", (fun _ -> unread UnreadTensor.Meta)
            rebuild "wrapper_subclass", (fun _ -> unread UnreadTensor.Wrapper)
        ]

    let private subclass (arguments: PickleValue list) : Result<PickleValue, string> =
        match arguments with
        | PickleValue.Global make :: PickleValue.Global kind :: PickleValue.Tuple rest :: _ ->
            match Map.tryFind make tensors with
            | Some make -> make rest
            | None -> unread (UnreadTensor.OfClass kind)
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

    /// The longest key of a storage.
    let private longestKey = 256

    /// The text of a storage's key: a part of a path, compared for each tensor. PyTorch's are numbers.
    let key (value: PickleValue) : string option =
        let isPlain (c: char) = Char.IsAsciiLetterOrDigit c || c = '_' || c = '-'

        let length =
            match value with
            | PickleValue.Text text -> text.Length
            | PickleValue.Bytes bytes -> bytes.Length
            | _ -> 0

        if length >= 1 && length <= longestKey then
            PickleValue.text value |> Option.filter (Seq.forall isPlain)
        else
            None

    let private typed (owner: string) (name: PickleValue) (count: int64) : Result<PickleValue, string> =
        match Map.tryFind owner storages, key name with
        | None, _ -> Error $"{owner} is no type of a storage"
        | Some dtype, Some key when count >= 0L -> Ok(PickleValue.Storage { DType = dtype; Key = key; Count = count })
        | Some _, _ -> Error "the name of a storage is malformed"

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
