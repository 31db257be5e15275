/// Runs with values of the program's own in place of names.
module Ctkd.Fs.Tests.DistilTests

open System.IO
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Child
open Ctkd.Fs.Tests.Folders

let private byConfidence: Policy = {
    Scheduled.fixedAt 4.0 with
        Name = "by-confidence"
        Soften =
            fun _ teacher student ->
                let confidence = Tensor.softmax -1 teacher |> Tensor.maxOver -1
                Policy.shared (Tensor.scale 4.0 confidence |> Tensor.addNumber 2.0) teacher student
}

/// The mean squared difference of the logits.
let private logits: Distiller =
    Distiller.simple
        "logits"
        (fun input ->
            let difference = input.Student.Logits - input.Teacher.Logits
            Tensor.mean (difference * difference)
        )

/// 60 grey images of 16 x 16 pixels: vertical and horizontal stripes.
let private stripes () : Splits =
    let stripe (i: int) (pixel: int) =
        let position = if i % 2 = 0 then pixel % 16 else pixel / 16
        if (position + i / 2) % 4 < 2 then 200uy else 50uy

    OwnSet.ofArrays
        "stripes"
        16
        16
        (Array.init 60 (fun i -> Array.init 256 (stripe i)))
        (Array.init 60 (fun i -> i % 2))
    |> Error.orRaise

let private model: Model =
    Sequence [ Layer.convWithBias "conv" 3 2 3 8; Relu; Tap; GlobalPool ]
    |> fun body -> Model.ofLayers "mine" Starts.kaiming body (Layer.dense "fc" 8 2)

let private quiet: Experiment = { Distil.defaults with Hooks = Hooks.none; Settings = Runs.small }

/// The teacher's own policy and loss.
let private own () : Experiment = {
    quiet with
        Teacher = Some(Distil.load Runs.teacher.Value)
        Policy = Some byConfidence
        Distillers = Some [ 0.9, Kd.distiller; 0.1, logits ]
}

/// Every value of an experiment that its settings cannot name.
let private ownAll () : Experiment = {
    quiet with
        Settings = { Runs.small with Subset = 0 }
        Student = Some model
        Data = Some(stripes ())
        Teacher =
            Some(
                Distil.teacher (
                    model,
                    Model.declarations model |> Initialise.tree DType.Float32 Device.Cpu (Rng.ofSeed 5)
                )
            )
        Policy = Some byConfidence
}

let private tensors (folder: string) : (string * string) list =
    let checkpoint = Checkpoint.read (Path.Combine(folder, "last.safetensors")) |> Error.orRaise
    checkpoint.Tensors |> List.map (fun t -> t.Name, System.Convert.ToHexString t.Bytes.Span)

