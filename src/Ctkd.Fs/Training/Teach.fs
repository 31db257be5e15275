namespace Ctkd.Fs

open System

/// What a step works on: images, and what the teacher says of them.
[<ReferenceEquality>]
type Taught = {
    Batch: Batch
    /// None without a teacher.
    Teacher: Outputs option
}

/// How the teacher works through an epoch. Being frozen it need not wait for the student: its forward passes may run
/// ahead in larger batches, and what it said may be remembered from one epoch and run to the next.
[<NoComparison; NoEquality>]
type TeachingPlan = {
    /// The teacher sees the images of so many steps at once; 1 or more.
    Ahead: int
    /// Remembered features, for courses whose distillers look at no maps (`Teach.looksAtMaps`).
    Cache: TeacherCache option
}

/// The teacher's side of an epoch.
[<RequireQualifiedAccess>]
module Teach =

    /// The teacher runs with each step, and nothing is remembered.
    let simple: TeachingPlan = { Ahead = 1; Cache = None }

    /// Batches of the teacher whose features are looked up at once.
    let private window = 16

    /// Whether one of the course's distillers looks at the teacher's maps.
    let looksAtMaps (course: Course) : bool = Course.distillers course |> List.exists _.LooksAtMaps

    /// What the teacher says of images; none without a teacher.
    let outputs (course: Course) (images: Tensor) : Outputs option =
        course.Teaching
        |> Option.map (fun teaching ->
            let outputs =
                Autograd.noGrad (fun () ->
                    Course.forward course teaching.Model false teaching.Weights images
                )

            // Maps that nobody looks at need not live on.
            if looksAtMaps course then outputs else { outputs with Features = [] }
        )

    /// A batch with what the teacher says of it.
    let now (course: Course) (batch: Batch) : Taught = {
        Batch = batch
        Teacher = outputs course batch.Images
    }

    let private tensors (outputs: Outputs) : Tensor list =
        outputs.Logits :: outputs.Pooled :: outputs.Features

    let private rows (first: int) (stop: int) (outputs: Outputs) : Outputs = {
        Features = outputs.Features |> List.map (Tensor.slice 0 first stop)
        Pooled = Tensor.slice 0 first stop outputs.Pooled
        Logits = Tensor.slice 0 first stop outputs.Logits
    }

    /// Rows repeated up to a size.
    let private filled (size: int) (x: Tensor) : Tensor =
        let count = Tensor.size 0 x

        if count = size then
            x
        else
            List.replicate (size / count + 1) x |> Tensor.cat 0 |> Tensor.slice 0 0 size

    /// As `outputs`, always in batches of the same size: kernels, and so the last bits, depend on it.
    let private evenly (course: Course) (size: int) (images: Tensor) : Outputs option =
        let count = Tensor.size 0 images

        if course.Teaching.IsNone || count = size then
            outputs course images
        else
            Tensor.scopeWith
                (Option.map tensors >> Option.defaultValue [] >> Seq.ofList)
                (fun () ->
                    // A copy: the rest of the batch is not kept for the sake of a view.
                    let own = Tensor.clone

                    outputs course (filled size images)
                    |> Option.map (rows 0 count)
                    |> Option.map (fun o -> {
                        Features = List.map own o.Features
                        Pooled = own o.Pooled
                        Logits = own o.Logits
                    })
                )

    /// Pooled features of positions of the epoch, remembered or computed and then remembered: [positions, D]. Features and
    /// not logits, because the classifier's product gives a row other last bits in another place of the batch.
    let private recall course (cache: TeacherCache) (size: int) plan set (positions: int[]) : Tensor =
        let variants = positions |> Array.map (fun position -> plan.Variants[position])
        let width = cache.Width
        let features = Array.zeroCreate<float32>(positions.Length * width)

        for missing in TeacherCache.read cache variants features |> Array.chunkBySize size do
            Tensor.scoped (fun () ->
                let images =
                    (Augment.pick course.Pad plan (Array.map (Array.get positions) missing) set).Images

                let computed = evenly course size images |> Option.get
                let rows = Tensor.toSingles computed.Pooled
                TeacherCache.write cache (Array.map (Array.get variants) missing) (ReadOnlySpan rows)
                missing |> Array.iteri (fun i at -> Array.blit rows (i * width) features (at * width) width)
            )

        Tensor.ofSingles [ positions.Length; width ] features |> Tensor.toDevice course.Device

    /// The teacher's outputs for pooled features, in batches of the given size, as without remembering.
    let private classify (course: Course) (size: int) (pooled: Tensor) : Outputs =
        let teaching = Option.get course.Teaching
        let count = Tensor.size 0 pooled

        let logits start =
            let own = Tensor.slice 0 start (min count (start + size)) pooled

            filled size own
            |> Course.classify course teaching.Model teaching.Weights
            |> Tensor.slice 0 0 (Tensor.size 0 own)

        {
            Features = []
            Pooled = pooled
            Logits = [ 0..size .. count - 1 ] |> List.map logits |> Tensor.cat 0
        }

    /// Positions of an epoch that were prepared at once.
    [<ReferenceEquality>]
    type private Span = {
        First: int
        Stop: int
        /// None where each batch is made when it is taken.
        Batch: Batch option
        Teacher: Outputs option
    }

    let private tensorsOf (span: Span) : Tensor list =
        (span.Batch
         |> Option.map (fun batch -> [ batch.Images; batch.Labels; batch.Index ])
         |> Option.defaultValue [])
        @ (span.Teacher |> Option.map tensors |> Option.defaultValue [])

    /// Augmented images of a span, and the teacher's outputs for them.
    let private images (course: Course) size plan set (first: int) (stop: int) : Span =
        let batch = Augment.batch course.Pad plan first stop set

        {
            First = first
            Stop = stop
            Batch = Some batch
            Teacher = evenly course size batch.Images
        }

    /// The teacher's outputs of a span, from features that are remembered where they can be.
    let private remembered (course: Course) cache size plan set (first: int) (stop: int) : Span =
        let outputs =
            Autograd.noGrad (fun () ->
                recall course cache size plan set [| first .. stop - 1 |] |> classify course size
            )

        { First = first; Stop = stop; Batch = None; Teacher = Some outputs }

    /// What the teacher said of positions within a span.
    let private said (start: int) (stop: int) (span: Span) : Outputs option =
        if start = span.First && stop = span.Stop then
            span.Teacher
        else
            span.Teacher |> Option.map (rows (start - span.First) (stop - span.First))

    /// The batch at positions within a span.
    let private batchOf (course: Course) plan set (start: int) (stop: int) (span: Span) : Batch =
        match span.Batch with
        | None -> Augment.batch course.Pad plan start stop set
        | Some batch when start = span.First && stop = span.Stop -> batch
        | Some batch ->
            let part x = Tensor.slice 0 (start - span.First) (stop - span.First) x

            {
                Images = part batch.Images
                Labels = part batch.Labels
                Index = part batch.Index
            }

    /// An epoch as the teacher works through it: `Prepare`, in the scope of the epoch, then `Take`, in that of the step.
    [<NoComparison; NoEquality>]
    type Epoch = {
        /// Positions that are prepared at once, from each multiple of their number on.
        Span: int
        /// Makes ready what the positions from the first to before the last need; what came before them is freed.
        Prepare: int -> int -> unit
        /// What the teacher says of these positions; None without a teacher.
        Said: int -> int -> Outputs option
        /// The batch of these positions.
        Take: int -> int -> Taught
    }

    /// <summary>What the steps of an epoch work on.</summary>
    /// <param name="how">How far the teacher runs ahead, and what it remembers.</param>
    /// <param name="course">The course, whose teacher is prepared (`Course.prepareTeacher`).</param>
    /// <param name="plan">The epoch's order and cuts.</param>
    /// <param name="set">The training images.</param>
    let epoch (how: TeachingPlan) (course: Course) (plan: EpochPlan) (set: DeviceSet) : Epoch =
        if how.Ahead < 1 then
            invalidArg (nameof how) $"the teacher must run 1 or more steps ahead, got {how.Ahead}."

        let total = Augment.count set
        let size = how.Ahead * course.Batch

        let span, make =
            match how.Cache with
            | None -> size, images course size plan set
            | Some _ when looksAtMaps course ->
                invalidArg (nameof how) "remembered features are not enough: a distiller looks at maps."
            | Some cache -> window * size, remembered course cache size plan set

        let mutable current: Span option = None

        let covers start stop (span: Span) = span.First <= start && stop <= span.Stop

        {
            Span = span
            Prepare =
                fun start stop ->
                    if not (Option.exists (covers start stop) current) then
                        current |> Option.iter (tensorsOf >> List.iter Tensor.free)
                        current <- None
                        // Spans begin at multiples of their length, also where a run goes on in the middle of an epoch.
                        let first = start / span * span

                        current <-
                            Tensor.scopeWith
                                (Option.map tensorsOf >> Option.defaultValue [] >> Seq.ofList)
                                (fun () -> Some(make first (min total (first + span))))
            Said = fun start stop -> Option.get current |> said start stop
            Take =
                fun start stop ->
                    let span = Option.get current

                    {
                        Batch = batchOf course plan set start stop span
                        Teacher = said start stop span
                    }
        }
