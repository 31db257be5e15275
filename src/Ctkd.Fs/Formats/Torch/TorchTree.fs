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
        /// The objects, and their lists and dictionaries, that are in the result. Each is once: optimizers, schedulers
        /// and modules refer to each other in circles.
        Seen: HashSet<obj>
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
                ItemSize = int TorchPickle.itemSizes[dtype]
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

    // ---- numpy's arrays

    let private array
        (walk: Walk)
        (name: string)
        (dtype: string, extents: int64 list, isFortran: bool, data: PickleValue)
        : TorchEntry =
        charge walk tensorSize

        if extents.Length > TorchView.maxRank then
            refuse $"a numpy array has more than {TorchView.maxRank} dimensions"

        let strides (extents: int64 list) =
            (extents, [ 1L ]) ||> List.foldBack (fun n strides -> n * strides.Head :: strides) |> List.tail

        let view = {
            ItemSize = int TorchPickle.itemSizes[dtype]
            Offset = 0L
            Shape = extents
            Strides = if isFortran then List.rev (strides (List.rev extents)) else strides extents
        }

        let length =
            match data with
            | PickleValue.Text text -> int64 text.Length
            | PickleValue.LongText bytes -> int64 bytes.Length
            | _ -> 0L

        // Text is decoded into a copy, in two steps.
        reserve walk length
        let bytes = PickleValue.bytes data |> Option.defaultWith (fun () -> refuse "a numpy array has no bytes")

        if TorchView.count view * int64 view.ItemSize <> int64 bytes.Length then
            refuse
                $"a numpy array has {bytes.Length} bytes, its shape needs {TorchView.count view * int64 view.ItemSize}"

        TorchEntry.Tensor {
            Name = name
            DType = dtype
            Shape = extents
            Bytes = TorchView.bytes (reserve walk) bytes view
        }

    // ---- everything

    /// Returns the text of a value; copies strings of Python 2.
    let private text (walk: Walk) (value: PickleValue) : string option =
        match value with
        | PickleValue.Bytes bytes
        | PickleValue.LongText bytes -> charge walk (2L * int64 bytes.Length)
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
        | PickleValue.Bytes _
        | PickleValue.LongText _ -> text walk value |> Option.defaultValue ""
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

    /// Returns a key's name: text as it is, an object by its class and its place, anything else as Python prints it.
    let private nameOf (walk: Walk) (place: int) (key: PickleValue) : string =
        match key with
        | PickleValue.Object o -> $"<{o.Kind} {place}>"
        | _ -> printed walk 0 key

    let private pairOf (value: PickleValue) : struct (PickleValue * PickleValue) =
        match value with
        | PickleValue.Tuple [ key; held ] -> struct (key, held)
        | PickleValue.Sequence items when items.Count = 2 -> struct (items[0], items[1])
        | _ -> refuse "an ordered dictionary is made of what is no pair"

    /// The pairs of a dictionary of any class; none of anything else.
    let private pairs (value: PickleValue) : struct (PickleValue * PickleValue) seq =
        match value with
        | PickleValue.Dictionary pairs
        | PickleValue.Object { Entries = PickleValue.Dictionary pairs } -> pairs
        | PickleValue.Object { Kind = kind; Arguments = [ PickleValue.Sequence items ] } when
            kind = TorchPickle.pairsKind
            ->
            Seq.map pairOf items
        | _ -> Seq.empty

    let private parameters, private buffers, private modules = "_parameters", "_buffers", "_modules"

    /// Whether an object is a module of a network: by its attributes, since its class is only a name.
    let private isModule (o: PickleObject) : bool =
        [ parameters; buffers; modules ] |> List.forall (fun part -> (PickleValue.field part o.State).IsSome)

    let rec private entry (walk: Walk) (inObject: bool) (depth: int) (name: string) (value: PickleValue) : TorchEntry =
        charge walk entrySize

        if depth > maxDepth && not inObject then
            refuse $"it is nested more than {maxDepth} deep"

        match value with
        | _ when depth > maxDepth -> TorchEntry.Other "nested too deep"
        | PickleValue.Nothing -> TorchEntry.Other "nothing"
        | PickleValue.Truth yes -> TorchEntry.Other(if yes then "true" else "false")
        | PickleValue.Whole number -> TorchEntry.Whole number
        | PickleValue.Large number ->
            let text = string number
            charge walk (2L * int64 text.Length)
            TorchEntry.Other text
        | PickleValue.Real number -> TorchEntry.Number number
        | PickleValue.Text _
        | PickleValue.LongText _
        | PickleValue.Bytes _ -> text walk value |> Option.defaultValue "" |> TorchEntry.Text
        | PickleValue.Global name -> TorchEntry.Text name
        | PickleValue.Sequence items when inObject && not (walk.Seen.Add items) -> TorchEntry.Other "as before"
        | PickleValue.Dictionary pairs when inObject && not (walk.Seen.Add pairs) -> TorchEntry.Other "as before"
        | PickleValue.Sequence items -> list walk inObject depth items
        | PickleValue.Tuple items -> list walk inObject depth items
        | PickleValue.Dictionary pairs -> group walk inObject depth pairs |> TorchEntry.Group
        | PickleValue.Object o -> object walk depth name value o

    and private object (walk: Walk) (depth: int) (name: string) (value: PickleValue) (o: PickleObject) : TorchEntry =
        match o.Arguments with
        | _ when o.Kind = TorchPickle.tensorKind -> TorchEntry.Tensor(tensor walk name o.Arguments)
        | [ what ] when o.Kind = TorchPickle.unreadKind ->
            TorchEntry.Unread(PickleValue.text what |> Option.defaultValue o.Kind)
        | _ when o.Kind = Numpy.numberKind ->
            match Numpy.number o.Arguments with
            | Some number -> entry walk false depth name number
            | None -> TorchEntry.Other "a number of numpy"
        | [ PickleValue.Sequence _ ] when o.Kind = TorchPickle.pairsKind ->
            TorchEntry.Group(group walk false depth (pairs value))
        | device :: _ when o.Kind = TorchPickle.deviceKind ->
            text walk device |> Option.defaultValue o.Kind |> TorchEntry.Text
        | _ ->
            match Numpy.array value with
            | Some(Ok found) -> array walk name found
            | Some(Error what) -> TorchEntry.Unread what
            | None when not (walk.Seen.Add o) -> TorchEntry.Other "as before"
            | None when isModule o -> TorchEntry.Object(o.Kind, stateDict walk depth "" o)
            | None -> TorchEntry.Object(o.Kind, attributes walk depth o)

    /// The state_dict of a module and of those below it, in PyTorch's order.
    and private stateDict (walk: Walk) (depth: int) (prefix: string) (o: PickleObject) : (string * TorchEntry) list =
        if depth > maxDepth then refuse $"it is nested more than {maxDepth} deep"

        let part name = PickleValue.field name o.State |> Option.map pairs |> Option.defaultValue Seq.empty
        let named key = prefix + (PickleValue.text key |> Option.defaultValue "?")

        let passing =
            PickleValue.field "_non_persistent_buffers_set" o.State
            |> Option.bind (
                function
                | PickleValue.Sequence names -> Some(names |> Seq.choose PickleValue.text |> Set.ofSeq)
                | _ -> None
            )
            |> Option.defaultValue Set.empty

        [
            for owner in [ parameters; buffers ] do
                for struct (key, held) in part owner do
                    let isKept = owner = parameters || not (passing.Contains(named key |> _.Substring(prefix.Length)))

                    match held with
                    | PickleValue.Object _ when isKept ->
                        let name = named key
                        charge walk (2L * int64 name.Length)
                        name, entry walk true depth name held
                    | _ -> ()

            for struct (key, held) in part modules do
                match held with
                | PickleValue.Object inner when isModule inner ->
                    let name = named key + "."
                    charge walk (2L * int64 name.Length + entrySize)
                    yield! stateDict walk (depth + 1) name inner
                | _ -> ()
        ]

    /// What an object of any class holds: attributes, entries, items, or the dictionary that it is made of.
    and private attributes (walk: Walk) (depth: int) (o: PickleObject) : (string * TorchEntry) list =
        let held =
            match o.State with
            | PickleValue.Tuple [ own; slots ] -> [ own; slots ]
            | state -> [ state ]

        let held = held @ [ o.Entries; o.Items ]

        let isHeld value =
            match value with
            | PickleValue.Dictionary _
            | PickleValue.Sequence _ -> true
            | _ -> false

        match List.filter isHeld held, o.Arguments with
        | [], [ PickleValue.Dictionary _ as only ] -> [ only ]
        | held, _ -> held
        |> List.collect (fun value ->
            match value with
            | PickleValue.Dictionary pairs when walk.Seen.Add pairs -> group walk true depth pairs
            | PickleValue.Sequence items when walk.Seen.Add items -> TorchEntry.entries (list walk true depth items)
            | _ -> []
        )

    and private list (walk: Walk) (inObject: bool) (depth: int) (items: PickleValue seq) : TorchEntry =
        items
        |> Seq.mapi (fun i item ->
            let name = string i
            name, entry walk inObject (depth + 1) name item
        )
        |> List.ofSeq
        |> TorchEntry.Group

    /// The entries of a dictionary. In an object a name may come twice: such things are of no use as weights.
    and private group
        (walk: Walk)
        (inObject: bool)
        (depth: int)
        (pairs: struct (PickleValue * PickleValue) seq)
        : (string * TorchEntry) list =
        let seen = HashSet<string>()

        pairs
        |> Seq.mapi (fun place (struct (key, held)) ->
            let name = nameOf walk place key

            if not (seen.Add name) && not inObject then
                refuse $"a dictionary in it has the name '{name}' twice"

            name, entry walk inObject (depth + 1) name held
        )
        |> List.ofSeq

    /// Returns the entries of a pickle's value in a file of `fileSize` bytes.
    let ofPickle (budget: MemoryBudget) (fileSize: int) (storage: Storage) (value: PickleValue) : TorchEntry =
        let walk = {
            Storage = storage
            Budget = budget
            Seen = HashSet HashIdentity.Reference
            CopiesLeft = int64 fileSize
        }

        entry walk false 0 "" value
