module Ctkd.Fs.Tests.CheckpointTests

open System
open System.IO
open System.Text.Json.Nodes
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Folders

let private info: CheckpointInfo = {
    // Of few characters: each byte of a checkpoint is tried.
    Settings = {
        Settings.defaults with
            Student = "vgg8"
            Milestones = []
            Hidden = 1
            WeightDecay = 1.0
    }
    Classes = 4
    Images = { Height = 8; Width = 8; Mean = [ 0.5 ]; Std = [ 0.25 ]; ShortSide = 0 }
    DataHash = "def"
    Epoch = 3
    Step = 2
    Best = { Epoch = 2; Top1 = 100.0 / 3.0; ValTop1 = Some 12.5 }
    Top1 = 0.1
    ClassNames = []
    MetricLines = 2
    TeacherHash = "abc"
}

/// A plan with every sort of state: a temperature of two layers, images with their channels innermost.
let private plan () : TrainingPlan =
    { Plans.alone with ChannelsLast = true } |> Plans.taught Plans.policies[2] |> TrainingPlan.prepareTeacher

/// The plan's state after two steps: no tensor has its first value any more.
let private trained (plan: TrainingPlan) : TrainState =
    let stop (state: TrainState) (_: int) = state.Step = 2

    match Plans.epoch plan 100 stop (Plans.upload 24 plan) (TrainState.start plan) with
    | Stopped state -> state
    | _ -> failwith "the epoch was not stopped"

/// Names, types, shapes and bytes of a state's tensors, and which have their channels innermost.
let private bits (state: TrainState) =
    TrainState.toTree state
    |> Tree.toList
    |> List.map (fun (name, x) ->
        let innermost = Tensor.rank x = 4 && Tensor.isChannelsLast x
        name, Tensor.dtype x, List.ofArray (Tensor.shape x), innermost, Convert.ToHexString(Tensor.toBytes x)
    )

let private plain (checkpoint: Checkpoint) =
    checkpoint.Info,
    checkpoint.Tensors |> List.map (fun t -> t.Name, t.DType, t.Shape, Convert.ToHexString t.Bytes.Span)

/// Checks each of so many numbers, the even and the odd ones at once, each half with a file of its own.
let private everyOf (count: int) (path: string) (check: string -> int -> unit) : unit =
    try
        [| 0; 1 |]
        |> Array.Parallel.iter (fun half ->
            for i in half..2 .. count - 1 do
                check $"{path}{half}" i
        )
    with :? AggregateException as errors ->
        failtest (nonNull errors.InnerException).Message

