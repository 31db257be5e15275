module Ctkd.Fs.Tests.TreeTests

open System
open Ctkd.Fs
open Ctkd.Fs.Tests.Generators
open FsCheck
open FsCheck.FSharp
open Xunit

let private namesGen: Gen<string list> =
    Gen.elements [ "a"; "b"; "a.b"; "layer1.0.conv1.weight"; "student/fc.bias"; "" ]
    |> Gen.listOf
    |> Gen.map List.distinct

/// Names and the one number of each tensor, in order.
let private contents (tree: Tree) : (string * float) list =
    Tree.toList tree |> List.map (fun (name, x) -> name, Tensor.toFloat x)

let private treeOf (entries: (string * float) list) : Tree =
    entries |> List.map (fun (name, value) -> name, Expect.number value) |> Tree.ofSeq

let private numbered (names: string list) : (string * float) list =
    List.mapi (fun i name -> name, float i) names

/// A property of a tree and the entries that it was made of.
let private checkTree (property: (string * float) list -> Tree -> unit) : unit =
    check
        namesGen
        (fun names -> Tensor.scoped (fun () -> property (numbered names) (treeOf (numbered names))))

[<Fact>]
let ``a tree keeps its entries and their order`` () =
    checkTree (fun entries tree ->
        Assert.Equal<(string * float) list>(entries, contents tree)
        Assert.Equal<string list>(List.map fst entries, Tree.names tree)

        Assert.Equal<float list>(
            List.map snd entries,
            Tree.leaves tree |> List.ofArray |> List.map Tensor.toFloat
        )

        Assert.Equal(entries.Length, Tree.count tree)
    )

[<Fact>]
let ``every name finds its tensor`` () =
    checkTree (fun entries tree ->
        for name, value in entries do
            Assert.Equal(value, Tensor.toFloat (Tree.find name tree))
            Assert.Equal(Some value, Tree.tryFind name tree |> Option.map Tensor.toFloat)

        Assert.Equal(None, Tree.tryFind "absent" tree |> Option.map Tensor.toFloat)
    )

[<Fact>]
let ``an unknown name raises and tells the nearest names`` () =
    Tensor.scoped (fun () ->
        let tree = treeOf (numbered [ "fc.weight"; "conv1.weight"; "bn1.bias"; "fc.bias" ])
        let error = Assert.Throws<ArgumentException>(fun () -> Tree.find "fc.weigth" tree |> ignore)
        Assert.StartsWith("no tensor 'fc.weigth' here; the nearest names are: fc.weight, ", error.Message)
    )

[<Fact>]
let ``a name that occurs twice raises`` () =
    Tensor.scoped (fun () ->
        Expect.refuses "entries" (fun () -> treeOf [ "a", 1.0; "b", 2.0; "a", 3.0 ])
        let tree = treeOf [ "a", 1.0 ]
        Expect.refuses "entries" (fun () -> Tree.concat [ tree; tree ])
    )

[<Fact>]
let ``filter, concat and prefixes do to trees what they do to lists`` () =
    checkTree (fun entries tree ->
        let even = snd >> fun value -> int value % 2 = 0
        let isEven name = even (name, Map.find name (Map.ofList entries))
        Assert.Equal<(string * float) list>(List.filter even entries, contents (Tree.filter isEven tree))
        let both = Tree.concat [ Tree.prefixed "x/" tree; Tree.empty; Tree.prefixed "y/" tree ]
        let named prefix = entries |> List.map (fun (name, value) -> prefix + name, value)
        Assert.Equal<(string * float) list>(named "x/" @ named "y/", contents both)
        Assert.Equal<(string * float) list>(entries, contents (Tree.under "y/" both))
    )

[<Fact>]
let ``map sees every name with its tensor`` () =
    checkTree (fun entries tree ->
        let longer = Tree.map (fun name x -> x + float name.Length) tree
        let expected = entries |> List.map (fun (name, value) -> name, value + float name.Length)
        Assert.Equal<(string * float) list>(expected, contents longer)
    )

[<Fact>]
let ``a copy does not follow its original`` () =
    Tensor.scoped (fun () ->
        let tree = treeOf [ "a", 1.0 ]
        let copy = Tree.copy tree
        Tensor.fillInto (Tree.find "a" tree) 2.0
        Assert.Equal<(string * float) list>([ "a", 1.0 ], contents copy)
    )

[<Fact>]
let ``freeing a tree frees its tensors`` () =
    Expect.leavesNothing (fun () -> Tree.free (treeOf [ "a", 1.0; "b", 2.0 ]))
