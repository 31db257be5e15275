namespace Ctkd.Fs

open System
open System.Collections.Generic

/// A tensor beside a model's weights that is not read.
type SkippedTensor = {
    /// Without the prefix and wrappers, where it had them.
    Name: string
    /// As the file has it, in its group.
    Stored: string
    What: UnreadTensor
}

/// A model's weights in a file, and how they were found.
[<ReferenceEquality>]
type StateDict = {
    Tensors: StoredTensor list
    /// The names of the enclosing groups, outermost first.
    Under: string list
    /// The class of the object that holds them, such as a whole module; empty for a dictionary.
    Of: string
    /// The prefix that was stripped from each name.
    Prefix: string
    /// The wrappers that were left out within names, such as "_orig_mod".
    Within: string list
    /// Number of tensors in the same group whose names lack the prefix.
    Aside: int
    /// Tensors of the group that no model has.
    Skipped: SkippedTensor list
    /// Where else the file holds tensors, and how many: keys that `StateDict.select` takes.
    Others: (string * int) list
}

/// Finds a model's weights in a file: under the usual keys, without what tools put around names.
[<RequireQualifiedAccess>]
module StateDict =

    let private maxSteps, private maxDepth, private maxPlaces, private maxCandidates = 8, 6, 64, 1_000

    // ---- candidates

    /// A possible state_dict: where it is, how far from what is usual, and its tensors.
    [<ReferenceEquality>]
    type private Candidate = {
        /// Under the names that they have after stripping.
        Items: StoredTensor list
        Count: int
        /// The tensors of its group that are not read, by their names in it.
        Unread: (string * UnreadTensor) list
        Path: string list
        Class: string
        Stripped: string
        /// Parts that are left out of all names, and those of them that names have.
        LeftOut: string list
        Left: string list
        Without: int
        /// Of its keys: 0 for the usual ones.
        Rank: int
    }

    /// A group's tensors under their names, and those that are not read.
    let private readAndUnread (held: (string * TorchEntry) list) : StoredTensor list * (string * UnreadTensor) list =
        let why (name: string, entry: TorchEntry) =
            match entry with
            | TorchEntry.Unread what -> Some what
            | TorchEntry.Tensor tensor ->
                match StateDictKeys.counter name with
                | Some tool -> Some(UnreadTensor.Counter tool)
                | None when SafetensorsLayout.isOfModels tensor.DType -> None
                | None -> Some(UnreadTensor.OfType tensor.DType)
            | _ -> None

        let read (name: string, entry: TorchEntry) : StoredTensor option =
            match entry with
            | TorchEntry.Tensor tensor when (why (name, entry)).IsNone -> Some { tensor with Name = name }
            | _ -> None

        List.choose read held,
        held |> List.choose (fun (name, entry) -> why (name, entry) |> Option.map (fun what -> name, what))

    /// All groups of tensors that may be a state_dict.
    let private places (role: WeightsRole) (root: TorchEntry) : Candidate list =
        let rank = StateDictKeys.rankOf role

        let rec go depth (path: string list) (ranked: int) (entry: TorchEntry) : Candidate list = [
            let held = TorchEntry.entries entry
            let items, unread = readAndUnread held
            let names = [ for item in items -> item.Name ] @ List.map fst unread

            if not items.IsEmpty && (List.distinct names).Length = names.Length then
                {
                    Items = items
                    Count = items.Length
                    Unread = unread
                    Path = List.rev path
                    Class =
                        match entry with
                        | TorchEntry.Object(kind, _) -> kind
                        | _ -> ""
                    Stripped = ""
                    LeftOut = []
                    Left = []
                    Without = 0
                    Rank = ranked
                }

            if depth < maxDepth then
                for name, inner in held do
                    match inner with
                    | TorchEntry.Group _
                    | TorchEntry.Object _ when not (StateDictKeys.isForeign name) ->
                        yield! go (depth + 1) (name :: path) (ranked + rank name) inner
                    | _ -> ()
        ]

        go 0 [] 0 root
        |> List.sortBy (fun place -> place.Rank >= StateDictKeys.least, -place.Count)
        |> List.truncate maxPlaces

    /// The name without the prefix, if it starts with it.
    let private without (prefix: string) (name: string) : string option =
        if name.Length > prefix.Length && name.StartsWith(prefix, StringComparison.Ordinal) then
            Some(name.Substring prefix.Length)
        else
            None

    /// Keeps the items whose names start with the prefix, and strips it.
    let private strip (prefix: string) (from: Candidate) : Candidate =
        let within =
            from.Items
            |> List.choose (fun item -> without prefix item.Name |> Option.map (fun name -> { item with Name = name }))

        {
            from with
                Items = within
                Count = within.Length
                Stripped = from.Stripped + prefix
                Without = from.Without + from.Count - within.Length
        }

    let private hasOne (parts: string list) (name: string) : bool =
        parts |> List.exists (fun part -> name.Contains(part + ".", StringComparison.Ordinal))

    /// The name without these parts.
    let private cleaned (parts: string list) (name: string) : string =
        if hasOne parts name then
            name.Split '.' |> Array.filter (fun part -> not (List.contains part parts)) |> String.concat "."
        else
            name

    /// Leaves parts out of all names, unless two would then be equal.
    let private leaveOut (parts: string list) (from: Candidate) : Candidate option =
        let has (part: string) (item: StoredTensor) =
            hasOne [ part ] item.Name && Array.contains part (item.Name.Split '.')

        match parts |> List.filter (fun part -> List.exists (has part) from.Items) with
        | [] -> None
        | found ->
            let items = from.Items |> List.map (fun item -> { item with Name = cleaned parts item.Name })

            if (items |> List.distinctBy _.Name).Length = items.Length then
                Some { from with Items = items; LeftOut = parts; Left = found }
            else
                None

    /// Strips the prefixes that all names share, and that of one of two networks.
    let rec private stripUsual (role: WeightsRole) (steps: int) (from: Candidate) : Candidate =
        let isShared (prefix: string, within: Candidate) =
            within.Count > 0
            && (within.Count = from.Count
                || List.contains prefix [ for name in StateDictKeys.attributesByRole role -> name + "." ])

        match
            StateDictKeys.prefixes role |> List.map (fun prefix -> prefix, strip prefix from) |> List.tryFind isShared
        with
        | Some(_, within) when steps > 0 -> stripUsual role (steps - 1) within
        | _ -> from

    /// Returns a candidate as it is, and without each sequence of prefixes that leaves a tensor.
    let rec private strippings (role: WeightsRole) (steps: int) (from: Candidate) : Candidate seq =
        seq {
            from

            if steps > 0 then
                for prefix in StateDictKeys.prefixes role do
                    let within = strip prefix from
                    if within.Count > 0 then yield! strippings role (steps - 1) within
        }

    // ---- the choice

    /// Where else tensors are: beside the groups that lead to the candidate, and in its group under another prefix.
    let private others (root: TorchEntry) (chosen: Candidate) : (string * int) list =
        let rec beside (above: string list) (path: string list) (entry: TorchEntry) = [
            match path with
            | [] -> ()
            | next :: rest ->
                for name, held in TorchEntry.entries entry do
                    let key = String.concat "." (List.rev (name :: above))

                    match held with
                    | TorchEntry.Group _
                    | TorchEntry.Object _ ->
                        if name = next then
                            yield! beside (name :: above) rest held
                        else
                            match TorchEntry.count held with
                            | 0 -> ()
                            | count -> key, count
                    | _ -> ()
        ]

        let rec within (path: string list) (entry: TorchEntry) =
            match path with
            | [] -> entry
            | name :: rest -> TorchEntry.entries entry |> List.find (fun (key, _) -> key = name) |> snd |> within rest

        let underOtherPrefixes =
            if chosen.Without = 0 || chosen.Stripped = "" then
                []
            else
                /// The key of what a name begins with, beside the prefix: "module.student." stands beside "module.teacher.".
                /// None of a single tensor, which is no network.
                let rec key (prefix: string list) (name: string) : string option =
                    match prefix, name.IndexOf '.' with
                    | _, dot when dot < 1 -> None
                    | part :: rest, dot when name.Substring(0, dot) = part ->
                        key rest (name.Substring(dot + 1)) |> Option.map (fun other -> part + "." + other)
                    | _, dot -> Some(name.Substring(0, dot))

                let prefix = List.ofArray (chosen.Stripped.TrimEnd('.').Split '.')

                TorchEntry.entries (within chosen.Path root)
                |> List.filter (fun (name, held) -> held.IsTensor && (without chosen.Stripped name).IsNone)
                |> List.choose (fst >> key prefix)
                |> List.countBy id
                |> List.map (fun (other, count) -> String.concat "." (chosen.Path @ [ other ]), count)

        beside [] chosen.Path root @ List.truncate 16 underOtherPrefixes

    let private found (root: TorchEntry) (chosen: Candidate) : StateDict = {
        Tensors = chosen.Items
        Under = chosen.Path
        Of = chosen.Class
        Prefix = chosen.Stripped
        Within = chosen.Left
        Aside = chosen.Without
        Skipped =
            chosen.Unread
            |> List.map (fun (name, what) -> {
                Name = without chosen.Stripped name |> Option.defaultValue name |> cleaned chosen.LeftOut
                Stored = name
                What = what
            })
        Others = others root chosen
    }

    let private usual (role: WeightsRole) (root: TorchEntry) (places: Candidate list) : StateDict option =
        // One of several networks, then the largest group.
        match places |> List.sortBy (fun place -> place.Rank >= StateDictKeys.least, -place.Count, place.Rank) with
        | [] -> None
        | first :: _ ->
            let clean (candidate: Candidate) =
                leaveOut StateDictKeys.wrappers candidate |> Option.defaultValue candidate

            stripUsual role maxSteps first |> clean |> found root |> Some

    /// <summary>A finder of a model's weights in a file, for one model after another.</summary>
    /// <param name="role">Of two networks that fit equally well, which is meant.</param>
    /// <param name="root">The file's contents.</param>
    /// <returns>
    /// A function of the model's own names, if known: the place and prefixes that fit them best are chosen, and names that
    /// fit unchanged stay unchanged. Without them the largest group is taken, and prefixes that all its names share, or
    /// that mark one of two networks, are stripped. It returns <c>None</c> if no tensor is in a place of a state_dict.
    /// </returns>
    let finder (role: WeightsRole) (root: TorchEntry) : string list option -> StateDict option =
        let places = places role root

        let candidates =
            lazy
                (let raw = places |> Seq.collect (strippings role maxSteps) |> Seq.truncate maxCandidates |> List.ofSeq

                 raw
                 @ List.choose (leaveOut StateDictKeys.wrappers) raw
                 @ List.choose (leaveOut (StateDictKeys.wrappers @ [ StateDictKeys.dataParallel ])) raw)

        let usual = lazy (usual role root places)

        fun expected ->
            match expected with
            | None -> usual.Value
            | Some names ->
                let wanted = HashSet names

                let score (candidate: Candidate) =
                    let hits = candidate.Items |> List.filter (fun item -> wanted.Contains item.Name) |> List.length
                    hits, hits - candidate.Count, -candidate.Rank

                match candidates.Value |> List.map (fun candidate -> score candidate, candidate) with
                | [] -> None
                | scored ->
                    let (hits, _, _), best = List.maxBy fst scored
                    if hits > 0 then Some(found root best) else usual.Value

    /// As `finder`, for weights of any role.
    let find (expected: string list option) (root: TorchEntry) : StateDict option = finder WeightsRole.Any root expected

    // ---- by key

    /// Returns the group of tensors under a key: names of groups, outermost first, joined by dots; the last may be a
    /// prefix of names. The error lists the keys that are there.
    let select (key: string) (root: TorchEntry) : Result<TorchEntry, string list> =
        let rec go (rest: string) (entry: TorchEntry) : TorchEntry option =
            let inner =
                TorchEntry.entries entry
                |> List.tryPick (fun (name, held) ->
                    if name = rest && TorchEntry.count held > 0 && not held.IsTensor then
                        Some held
                    elif rest.StartsWith(name + ".", StringComparison.Ordinal) then
                        go (rest.Substring(name.Length + 1)) held
                    else
                        None
                )

            match inner with
            | Some _ -> inner
            | None ->
                let prefix = rest + "."

                match
                    TorchEntry.entries entry
                    |> List.filter (fun (name, held) ->
                        held.IsTensor
                        && name.Length > prefix.Length
                        && name.StartsWith(prefix, StringComparison.Ordinal)
                    )
                with
                | [] -> None
                | named ->
                    named
                    |> List.map (fun (name, held) -> name.Substring prefix.Length, held)
                    |> TorchEntry.Group
                    |> Some

        let rec keys depth (above: string) (entry: TorchEntry) = [
            for name, held in TorchEntry.entries entry do
                match held with
                | TorchEntry.Group _
                | TorchEntry.Object _ when TorchEntry.count held > 0 ->
                    above + name
                    if depth < maxDepth then yield! keys (depth + 1) (above + name + ".") held
                | _ -> ()
        ]

        match go key root with
        | Some entry -> Ok entry
        | None -> Error(List.truncate 1000 (keys 0 "" root))

    // ---- in words

    let private printable (text: string) = Files.printable text

    /// Describes how the weights were found: "under 'model', without the prefix 'module.'"; empty if nothing was
    /// stripped.
    let describe (found: StateDict) : string =
        [
            if not found.Under.IsEmpty then
                $"""under '{printable (String.concat "." found.Under)}'"""
            if found.Of <> "" then $"of an object of the class {printable found.Of}"
            if found.Prefix <> "" then $"without the prefix '{printable found.Prefix}'"
            if not found.Within.IsEmpty then
                $"""without '{String.concat "', '" found.Within}' within names"""
            if found.Aside > 0 then $"{found.Aside} other tensors set aside"
        ]
        |> String.concat ", "

    /// The other places of a file that may hold a model's weights, with their number of tensors.
    let rivals (found: StateDict) : (string * int) list =
        found.Others |> List.filter (fun (key, count) -> count > 1 && not (StateDictKeys.isForeign key))
