/// Every distiller under every policy, as a course trains them.
module Ctkd.Fs.Tests.TrainDistillerTests

open Ctkd.Fs
open Ctkd.Fs.Tests.Courses
open Xunit

let private teacher, student = Lessons.threeMaps (3, 4, 6) 4, Lessons.threeMaps (2, 3, 4) 4
let private curriculum = Schedule.curriculum 2
let private images = 130

let private everyPolicy: Policy list =
    let learned = [
        Temperature.ctkdGlobal Temperature.published curriculum
        Temperature.ctkdInstance Temperature.published 8 curriculum
    ]

    let plain = [
        Temperature.fixedAt 4.0
        Temperature.scheduled (Schedule.linear 8.0 1.0 2)
        Temperature.dtkd 4.0
    ]

    plain @ learned @ List.map Temperature.standardised (plain.Head :: learned)

/// Every distiller, and sums of them, for batches of at most the given size.
let private everyDistiller (smallest: int) : Result<Distiller, Error> list =
    let pairing = {
        Pairing.create 8 8 (Array.init images (fun i -> i % 4)) 1 teacher student with
            SmallestBatch = smallest
    }

    let crd = Crd.distiller { Crd.published with Width = 8; Negatives = 20 } pairing
    let sum weights parts = parts |> List.map Error.orRaise |> List.zip weights |> Distiller.sum |> Ok

    [
        for name in List.except [ "crd" ] Distiller.names -> Distiller.find name pairing |> Result.map snd
        yield crd
        yield sum [ 0.8; 0.9 ] [ crd; Ok Distiller.kd ]
        yield sum [ 1.0; 1000.0 ] [ Dkd.distiller 1.0 2.0 pairing; At.distiller pairing ]
        yield sum [ 3.0; 1.0 ] [ Ok Distiller.kd; Ok(Distiller.at 4.0 Distiller.kd) ]
    ]

let private course (policy: Policy) (distiller: Distiller) : Course = {
    alone with
        Student = student
        CrossEntropy = Schedule.constant 1.0
        LearningRate = Schedule.constant 1e-3
        Teaching =
            Some {
                Model = teacher
                Weights = teacherWeights DType.Float32 teacher
                Policy = policy
                Distillers = [ Schedule.constant 1.0, distiller ]
            }
}

let private finite (what: string) (tree: Tree) : unit =
    for name, x in Tree.toList tree do
        if not (Array.forall System.Double.IsFinite (Tensor.toFloats x)) then
            Assert.Fail $"{what}: {name} is not finite"

let private made (name: string) : Distiller =
    everyDistiller 2 |> List.map Error.orRaise |> List.find (fun d -> d.Name = name)

[<Fact>]
let ``every distiller under every policy trains two steps with finite gradients at every batch size`` () =
    for batch in [ 1; 2; 7; 64 ] do
        Tensor.scoped (fun () ->
            let set = upload images { alone with Student = student }

            for policy in everyPolicy do
                for distiller in everyDistiller batch do
                    match distiller with
                    | Result.Error error -> Assert.Equal((1, Usage), (batch, error.Kind))
                    | Ok distiller ->
                        Tensor.scoped (fun () ->
                            let what = $"{distiller.Name} under {policy.Name}, {batch} images"
                            let course = { course policy distiller with Batch = batch }
                            let dials = Train.dials course 1
                            let images i = Augment.plain (i * batch) ((i + 1) * batch) set
                            let first = Train.step course dials (Train.start course) (images 0)
                            let second = Train.step course dials first (images 1)
                            // A velocity is a sum of gradients: one that is not finite stays.
                            finite what second.Velocity
                            finite what second.Trained
                            Assert.Equal(None, Tally.broken second.Tally)
                        )
        )

[<Fact>]
let ``only RKD and SRRL need two images, and say so before training and in it`` () =
    let refused =
        everyDistiller 1
        |> List.choose (
            function
            | Result.Error e -> Some e.What
            | Ok _ -> None
        )

    Assert.Equal(2, refused.Length)
    Assert.All(refused, fun what -> Assert.Contains("at least 2 images", what))

    Tensor.scoped (fun () ->
        let course = course everyPolicy.Head (made "rkd")
        let set = upload images course
        let step () = Train.step course (Train.dials course 1) (Train.start course) (Augment.plain 0 1 set)
        Assert.Throws<System.ArgumentException>(fun () -> step () |> ignore) |> ignore
    )

[<Fact>]
let ``connectors are trained with the student, and no part of it`` () =
    for name in [ "vid"; "crd"; "srrl"; "fitnet" ] do
        Tensor.scoped (fun () ->
            let course = course everyPolicy.Head (made name)
            let start = Train.start course
            let before = Tree.copy start.Connectors
            let after = Train.step course (Train.dials course 1) start (Augment.plain 0 8 (upload 8 course))

            let trained =
                (made name).Declares |> List.filter _.Trained |> List.map (fun d -> $"{name}/{d.Name}")

            for connector in trained do
                let values = Tree.find connector >> Tensor.toFloats
                Assert.True(values before <> values after.Connectors, connector)
                Assert.Contains($"connectors/{connector}", Tree.names after.Trained)

            Assert.Equal(
                trained.Length,
                Tree.names after.Trained |> List.filter (fun n -> n.StartsWith "connectors/") |> List.length
            )

            Assert.Equal<string list>(
                Model.declarations student |> List.map _.Name,
                Tree.names after.Student
            )
        )

