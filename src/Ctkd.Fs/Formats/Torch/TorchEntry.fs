namespace Ctkd.Fs

/// What a file of weights holds under a name.
[<RequireQualifiedAccess; ReferenceEquality>]
type TorchEntry =
    /// A tensor; its name is that of the entry.
    | Tensor of StoredTensor
    | Whole of int64
    | Number of float
    | Text of string
    /// A dictionary, or a list whose names are 0, 1, 2, ...
    | Group of (string * TorchEntry) list
    /// What is neither, in words: "true", "nothing", "numpy.ndarray".
    | Other of string

/// Looks into entries.
[<RequireQualifiedAccess>]
module TorchEntry =
    /// The entries of a group; of anything else none.
    let entries (entry: TorchEntry) : (string * TorchEntry) list =
        match entry with
        | TorchEntry.Group entries -> entries
        | _ -> []

    /// The tensors that a group holds itself, in its order.
    let tensors (entry: TorchEntry) : StoredTensor list =
        entries entry
        |> List.choose (fun (_, held) ->
            match held with
            | TorchEntry.Tensor tensor -> Some tensor
            | _ -> None
        )

    /// The numbers and texts that a group holds itself, as text.
    let values (entry: TorchEntry) : (string * string) list =
        let text held =
            match held with
            | TorchEntry.Whole number -> Some(string number)
            | TorchEntry.Number number ->
                Some(number.ToString("R", System.Globalization.CultureInfo.InvariantCulture))
            | TorchEntry.Text text -> Some text
            | TorchEntry.Other("true" | "false" as text) -> Some text
            | TorchEntry.Tensor _
            | TorchEntry.Group _
            | TorchEntry.Other _ -> None

        entries entry |> List.choose (fun (name, held) -> text held |> Option.map (fun text -> name, text))

    /// A group of tensors under their own names.
    let ofTensors (tensors: StoredTensor list) : TorchEntry =
        tensors |> List.map (fun tensor -> tensor.Name, TorchEntry.Tensor tensor) |> TorchEntry.Group
