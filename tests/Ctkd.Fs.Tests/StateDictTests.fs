module Ctkd.Fs.Tests.StateDictTests

open Ctkd.Fs
open Ctkd.Fs.Tests.Generators
open Ctkd.Fs.Tests.SafetensorsTests
open FsCheck.FSharp
open Xunit

let private names = [ "conv1.weight"; "bn1.bias"; "fc.weight" ]

let private group (names: string list) : TorchEntry =
    names |> List.map (fun name -> tensor name "U8" [] [| 1uy |]) |> TorchEntry.ofTensors

let private prefixed (prefix: string) : string list -> string list = List.map (fun name -> prefix + name)

let private found (expected: string list option) (root: TorchEntry) : StateDict =
    StateDict.find expected root |> Option.get

let private foundNames (expected: string list option) (root: TorchEntry) : string list =
    (found expected root).Tensors |> List.map _.Name

let private beside: (string * TorchEntry) list = [
    "epoch", TorchEntry.Whole 3L
    "optimizer", TorchEntry.Group [ "state", group [ "0" ] ]
]

let private wrapperGen = Gen.elements [ "model"; "state_dict"; "model_state_dict"; "net"; "student" ]
let private prefixGen = Gen.elements [ "module."; "student."; "model." ]

[<Fact>]
let ``usual wrappers and prefixes are undone, with and without the model's names`` () =
    let cases =
        gen {
            let! depth = Gen.choose (0, 3)
            let! wrappers = Gen.listOfLength depth wrapperGen
            let! steps = Gen.choose (0, 3)
            let! prefixes = Gen.listOfLength steps prefixGen
            return wrappers, prefixes
        }

    check
        cases
        (fun (wrappers, prefixes) ->
            let prefix = String.concat "" prefixes

            let root =
                List.foldBack
                    (fun name inner -> TorchEntry.Group(beside @ [ name, inner ]))
                    wrappers
                    (group (prefixed prefix names))

            for expected in [ None; Some names ] do
                let result = found expected root
                Assert.Equal<string list>(names, result.Tensors |> List.map _.Name)
                Assert.Equal<string list>(wrappers, result.Under)
                Assert.Equal((prefix, 0), (result.Prefix, result.Aside))
        )

[<Fact>]
let ``names that fit as they are stay so, whatever they begin with`` () =
    for prefix in [ "model."; "module."; "student."; "model.model." ] do
        let own = prefixed prefix names
        Assert.Equal<string list>(own, foundNames (Some own) (group own))
        Assert.Equal<string list>(own, foundNames (Some own) (group (prefixed "module." own)))

[<Fact>]
let ``a name that only some tensors begin with is no prefix`` () =
    let mixed = [ "model.0.weight"; "model.1.weight"; "fc.weight" ]
    Assert.Equal<string list>(mixed, foundNames None (group mixed))
    Assert.Equal<string list>(mixed, foundNames (Some mixed) (group mixed))

[<Fact>]
let ``of a distiller's file the student is taken and the teacher set aside`` () =
    let distiller = prefixed "student." names @ prefixed "teacher." names

    for root in [ group distiller; TorchEntry.Group [ "model", group (prefixed "module." distiller) ] ] do
        for expected in [ None; Some names ] do
            let result = found expected root
            Assert.Equal<string list>(names, result.Tensors |> List.map _.Name)
            Assert.Equal(3, result.Aside)
            Assert.EndsWith("student.', 3 other tensors set aside", StateDict.describe result)

[<Fact>]
let ``the group that fits the names is taken, else the largest`` () =
    let other = [ "a"; "b"; "c"; "d" ]
    let root = TorchEntry.Group [ "model", group other; "student", group (prefixed "module." names) ]
    Assert.Equal<string list>(names, foundNames (Some names) root)
    Assert.Equal<string list>(other, foundNames None root)
    Assert.Equal<string list>(other, foundNames (Some [ "z" ]) root)

    let withLoss =
        TorchEntry.Group [ "loss", TorchEntry.Tensor(tensor "loss" "U8" [] [| 1uy |]); "net", group names ]

    Assert.Equal<string list>(names, foundNames None withLoss)

[<Fact>]
let ``where no tensor is, nothing is found`` () =
    for root in
        [ TorchEntry.Group beside; TorchEntry.Whole 1L; TorchEntry.Group [ "model", TorchEntry.Group [] ] ] do
        Assert.True((StateDict.find None root).IsNone)
        Assert.True((StateDict.find (Some names) root).IsNone)

[<Fact>]
let ``what was done is put into words`` () =
    let root =
        TorchEntry.Group [ "state_dict", TorchEntry.Group [ "model", group (prefixed "module." names) ] ]

    Assert.Equal(
        "under 'state_dict.model', without the prefix 'module.'",
        StateDict.describe (found None root)
    )

    Assert.Equal("", StateDict.describe (found None (group names)))
