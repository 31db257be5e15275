module Ctkd.Fs.Tests.TreeTests

open System
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Generators
open FsCheck
open FsCheck.FSharp

let private namesGen: Gen<string list> =
    Gen.elements [ "a"; "b"; "a.b"; "layer1.0.conv1.weight"; "student/fc.bias"; "" ]
    |> Gen.listOf
    |> Gen.map List.distinct

/// Names and the number of each one-element tensor, in order.
let private contents (tree: Tree) : (string * float) list =
    Tree.toList tree |> List.map (fun (name, x) -> name, Tensor.toFloat x)

let private treeOf (entries: (string * float) list) : Tree =
    entries |> List.map (fun (name, value) -> name, Plain.number value) |> Tree.ofSeq

let private numbered (names: string list) : (string * float) list = List.mapi (fun i name -> name, float i) names

/// Checks a property of a tree and the entries it was made from.
let private checkTree (property: (string * float) list -> Tree -> unit) : unit =
    check namesGen (fun names -> Tensor.scoped (fun () -> property (numbered names) (treeOf (numbered names))))

let tests =
    testList "Tree" [
        test "a tree keeps its entries and their order" {
            checkTree (fun entries tree ->
                Must.equal entries (contents tree)
                Must.equal (List.map fst entries) (Tree.names tree)

                Must.equal (List.map snd entries) (Tree.leaves tree |> List.ofArray |> List.map Tensor.toFloat)

                Must.equal entries.Length (Tree.count tree)
            )
        }

        test "every name finds its tensor" {
            checkTree (fun entries tree ->
                for name, value in entries do
                    Must.equal value (Tensor.toFloat (Tree.find name tree))
                    Must.equal (Some value) (Tree.tryFind name tree |> Option.map Tensor.toFloat)

                Must.equal None (Tree.tryFind "absent" tree |> Option.map Tensor.toFloat)
            )
        }

        test "an unknown name raises and tells the nearest names" {
            Tensor.scoped (fun () ->
                let tree = treeOf (numbered [ "fc.weight"; "conv1.weight"; "bn1.bias"; "fc.bias" ])
                let error = Must.throw<ArgumentException>(fun () -> Tree.find "fc.weigth" tree |> ignore)
                Must.startWith "no tensor 'fc.weigth' here; the nearest names are: fc.weight, " error.Message
            )
        }

        test "a name that occurs twice raises" {
            Tensor.scoped (fun () ->
                Must.refuse "entries" (fun () -> treeOf [ "a", 1.0; "b", 2.0; "a", 3.0 ])
                let tree = treeOf [ "a", 1.0 ]
                Must.refuse "entries" (fun () -> Tree.concat [ tree; tree ])
            )
        }

        test "filter, concat and prefixes do to trees what they do to lists" {
            checkTree (fun entries tree ->
                let even = snd >> fun value -> int value % 2 = 0
                let isEven name = even (name, Map.find name (Map.ofList entries))
                Must.equal (List.filter even entries) (contents (Tree.filter isEven tree))
                let both = Tree.concat [ Tree.prefixed "x/" tree; Tree.empty; Tree.prefixed "y/" tree ]
                let named prefix = entries |> List.map (fun (name, value) -> prefix + name, value)
                Must.equal (named "x/" @ named "y/") (contents both)
                Must.equal entries (contents (Tree.under "y/" both))
            )
        }

        test "map sees every name with its tensor" {
            checkTree (fun entries tree ->
                let longer = Tree.map (fun name x -> x + float name.Length) tree
                let expected = entries |> List.map (fun (name, value) -> name, value + float name.Length)
                Must.equal expected (contents longer)
            )
        }

        test "a copy does not follow its original" {
            Tensor.scoped (fun () ->
                let tree = treeOf [ "a", 1.0 ]
                let copy = Tree.copy tree
                Tensor.fillInto (Tree.find "a" tree) 2.0
                Must.equal [ "a", 1.0 ] (contents copy)
            )
        }

        test "freeing a tree frees its tensors" {
            Must.leaveNothing (fun () -> Tree.free (treeOf [ "a", 1.0; "b", 2.0 ]))
        }
    ]
