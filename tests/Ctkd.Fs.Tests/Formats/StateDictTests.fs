module Ctkd.Fs.Tests.StateDictTests

open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Generators
open Ctkd.Fs.Tests.SafetensorsTests
open FsCheck.FSharp

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

let tests =
    testList "StateDict" [
        test "usual wrappers and prefixes are undone, with and without the model's names" {
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
                        Must.equal names (result.Tensors |> List.map _.Name)
                        Must.equal wrappers result.Under
                        Must.equal (prefix, 0) (result.Prefix, result.Aside)
                )
        }

        test "names that fit as they are stay so, whatever they begin with" {
            for prefix in [ "model."; "module."; "student."; "model.model." ] do
                let own = prefixed prefix names
                Must.equal own (foundNames (Some own) (group own))
                Must.equal own (foundNames (Some own) (group (prefixed "module." own)))
        }

        test "a name that only some tensors begin with is no prefix" {
            let mixed = [ "model.0.weight"; "model.1.weight"; "fc.weight" ]
            Must.equal mixed (foundNames None (group mixed))
            Must.equal mixed (foundNames (Some mixed) (group mixed))
        }

        test "of a distiller's file the student is taken and the teacher set aside" {
            let distiller = prefixed "student." names @ prefixed "teacher." names

            for root in [ group distiller; TorchEntry.Group [ "model", group (prefixed "module." distiller) ] ] do
                for expected in [ None; Some names ] do
                    let result = found expected root
                    Must.equal names (result.Tensors |> List.map _.Name)
                    Must.equal 3 result.Aside
                    Must.endWith "student.', 3 other tensors set aside" (StateDict.describe result)
        }

        test "the group that fits the names is taken, else the largest" {
            let other = [ "a"; "b"; "c"; "d" ]
            let root = TorchEntry.Group [ "model", group other; "student", group (prefixed "module." names) ]
            Must.equal names (foundNames (Some names) root)
            Must.equal other (foundNames None root)
            Must.equal other (foundNames (Some [ "z" ]) root)

            let withLoss =
                TorchEntry.Group [ "loss", TorchEntry.Tensor(tensor "loss" "U8" [] [| 1uy |]); "net", group names ]

            Must.equal names (foundNames None withLoss)
        }

        test "where no tensor is, nothing is found" {
            for root in
                [ TorchEntry.Group beside; TorchEntry.Whole 1L; TorchEntry.Group [ "model", TorchEntry.Group [] ] ] do
                Must.hold ((StateDict.find None root).IsNone)
                Must.hold ((StateDict.find (Some names) root).IsNone)
        }

        test "names of torch.compile, data parallel and sharded models are those of the model, in any order and mixture" {
            let orig, fsdp, fabric = "_orig_mod.", "_fsdp_wrapped_module.", "_forward_module."

            let within (part: string) (name: string) =
                let dot = name.IndexOf '.'
                $"{name.Substring(0, dot)}.{part}.{name.Substring(dot + 1)}"

            let cases: (string * (string -> string)) list = [
                for prefix in
                    [
                        orig
                        "module." + orig
                        orig + "module."
                        fsdp
                        fabric + "module."
                        "model." + orig + "backbone."
                        "module.encoder." + orig
                    ] do
                    prefix, (fun name -> prefix + name)
                for part in [ "_orig_mod"; "_fsdp_wrapped_module"; "_checkpoint_wrapped_module" ] do
                    $"within {part}", within part
                    $"module and within {part}", (fun name -> "module." + within part name)
            ]

            for case, change in cases do
                for expected in [ None; Some names ] do
                    Expect.equal (foundNames expected (group (List.map change names))) names case

            // What could be a name of the model's own is undone for a model alone.
            let mixed = names |> List.mapi (fun i name -> (if i = 1 then "module." else "") + name)
            Must.equal names (foundNames (Some names) (group mixed))
            Must.equal names (foundNames (Some names) (group (List.map (within "module") names)))
            Must.equal mixed (foundNames None (group mixed))
        }

        test "the attribute that holds the whole network is no part of names" {
            for prefix in
                [ "backbone."; "net."; "model."; "student."; "encoder."; "network."; "ema."; "module.backbone." ] do
                for expected in [ None; Some names ] do
                    Must.equal names (foundNames expected (group (prefixed prefix names)))
        }

        test "names that would become equal stay as they are" {
            let both = [ "conv1.weight"; "conv1._orig_mod.weight" ]
            Must.equal both (foundNames None (group both))
            Must.equal both (foundNames (Some names) (group both))
        }

        test "many prefixes beside many tensors that are not read take little time and memory" {
            let prefixes = [
                for name in
                    [ "_orig_mod"; "module"; "student"; "teacher"; "model"; "net"; "backbone"; "encoder"; "ema" ] do
                    name + "."
            ]

            /// A sequence of prefixes for each number.
            let rec prefix (number: int) =
                if number = 0 then
                    ""
                else
                    prefixes[number % prefixes.Length] + prefix (number / prefixes.Length)

            let named (dtype: string) (ending: string) = [
                for i in 1..10_000 -> tensor $"{prefix i}w{i}{ending}" dtype [ 0L ] [||]
            ]

            let root = TorchEntry.ofTensors (named "F32" "" @ named "U16" "x")
            let before = System.GC.GetAllocatedBytesForCurrentThread()
            let watch = System.Diagnostics.Stopwatch.StartNew()
            let find = StateDict.finder WeightsRole.Any root
            Must.equal 10_000 (find (Some [ "w" ]) |> Option.get).Skipped.Length
            Must.lie 1 10_000 (find (Some [ "w1" ]) |> Option.get).Tensors.Length
            Must.lie 0.0 10.0 watch.Elapsed.TotalSeconds
            Must.hold (System.GC.GetAllocatedBytesForCurrentThread() - before < 400_000_000L)
        }

        test "beside a prefix of several parts every other prefix is named, by a key that can be chosen" {
            let others = [ "module.teacher.fc.weight"; "module.teacher.fc.bias"; "head.a"; "module.loose"; "alone" ]

            let root = group (prefixed "module.student." names @ others)
            let result = found (Some names) root
            Must.equal [ "module.teacher", 2; "head", 1 ] result.Others
            Must.equal (Some "module.student.", 5) (Some result.Prefix, result.Aside)

            for key, _ in result.Others do
                StateDict.select key root |> Result.isOk |> Must.hold
        }

        test "a tensor that is not read has its own name, and that in its group" {
            let root =
                TorchEntry.Group [
                    for name in [ "module.a"; "module._orig_mod.b"; "c" ] do
                        name, TorchEntry.Unread UnreadTensor.Sparse
                    for name in prefixed "module." names do
                        name, TorchEntry.Tensor(tensor name "U8" [] [| 1uy |])
                ]

            let skipped = (found (Some names) root).Skipped |> List.map (fun t -> t.Name, t.Stored)
            Must.equal [ "a", "module.a"; "_orig_mod.b", "module._orig_mod.b"; "c", "c" ] skipped
        }

        test "what was done is put into words" {
            let root =
                TorchEntry.Group [ "state_dict", TorchEntry.Group [ "model", group (prefixed "module." names) ] ]

            Must.equal "under 'state_dict.model', without the prefix 'module.'" (StateDict.describe (found None root))

            Must.equal "" (StateDict.describe (found None (group names)))
        }
    ]
