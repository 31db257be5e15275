namespace Ctkd.Fs

open System

/// The weights of one model in a file, and how they were found.
[<ReferenceEquality>]
type StateDict = {
    Tensors: StoredTensor list
    /// The names of the groups around it, outermost first.
    Under: string list
    /// What each name began with, and no longer does.
    Prefix: string
    /// How many tensors of the same group have names without that beginning.
    Aside: int
}

/// Finds a model's weights among what a file holds: under the usual names, without the usual prefixes.
[<RequireQualifiedAccess>]
module StateDict =
    let private wrappers = [ "state_dict"; "model_state_dict"; "model"; "net"; "student" ]
    let private everywhere = [ "module."; "student."; "model." ]

    /// A distiller's file holds other modules beside its student, so here a part of the names is enough.
    let private amongOthers = "student."

    let private maxSteps = 4

    /// Groups with tensors: the entry itself, and those under the usual names, also within each other.
    let rec private places (depth: int) (under: string list) (entry: TorchEntry) : StateDict list = [
        match TorchEntry.tensors entry with
        | [] -> ()
        | tensors -> { Tensors = tensors; Under = under; Prefix = ""; Aside = 0 }

        if depth > 0 then
            for wrapper in wrappers do
                for name, held in TorchEntry.entries entry do
                    if name = wrapper then yield! places (depth - 1) (under @ [ name ]) held
    ]

    /// Only those tensors whose names begin with the prefix, without it.
    let private strip (prefix: string) (found: StateDict) : StateDict =
        let within =
            found.Tensors
            |> List.filter (fun t ->
                t.Name.Length > prefix.Length && t.Name.StartsWith(prefix, StringComparison.Ordinal)
            )

        {
            found with
                Tensors = within |> List.map (fun t -> { t with Name = t.Name.Substring prefix.Length })
                Prefix = found.Prefix + prefix
                Aside = found.Aside + found.Tensors.Length - within.Length
        }

    /// Strips what all names have, and what a distiller's student has.
    let rec private stripUsual (steps: int) (found: StateDict) : StateDict =
        let next =
            everywhere
            |> List.map (fun prefix -> prefix, strip prefix found)
            |> List.tryFind (fun (prefix, within) ->
                not within.Tensors.IsEmpty && (within.Aside = found.Aside || prefix = amongOthers)
            )

        match next with
        | Some(_, within) when steps > 0 -> stripUsual (steps - 1) within
        | _ -> found

    /// A group as it is, and without each sequence of prefixes that leaves a tensor.
    let rec private strippings (steps: int) (found: StateDict) : StateDict list = [
        found

        if steps > 0 then
            for prefix in everywhere do
                let within = strip prefix found
                if not within.Tensors.IsEmpty then yield! strippings (steps - 1) within
    ]

    /// The first of those that fit the names best.
    let private best (expected: Set<string>) (candidates: StateDict list) : StateDict option =
        let fits (found: StateDict) =
            let hits = found.Tensors |> List.filter (fun t -> expected.Contains t.Name) |> List.length
            hits, hits - found.Tensors.Length

        match candidates |> List.map (fun found -> fits found, found) with
        | [] -> None
        | scored ->
            let (hits, _), found = List.maxBy fst scored
            if hits > 0 then Some found else None

    /// <summary>The weights of a model in what a file holds.</summary>
    /// <param name="expected">
    /// The model's own names, if it is known: those places and prefixes are chosen that fit them best, and
    /// names that fit as they are stay so. Without them the largest group is taken, and prefixes that all its
    /// names have, or that a distiller's student has, are stripped.
    /// </param>
    /// <param name="root">All that the file holds.</param>
    /// <returns>The weights; none if no tensor is where a state_dict would be.</returns>
    let find (expected: string list option) (root: TorchEntry) : StateDict option =
        let places = places 3 [] root

        let usual () =
            match places with
            | [] -> None
            | some -> some |> List.maxBy (fun found -> found.Tensors.Length) |> stripUsual maxSteps |> Some

        match expected with
        | None -> usual ()
        | Some names ->
            places |> List.collect (strippings maxSteps) |> best (Set.ofList names) |> Option.orElseWith usual

    /// How the weights were found: "under 'model', without the prefix 'module.'"; nothing if they lie open.
    let describe (found: StateDict) : string =
        let shown (text: string) = Files.printable text

        [
            if not found.Under.IsEmpty then
                $"""under '{shown (String.concat "." found.Under)}'"""
            if found.Prefix <> "" then $"without the prefix '{shown found.Prefix}'"
            if found.Aside > 0 then $"{found.Aside} other tensors set aside"
        ]
        |> String.concat ", "
