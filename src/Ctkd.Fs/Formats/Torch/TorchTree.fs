namespace Ctkd.Fs

open System
open System.Collections.Generic

/// Converts the value of a PyTorch pickle to entries. Limits on depth and memory handle values that contain themselves
/// or one list a thousand times: exceeding them raises `Unpicklable`.
[<RequireQualifiedAccess>]
module internal TorchTree =
    let private maxDepth = 32

    /// Memory in bytes of an entry in its group, and of a tensor without its elements.
    let private entrySize, private tensorSize = 200L, 1_000L

    /// Returns the bytes of a storage from its element type, key and number of elements in the pickle.
    type Storage = string -> string -> int64 -> ReadOnlyMemory<byte>

    [<ReferenceEquality>]
    type private Walk = {
        Storage: Storage
        Budget: MemoryBudget
        /// Bytes of tensors that may be copied outside the budget.
        mutable CopiesLeft: int64
    }

    let private refuse (reason: string) : 'T = PickleInput.refuse reason

    let private charge (walk: Walk) (bytes: int64) : unit = MemoryBudget.charge bytes walk.Budget

    /// Allows the copy of a tensor. All tensors of a file may be stored in a different order, so copies may take the
    /// file's size and the rest of the budget.
    let private reserve (walk: Walk) (bytes: int64) : unit =
        let beyond = bytes - min bytes walk.CopiesLeft

        if beyond > walk.Budget.Left then
            refuse "its tensors show the same bytes too often: save each tensor with .contiguous()"

        walk.CopiesLeft <- walk.CopiesLeft - (bytes - beyond)
        charge walk beyond

    // ---- tensors

    let private wholes (what: string) (value: PickleValue) : int64 list =
        match value with
        | PickleValue.Tuple items ->
            let items = List.truncate (TorchView.maxRank + 1) items

            if items.Length > TorchView.maxRank then
                refuse $"a tensor has more than {TorchView.maxRank} dimensions"

            items
            |> List.map (
                function
                | PickleValue.Whole number -> number
                | _ -> refuse $"the {what} of a tensor are no integers"
            )
        | _ -> refuse $"the {what} of a tensor are no tuple"

    let private tensor (walk: Walk) (name: string) (arguments: PickleValue list) : StoredTensor =
        charge walk tensorSize

        match arguments with
        | storage :: PickleValue.Whole offset :: extents :: strides :: dtype ->
            let stored, key, count =
                TorchPickle.describe storage |> Option.defaultWith (fun () -> refuse "a tensor has no storage")

            let dtype =
                match dtype with
                | [ PickleValue.Text named ] -> named
                | _ -> stored

            let view = {
                ItemSize = int SafetensorsLayout.itemSizes[dtype]
                Offset = offset
                Shape = wholes "extents" extents
                Strides = wholes "strides" strides
            }

            {
                Name = name
                DType = dtype
                Shape = view.Shape
                Bytes = TorchView.bytes (reserve walk) (walk.Storage stored key count) view
            }
        | _ -> refuse "the offset of a tensor is no integer"

    // ---- everything

    /// Returns the text of a value; copies strings of Python 2.
    let private text (walk: Walk) (value: PickleValue) : string option =
        match value with
        | PickleValue.Bytes bytes -> charge walk (2L * int64 bytes.Length)
        | _ -> ()

        PickleValue.text value

    /// Number of a tuple's items printed in a name.
    let private shownItems = 8

    let rec private printed (walk: Walk) (depth: int) (value: PickleValue) : string =
        charge walk entrySize

        match value with
        | PickleValue.Nothing -> "None"
        | PickleValue.Truth yes -> if yes then "True" else "False"
        | PickleValue.Whole number -> string number
        | PickleValue.Large number -> string number
        | PickleValue.Real number -> string number
        | PickleValue.Text text ->
            // A long name may occur many times, and each one is compared.
            charge walk (2L * int64 text.Length)
            text
        | PickleValue.Bytes _ -> text walk value |> Option.defaultValue ""
        | PickleValue.Global name -> name
        | PickleValue.Tuple items when depth < shownItems ->
            let listed = items |> List.truncate shownItems |> List.map (printed walk (depth + 1))
            let more = if List.length items > shownItems then [ "..." ] else []
            let text = $"""({String.concat ", " (listed @ more)})"""
            charge walk (4L * int64 text.Length)
            text
        | PickleValue.Tuple _ -> "(...)"
        | PickleValue.Object o -> o.Kind
        | PickleValue.Sequence _
        | PickleValue.Dictionary _ -> refuse "a dictionary in it has a list or a dictionary as its key"

    /// Returns a key's name: text as it is, anything else as Python prints it.
    let private nameOf (walk: Walk) (key: PickleValue) : string = printed walk 0 key

    let private pairOf (value: PickleValue) : struct (PickleValue * PickleValue) =
        match value with
        | PickleValue.Tuple [ key; held ] -> struct (key, held)
        | PickleValue.Sequence items when items.Count = 2 -> struct (items[0], items[1])
        | _ -> refuse "an ordered dictionary is made of what is no pair"

    let rec private entry (walk: Walk) (depth: int) (name: string) (value: PickleValue) : TorchEntry =
        charge walk entrySize

        if depth > maxDepth then refuse $"it is nested more than {maxDepth} deep"

        match value with
        | PickleValue.Nothing -> TorchEntry.Other "nothing"
        | PickleValue.Truth yes -> TorchEntry.Other(if yes then "true" else "false")
        | PickleValue.Whole number -> TorchEntry.Whole number
        | PickleValue.Large number ->
            let text = string number
            charge walk (2L * int64 text.Length)
            TorchEntry.Other text
        | PickleValue.Real number -> TorchEntry.Number number
        | PickleValue.Text _
        | PickleValue.Bytes _ -> text walk value |> Option.defaultValue "" |> TorchEntry.Text
        | PickleValue.Global name -> TorchEntry.Text name
        | PickleValue.Sequence items -> list walk depth items
        | PickleValue.Tuple items -> list walk depth items
        | PickleValue.Dictionary pairs -> group walk depth pairs
        | PickleValue.Object o when o.Kind = TorchPickle.tensorKind -> TorchEntry.Tensor(tensor walk name o.Arguments)
        | PickleValue.Object o when o.Kind = Numpy.numberKind ->
            match Numpy.number o.Arguments with
            | Some number -> entry walk depth name number
            | None -> TorchEntry.Other "a number of numpy"
        | PickleValue.Object { Kind = kind; Arguments = [ PickleValue.Sequence pairs ] } when
            kind = TorchPickle.pairsKind
            ->
            group walk depth (Seq.map pairOf pairs)
        | PickleValue.Object { Kind = kind; Arguments = device :: _ } when kind = TorchPickle.deviceKind ->
            text walk device |> Option.defaultValue kind |> TorchEntry.Text
        | PickleValue.Object o -> TorchEntry.Other o.Kind

    and private list (walk: Walk) (depth: int) (items: PickleValue seq) : TorchEntry =
        items
        |> Seq.mapi (fun i item ->
            let name = string i
            name, entry walk (depth + 1) name item
        )
        |> List.ofSeq
        |> TorchEntry.Group

    and private group (walk: Walk) (depth: int) (pairs: struct (PickleValue * PickleValue) seq) : TorchEntry =
        let seen = HashSet<string>()

        [
            for struct (key, held) in pairs do
                let name = nameOf walk key

                if not (seen.Add name) then
                    refuse $"a dictionary in it has the name '{name}' twice"

                name, entry walk (depth + 1) name held
        ]
        |> TorchEntry.Group

    /// Returns the entries of a pickle's value in a file of `fileSize` bytes.
    let ofPickle (budget: MemoryBudget) (fileSize: int) (storage: Storage) (value: PickleValue) : TorchEntry =
        entry { Storage = storage; Budget = budget; CopiesLeft = int64 fileSize } 0 "" value
