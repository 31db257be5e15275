namespace Ctkd.Fs

open System

/// Tensor scopes for C#.
[<AbstractClass; Sealed>]
type Scopes =
    /// Runs the body, then frees every tensor that it made except its result.
    static member Run(body: Func<Tensor>) : Tensor =
        ArgumentNullException.ThrowIfNull body
        Tensor.scope body.Invoke

    /// Runs the body, then frees every tensor that it made.
    static member Run(body: Action) : unit =
        ArgumentNullException.ThrowIfNull body
        Tensor.scoped body.Invoke

/// Losses for C#; `Loss` has their formulas and shapes.
[<AbstractClass; Sealed>]
type Losses =
    /// T^2 KL(softmax(teacher / T) || softmax(student / T)), mean over the batch.
    static member Kd(temperature: float, teacher: Tensor, student: Tensor) : Tensor =
        Scopes.Run(
            Func<Tensor>(fun () ->
                let t = Tensor.scalar (Tensor.dtype student) (Tensor.device student) temperature
                Loss.kd t teacher student |> Tensor.mean
            )
        )

    /// Cross entropy with integer labels, mean over the batch.
    static member CrossEntropy(labels: Tensor, logits: Tensor) : Tensor = Loss.crossEntropy labels logits

    /// d loss / d leaves.
    static member Gradients(loss: Tensor, [<ParamArray>] leaves: Tensor[]) : Tensor[] = Autograd.gradients loss leaves

/// Schedules for C#; ask one with `At`.
[<AbstractClass; Sealed>]
type Schedules =
    static member Constant(value: float) : Schedule = Schedule.constant value

    static member Linear(start: float, stop: float, epochs: int) : Schedule = Schedule.linear start stop epochs

    static member Cosine(start: float, stop: float, epochs: int) : Schedule = Schedule.cosine start stop epochs

    static member MultiStep(start: float, factor: float, [<ParamArray>] milestones: int[]) : Schedule =
        Schedule.multiStep start factor (List.ofArray milestones)

/// Temperature policies for C#.
[<AbstractClass; Sealed>]
type Policies =
    static member Fixed(t: float) : Policy = Scheduled.fixedAt t
    static member Scheduled(schedule: Schedule) : Policy = Scheduled.by schedule

    /// CTKD with one learned temperature in (1, 21) and a curriculum of `curriculumEpochs` epochs.
    static member CtkdGlobal(curriculumEpochs: int) : Policy =
        Ctkd.globalPolicy Ctkd.publishedRange (Schedule.curriculum curriculumEpochs)

    /// CTKD with a learned temperature for each instance.
    static member CtkdInstance(hidden: int, curriculumEpochs: int) : Policy =
        Ctkd.instancePolicy Ctkd.publishedRange hidden (Schedule.curriculum curriculumEpochs)

    /// DTKD: tau split between teacher and student by their largest logits.
    static member Dtkd(tau: float) : Policy = Dtkd.policy tau

    /// The agent of RLKD: it chooses T for each instance from epoch `warmUp` on, and learns in the epochs from there on
    /// that are divisible by `every`; before it chooses, T is `t`.
    static member Rlkd(warmUp: int, every: int, t: float) : Policy =
        Rlkd.policy { RlkdConfig.paper with WarmUp = warmUp; Every = every } t

    /// The policy on standardised logits.
    static member Standardised(policy: Policy) : Policy = Standardise.policy policy

    /// A policy of your own: T, shape [] or [batch], from teacher and student logits [batch, classes].
    static member Own(name: string, temperature: Func<Tensor, Tensor, Tensor>) : Policy = {
        Scheduled.fixedAt 1.0 with
            Name = name
            Soften = fun _ teacher student -> Policy.shared (temperature.Invoke(teacher, student)) teacher student
    }

/// Distillation losses for C#.
[<AbstractClass; Sealed>]
type Methods =
    /// KD over the policy's softened logits.
    static member Kd: Distiller = Kd.distiller

    /// A loss of your own, shape [], of what teacher and student computed for a batch.
    static member Own(name: string, loss: Func<DistillerInput, Tensor>) : Distiller = Distiller.simple name loss.Invoke

/// Trained models and image sets for C#.
[<AbstractClass; Sealed>]
type Values =
    /// Loads a trained model: a checkpoint, a run's folder, a safetensors or PyTorch file. Raises `CtkdException`.
    static member Load(path: string) : LoadedModel = Engine.guarded (fun () -> Distil.load path)

    /// A teacher of any kind, such as a trained TorchSharp module, from its forward pass: images to logits.
    static member Teacher(name: string, classes: int, forward: Func<Tensor, Tensor>) : LoadedModel =
        Model.ofLogits name classes forward.Invoke |> Distil.teacher

    /// A trained module of TorchSharp as a teacher, which is known by its logits. It must be on the run's device.
    static member Teacher(name: string, classes: int, network: ImageModule) : LoadedModel =
        Teacher.ofModule name classes network

    /// A module of TorchSharp as a student; `make` makes it, and is called again under the run's seed for the initial values.
    /// Raises `CtkdException` for a module with parameters in native code.
    static member Student(name: string, classes: int, make: Func<ImageModule>) : Model =
        Student.ofModule name classes make.Invoke

    /// A set of images from arrays, as `OwnSet.ofArrays`: one array per image, bytes [C, H, W]. Raises `CtkdException`.
    static member Images(name: string, height: int, width: int, images: byte[][], labels: int[]) : Splits =
        OwnSet.ofArrays name height width images labels |> Error.orRaise
