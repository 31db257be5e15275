namespace Ctkd.Fs

/// An entry of a file of weights.
[<RequireQualifiedAccess; ReferenceEquality>]
type TorchEntry =
    /// A tensor, named like the entry.
    | Tensor of StoredTensor
    | Whole of int64
    | Number of float
    | Text of string
    /// A dictionary, or a list with the names 0, 1, 2, ...
    | Group of (string * TorchEntry) list
    /// An object as inert data: its class, and its attributes, entries or items. Of a module: its state_dict.
    | Object of kind: string * (string * TorchEntry) list
    /// A tensor that is not read, and why.
    | Unread of UnreadTensor
    /// Anything else, in words: "true", "nothing".
    | Other of string

/// Functions over entries.
[<RequireQualifiedAccess>]
module TorchEntry =
    /// Returns the entries of a group or an object, and none of anything else.
    let entries (entry: TorchEntry) : (string * TorchEntry) list =
        match entry with
        | TorchEntry.Group entries
        | TorchEntry.Object(_, entries) -> entries
        | _ -> []

    /// Returns the number of tensors in an entry and all below it.
    let rec count (entry: TorchEntry) : int =
        match entry with
        | TorchEntry.Tensor _ -> 1
        | _ -> entries entry |> List.sumBy (snd >> count)

    /// Returns a group's direct tensors, in order.
    let tensors (entry: TorchEntry) : StoredTensor list =
        entries entry
        |> List.choose (fun (_, held) ->
            match held with
            | TorchEntry.Tensor tensor -> Some tensor
            | _ -> None
        )

    /// Returns a group's direct numbers and texts, as text.
    let values (entry: TorchEntry) : (string * string) list =
        let text held =
            match held with
            | TorchEntry.Whole number -> Some(string number)
            | TorchEntry.Number number -> Some(number.ToString("R", System.Globalization.CultureInfo.InvariantCulture))
            | TorchEntry.Text text -> Some text
            | TorchEntry.Other("true" | "false" as text) -> Some text
            | TorchEntry.Tensor _
            | TorchEntry.Group _
            | TorchEntry.Object _
            | TorchEntry.Unread _
            | TorchEntry.Other _ -> None

        entries entry |> List.choose (fun (name, held) -> text held |> Option.map (fun text -> name, text))

    /// Creates a group of tensors under their own names.
    let ofTensors (tensors: StoredTensor list) : TorchEntry =
        tensors |> List.map (fun tensor -> tensor.Name, TorchEntry.Tensor tensor) |> TorchEntry.Group
