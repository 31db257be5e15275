/// Computes the cases of features, and lists all cases.
module Ctkd.Fs.Tests.GoldenFeatures

open System.Text.Json
open Ctkd.Fs
open Ctkd.Fs.Tests.Golden
open Ctkd.Fs.Tests.GoldenRoutes

let private cpu = Device.Cpu

/// Pooled features and map of one side.
let private features (inputs: GoldenInputs) (side: string) : Tensor * Tensor =
    let shown = if side = "teacher" then inputs.ModelPair.Teacher else inputs.ModelPair.Student
    let make name shape = probe inputs.DType $"{inputs.Tag}/{side}_{name}" (inputs.Batch :: shape) 1.0 0.0
    make "pooled" [ shown.Pooled ], make "map" (List.last shown.Maps)

/// The values of a connector by the formulas of golden.md; `key` is the name of its weights there.
let private connectors (inputs: GoldenInputs) (key: string -> string) (d: Declaration) : string * Tensor =
    let ends (suffix: string) = d.Name.EndsWith(suffix, System.StringComparison.Ordinal)
    let fanIn = float (List.fold (*) 1 d.Shape) / float (max 1 (List.truncate 1 d.Shape |> List.sum))

    let scale, shift =
        if ends "log_scale" then 0.5, 4.0
        elif ends "bn.weight" then 0.1, 1.0
        elif ends "bias" then 0.1, 0.0
        elif d.Name.StartsWith("embed_", System.StringComparison.Ordinal) then 0.3, 0.0
        else sqrt (6.0 / fanIn), 0.0

    d.Name, probe inputs.DType (key d.Name) d.Shape scale shift

/// Connectors with their golden values; those that golden.md does not define keep their initial values.
let private connect (inputs: GoldenInputs) (key: string -> string option) (distiller: Distiller) : Tree =
    let started = Initialise.tree inputs.DType cpu (Rng.ofSeed 0) distiller.Declares

    distiller.Declares
    |> List.map (fun d ->
        match key d.Name with
        | Some name -> connectors inputs (fun _ -> name) d
        | None -> d.Name, Tree.find d.Name started
    )
    |> Tree.ofSeq

/// The student's pooled features or map as a leaf, and the input that contains it.
let private feature (onMap: bool) (inputs: GoldenInputs) classify index : Tensor * DistillerInput =
    let pooled, map = features inputs "student"
    let leaf = Autograd.leaf (if onMap then map else pooled)
    let student = if onMap then pooled, leaf else leaf, map
    leaf, input inputs (unsoftened inputs) (features inputs "teacher") student classify index

let private ofFeature onMap key leaves create (inputs: GoldenInputs) (_: JsonElement) : GoldenRoute list =
    let distiller = create inputs.ModelPair |> Error.orRaise
    let leafOf name x = if List.contains name (List.map snd leaves) then Autograd.leaf x else x
    let tree = connect inputs key distiller |> Tree.map leafOf
    let feature, input = feature onMap inputs id inputs.Labels
    let further = [ for name, ours in leaves -> name, Tree.find ours tree ]
    [ distiller.Loss tree input |> route (("student_feature", feature) :: further) [] ]

let private nothing (_: string) : string option = None

let private vid =
    ofFeature true (fun name -> Some $"vid.{name.Substring 2}") [ "log_scale", "1.log_scale" ] Vid.distiller

/// Scale and shift of the normalisation keep their initial values.
let private fitNet =
    ofFeature
        true
        (fun name -> if name.StartsWith "conv." then Some $"fitnet.{name.Substring 5}" else None)
        []
        (FitNet.distiller 1)

let private srrl (inputs: GoldenInputs) (_: JsonElement) : GoldenRoute list =
    let distiller = Srrl.distiller inputs.ModelPair |> Error.orRaise

    let key =
        function
        | "conv.weight" -> Some "srrl.conv"
        | "bn.weight"
        | "bn.bias" as name -> Some $"srrl.{name}"
        | _ -> None

    let teacher = inputs.ModelPair.Teacher
    let shape = [ teacher.Classes; teacher.Pooled ]
    let weight = probe inputs.DType "srrl.cls.weight" shape (sqrt (6.0 / float teacher.Pooled)) 0.0
    let bias = probe inputs.DType "srrl.cls.bias" [ teacher.Classes ] 0.1 0.0
    let feature, input = feature false inputs (Tensor.linear weight (Some bias)) inputs.Labels
    [ distiller.Loss (connect inputs key distiller) input |> route [ "student_feature", feature ] [] ]

