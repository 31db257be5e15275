namespace Ctkd.Fs

open System
open System.Collections.Generic

/// Converts the value of a PyTorch pickle to entries. Limits on depth and memory handle values that contain themselves
/// or one list a thousand times: exceeding them raises `Unpicklable`.
[<RequireQualifiedAccess>]
module internal TorchTree =
    let private maxDepth = 32

    /// Memory in bytes of an entry in its group.
    let private entrySize = 200L

    /// Charged for a value that is passed over, though it takes no memory: it bounds the time.
    let private passedOver = 32L

    /// What a module of a network holds.
    [<ReferenceEquality>]
    type private Parts = {
        Parameters: PickleValue
        Buffers: PickleValue
        Modules: PickleValue
        /// The buffers that a state_dict leaves out.
        Passing: HashSet<string>
    }

    [<ReferenceEquality>]
    type private Walk = {
        Source: TensorSource
        /// The objects, and their lists and dictionaries, that are in the result. Each is once: optimizers, schedulers
        /// and modules refer to each other in circles.
        Seen: HashSet<obj>
        /// The parts of each object that was looked at; none of one that is no module.
        Parts: Dictionary<PickleObject, Parts voption>
    }

    let private refuse (reason: string) : 'T = PickleInput.refuse reason

    let private charge (walk: Walk) (bytes: int64) : unit = MemoryBudget.charge bytes walk.Source.Budget

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
        | PickleValue.Storage _ -> "<storage>"
        | PickleValue.Tensor _
        | PickleValue.Unread _ -> "<tensor>"
        | PickleValue.Sequence _
        | PickleValue.Dictionary _ -> refuse "a dictionary in it has a list or a dictionary as its key"

    /// Returns a key's name: text as it is, an object by its class and its place, anything else as Python prints it.
    let private nameOf (walk: Walk) (place: int) (key: PickleValue) : string =
        let placed (kind: string) =
            charge walk (2L * int64 kind.Length + entrySize)
            $"<{kind} {place}>"

        match key with
        | PickleValue.Object o -> placed o.Kind
        | PickleValue.Storage _ -> placed "storage"
        | PickleValue.Tensor _
        | PickleValue.Unread _ -> placed "tensor"
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

    /// The parts of an object that is a module of a network: by its attributes, since its class is only a name. Looked for
    /// once, since a file may refer to one object many times.
    let private partsOf (walk: Walk) (o: PickleObject) : Parts voption =
        let find () =
            let attributes =
                match o.State with
                | PickleValue.Dictionary pairs -> pairs.Count
                | _ -> 0

            charge walk (entrySize + passedOver * int64 attributes)
            let part name = PickleValue.field name o.State

            match part parameters, part buffers, part modules with
            | Some own, Some held, Some inner ->
                let passing = HashSet<string>()

                match part "_non_persistent_buffers_set" with
                | Some(PickleValue.Sequence names) ->
                    for name in names do
                        charge walk entrySize
                        text walk name |> Option.iter (passing.Add >> ignore)
                | _ -> ()

                ValueSome { Parameters = own; Buffers = held; Modules = inner; Passing = passing }
            | _ -> ValueNone

        match walk.Parts.TryGetValue o with
        | true, known -> known
        | _ ->
            let found = find ()
            walk.Parts[o] <- found
            found

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
        | PickleValue.Tensor found -> TorchEntry.Tensor(TorchTensors.tensor walk.Source name found)
        | PickleValue.Unread what -> TorchEntry.Unread what
        | PickleValue.Storage _ -> TorchEntry.Other "a storage"

    and private object (walk: Walk) (depth: int) (name: string) (value: PickleValue) (o: PickleObject) : TorchEntry =
        match o.Arguments with
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
            | Some(Ok found) -> TorchEntry.Tensor(TorchTensors.array walk.Source name found)
            | Some(Error what) -> TorchEntry.Unread what
            | None when not (walk.Seen.Add o) -> TorchEntry.Other "as before"
            | None ->
                match partsOf walk o with
                | ValueSome parts -> TorchEntry.Object(o.Kind, stateDict walk depth "" parts)
                | ValueNone -> TorchEntry.Object(o.Kind, attributes walk depth o)

    /// The state_dict of a module and of those below it, in PyTorch's order.
    and private stateDict (walk: Walk) (depth: int) (prefix: string) (parts: Parts) : (string * TorchEntry) list =
        if depth > maxDepth then refuse $"it is nested more than {maxDepth} deep"

        /// The name of a part, behind the prefix; charged first.
        let named (key: PickleValue) =
            let own =
                match key with
                | PickleValue.Text own -> own
                | _ -> text walk key |> Option.defaultValue "?"

            charge walk (entrySize + 2L * int64 (prefix.Length + own.Length))
            own, prefix + own

        let isTensor held =
            match held with
            | PickleValue.Object _
            | PickleValue.Tensor _
            | PickleValue.Unread _ -> true
            | _ -> false

        let tensors (owner: PickleValue) (passing: HashSet<string>) = [
            for struct (key, held) in pairs owner do
                charge walk passedOver

                if isTensor held then
                    let own, name = named key
                    if not (passing.Contains own) then name, entry walk true depth name held
        ]

        [
            yield! tensors parts.Parameters (HashSet())
            yield! tensors parts.Buffers parts.Passing

            for struct (key, held) in pairs parts.Modules do
                charge walk passedOver

                match held with
                | PickleValue.Object inner ->
                    match partsOf walk inner with
                    | ValueSome parts -> yield! stateDict walk (depth + 1) (snd (named key) + ".") parts
                    | ValueNone -> ()
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
    let ofPickle
        (budget: MemoryBudget)
        (fileSize: int)
        (storage: PickleStorage -> ReadOnlyMemory<byte>)
        (value: PickleValue)
        : TorchEntry =
        let walk = {
            Source = { Storage = storage; Budget = budget; CopiesLeft = int64 fileSize }
            Seen = HashSet HashIdentity.Reference
            Parts = Dictionary HashIdentity.Reference
        }

        entry walk false 0 "" value
