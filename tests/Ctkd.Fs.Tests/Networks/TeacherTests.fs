/// Teachers in another view of the images and classes, and several at once.
module Ctkd.Fs.Tests.TeacherTests

open System.IO
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Child
open Ctkd.Fs.Tests.Folders

let private random (seed: int) (shape: int list) : Tensor =
    Tensor.ofFloats DType.Float32 shape (Rng.normals (List.fold (*) 1 shape) (Rng.ofSeed seed))

let private half = [ 0.5; 0.4; 0.3 ], [ 0.2; 0.25; 0.3 ]

/// A teacher of four classes that looks at pixels: its logits are linear in the image's means and its first pixel.
let private linear (seed: int) : LoadedModel =
    let weight = random seed [ 4; 3 ]

    Teacher.ofFunction
        $"linear{seed}"
        4
        (fun images ->
            Tensor.linear weight None (Tensor.meanOverImage images + Tensor.select 2 0 (Tensor.select 3 0 images))
        )

let private layered (seed: int) : LoadedModel =
    let model = Plans.tiny 6 4
    let weights = Model.declarations model |> Initialise.tree DType.Float32 Device.Cpu (Rng.ofSeed seed)
    Distil.teacher (model, weights)

let private outputs (teacher: LoadedModel) (images: Tensor) : Outputs =
    Autograd.noGrad (fun () -> Model.forward teacher.Model false teacher.Weights images)

let private logits (teacher: LoadedModel) (images: Tensor) : Tensor = (outputs teacher images).Logits

let private inView (view: TeacherView) (teacher: LoadedModel) : LoadedModel =
    Teacher.inView Device.Cpu half view teacher |> Error.orRaise

/// The weighted mean of the softmax of what is made of each teacher's logits.
let private meanOf (soften: Tensor -> Tensor) (shares: float list) (teachers: LoadedModel list) (images: Tensor) =
    List.map2 (fun share t -> soften (logits t images) |> Tensor.softmax 1 |> Tensor.scale share) shares teachers
    |> List.reduce Tensor.add

let private same (expected: Tensor) (actual: Tensor) : unit =
    Must.beClose 1e-5 1e-5 (Tensor.toFloats expected) (Tensor.toFloats actual)

/// A run of ten classes needs a teacher of ten.
let private settings = { Runs.small with Epochs = 1; Milestones = [] }

