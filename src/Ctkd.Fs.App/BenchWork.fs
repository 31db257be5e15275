/// Our side of `ctkd bench`: a server that does the same work as bench/torch_step.py, one line a command.
module Ctkd.Fs.App.BenchWork

open System
open System.Diagnostics
open System.IO
open Ctkd.Fs

/// Images a batch.
let batch = 64

let private classes, images, size, pad = 100, 4096, 32, 4
let private studentName, teacherName = "resnet20", "resnet56"

/// What can be timed: the whole step; the whole step when the teacher's features are remembered; the teacher's forward
/// pass; the student's forward pass, backward pass and optimiser; the making of batches.
let parts = [ "step"; "remembered"; "teacher"; "student"; "data" ]

/// The part of torch_step.py that does the same work.
let twin (part: string) : string = if part = "remembered" then "step" else part

/// Multiply-accumulates of a model for an image.
let private macs (name: string) : float =
    let model = Zoo.find name classes |> Error.orRaise
    float (Macs.ofLayer [ 3; size; size ] (Model.layers model)).Total

/// Floating-point operations of a part for an image: two a multiply-accumulate, and a backward pass is twice its forward
/// pass. The making of batches has none worth counting.
let operations (part: string) : float option =
    let teacher, student = 2.0 * macs teacherName, 6.0 * macs studentName

    match part with
    | "step" -> Some(teacher + student)
    | "teacher" -> Some teacher
    | "remembered"
    | "student" -> Some student
    | _ -> None

/// The work of torch_step.py: CTKD's global temperature, random weights.
let private course (precision: Precision) : Course =
    let model name = Zoo.find name classes |> Error.orRaise
    let teacher = model teacherName

    let course = {
        Student = model studentName
        Teaching = None
        CrossEntropy = Schedule.constant 0.1
        LearningRate = Schedule.constant 0.05
        Sgd = Sgd.defaults
        DecayTemperature = true
        Epochs = 1
        Batch = batch
        TrainImages = images
        Seed = 1
        Pad = pad
        Flip = true
        Precision = precision
        ChannelsLast = true
        Device = Engine.device "cpu" |> Error.orRaise
    }

    let teaching = {
        Model = teacher
        Weights = Model.declarations teacher |> Initialise.tree DType.Float32 course.Device (Rng.ofSeed 2)
        Policy = Temperature.ctkdGlobal Temperature.published (Schedule.constant 0.5)
        Distillers = [ Schedule.constant 0.9, Distiller.kd ]
    }

    Course.prepareTeacher { course with Teaching = Some teaching }

let private randomSet () : ImageSet =
    let random = Random 3
    let pixels = Array.zeroCreate<byte>(images * 3 * size * size)
    random.NextBytes pixels

    {
        Name = "random"
        Classes = classes
        Channels = 3
        Height = size
        Width = size
        Images = pixels
        Labels = Array.init images (fun _ -> random.Next classes)
    }

let private upload (course: Course) : DeviceSet =
    randomSet ()
    |> Augment.upload DType.Float32 course.Device [ 0.5071; 0.4867; 0.4408 ] [ 0.2675; 0.2565; 0.2761 ]

/// Runs a body on the next batch of one epoch after the other. Only the batch lives in the body's scope.
let private onNext (course: Course) (set: DeviceSet) : (Batch -> unit) -> unit =
    let fresh epoch = Augment.plan (Rng.ofSeed course.Seed) epoch pad true set
    let mutable plan = fresh 0
    let mutable at, epoch = 0, 0

    fun body ->
        if at = images then
            at <- 0
            epoch <- epoch + 1
            Augment.free plan
            plan <- fresh epoch

        at <- at + batch
        Tensor.scoped (fun () -> Augment.batch pad plan (at - batch) at set |> body)

/// A function that trains a batch; its state goes from call to call.
let private learner (course: Course) : Batch -> unit =
    let dials = Train.dials course 1
    let mutable state = Train.start course
    fun batch -> state <- Train.step course dials state batch

/// Steps over one epoch again and again, whose features are all remembered after the first time.
let private rememberer (course: Course) (set: DeviceSet) : unit -> unit =
    let folder = Directory.CreateTempSubdirectory "ctkd-bench-"
    AppDomain.CurrentDomain.ProcessExit.Add(fun _ -> folder.Delete true)
    let width = course.Teaching.Value.Model.Classifier.In
    let cache = TeacherCache.openFile folder.FullName "bench" width 1_000_000_000L Exact |> Error.orRaise
    let plan = Augment.plan (Rng.ofSeed course.Seed) 0 pad true set
    let teaching = Teach.epoch { Teach.simple with Cache = Some cache } course plan set
    let dials = Train.dials course 1
    let mutable state = Train.start course
    let mutable at = 0

    for start in 0..batch .. images - batch do
        teaching.Prepare start (start + batch)

    fun () ->
        teaching.Prepare at (at + batch)
        state <- Tensor.scoped (fun () -> teaching.Take at (at + batch) |> Train.stepOf course dials state)
        at <- (at + batch) % images

