namespace Ctkd.Fs

open System.Collections.Generic

/// Named tensors in a fixed order: a state_dict. Names are paths such as `layer1.0.conv1.weight`.
[<ReferenceEquality>]
type Tree = private {
    Entries: (string * Tensor)[]
    Index: Dictionary<string, int>
} with

    override tree.ToString() : string =
        tree.Entries |> Array.map (fun (name, x) -> $"{name}: {x}") |> String.concat "\n"

/// Making trees, looking into them, and walking over them.
[<RequireQualifiedAccess>]
module Tree =

    /// A tree of the entries in their order; a name may occur once.
    let ofSeq (entries: (string * Tensor) seq) : Tree =
        let entries = Array.ofSeq entries
        let index = Dictionary<string, int>(entries.Length)

        for i in 0 .. entries.Length - 1 do
            if not (index.TryAdd(fst entries[i], i)) then
                invalidArg (nameof entries) $"the name '{fst entries[i]}' occurs twice"

        { Entries = entries; Index = index }

    /// The tree of nothing.
    let empty: Tree = ofSeq []

    /// The entries in order.
    let toList (tree: Tree) : (string * Tensor) list = List.ofArray tree.Entries

    /// The names in order.
    let names (tree: Tree) : string list = tree |> toList |> List.map fst

    /// The tensors in order.
    let leaves (tree: Tree) : Tensor[] = Array.map snd tree.Entries

    /// Number of entries.
    let count (tree: Tree) : int = tree.Entries.Length

    /// The tensor of that name, if there is one.
    let tryFind (name: string) (tree: Tree) : Tensor option =
        match tree.Index.TryGetValue name with
        | true, i -> Some(snd tree.Entries[i])
        | _ -> None

    /// The tensor of that name; an unknown name is the caller's mistake and raises `ArgumentException`.
    let find (name: string) (tree: Tree) : Tensor =
        match tree.Index.TryGetValue name with
        | true, i -> snd tree.Entries[i]
        | _ ->
            let near = Error.nearest (names tree) name |> String.concat ", "
            invalidArg (nameof name) $"no tensor '{name}' here; the nearest names are: {near}"

    /// Each tensor replaced by a function of its name and itself.
    let map (change: string -> Tensor -> Tensor) (tree: Tree) : Tree =
        tree.Entries |> Array.map (fun (name, x) -> name, change name x) |> ofSeq

    /// The entries whose name satisfies the predicate.
    let filter (keep: string -> bool) (tree: Tree) : Tree =
        tree.Entries |> Array.filter (fst >> keep) |> ofSeq

    /// The entries of all trees, one after the other.
    let concat (trees: Tree list) : Tree = trees |> Seq.collect _.Entries |> ofSeq

    /// Each name with a prefix in front.
    let prefixed (prefix: string) (tree: Tree) : Tree =
        tree.Entries |> Array.map (fun (name, x) -> prefix + name, x) |> ofSeq

    /// The entries whose names start with the prefix, without it.
    let under (prefix: string) (tree: Tree) : Tree =
        tree.Entries
        |> Array.choose (fun (name, x) ->
            if name.StartsWith(prefix, System.StringComparison.Ordinal) then
                Some(name.Substring prefix.Length, x)
            else
                None
        )
        |> ofSeq

    /// Independent copies of all tensors.
    let copy (tree: Tree) : Tree = map (fun _ x -> Tensor.clone x) tree

    /// Frees all tensors now.
    let free (tree: Tree) : unit = Array.iter Tensor.free (leaves tree)