let tests =
    testList "Teacher" [
        test "a teacher with its own normalisation sees the pixels that the student's images stand for" {
            Tensor.scoped (fun () ->
                let pixels = Tensor.ofFloats DType.Float32 [ 5; 3; 8; 8 ] (Rng.uniforms 0.5 960 (Rng.ofSeed 3))
                let constant (values: float list) = Tensor.ofFloats DType.Float32 [ 1; 3; 1; 1 ] (Array.ofList values)
                let by (mean, std) = (pixels - constant mean) / constant std
                let own = [ 0.1; 0.2; 0.7 ], [ 0.9; 0.5; 0.1 ]

                for teacher in [ linear 1; layered 1 ] do
                    let view = { TeacherView.direct with Mean = fst own; Std = snd own }
                    same (logits teacher (by own)) (logits (inView view teacher) (by half))

                    // One number stands for all channels.
                    let grey = { TeacherView.direct with Mean = [ 0.3 ]; Std = [ 0.6 ] }
                    let three x = [ x; x; x ]
                    same (logits teacher (by (three 0.3, three 0.6))) (logits (inView grey teacher) (by half))
            )
        }

        test "a teacher with its own image size sees resized images, and shows the maps of those" {
            Tensor.scoped (fun () ->
                let images = random 2 [ 5; 3; 8; 8 ]
                let view = { TeacherView.direct with Size = 12 }

                for teacher in [ linear 1; layered 1 ] do
                    same (logits teacher (Tensor.resizeImage 12 12 images)) (logits (inView view teacher) images)

                let teacher = inView view (layered 1)
                Must.equal [ [ 6; 6; 6 ] ] (Model.trace 8 8 teacher.Model |> Shapes.tapped)
                Must.equal [| 5L; 6L; 6L; 6L |] (Tensor.shape (outputs teacher images).Features.Head)
            )
        }

        test "resizing keeps constants and is antialiased: halving the size averages neighbours with a triangle" {
            Tensor.scoped (fun () ->
                let constant = Tensor.full DType.Float32 Device.Cpu 0.7 [| 1L; 3L; 9L; 7L |]
                same (Tensor.full DType.Float32 Device.Cpu 0.7 [| 1L; 3L; 4L; 5L |]) (Tensor.resizeImage 4 5 constant)
                let step = Tensor.ofFloats DType.Float32 [ 1; 1; 1; 8 ] [| 0.; 0.; 0.; 0.; 8.; 8.; 8.; 8. |]
                // Weights 1 3 3 1 over 8, of which the border has 3 3 1 over 7.
                Must.beClose 1e-6 1e-6 [| 0.; 1.; 7.; 8. |] (Tensor.resizeImage 1 4 step |> Tensor.toFloats)
            )
        }

        test "a class order maps outputs to classes, cuts a teacher to those named, and keeps its features" {
            Tensor.scoped (fun () ->
                let images = random 3 [ 5; 3; 8; 8 ]
                let view = { TeacherView.direct with Order = [ 3; 0; 2 ] }
                let index = Tensor.ofInt64s [ 3 ] [| 3L; 0L; 2L |]

                for teacher in [ linear 1; layered 1 ] do
                    let wrapped = inView view teacher
                    Must.equal 3 wrapped.Model.Classes
                    same (Tensor.indexSelect 1 index (logits teacher images)) (logits wrapped images)

                same (outputs (layered 1) images).Pooled (outputs (inView view (layered 1)) images).Pooled

                for order in [ [ 0; 4 ]; [ -1; 2 ] ] do
                    let error = Teacher.inView Device.Cpu half { view with Order = order } (linear 1) |> errorOf
                    Must.contain "from 0 to 3" error.What
            )
        }

        test "probabilities become logits whose softmax they are, and a model of layers has none" {
            Tensor.scoped (fun () ->
                let images = random 4 [ 5; 3; 8; 8 ]
                let teacher = linear 1
                let sure = Teacher.ofFunction "sure" 4 (logits teacher >> Tensor.scale 400.0 >> Tensor.softmax 1)
                let probabilities = Teacher.ofFunction "probabilities" 4 (logits teacher >> Tensor.softmax 1)
                let view = { TeacherView.direct with Output = TeacherOutput.Probabilities }

                same
                    (Tensor.softmax 1 (logits teacher images))
                    (Tensor.softmax 1 (logits (inView view probabilities) images))
                // Probabilities of 0 stay finite.
                Must.equal 1.0 (logits (inView view sure) images |> Tensor.isFinite |> Tensor.all |> Tensor.toFloat)

                Must.contain
                    "logits, not probabilities"
                    (Teacher.inView Device.Cpu half view (layered 1) |> errorOf).What
            )
        }

        test "names in a file and numbers give the class order, whatever their case" {
            inFolder (fun folder ->
                let path = Path.Combine(folder, "names.txt")

                let read (text: string) names =
                    File.WriteAllText(path, text)
                    TeacherView.orderOf path names

                Must.equal [ 2; 0 ] (read "A cat\nbird\nPickup_Truck\n" [ "pickup truck"; "a cat" ] |> Error.orRaise)
                Must.equal [ 1; 0 ] (TeacherView.orderOf "1,0" [] |> Error.orRaise)
                Must.equal [] (TeacherView.orderOf "" [ "a" ] |> Error.orRaise)

                for error, part in
                    [
                        read "a\nb" [ "a"; "c" ], "c"
                        read "a\na\nb" [ "a"; "b" ], "named twice"
                        read "a\nb" [], "no class names"
                        TeacherView.orderOf "away.txt" [ "a" ], "away.txt"
                        TeacherView.orderOf "1,b" [ "a" ], "no list of numbers"
                    ] do
                    Must.contain part (errorOf error).What
            )
        }

        test "the softmax of several teachers is the weighted mean of theirs, and no gradient reaches them" {
            Tensor.scoped (fun () ->
                let images = random 5 [ 5; 3; 8; 8 ]
                let teachers = [ linear 1; layered 2; linear 3 ]
                let joined = Teacher.average [ 1.0; 2.0; 5.0 ] teachers |> Error.orRaise
                let mean = meanOf id [ 0.125; 0.25; 0.625 ] teachers images
                same mean (logits joined images |> Tensor.softmax 1)
                Must.notHold (logits joined images).requires_grad
                let even = Teacher.average [] teachers |> Error.orRaise

                same
                    (Teacher.average [ 3.0; 3.0; 3.0 ] teachers |> Error.orRaise |> fun t -> logits t images)
                    (logits even images)
            )
        }

        test "the softened outputs of several teachers are averaged at every temperature, by whatever policy" {
            Tensor.scoped (fun () ->
                let teachers, shares = [ linear 1; layered 2; linear 3 ], [ 0.5; 0.2; 0.3 ]
                let joined = Teacher.average shares teachers |> Error.orRaise
                let images, student = random 5 [ 6; 3; 8; 8 ], random 6 [ 6; 4 ]
                let outputs = Model.forward joined.Model false joined.Weights images
                let mean (soften: Tensor -> Softening) = meanOf (fun z -> (soften z).Teacher) shares teachers images

                for t in [ 0.5; 1.0; 4.0; 21.0 ] do
                    let t = Tensor.scalar DType.Float32 Device.Cpu t
                    let soften z = Policy.shared t z student
                    let softened = SeveralTeachers.soften (Model.shares joined.Model) soften outputs
                    same (mean soften) (Tensor.softmax 1 softened.Teacher)
                    same (soften outputs.Logits).Student softened.Student

                // Standardised, and with a temperature for each instance.
                let policy = Standardise.policy (Dtkd.policy 4.0)

                let values = {
                    Strength = Tensor.scalar DType.Float32 Device.Cpu 0.0
                    T = Tensor.scalar DType.Float32 Device.Cpu 4.0
                }

                let soften = Policy.softening policy Tree.empty values outputs.Logits student
                let softened = SeveralTeachers.soften (Model.shares joined.Model) soften outputs
                same (mean soften) (Tensor.softmax 1 softened.Teacher)
                // The same teacher twice is that teacher, also for a policy that reads how large logits are.
                let twice = Teacher.average [ 1.0; 3.0 ] [ linear 1; linear 1 ] |> Error.orRaise
                let both = Model.forward twice.Model false twice.Weights images
                let single = logits (linear 1) images
                same single both.Logits
                let dtkd = Dtkd.policy 4.0
                let under teacher = Policy.softening dtkd Tree.empty values teacher student
                let one = under single single
                let two = SeveralTeachers.soften (Model.shares twice.Model) (under both.Logits) both
                same one.T two.T
                same one.Weight two.Weight
                same one.Student two.Student
                same (Tensor.softmax 1 one.Teacher) (Tensor.softmax 1 two.Teacher)
                // One teacher is itself.
                let one = logits teachers.Head images
                let alone = { outputs with Logits = one; Pooled = one }
                same (soften one).Teacher (SeveralTeachers.soften [] soften alone).Teacher
            )
        }

        test "several teachers in a view are the mean of each in it, at every temperature" {
            Tensor.scoped (fun () ->
                let softmax (t: LoadedModel) = Teacher.ofFunction t.Model.Name 4 (logits t >> Tensor.softmax 1)

                let teachers, shares = List.map (linear >> softmax) [ 1; 2; 3 ], [ 0.5; 0.2; 0.3 ]
                let images, student = random 5 [ 6; 3; 8; 8 ], random 6 [ 6; 3 ]

                let view = {
                    TeacherView.direct with
                        Order = [ 3; 0; 2 ]
                        Size = 12
                        Output = TeacherOutput.Probabilities
                }

                let joined = Teacher.average shares teachers |> Error.orRaise |> inView view
                let each = teachers |> List.map (fun t -> logits (inView view t) images)
                let shown = outputs joined images
                same (SeveralTeachers.logits shares each) shown.Logits
                let soften z = Policy.shared (Tensor.scalar DType.Float32 Device.Cpu 4.0) z student
                let expected = each |> List.map (fun z -> (soften z).Teacher) |> SeveralTeachers.mean shares
                same expected (SeveralTeachers.soften (Model.shares joined.Model) soften shown).Teacher
            )
        }

        test "a student of several teachers steps as one of their mean" {
            Tensor.scoped (fun () ->
                let teachers = [ linear 1; layered 2 ]
                let joined = Teacher.average [] teachers |> Error.orRaise

                let step (teacher: LoadedModel) =
                    let plan = Plans.taught (Scheduled.fixedAt 1.0) Plans.alone

                    let plan = {
                        plan with
                            Distillation =
                                plan.Distillation
                                |> Option.map (fun d -> { d with Model = teacher.Model; Weights = teacher.Weights })
                    }

                    let batch = Augment.plain 0 8 (Plans.upload 8 plan)
                    (Plans.step plan (EpochValues.create plan 1) (TrainState.start plan) batch).Student

                let mean images = meanOf id [ 0.5; 0.5 ] teachers images |> Tensor.log

                let expected = step (Teacher.ofFunction "mean" 4 mean)

                for name, x in Tree.toList (step joined) do
                    same (Tree.find name expected) x
            )
        }

        test "teachers of different classes, and weights that do not count them, are refused" {
            let refused shares teachers = (Teacher.average shares teachers |> errorOf).What
            let other = Teacher.ofFunction "other" 5 id
            Must.contain "linear1 4, other 5" (refused [] [ linear 1; other ])
            Must.contain "2 teachers and 1 weights" (refused [ 1.0 ] [ linear 1; linear 2 ])
            Must.contain "1 teachers" (refused [] [ linear 1 ])
        }

        test "views and files are in a teacher's hash, and a program's own code has none" {
            let hash (teacher: LoadedModel) = LoadedModel.identity teacher
            let view = { TeacherView.direct with Size = 12 }
            Must.equal None (hash (linear 1))
            Must.equal None (hash (inView view (linear 1)))
            let plain, resized = hash (layered 1), hash (inView view (layered 1))
            Must.hold (plain.IsSome && resized.IsSome)
            Must.differ plain resized
            Must.differ resized (hash (inView { view with Size = 14 } (layered 1)))
            Must.differ resized (hash (inView view (layered 2)))
            let mean shares = Teacher.average shares [ layered 1; layered 2 ] |> Error.orRaise |> hash
            Must.equal (mean [ 1.0; 1.0 ]) (mean [])
            Must.differ (mean []) (mean [ 1.0; 2.0 ])
            Must.equal None (Teacher.average [] [ layered 1; linear 1 ] |> Error.orRaise |> hash)
        }

        test "the command takes several teachers, with weights and a cache, and resumes them" {
            inFolder (fun folder ->
                let teacher = Runs.teacher.Value
                let other = Path.Combine(folder, "other.safetensors")
                File.Copy(teacher, other)
                let small = "--student resnet8 --subset 50 --batch 16 --epochs 2 --policy fixed"
                let both = $"distill --teacher {teacher} {other} {small}"
                let ended = expect 0 folder $"{both} --teacher-weights 3 1 --teacher-cache cache --out both"
                Must.contain "the mean of resnet8 and resnet8" ended.Out
                Must.contain "all 2 epochs are done" (expect 0 folder "distill --resume both").Out
                expect 0 folder $"{both} --teacher-weights 3 1 --teacher-cache cache --out again" |> ignore
                let last run = Runs.contents (Path.Combine(folder, run, "last.safetensors")) |> snd
                Must.equal (last "both") (last "again")
                Must.contain "one number for each teacher" (expect 2 folder $"{both} --teacher-weights 1 --out x").Err

                Must.contain
                    "of several teachers each is a file"
                    (expect 2 folder $"distill --teacher resnet8 {other} --out x").Err
            )
        }

        test "a run's settings say how its teacher sees, and checkpoints of earlier versions mean the data's view" {
            inFolder (fun folder ->
                let run = Path.Combine(folder, "run")

                let seen = {
                    settings with
                        Settings.Teaching.Size = 12
                        Settings.Teaching.Classes = "9,8,7,6,5,4,3,2,1,0"
                }

                Run.start Hooks.none run (Runs.taught "fixed" seen) |> Error.orRaise |> ignore
                let info = (Checkpoint.read (Path.Combine(run, "last.safetensors")) |> Error.orRaise).Info
                Must.equal seen.Teaching info.Settings.Teaching
                let text = Json.write info
                let node = System.Text.Json.Nodes.JsonNode.Parse text |> nonNull
                Must.hold ((nonNull node["settings"]).AsObject().Remove "teaching")
                let old = SettingsTable.readHolder<CheckpointInfo> "" (node.ToJsonString()) |> Error.orRaise
                Must.equal Settings.defaults.Teaching old.Settings.Teaching
            )
        }
    ]
