namespace Ctkd.Fs

/// Why a tensor in a file is not read.
[<RequireQualifiedAccess>]
type UnreadTensor =
    | Sparse
    | Quantised
    | Nested
    /// Of the device meta: it has a shape and no numbers.
    | Meta
    /// Of a class that wraps other tensors.
    | Wrapper
    /// Its sign or conjugation is not yet applied.
    | Unresolved
    /// Of an element type that no model has, by its name in safetensors.
    | OfType of string
    /// Of an element type that is not known, by PyTorch's name.
    | OfUnknownType of string
    /// Of a class with a format of its own.
    | OfClass of string
    | BigEndianArray
    /// A numpy array of another type than numbers of 1 to 8 bytes.
    | ArrayOfUnknownType
    /// A numpy array of more than 64 dimensions, or of one that is too large.
    | ArrayOfUnknownShape
    | EmptyArray
    /// A number that a tool adds to a state_dict, and the tool.
    | Counter of string

/// Describes them, and how they become tensors that are read.
[<RequireQualifiedAccess>]
module UnreadTensor =
    /// What it is, in words: "a sparse tensor".
    let describe (tensor: UnreadTensor) : string =
        match tensor with
        | UnreadTensor.Sparse -> "a sparse tensor"
        | UnreadTensor.Quantised -> "a quantised tensor"
        | UnreadTensor.Nested -> "a nested tensor"
        | UnreadTensor.Meta -> "a tensor without numbers, of the device meta"
        | UnreadTensor.Wrapper -> "a tensor that wraps others"
        | UnreadTensor.Unresolved -> "a tensor whose sign or conjugation is not yet applied"
        | UnreadTensor.OfType dtype -> $"a tensor of the type {dtype}"
        | UnreadTensor.OfUnknownType dtype -> $"a tensor of the type {Files.printable dtype}"
        | UnreadTensor.OfClass kind -> $"a tensor of the class {Files.printable kind}"
        | UnreadTensor.BigEndianArray -> "a big-endian numpy array"
        | UnreadTensor.ArrayOfUnknownType -> "a numpy array of another type than integers and floating point"
        | UnreadTensor.ArrayOfUnknownShape -> "a numpy array of too large a shape"
        | UnreadTensor.EmptyArray -> "a numpy array without contents"
        | UnreadTensor.Counter tool -> $"a counter of {tool}"

    /// The new value of a tensor in Python, where a method or a function gives one.
    let private readable (held: string) (tensor: UnreadTensor) : string option =
        match tensor with
        | UnreadTensor.Sparse -> Some $"{held}.to_dense()"
        | UnreadTensor.Quantised -> Some $"{held}.dequantize()"
        | UnreadTensor.Nested -> Some $"{held}.to_padded_tensor(0.0)"
        | UnreadTensor.Unresolved -> Some $"{held}.resolve_conj().resolve_neg()"
        // These two of numpy's arrays too, which PyTorch takes of few types.
        | UnreadTensor.OfType("C64" | "C128") -> Some $"torch.as_tensor({held}).real.float()"
        | UnreadTensor.OfType("U16" | "U32" | "U64") -> Some $"torch.tensor({held}.tolist())"
        | UnreadTensor.OfType _ -> Some $"{held}.float()"
        | UnreadTensor.BigEndianArray -> Some $"{held}.astype({held}.dtype.newbyteorder('='))"
        | UnreadTensor.ArrayOfUnknownType -> Some $"{held}.astype('float32')"
        | UnreadTensor.Meta
        | UnreadTensor.Wrapper
        | UnreadTensor.OfUnknownType _
        | UnreadTensor.OfClass _
        | UnreadTensor.ArrayOfUnknownShape
        | UnreadTensor.EmptyArray
        | UnreadTensor.Counter _ -> None

    /// What makes it a tensor that is read; `name` is its name in the state_dict.
    let remedy (name: string) (tensor: UnreadTensor) : string =
        let held = $"d['{Files.printable name}']"

        match readable held tensor with
        | Some value -> $"write it again with PyTorch, where d is the state_dict: {held} = {value}"
        | None ->
            match tensor with
            | UnreadTensor.Meta
            | UnreadTensor.EmptyArray ->
                "the file lacks its numbers: give a file that was saved after the model was loaded"
            | UnreadTensor.Counter _ -> $"it is no weight: del {held}, where d is the state_dict"
            | _ -> $"write it again with PyTorch, {held} as a plain tensor of floating point, where d is the state_dict"
