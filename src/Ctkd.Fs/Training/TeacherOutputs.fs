namespace Ctkd.Fs

open System

/// What a step works on: a batch, and the teacher's outputs for it.
[<ReferenceEquality>]
type StepInput = {
    Batch: Batch
    /// None without a teacher.
    Teacher: Outputs option
}

/// How the teacher works through an epoch. It is frozen and need not wait for the student: its forward passes may run ahead
/// in larger batches, and its features may be cached from one epoch and run to the next.
[<NoComparison; NoEquality>]
type TeacherOptions = {
    /// Steps whose images the teacher sees at once; 1 or more.
    Ahead: int
    /// Cached features, for plans whose distillers read no maps (`TeacherOutputs.readsMaps`).
    Cache: TeacherCache option
}

/// What a run trains with, made once.
[<NoComparison; NoEquality>]
type Trainer = {
    /// The plan, with its teacher prepared (`TrainingPlan.prepareTeacher`).
    Plan: TrainingPlan
    Teacher: TeacherOptions
    /// The training images.
    Images: ImageFeed
}

/// The steps of one epoch with the teacher's outputs.
[<NoComparison; NoEquality>]
type TeacherEpoch = {
    /// Positions of the epoch whose outputs are computed at once, from each multiple of this number on.
    Span: int
    /// The input of a step, from 0. Its tensors live until a step of another span is asked for.
    At: int -> StepInput
    /// The teacher's outputs for the whole span of a step; None without a teacher.
    OutputsAt: int -> Outputs option
    /// Frees the span that was computed last.
    Free: unit -> unit
}