/// What each part does once.
let private works (precision: Precision) : Map<string, unit -> unit> =
    let course = course precision
    let teaching = Option.get course.Teaching
    let set = upload course
    let onNext = onNext course set
    let one = Augment.batch pad (Augment.plan (Rng.ofSeed 1) 0 pad true set) 0 batch set
    let step, student = learner course, learner { course with Teaching = None }
    let inScope (work: unit -> unit) () = Tensor.scoped work

    let teach () =
        Autograd.noGrad (fun () -> Course.forward course teaching.Model false teaching.Weights one.Images)
        |> ignore

    Map [
        "step", (fun () -> onNext step)
        "remembered", rememberer course set
        "teacher", inScope teach
        "student", inScope (fun () -> student one)
        "data", (fun () -> onNext ignore)
    ]

let private seconds (work: unit -> unit) : float =
    let start = Stopwatch.GetTimestamp()
    work ()
    Stopwatch.GetElapsedTime(start).TotalSeconds

/// The median of some values.
let median (values: float[]) : float =
    let sorted = Array.sort values
    (sorted[(sorted.Length - 1) / 2] + sorted[sorted.Length / 2]) / 2.0

/// The best of several timings: a ceiling is what the machine can do undisturbed.
let private best (work: unit -> unit) : float =
    Array.init 12 (fun _ -> seconds (fun () -> Tensor.scoped work)) |> Array.min

/// Operations a second of a large convolution: 128 channels, 3 x 3, on 64 maps of 28 x 28.
let private convolutions (precision: Precision) : float =
    Tensor.scoped (fun () ->
        let channels, maps, side = 128, 64, 28
        let course = course precision

        let random shape =
            Tensor.ofFloats DType.Float32 shape (Rng.uniforms 1.0 (List.fold (*) 1 shape) (Rng.ofSeed 1))
            |> Tensor.channelsLast

        let x, weight = random [ maps; channels; side; side ], random [ channels; channels; 3; 3 ]

        let model: Model = {
            Name = "ceiling"
            Classes = 2
            Body = Layer.conv "conv" 3 1 channels channels
            Classifier = Layer.dense "fc" channels 2
            Dropout = 0.0
            Starts = Starts.pyTorch
        }

        let weights = Tree.ofSeq [ "conv.weight", weight ]

        let work () =
            Autograd.noGrad (fun () ->
                Course.precisely course (fun () -> Layer.forward weights false (ResizeArray()) model.Body x)
            )
            |> ignore

        2.0 * float (maps * side * side) * float (channels * channels * 9) / best work
    )

/// Bytes a second of a copy of 256 MiB, each read and written once.
let private copies () : float =
    Tensor.scoped (fun () ->
        let bytes = 256 <<< 20
        let source = Tensor.zeros DType.UInt8 Device.Cpu [| int64 bytes |]
        let target = Tensor.clone source
        2.0 * float bytes / best (fun () -> Tensor.copyInto target source)
    )

/// Microseconds of one call of the engine: an addition of two tensors of one element.
let private callCost () : float =
    let calls = 10_000
    use x = Tensor.scalar DType.Float32 Device.Cpu 1.0

    let add () =
        for _ in 1..calls do
            use _ = Tensor.add x x
            ()

    Array.init 30 (fun _ -> seconds add / float calls * 1e6) |> Array.skip 15 |> median

/// Peak resident memory of this process in MiB.
let private peak () : float =
    File.ReadLines "/proc/self/status"
    |> Seq.pick (fun line ->
        match line.Split([| ' '; '\t' |], StringSplitOptions.RemoveEmptyEntries) with
        | [| "VmHWM:"; kilobytes; _ |] -> Some(float kilobytes / 1024.0)
        | _ -> None
    )

/// Answers commands on the standard input: those of torch_step.py, and `cost`, `convolutions` and `copies`.
let serve (precision: Precision) : int =
    let works = works precision

    let answer (command: string) : string =
        match command.Split ' ' with
        | [| "run"; part; count |] ->
            let work, count = works[part], int count

            seconds (fun () ->
                for _ in 1..count do
                    work ()
            )
            |> string
        | [| "memory" |] -> peak () |> string
        | [| "cost" |] -> callCost () |> string
        | [| "convolutions" |] -> convolutions precision |> string
        | [| "copies" |] -> copies () |> string
        | [| "version" |] -> $"libtorch {Engine.version ()}, {Engine.threads ()} threads"
        | _ -> raise (NotSupportedException command)

    let rec go () =
        match Console.In.ReadLine() with
        | null
        | "quit" -> 0
        | command ->
            Console.Out.WriteLine(answer command)
            go ()

    go ()