let tests =
    testList "Distil" [
        test "of a file with a teacher and a student a program is told which it gets, and gets the teacher by its role" {
            inFolder (fun folder ->
                let student = Checkpoint.read Runs.teacher.Value |> Error.orRaise |> Checkpoint.studentTensors

                let teacher =
                    student
                    |> List.map (fun t -> {
                        t with
                            Bytes = System.ReadOnlyMemory(Array.zeroCreate<byte> t.Bytes.Length)
                    })

                let path = Path.Combine(folder, "both.pth")
                File.WriteAllBytes(path, TorchPickles.networks [ "student", student; "teacher", teacher ] [])
                let notes = ResizeArray<string>()

                let isZero (loaded: LoadedModel) =
                    Tree.toList loaded.Weights
                    |> List.forall (fun (_, x) -> Tensor.toFloats x |> Array.forall ((=) 0.0))

                Must.notHold (isZero (Distil.loadAs WeightsRole.Any notes.Add path))
                Must.contain "weights taken under 'student'" (Must.single notes)
                Must.contain "both.pth#teacher" notes[0]
                Must.hold (isZero (Distil.loadAs WeightsRole.Teacher notes.Add path))
                Must.contain "weights taken under 'teacher'" notes[1]
                LoadedModel.load notes.Add Device.Cpu None path |> Error.orRaise |> ignore
                Must.equal notes[0] notes[2]
                let was, err = System.Console.Error, new StringWriter()

                try
                    System.Console.SetError err
                    Distil.load path |> ignore
                finally
                    System.Console.SetError was

                Must.contain $"both.pth: {notes[0]}" (string err)
            )
        }

        test "a policy and a distiller of the program's own train, and the report and the checkpoint name them" {
            inFolder (fun folder ->
                let summary = Distil.run (Runs.run folder) (own ())
                let last = List.last summary.Epochs
                Must.equal [ "ce"; "kd"; "logits" ] (List.ofSeq last.Terms.Keys)
                // T = 2 + 4 max p lies between 2.4 and 6 for ten classes.
                Must.lie 2.4 6.0 last.SmallestT.Value
                Must.lie last.SmallestT.Value 6.0 last.LargestT.Value
                let info = (Checkpoint.read summary.Checkpoint |> Error.orRaise).Info
                Must.equal (PolicyName.Own "by-confidence") info.Settings.Policy
                Must.equal (Map [ "kd (own)", 0.9; "logits", 0.1 ]) info.Settings.Methods
                Must.contain "by-confidence" (File.ReadAllText(Path.Combine(summary.Folder, "report.html")))
            )
        }

        test "a run with values of the program's own resumes to the bit with the same values" {
            for experiment in [ own (); ownAll () ] do
                inFolder (fun folder ->
                    let whole, cut = Path.Combine(folder, "whole"), Path.Combine(folder, "cut")
                    Distil.run whole experiment |> ignore
                    let stopped = Distil.run cut { experiment with Hooks = Runs.stopAfter 3 }
                    Must.equal Interrupted stopped.Ending
                    Must.equal Finished (Distil.resume cut experiment).Ending
                    Must.equal (tensors whole) (tensors cut)
                )
        }

        test "with other values than it began with a run is not resumed" {
            inFolder (fun folder ->
                let run = Path.Combine(folder, "run")
                Distil.run run { own () with Hooks = Runs.stopAfter 1 } |> ignore

                let refused experiment =
                    (Must.throw<CtkdException>(fun () -> Distil.resume run experiment |> ignore)).Message

                Must.contain
                    "policy differ"
                    (refused { own () with Policy = Some { byConfidence with Name = "other" } })

                let heavier = Some [ 0.8, Kd.distiller; 0.1, logits ]
                Must.contain "methods differ" (refused { own () with Distillers = heavier })
                Must.contain "the teacher 'resnet8'" (refused { own () with Teacher = None })
            )
        }

        test "eval knows the student of a run with values of the program's own" {
            inFolder (fun folder ->
                let summary = Distil.run (Runs.run folder) (own ())
                Must.contain "resnet8" (expect 0 folder $"eval --weights {summary.Folder}").Out
                let settings = { Runs.small with Subset = 0 }
                let strange = { quiet with Data = Some(stripes ()); Settings = settings }
                let strange = Distil.run (Path.Combine(folder, "strange")) strange
                Must.contain "'stripes'" (expect 2 folder $"eval --weights {strange.Folder}").Err
            )
        }

        test "a teacher that is known by its code alone has no cache" {
            inFolder (fun folder ->
                let forward (images: Tensor) = Tensor.flatten 1 images |> Tensor.slice 1 0 10
                let teacher = Model.ofLogits "mine" 10 forward |> Distil.teacher
                let cached = { Runs.small with TeacherCache = Path.Combine(folder, "cache") }

                let run () =
                    Distil.run (Runs.run folder) { quiet with Teacher = Some teacher; Settings = cached } |> ignore

                Must.contain "code of a program's own" (Must.throw<CtkdException> run).Message
            )
        }

        test "without its values a run is not resumed: the error names them and what to do" {
            inFolder (fun folder ->
                let run = Path.Combine(folder, "run")
                Distil.run run { ownAll () with Hooks = Runs.stopAfter 1 } |> ignore
                let ended = expect 1 folder $"distill --resume {run}"

                for name in
                    [
                        "student 'mine'"
                        "teacher 'mine'"
                        "data set 'stripes'"
                        "policy 'by-confidence'"
                        "Distil.resume"
                    ] do
                    Must.contain name ended.Err
            )
        }

        test "a model for another number of classes, or too few images for the batch, is refused" {
            inFolder (fun folder ->
                let refused experiment =
                    (Must.throw<CtkdException>(fun () -> Distil.run (Runs.run folder) experiment |> ignore)).Message

                Must.contain "mine knows 2 classes, the data set has 10" (refused { quiet with Student = Some model })

                Must.contain
                    "only 54 training images"
                    (refused {
                        quiet with
                            Data = Some(stripes ())
                            Settings = { Runs.small with Subset = 0; Batch = 64 }
                    })
            )
        }

        test "values without effect and two distillers of one name are refused" {
            inFolder (fun folder ->
                let refused experiment =
                    (Must.throw<CtkdException>(fun () -> Distil.run (Runs.run folder) experiment |> ignore)).Message

                Must.contain "no effect without a teacher" (refused { quiet with Policy = Some byConfidence })
                Must.contain "no effect without a teacher" (refused { quiet with Distillers = Some [ 1.0, logits ] })
                let twice = Some [ 1.0, logits; 2.0, logits ]
                Must.contain "different names" (refused { own () with Distillers = twice })
                Must.contain "one at least" (refused { own () with Distillers = Some [] })
            )
        }

        test "arrays that are no set of images are refused with what is wrong" {
            let wrong images labels = (errorOf (OwnSet.ofArrays "x" 4 4 images labels)).What
            Must.contain "at least 2" (wrong [||] [||])
            Must.contain "3 images and 2 labels" (wrong (Array.create 3 (Array.zeroCreate 16)) [| 0; 1 |])

            Must.contain
                "image 1 (from 0) has 15 bytes"
                (wrong [| Array.zeroCreate 16; Array.zeroCreate 15 |] [| 0; 1 |])

            Must.contain "allowed are" (wrong (Array.create 12 (Array.create 16 1uy)) (Array.init 12 (fun i -> i - 1)))

            Must.contain "all pixels" (wrong (Array.create 12 (Array.create 16 1uy)) (Array.init 12 (fun i -> i % 2)))
        }

        test "a fresh folder is the first that is not used" {
            inFolder (fun folder ->
                let path = Path.Combine(folder, "a")
                Must.equal path (Distil.fresh path)
                Directory.CreateDirectory path |> ignore
                Directory.CreateDirectory(path + "-2") |> ignore
                Must.equal (path + "-3") (Distil.fresh path)
            )
        }
    ]