/// The teacher's outputs for the images of an epoch.
[<RequireQualifiedAccess>]
module TeacherOutputs =

    /// The teacher runs with each step, and nothing is cached.
    let simple: TeacherOptions = { Ahead = 1; Cache = None }

    /// Batches of the teacher whose features are looked up at once.
    let private window = 16

    /// The length of what is remembered of an image: pooled features, or the logits of a network that gives them by itself, of each
    /// of several networks.
    let width (teacher: Model) : int =
        if teacher.Body.IsWhole then
            teacher.Classes * max 1 (Model.shares teacher).Length
        else
            teacher.Classifier.In

    let private remembered (plan: TrainingPlan) (outputs: Outputs) : Tensor =
        match plan.Distillation with
        | Some { Model = model } when model.Body.IsWhole && (Model.shares model).IsEmpty -> outputs.Logits
        | _ -> outputs.Pooled

    /// Whether one of the plan's distillers reads the teacher's maps.
    let readsMaps (plan: TrainingPlan) : bool = TrainingPlan.distillers plan |> List.exists _.LooksAtMaps

    /// The teacher's outputs for images; None without a teacher.
    let ofImages (plan: TrainingPlan) (images: Tensor) : Outputs option =
        plan.Distillation
        |> Option.map (fun teacher ->
            let outputs =
                Autograd.noGrad (fun () -> TrainingPlan.forward plan teacher.Model false teacher.Weights images)

            // Maps that nobody reads need not stay in memory.
            if readsMaps plan then outputs else { outputs with Features = [] }
        )

    /// A batch with the teacher's outputs for it.
    let ofBatch (plan: TrainingPlan) (batch: Batch) : StepInput = {
        Batch = batch
        Teacher = ofImages plan batch.Images
    }

    /// The input with labels: without any, the class that the teacher finds most likely stands for an image's label.
    let labelled (plan: TrainingPlan) (input: StepInput) : StepInput =
        match input.Teacher with
        | Some teacher when plan.Unlabelled ->
            let batch = { input.Batch with Labels = Tensor.argMax 1 teacher.Logits; Mix = None }
            { input with Batch = batch }
        | _ -> input

    /// Rows repeated up to a size.
    let private filled (size: int) (x: Tensor) : Tensor =
        let count = Tensor.size 0 x

        if count = size then
            x
        else
            List.replicate (size / count + 1) x |> Tensor.cat 0 |> Tensor.slice 0 0 size

    /// As `ofImages`, always in batches of the same size: kernels, and so the last bits, depend on it.
    let private evenly (plan: TrainingPlan) (size: int) (images: Tensor) : Outputs option =
        let count = Tensor.size 0 images

        if plan.Distillation.IsNone || count = size then
            ofImages plan images
        else
            Tensor.scopeWith
                (Option.map Outputs.tensors >> Option.defaultValue [] >> Seq.ofList)
                (fun () ->
                    // Copies: views would keep the rest of the batch in memory.
                    ofImages plan (filled size images)
                    |> Option.map (Outputs.map (Tensor.slice 0 0 count >> Tensor.clone))
                )

    /// Pooled features of positions of the epoch, cached, or computed and then cached: [positions, D]. Features and not
    /// logits, because the classifier's product gives a row other last bits at another place of the batch.
    let private recall (plan: TrainingPlan) cache (size: int) (images: EpochImages) (positions: int[]) : Tensor =
        let variants = positions |> Array.map (fun position -> images.Variants[position])
        let width = cache.Width
        let features = Array.zeroCreate<float32>(positions.Length * width)

        for missing in TeacherCache.read cache variants features |> Array.chunkBySize size do
            Tensor.scoped (fun () ->
                let batch = images.Pick(Array.map (Array.get positions) missing)

                let computed = evenly plan size batch.Images |> Option.get
                let rows = Tensor.toSingles (remembered plan computed)
                TeacherCache.write cache (Array.map (Array.get variants) missing) (ReadOnlySpan rows)
                missing |> Array.iteri (fun i at -> Array.blit rows (i * width) features (at * width) width)
            )

        Tensor.ofSingles [ positions.Length; width ] features |> Tensor.toDevice plan.Device

    /// The teacher's outputs for pooled features, in batches of the given size, as without caching.
    let private classify (plan: TrainingPlan) (size: int) (pooled: Tensor) : Outputs =
        let teacher = Option.get plan.Distillation
        let count = Tensor.size 0 pooled

        let logits start =
            let own = Tensor.slice 0 start (min count (start + size)) pooled

            filled size own
            |> TrainingPlan.classify plan teacher.Model teacher.Weights
            |> Tensor.slice 0 0 (Tensor.size 0 own)

        {
            Features = []
            Pooled = pooled
            Logits = [ 0..size .. count - 1 ] |> List.map logits |> Tensor.cat 0
        }

    /// Positions of an epoch that were computed at once.
    [<ReferenceEquality>]
    type private Span = {
        First: int
        Stop: int
        /// None where each batch is augmented when its step asks.
        Batch: Batch option
        Teacher: Outputs option
    }

    let private tensors (span: Span) : Tensor list =
        (span.Batch |> Option.map Batch.tensors |> Option.defaultValue [])
        @ (span.Teacher |> Option.map Outputs.tensors |> Option.defaultValue [])

    /// The part of a span between two positions; the whole span as it is.
    let private part (span: Span) (start: int) (stop: int) : Tensor -> Tensor =
        if start = span.First && stop = span.Stop then
            id
        else
            Tensor.slice 0 (start - span.First) (stop - span.First)

    /// <summary>The steps of an epoch with the teacher's outputs.</summary>
    /// <param name="plan">The plan, with its teacher prepared.</param>
    /// <param name="options">How the teacher works.</param>
    /// <param name="shown">The epoch's images.</param>
    let epoch (plan: TrainingPlan) (options: TeacherOptions) (shown: EpochImages) : TeacherEpoch =
        if options.Ahead < 1 then
            invalidArg (nameof options) $"the teacher must run 1 or more steps ahead, got {options.Ahead}."

        let total = shown.Count
        let size = options.Ahead * plan.Batch

        let images first stop =
            let batch = shown.Batch first stop

            {
                First = first
                Stop = stop
                Batch = Some batch
                Teacher = evenly plan size batch.Images
            }

        let cached cache first stop =
            let outputs () = recall plan cache size shown [| first .. stop - 1 |] |> classify plan size

            {
                First = first
                Stop = stop
                Batch = None
                Teacher = Some(Autograd.noGrad outputs)
            }

        let length, compute =
            match options.Cache with
            | None -> size, images
            | Some _ when plan.Mixup.IsSome ->
                invalidArg
                    (nameof options)
                    "cached features are those of single images: mixup blends anew in each step."
            | Some _ when readsMaps plan ->
                invalidArg (nameof options) "cached features are not enough: a distiller reads the teacher's maps."
            | Some cache -> window * size, cached cache

        let current: Span option ref = ref None

        let free () =
            current.Value |> Option.iter (tensors >> List.iter Tensor.free)
            current.Value <- None

        /// The span of a step, whose tensors belong to no scope: it outlives the step.
        let spanOf (step: int) : Span =
            // Spans begin at multiples of their length, also where a run resumes in the middle of an epoch.
            let first = step * plan.Batch / length * length

            match current.Value with
            | Some span when span.First = first -> span
            | _ ->
                free ()
                let make () = compute first (min total (first + length))
                let span = Tensor.unscoped (tensors >> Seq.ofList) make
                current.Value <- Some span
                span

        {
            Span = length
            At =
                fun step ->
                    let span = spanOf step
                    let start = step * plan.Batch
                    let stop = min total (start + plan.Batch)

                    {
                        Batch =
                            match span.Batch with
                            | Some batch -> Batch.map (part span start stop) batch
                            | None -> shown.Batch start stop
                        Teacher = span.Teacher |> Option.map (Outputs.map (part span start stop))
                    }
            OutputsAt = fun step -> (spanOf step).Teacher
            Free =
                fun () ->
                    free ()
                    shown.Free()
        }
