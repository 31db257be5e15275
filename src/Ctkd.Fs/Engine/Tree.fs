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

/// Creates, searches and transforms trees.
[<RequireQualifiedAccess>]
module Tree =

    /// Creates a tree of the entries in their order. A repeated name raises `ArgumentException`.
    let ofSeq (entries: (string * Tensor) seq) : Tree =
        let entries = Array.ofSeq entries
        let index = Dictionary<string, int>(entries.Length)

        for i in 0 .. entries.Length - 1 do
            if not (index.TryAdd(fst entries[i], i)) then
                invalidArg (nameof entries) $"the name '{fst entries[i]}' occurs twice"

        { Entries = entries; Index = index }

    /// The empty tree.
    let empty: Tree = ofSeq []

    /// Returns the entries in order.
    let toList (tree: Tree) : (string * Tensor) list = List.ofArray tree.Entries

    /// Returns the names in order.
    let names (tree: Tree) : string list = tree |> toList |> List.map fst

    /// Returns the tensors in order.
    let leaves (tree: Tree) : Tensor[] = Array.map snd tree.Entries

    /// Returns the number of entries.
    let count (tree: Tree) : int = tree.Entries.Length

    /// Returns the tensor of a name, or `None`.
    let tryFind (name: string) (tree: Tree) : Tensor option =
        match tree.Index.TryGetValue name with
        | true, i -> Some(snd tree.Entries[i])
        | _ -> None

    /// Returns the tensor of a name; an unknown name raises `ArgumentException`.
    let find (name: string) (tree: Tree) : Tensor =
        match tree.Index.TryGetValue name with
        | true, i -> snd tree.Entries[i]
        | _ ->
            let near = Error.nearest (names tree) name |> String.concat ", "
            invalidArg (nameof name) $"no tensor '{name}' here; the nearest names are: {near}"

    /// Replaces each tensor by a function of its name and itself.
    let map (change: string -> Tensor -> Tensor) (tree: Tree) : Tree =
        tree.Entries |> Array.map (fun (name, x) -> name, change name x) |> ofSeq

    /// Keeps the entries whose name satisfies the predicate.
    let filter (keep: string -> bool) (tree: Tree) : Tree = tree.Entries |> Array.filter (fst >> keep) |> ofSeq

    /// Concatenates the entries of all trees.
    let concat (trees: Tree list) : Tree = trees |> Seq.collect _.Entries |> ofSeq

    /// Prepends a prefix to each name.
    let prefixed (prefix: string) (tree: Tree) : Tree =
        tree.Entries |> Array.map (fun (name, x) -> prefix + name, x) |> ofSeq

    /// Keeps the entries whose names start with the prefix, and strips it.
    let under (prefix: string) (tree: Tree) : Tree =
        tree.Entries
        |> Array.choose (fun (name, x) ->
            if name.StartsWith(prefix, System.StringComparison.Ordinal) then
                Some(name.Substring prefix.Length, x)
            else
                None
        )
        |> ofSeq

    /// Copies all tensors.
    let copy (tree: Tree) : Tree = map (fun _ x -> Tensor.clone x) tree

    /// Frees all tensors now.
    let free (tree: Tree) : unit = Array.iter Tensor.free (leaves tree)