/// Runs a test with a checkpoint file of a plan.
let private withCheckpoint (plan: unit -> TrainingPlan) (body: string -> TrainingPlan -> TrainState -> 'T) : 'T =
    inFolder (fun folder ->
        Tensor.scoped (fun () ->
            let path = Path.Combine(folder, "c.safetensors")
            let plan = plan ()
            let state = trained plan
            Checkpoint.write path info state |> Error.orRaise
            body path plan state
        )
    )

// ---- damage ----

/// The smallest state there is: some 4,000 bytes.
let private smallest () : TrainingPlan =
    { Plans.alone with Student = Plans.tiny 1 4; TrainImages = 24 } |> Plans.taught Plans.policies[1]

// ---- other checkpoints than the run needs ----

/// The error of restoring the checkpoint of one plan into another.
let private mismatch (written: unit -> TrainingPlan) (wanted: unit -> TrainingPlan) : string =
    withCheckpoint
        written
        (fun path _ _ ->
            let error = Checkpoint.read path |> Result.bind (Checkpoint.restore (wanted ())) |> errorOf
            Must.equal (Mismatch, path) (error.Kind, error.Where)
            Must.contain "name the model" error.Next
            error.What
        )

/// The error of a sealed file with the given metadata and no tensors.
let private errorWith (metadata: (string * string) list) : Error =
    inFolder (fun folder ->
        let path = Path.Combine(folder, "c.safetensors")
        Safetensors.writeSealed path { Metadata = metadata; Tensors = [] } |> Error.orRaise
        { errorOf (Checkpoint.read path) with Where = "" }
    )

/// The state's JSON with a change in it.
let private stateWith (change: JsonObject -> unit) : string =
    let json = (JsonNode.Parse(Json.write info) |> nonNull).AsObject()
    change json
    json.ToJsonString()

let tests =
    testList "Checkpoint" [
        // ---- round trip ----

        test "a checkpoint gives back every tensor to the bit, in the run's memory format" {
            withCheckpoint
                plan
                (fun path plan state ->
                    let checkpoint = Checkpoint.read path |> Error.orRaise
                    Must.equal info checkpoint.Info
                    let restored = Checkpoint.restore plan checkpoint |> Error.orRaise
                    Must.equal (bits state) (bits restored)
                    bits restored |> Must.haveOne (fun (_, _, _, innermost, _) -> innermost)
                    Must.equal (3, 2, info.Best) (restored.Epoch, restored.Step, restored.Best)
                    Must.hold ((Tree.find "conv.weight" restored.Student).requires_grad)
                )
        }

        test "a restored state goes on as the one that was written" {
            for policy in Plans.policies do
                withCheckpoint
                    (fun () -> Plans.taught policy Plans.alone)
                    (fun path plan state ->
                        let checkpoint = Checkpoint.read path |> Error.orRaise
                        let same = { checkpoint with Info = { info with Epoch = 1 } }
                        let restored = Checkpoint.restore plan same |> Error.orRaise
                        let set = Plans.upload 24 plan

                        Must.equal (bits (Plans.finish plan set state)) (bits (Plans.finish plan set restored))
                    )
        }

        test "the student of a checkpoint is the model's state_dict" {
            withCheckpoint
                plan
                (fun path plan state ->
                    let weights =
                        Checkpoint.read path
                        |> Result.bind (Checkpoint.student plan.Student DType.Float32 Device.Cpu)
                        |> Error.orRaise

                    Must.equal (Model.declarations plan.Student |> List.map _.Name) (Tree.names weights)

                    for name, x in Tree.toList weights do
                        Must.equal (Tree.find name state.Student |> Tensor.toBytes) (Tensor.toBytes x)
                )
        }

        test "a restored state holds its own tensors and no more" {
            withCheckpoint
                plan
                (fun path plan state ->
                    let checkpoint = Checkpoint.read path |> Error.orRaise
                    let before = Tensor.live ()
                    Checkpoint.restore plan checkpoint |> Error.orRaise |> ignore
                    Must.equal (before + int64 (TrainState.toTree state |> Tree.count)) (Tensor.live ())
                    Checkpoint.restore Plans.alone checkpoint |> errorOf |> ignore
                    Must.equal (before + int64 (TrainState.toTree state |> Tree.count)) (Tensor.live ())
                )
        }

        test "whichever byte of a checkpoint is changed, it is an error or gives the same tensors" {
            withCheckpoint
                smallest
                (fun path _ _ ->
                    let whole = Checkpoint.read path |> Error.orRaise |> plain
                    let bytes = File.ReadAllBytes path
                    Must.lie 1000 8000 bytes.Length

                    everyOf
                        bytes.Length
                        path
                        (fun path i ->
                            for mask in [ 0x01uy; 0x20uy; 0xFFuy ] do
                                let changed = Array.copy bytes
                                changed[i] <- changed[i] ^^^ mask
                                File.WriteAllBytes(path, changed)

                                match Checkpoint.read path with
                                | Ok checkpoint -> Must.equal whole (plain checkpoint)
                                | Error error -> Must.equal (Damaged, path) (error.Kind, error.Where)
                        )
                )
        }

        test "a checkpoint cut short anywhere, or with something behind it, is an error" {
            withCheckpoint
                smallest
                (fun path _ _ ->
                    let bytes = File.ReadAllBytes path

                    everyOf
                        bytes.Length
                        path
                        (fun path length ->
                            File.WriteAllBytes(path, Array.truncate length bytes)
                            Must.equal Damaged ((errorOf (Checkpoint.read path)).Kind)
                        )

                    File.WriteAllBytes(path, Array.append bytes [| 0uy |])
                    Must.equal Damaged ((errorOf (Checkpoint.read path)).Kind)
                )
        }

        test "a checkpoint of another model, of more classes or another policy lists what differs" {
            let alone () = Plans.alone
            let classes = mismatch alone (fun () -> { Plans.alone with Student = Plans.tiny 4 5 })
            Must.contain "do not fit a run of tiny4; 4 difference(s)" classes
            Must.contain "\n  - 'student/fc.weight' is F32 [4, 4], expected F32 [5, 4]" classes
            Must.contain "\n  - 'velocity/student/fc.bias' is F32 [4], expected F32 [5]" classes

            let deeper = Zoo.find "resnet8" 4 |> Error.orRaise
            let model = mismatch alone (fun () -> { Plans.alone with Student = deeper })
            Must.contain "'student/conv1.weight' is missing (nearest: student/conv.weight)" model
            Must.matchRegex @"\n  - and \d+ more" model

            let learned () = Plans.taught Plans.policies[1] Plans.alone
            Must.contain "'temperature/theta' is missing" (mismatch alone learned)
            Must.contain "'temperature/theta' is not expected" (mismatch learned alone)
        }

        test "a checkpoint of another format says so, and one of no known format too" {
            let state = "state", Json.write info

            for number in [ Checkpoint.format - 1; Checkpoint.format + 1 ] do
                let error = errorWith [ "format", string number; state ]
                let expected = $"the checkpoint has format {number}, this version reads {Checkpoint.format}"
                Must.equal (Mismatch, expected) (error.Kind, error.What)
                Must.contain "version of ctkd that wrote it" error.Next

            for text in [ ""; "0"; "-1"; "one"; "1.0"; "99999999999999999999" ] do
                let error = errorWith [ "format", text; state ]

                Must.equal (Damaged, $"the checkpoint's format '{text}' is not a known number") (error.Kind, error.What)
        }

        test "a file that is no checkpoint says what it lacks" {
            Must.contain "lacks 'format'" ((errorWith []).What)
            Must.contain "lacks 'state'" ((errorWith [ "format", string Checkpoint.format ]).What)

            inFolder (fun folder ->
                let path = Path.Combine(folder, "weights.safetensors")
                Safetensors.write path { Metadata = []; Tensors = [] } |> Error.orRaise
                let error = errorOf (Checkpoint.read path)
                Must.equal (Damaged, path) (error.Kind, error.Where)
                Must.equal Missing ((errorOf (Checkpoint.read (Path.Combine(folder, "none")))).Kind)
            )
        }

        test "hostile JSON in the state is an error" {
            let set (name: string) (value: string) = stateWith (fun json -> json[name] <- JsonNode.Parse value)

            let texts = [
                ""
                "null"
                "[]"
                "{}"
                "\"\\ud800\""
                String.replicate 10_000 "{\"a\":"
                set "best" "null"
                set "best" "{}"
                set "best" """{"epoch":1,"top1":1e999}"""
                set "settings" "null"
                set "teacherHash" "null"
                set "epoch" "0"
                set "epoch" "-3"
                set "epoch" "1e400"
                set "step" "-1"
                set "step" "2.5"
                set "metricLines" "-1"
                set "classes" "-1"
                set "dataHash" "null"
                set "top1" "\"NaN\""
                set "top1" "1e999"
                set "more" "1"
                stateWith (fun json -> json.Remove "step" |> ignore)
            ]

            for text in texts do
                let error = errorWith [ "format", string Checkpoint.format; "state", text ]
                Expect.isTrue (error.Kind = Damaged) $"{text}: {error}"

            let settings = Json.write { info with Settings = { Settings.defaults with Batch = 0 } }

            Must.contain "batch must be" ((errorWith [ "format", string Checkpoint.format; "state", settings ]).What)
        }
    ]
