// What RLKD's agent costs a training step. Run with: dotnet fsi scripts/04-rlkd-cost.fsx [PAIRS [STEPS [PRECISION]]]
//
// resnet56 teaches resnet20 on random images of 32 x 32 in batches of 64. In alternation: steps of plain KD, of an agent
// that chooses, and of one that learns too (and, before it, of the agent alone, without a student). Each pair of
// measurements gives a difference; printed are medians over the pairs. OMP_NUM_THREADS sets the threads.
#load "_load.fsx"

open System
open System.Diagnostics
open Ctkd.Fs

let argument index fallback parse =
    fsi.CommandLineArgs |> Array.tryItem index |> Option.map parse |> Option.defaultValue fallback

let pairs, steps = argument 1 15 int, argument 2 8 int
let precision = if argument 3 "f32" id = "bf16" then Bf16 else F32
let batch, classes, images = 64, 100, 640
let model name = Zoo.find name classes |> Error.orRaise
let teacher = model "resnet56"

let weights = Model.declarations teacher |> Initialise.tree DType.Float32 Device.Cpu (Rng.ofSeed 9)

let course (policy: Policy) : Course =
    Course.prepareTeacher {
        Student = model "resnet20"
        Teaching =
            Some {
                Model = teacher
                Weights = weights
                Policy = policy
                Distillers = [ (Schedule.constant 0.9, Distiller.kd) ]
            }
        CrossEntropy = Schedule.constant 0.1
        LearningRate = Schedule.constant 1e-4
        Sgd = Sgd.defaults
        DecayTemperature = true
        Epochs = 1
        Batch = batch
        TrainImages = images
        Seed = 1
        Pad = 4
        Flip = true
        Precision = precision
        ChannelsLast = true
        Device = Device.Cpu
    }

let median (values: float list) : float = List.item (values.Length / 2) (List.sort values)

/// Milliseconds of a step, over so many.
let timed (count: int) (run: int -> unit) : float =
    let watch = Stopwatch.StartNew()

    for i in 0 .. count - 1 do
        run i

    watch.Elapsed.TotalMilliseconds / float count

// ---- the agent alone ----

let early = { RlkdConfig.paper with WarmUp = 1; Every = 2 }
let agent = Rlkd.agent early

let alone (epoch: int) : int -> unit =
    let tree = agent.Start images batch DType.Float32 Device.Cpu (Rng.ofSeed 1)

    let normals seed shape =
        Rng.ofSeed seed |> Rng.normals (List.fold (*) 1 shape) |> Tensor.ofFloats DType.Float32 shape

    let teacher, student = normals 1 [ batch; classes ], normals 2 [ batch; classes ]
    let labels = Tensor.ofInt64s [ batch ] (Array.init batch (fun i -> int64 (i % classes)))
    let index = Tensor.arange Device.Cpu batch

    fun step ->
        Tensor.scoped (fun () ->
            agent.Decide tree {
                Epoch = epoch
                Step = step
                Teacher = teacher
                Student = student
                Labels = labels
                Index = index
                Blend = None
                Key = Draws.key Device.Cpu step (Rng.ofSeed 2)
            }
            |> ignore
        )

for title, epoch in [ "chooses", 1; "learns", 2 ] do
    let run = alone epoch
    timed 30 run |> ignore
    let each = [ for _ in 1 .. max 9 pairs -> timed 10 (fun i -> run (i + 1)) ]
    printfn $"the agent alone, when it {title}: median %.2f{median each} ms a step, least %.2f{List.min each}"

// ---- whole steps, in alternation ----

let stepper (epoch: int) (policy: Policy) : unit -> float =
    let course = course policy
    let dials = Train.dials course 1
    let pixels = Array.init (images * 3 * 32 * 32) (fun i -> byte (Rng.bits i (Rng.ofSeed 4)))

    let set =
        Augment.upload DType.Float32 Device.Cpu [ 0.5; 0.5; 0.5 ] [ 0.25; 0.25; 0.25 ] {
            Name = "random"
            Classes = classes
            Channels = 3
            Height = 32
            Width = 32
            Images = pixels
            Labels = Array.init images (fun i -> i % classes)
        }

    let mutable state = { Train.start course with Epoch = epoch }

    let step i =
        let start = i % (images / batch) * batch
        state <- Train.step course dials state (Augment.plain start (start + batch) set)

    timed 4 step |> ignore
    fun () -> timed steps step

let plain = stepper 1 (Temperature.fixedAt 4.0)
let chooses = stepper 1 (Rlkd.policy early 4.0)
let learns = stepper 2 (Rlkd.policy early 4.0)

let measured = [
    for pair in 1..pairs ->
        // The order changes from pair to pair.
        if pair % 2 = 0 then
            let a = plain ()
            let b = chooses ()
            let c = learns ()
            a, b, c
        else
            let c = learns ()
            let b = chooses ()
            let a = plain ()
            a, b, c
]

let over part = measured |> List.map (fun (a, b, c) -> 100.0 * (part (a, b, c) - a) / a)

let spread (values: float list) =
    $"%.1f{median values} %% (from %.1f{List.min values} to %.1f{List.max values})"

printfn
    $"a step of KD: median %.1f{measured |> List.map (fun (a, _, _) -> a) |> median} ms, {pairs} pairs of {steps} steps"

printfn $"the agent chooses: + {spread (over (fun (_, b, _) -> b))}; target: below 2 %%"
printfn $"the agent learns: + {spread (over (fun (_, _, c) -> c))}; target: below 10 %%"
