namespace Ctkd.Fs

open System

/// A model's weights in a file, and how they were found.
[<ReferenceEquality>]
type StateDict = {
    Tensors: StoredTensor list
    /// The names of the enclosing groups, outermost first.
    Under: string list
    /// The prefix that was stripped from each name.
    Prefix: string
    /// Number of tensors in the same group whose names lack the prefix.
    Aside: int
}

/// Finds a model's weights in a file: under the usual names, without the usual prefixes.
[<RequireQualifiedAccess>]
module StateDict =
    let private wrappers = [ "state_dict"; "model_state_dict"; "model"; "net"; "student" ]
    let private usualPrefixes = [ "module."; "student."; "model." ]

    /// A distiller's file holds other modules beside its student, so here only some of the names need the prefix.
    let private amongOthers = "student."

    let private maxSteps = 4

    /// Returns the groups with tensors: the entry itself, and those nested under the usual names.
    let rec private places (depth: int) (under: string list) (entry: TorchEntry) : StateDict list = [
        match TorchEntry.tensors entry with
        | [] -> ()
        | tensors -> { Tensors = tensors; Under = under; Prefix = ""; Aside = 0 }

        if depth > 0 then
            for wrapper in wrappers do
                for name, held in TorchEntry.entries entry do
                    if name = wrapper then yield! places (depth - 1) (under @ [ name ]) held
    ]

    /// Keeps the tensors whose names start with the prefix, and strips it.
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

    /// Strips the prefixes that all names share, and that of a distiller's student.
    let rec private stripUsual (steps: int) (found: StateDict) : StateDict =
        let next =
            usualPrefixes
            |> List.map (fun prefix -> prefix, strip prefix found)
            |> List.tryFind (fun (prefix, within) ->
                not within.Tensors.IsEmpty && (within.Aside = found.Aside || prefix = amongOthers)
            )

        match next with
        | Some(_, within) when steps > 0 -> stripUsual (steps - 1) within
        | _ -> found

    /// Returns a group as it is, and without each sequence of prefixes that leaves a tensor.
    let rec private strippings (steps: int) (found: StateDict) : StateDict list = [
        found

        if steps > 0 then
            for prefix in usualPrefixes do
                let within = strip prefix found
                if not within.Tensors.IsEmpty then yield! strippings (steps - 1) within
    ]

    /// Returns the first candidate that fits the names best.
    let private best (expected: Set<string>) (candidates: StateDict list) : StateDict option =
        let fits (found: StateDict) =
            let hits = found.Tensors |> List.filter (fun t -> expected.Contains t.Name) |> List.length
            hits, hits - found.Tensors.Length

        match candidates |> List.map (fun found -> fits found, found) with
        | [] -> None
        | scored ->
            let (hits, _), found = List.maxBy fst scored
            if hits > 0 then Some found else None

    /// <summary>Finds a model's weights in a file.</summary>
    /// <param name="expected">
    /// The model's own names, if known: the place and prefixes that fit them best are chosen, and names that fit
    /// unchanged stay unchanged. Without them the largest group is taken, and prefixes that all its names share, or
    /// that mark a distiller's student, are stripped.
    /// </param>
    /// <param name="root">The file's contents.</param>
    /// <returns>The weights, or <c>None</c> if no tensor is in a usual place of a state_dict.</returns>
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

    /// Describes how the weights were found: "under 'model', without the prefix 'module.'"; empty if nothing was
    /// stripped.
    let describe (found: StateDict) : string =
        let printable (text: string) = Files.printable text

        [
            if not found.Under.IsEmpty then
                $"""under '{printable (String.concat "." found.Under)}'"""
            if found.Prefix <> "" then $"without the prefix '{printable found.Prefix}'"
            if found.Aside > 0 then $"{found.Aside} other tensors set aside"
        ]
        |> String.concat ", "