/// Three calls in a row, each followed by the memories' update; the gradient is that of the first.
let private crd (inputs: GoldenInputs) (parameters: JsonElement) (case: JsonElement) : GoldenRoute list =
    let count, width = integer "n_data" parameters, integer "feat_dim" parameters
    let columns = integer "K" parameters + 1

    let options = {
        Width = width
        Negatives = columns - 1
        Temperature = number "T" parameters
        Momentum = number "momentum" parameters
    }

    let index = labels $"{inputs.Tag}/crd_index" inputs.Batch count

    let contrast =
        labels $"{inputs.Tag}/crd_contrast" (inputs.Batch * columns) count
        |> Tensor.reshape [| int64 inputs.Batch; -1L |]

    let contrast = Tensor.cat 1 [ Tensor.unsqueeze 1 index; Tensor.slice 1 1 columns contrast ]

    let pair = {
        inputs.ModelPair with
            Labels = Array.init count (fun i -> i % inputs.ModelPair.Student.Classes)
    }

    let distiller = Crd.distiller options pair |> Error.orRaise

    let start () =
        let memory side =
            $"memory_{side}",
            probe inputs.DType $"crd.memory_{side}" [ count; width ] (1.0 / sqrt (float width / 3.0)) 0.0

        Tree.concat [
            connect inputs (fun name -> Some $"crd.{name}") distiller
            Tree.ofSeq [ memory "student"; memory "teacher" ]
            Tree.ofSeq [ for side in [ "student"; "teacher" ] -> $"z_{side}", Tensor.zeros inputs.DType cpu [||] ]
        ]

    let feature, input = feature false inputs id index
    let first = Crd.loss options (start ()) contrast input
    let state = start ()

    let values =
        Autograd.noGrad (fun () -> [|
            for _ in 1..3 do
                Crd.loss options state contrast input |> Tensor.toFloat
                distiller.Remember state input
        |])

    let state name = Tree.find name state

    let norm side =
        let name = $"memory_{side}_after"
        scalar name (field name case |> number "norm") (Tensor.toFloat (Tensor.norm (state $"memory_{side}")))

    let z side = scalar $"Z_{side}" (number $"Z_{side}" case) (Tensor.toFloat (state $"z_{side}"))

    [
        first
        |> route [ "student_feature", feature ] [
            vector "index" (floats "index" parameters) (Tensor.toFloats index)
            vector "values" (floats "values" case) values
            norm "student"
            norm "teacher"
            z "student"
            z "teacher"
        ]
    ]

/// The implemented cases by name: functions of the inputs, the case's parameters and the case.
let implemented: Map<string, GoldenInputs -> JsonElement -> JsonElement -> GoldenRoute list> =
    let plain (route: GoldenInputs -> JsonElement -> GoldenRoute list) inputs parameters (_: JsonElement) =
        route inputs parameters

    Map [
        "kd", plain kd
        "kd_instance", plain kd
        "ctkd_global", plain ctkdGlobal
        "dkd", plain dkd
        "dkd_instance", plain dkd
        "dtkd_total", plain dtkdTotal
        "logit_standardisation_kd", plain standardised
        "pkt", plain (ofFeature false nothing [] (fun _ -> Ok Pkt.distiller))
        "sp", plain (ofFeature true nothing [] Sp.distiller)
        "vid", plain vid
        "crd", crd
        "srrl", plain srrl
        "rkd",
        (fun inputs parameters _ ->
            let create = Rkd.distiller (number "distance" parameters) (number "angle" parameters)
            ofFeature false nothing [] create inputs parameters
        )
        "fitnet", plain fitNet
        "at", plain (ofFeature true nothing [] At.distiller)
    ]
