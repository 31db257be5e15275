module Ctkd.Fs.Tests.TeacherOutputsTests

open System.IO
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Cases
open Ctkd.Fs.Tests.Plans
open Ctkd.Fs.Tests.Folders
open TorchSharp

/// Made anew for each test: its teacher's weights live in the test's scope.
let private plan () : TrainingPlan = { taught policies[0] alone with Batch = 8 }

let private hex (state: TrainState) =
    TrainState.toTree state
    |> Tree.toList
    |> List.map (fun (name, x) -> name, System.Convert.ToHexString(Tensor.toBytes x))

/// Two epochs over 37 images, stopping and going on after each of the given batches.
let private train (how: TeacherOptions) (plan: TrainingPlan) (stops: int list) : TrainState =
    let set = upload 37 plan

    let rec go (state: TrainState) =
        let pause (state: TrainState) _ = List.contains (5 * (state.Epoch - 1) + state.Step) stops

        match Plans.epochOf how plan 1 pause set state with
        | Complete state when state.Epoch = 2 -> state
        | Complete state -> go (TrainState.nextEpoch state.Best state)
        | Stopped state -> go state
        | Broke(step, term) -> failwith $"{term} broke in step {step}"

    go (TrainState.start plan)

let tests =
    testList "TeacherOutputs" [
        test "a TorchSharp module teaches by its logits, and its student learns" {
            Tensor.scoped (fun () ->
                let layers: (string * torch.nn.Module<torch.Tensor, torch.Tensor>)[] = [|
                    "flat", torch.nn.Flatten()
                    "head", torch.nn.Linear(192L, 4L)
                |]

                use network = torch.nn.Sequential layers
                let model, weights = Model.ofLogits "mine" 4 network.forward

                let plan =
                    let own (teacher: Distillation) = { teacher with Model = model; Weights = weights }
                    let plan = taught policies[0] { alone with Precision = F32 }
                    TrainingPlan.prepareTeacher { plan with Distillation = Option.map own plan.Distillation }

                let set = upload 16 plan
                let batch = Augment.plain 0 8 set
                let outputs = TeacherOutputs.ofImages plan batch.Images |> Option.get

                Must.equal (Tensor.toSingles (network.forward batch.Images)) (Tensor.toSingles outputs.Logits)

                let start = TrainState.start plan
                let before = Tree.leaves start.Student |> Array.collect Tensor.toSingles
                let ended = complete plan set start
                Must.differ before (Tree.leaves ended.Student |> Array.collect Tensor.toSingles)
            )
        }

        test "a teacher that runs ahead teaches the same" {
            Tensor.scoped (fun () ->
                for precision, tolerance in [ F64, 1e-10; F32, 1e-3 ] do
                    let plan =
                        taught policies[0] { alone with Batch = 8; Precision = precision }
                        |> TrainingPlan.prepareTeacher

                    let weights (state: TrainState) = state.Student |> Tree.leaves |> Array.collect Tensor.toFloats

                    let expected = train TeacherOutputs.simple plan [] |> weights

                    for ahead in [ 2; 3; 100 ] do
                        train { TeacherOutputs.simple with Ahead = ahead } plan []
                        |> weights
                        |> Must.beClose tolerance tolerance expected
            )
        }

        test "stopping between two batches changes no bit, however far ahead the teacher was" {
            Tensor.scoped (fun () ->
                let plan = TrainingPlan.prepareTeacher (plan ())

                for ahead in [ 1; 2; 3 ] do
                    let how = { TeacherOutputs.simple with Ahead = ahead }

                    Must.equal (hex (train how plan [])) (hex (train how plan [ 1; 2; 7 ]))
            )
        }

        test "what the teacher prepared is freed when the epoch is over" {
            Tensor.scoped (fun () ->
                let plan = TrainingPlan.prepareTeacher (plan ())
                let set = upload 37 plan
                let state = TrainState.start plan
                let before = Tensor.live ()

                Plans.epochOf { TeacherOutputs.simple with Ahead = 3 } plan 1 (fun _ _ -> false) set state |> ignore

                Must.equal before (Tensor.live ())
            )
        }

        test "remembered features train the same to the bit, cold, warm and stopped in between" {
            inFolder (fun folder ->
                Tensor.scoped (fun () ->
                    let width = (plan ()).Distillation.Value.Model.Classifier.In

                    for policy in policies do
                        let plan = TrainingPlan.prepareTeacher { taught policy alone with Batch = 8 }
                        let expected = hex (train TeacherOutputs.simple plan [])

                        for stops in [ []; []; [ 3; 6 ] ] do
                            use cache = TeacherCache.openFile folder "key" width 1_000_000L Exact |> Error.orRaise

                            let how = { TeacherOutputs.simple with Cache = Some cache }
                            Must.equal expected (hex (train how plan stops))
                )
            )
        }

        test "remembered features are refused for distillers that look at maps" {
            inFolder (fun folder ->
                Tensor.scoped (fun () ->
                    use cache = TeacherCache.openFile folder "key" 4 1_000_000L Exact |> Error.orRaise
                    let looking = { Kd.distiller with LooksAtMaps = true }
                    let plan = plan ()

                    let distillation = {
                        plan.Distillation.Value with
                            Distillers = [ Schedule.constant 1.0, looking ]
                    }

                    let plan = { plan with Distillation = Some distillation }

                    Must.refuse
                        "options"
                        (fun () -> train { TeacherOutputs.simple with Cache = Some cache } plan [] |> ignore)
                )
            )
        }

        // Under the agent the second epoch mixes images, and is not asked of.
        testEach
            "a run with a teacher cache is the same run, and says how much was remembered"
            [ "ctkd-global", 100; "rlkd", 50 ]
            (fun (policy: string, images: int) ->
                inFolder (fun folder ->
                    let settings = Runs.small |> Runs.taught policy
                    let path name = Path.Combine(folder, name)
                    let said = ResizeArray<string>()
                    let hooks = { Hooks.none with Say = said.Add }
                    let run name settings = Run.start hooks (path name) settings |> Error.orRaise |> ignore
                    run "plain" settings
                    let cached = { settings with TeacherCache = path "cache" }
                    run "cold" cached
                    run "warm" cached

                    let tensors name = Runs.contents (Path.Combine(path name, "last.safetensors")) |> snd

                    Must.hold (tensors "plain" = tensors "cold")
                    Must.hold (tensors "plain" = tensors "warm")
                    Must.equal (Runs.lines (path "plain")) (Runs.lines (path "warm"))

                    let cache = said |> Seq.filter (fun line -> line.StartsWith "teacher cache") |> List.ofSeq

                    Must.equal 2 cache.Length
                    Must.startWith $"teacher cache: 100.0 %% of {images} images" cache[1]
                )
            )
    ]
