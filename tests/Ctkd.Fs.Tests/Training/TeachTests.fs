module Ctkd.Fs.Tests.TeachTests

open System.IO
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Cases
open Ctkd.Fs.Tests.Courses
open Ctkd.Fs.Tests.Folders
open TorchSharp

/// Made anew for each test: its teacher's weights live in the test's scope.
let private course () : Course = { taught policies[0] alone with Batch = 8 }

let private hex (state: TrainState) =
    Train.toTree state
    |> Tree.toList
    |> List.map (fun (name, x) -> name, System.Convert.ToHexString(Tensor.toBytes x))

/// Two epochs over 37 images, stopping and going on after each of the given batches.
let private train (how: TeachingPlan) (course: Course) (stops: int list) : TrainState =
    let set = upload 37 course

    let rec go (state: TrainState) =
        let pause (state: TrainState) _ = List.contains (5 * (state.Epoch - 1) + state.Step) stops

        match Train.epochOf how course 1 pause set state with
        | Train.Complete state when state.Epoch = 2 -> state
        | Train.Complete state -> go (Train.nextEpoch state.Best state)
        | Train.Stopped state -> go state
        | Train.Broke(step, term) -> failwith $"{term} broke in step {step}"

    go (Train.start course)

let tests =
    testList "Teach" [
        test "a TorchSharp module teaches by its logits, and its student learns" {
            Tensor.scoped (fun () ->
                let layers: (string * torch.nn.Module<torch.Tensor, torch.Tensor>)[] = [|
                    "flat", torch.nn.Flatten()
                    "head", torch.nn.Linear(192L, 4L)
                |]

                use network = torch.nn.Sequential layers
                let model, weights = Model.ofLogits "mine" 4 network.forward

                let course =
                    let own (teaching: Teaching) = { teaching with Model = model; Weights = weights }
                    let course = taught policies[0] { alone with Precision = F32 }
                    Course.prepareTeacher { course with Teaching = Option.map own course.Teaching }

                let set = upload 16 course
                let batch = Augment.plain 0 8 set
                let outputs = Teach.outputs course batch.Images |> Option.get

                Must.equal
                    (Tensor.toSingles (network.forward batch.Images))
                    (Tensor.toSingles outputs.Logits)

                let start = Train.start course
                let before = Tree.leaves start.Student |> Array.collect Tensor.toSingles
                let ended = complete course set start
                Must.differ before (Tree.leaves ended.Student |> Array.collect Tensor.toSingles)
            )
        }

        test "a teacher that runs ahead teaches the same" {
            Tensor.scoped (fun () ->
                for precision, tolerance in [ F64, 1e-10; F32, 1e-3 ] do
                    let course =
                        taught policies[0] { alone with Batch = 8; Precision = precision }
                        |> Course.prepareTeacher

                    let weights (state: TrainState) =
                        state.Student |> Tree.leaves |> Array.collect Tensor.toFloats

                    let expected = train Teach.simple course [] |> weights

                    for ahead in [ 2; 3; 100 ] do
                        train { Teach.simple with Ahead = ahead } course []
                        |> weights
                        |> Must.beClose tolerance tolerance expected
            )
        }

        test "stopping between two batches changes no bit, however far ahead the teacher was" {
            Tensor.scoped (fun () ->
                let course = Course.prepareTeacher (course ())

                for ahead in [ 1; 2; 3 ] do
                    let how = { Teach.simple with Ahead = ahead }

                    Must.equal (hex (train how course [])) (hex (train how course [ 1; 2; 7 ]))
            )
        }

        test "what the teacher prepared is freed when the epoch is over" {
            Tensor.scoped (fun () ->
                let course = Course.prepareTeacher (course ())
                let set = upload 37 course
                let state = Train.start course
                let before = Tensor.live ()
                Train.epochOf { Teach.simple with Ahead = 3 } course 1 (fun _ _ -> false) set state |> ignore
                Must.equal before (Tensor.live ())
            )
        }

        test "remembered features train the same to the bit, cold, warm and stopped in between" {
            inFolder (fun folder ->
                Tensor.scoped (fun () ->
                    let width = (course ()).Teaching.Value.Model.Classifier.In

                    for policy in policies do
                        let course = Course.prepareTeacher { taught policy alone with Batch = 8 }
                        let expected = hex (train Teach.simple course [])

                        for stops in [ []; []; [ 3; 6 ] ] do
                            use cache =
                                TeacherCache.openFile folder "key" width 1_000_000L Exact |> Error.orRaise

                            let how = { Teach.simple with Cache = Some cache }
                            Must.equal expected (hex (train how course stops))
                )
            )
        }

        test "remembered features are refused for distillers that look at maps" {
            inFolder (fun folder ->
                Tensor.scoped (fun () ->
                    use cache = TeacherCache.openFile folder "key" 4 1_000_000L Exact |> Error.orRaise
                    let looking = { Distiller.kd with LooksAtMaps = true }
                    let course = course ()

                    let teaching = {
                        course.Teaching.Value with
                            Distillers = [ Schedule.constant 1.0, looking ]
                    }

                    let course = { course with Teaching = Some teaching }

                    Must.refuse
                        "how"
                        (fun () -> train { Teach.simple with Cache = Some cache } course [] |> ignore)
                )
            )
        }

        // Under the agent the second epoch mixes images, and is not asked of.
        testEach
            "a run with a teacher cache is the same run, and says how much was remembered"
            [ "ctkd-global", 100; "rlkd", 50 ]
            (fun (policy: string, lessons: int) ->
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

                    let cache =
                        said |> Seq.filter (fun line -> line.StartsWith "teacher cache") |> List.ofSeq

                    Must.equal 2 cache.Length
                    Must.startWith $"teacher cache: 100.0 %% of {lessons} lessons" cache[1]
                )
            )
    ]