[<Fact>]
let ``the running statistics and counters of connectors advance`` () =
    Tensor.scoped (fun () ->
        let course = course everyPolicy.Head (made "srrl")

        let after =
            Train.step
                course
                (Train.dials course 1)
                (Train.start course)
                (Augment.plain 0 8 (upload 8 course))

        let value name = Tree.find $"srrl/bn.{name}" after.Connectors |> Tensor.toFloats
        Assert.Equal<float[]>([| 1.0 |], value "num_batches_tracked")
        Assert.NotEqual<float[]>(Array.zeroCreate 6, value "running_mean")
    )

[<Fact>]
let ``a run with CRD's memories that is resumed in its epoch goes on to the bit`` () =
    Tensor.scoped (fun () ->
        let distiller = Distiller.sum [ 0.8, made "crd"; 1.0, made "srrl"; 0.9, Distiller.kd ]
        let course = course (Temperature.ctkdInstance Temperature.published 8 curriculum) distiller
        let set = upload 40 course
        let whole = Train.start course |> complete course set

        let stopped =
            match Train.epoch course 100 (fun state _ -> state.Step = 2) set (Train.start course) with
            | Train.Stopped state -> state
            | other -> failwith $"{other}"

        let resumed = Train.ofTree course 1 stopped.Step stopped.Best (Tree.copy (Train.toTree stopped))
        Expect.sameTree (Train.toTree whole) (resumed |> complete course set |> Train.toTree)
    )

[<Fact>]
let ``a checkpoint holds connectors and memories, and the student of a checkpoint has neither`` () =
    Folders.inFolder (fun folder ->
        Tensor.scoped (fun () ->
            let distiller = Distiller.sum [ 0.8, made "crd"; 1.0, made "fitnet"; 1.0, made "vid" ]
            let course = course everyPolicy.Head distiller
            let batch = Augment.plain 0 8 (upload 8 course)
            let state = Train.step course (Train.dials course 1) (Train.start course) batch
            let path = System.IO.Path.Combine(folder, "c.safetensors")

            let info: CheckpointInfo = {
                Settings = Settings.defaults
                Classes = 4
                Images = { Height = 8; Width = 8; Mean = [ 0.5 ]; Std = [ 0.25 ] }
                DataHash = ""
                Epoch = 1
                Step = 1
                Best = state.Best
                Top1 = 0.0
                MetricLines = 0
                TeacherHash = ""
            }

            Checkpoint.write path info state |> Error.orRaise
            let checkpoint = Checkpoint.read path |> Error.orRaise
            let restored = Checkpoint.restore course checkpoint |> Error.orRaise
            Expect.sameTree (Train.toTree state) (Train.toTree restored)
            Assert.Contains("crd+fitnet+vid/crd/memory_student", Tree.names restored.Connectors)
            let deployed = Checkpoint.student student DType.Float32 Device.Cpu checkpoint |> Error.orRaise
            Expect.sameTree state.Student deployed
        )
    )

[<Fact>]
let ``CRD draws other negatives in every step and the same in every run`` () =
    Tensor.scoped (fun () ->
        let course = course everyPolicy.Head (made "crd")
        let set = upload 16 course
        let dials, batch = Train.dials course 1, Augment.plain 0 8 set

        let key epoch step =
            let losses =
                Train.losses course dials { Train.start course with Epoch = epoch; Step = step } batch

            Tensor.toFloat losses.Lesson.Value.Key

        let keys = [
            for epoch in 1..3 do
                for step in 0..3 -> key epoch step
        ]

        Assert.Equal(12, (List.distinct keys).Length)
        Assert.Equal(keys.Head, key 1 0)
    )

[<Fact>]
let ``losses are float32 under bfloat16, whatever they look at`` () =
    for distiller in everyDistiller 8 |> List.map Error.orRaise do
        Tensor.scoped (fun () ->
            let course = { course everyPolicy.Head distiller with Precision = Bf16 }
            let set = upload 8 course

            let losses =
                Train.losses course (Train.dials course 1) (Train.start course) (Augment.plain 0 8 set)

            for name, loss in losses.Terms do
                Assert.Equal((name, DType.Float32), (name, Tensor.dtype loss))
                Assert.True(System.Double.IsFinite(Tensor.toFloat loss), name)
        )

[<Fact>]
let ``losses do not depend on the memory format`` () =
    for distiller in everyDistiller 8 |> List.map Error.orRaise do
        Tensor.scoped (fun () ->
            let loss channelsLast =
                let course = { course everyPolicy.Head distiller with ChannelsLast = channelsLast }
                let set = upload 8 course

                (Train.losses course (Train.dials course 1) (Train.start course) (Augment.plain 0 8 set))
                    .Total
                |> Tensor.toFloat

            Expect.near 1e-4 1e-6 (loss false) (loss true)
        )

[<Fact>]
let ``a course with every distiller leaves no tensors behind a step`` () =
    Tensor.scoped (fun () ->
        let distiller =
            everyDistiller 8
            |> List.map Error.orRaise
            |> List.take 11
            |> List.map (fun d -> 1.0, d)
            |> Distiller.sum

        let course = course everyPolicy.Head distiller
        let set = upload 16 course
        let dials, batch = Train.dials course 1, Augment.plain 0 8 set
        let first = Train.step course dials (Train.start course) batch
        let held = Tensor.live ()
        Train.step course dials first batch |> ignore
        Assert.Equal(held, Tensor.live ())
    )
