namespace Ctkd.Fs

/// What a model shows of one image, as shapes.
type Shown = {
    Model: string
    /// The tapped maps from the stem on: [C; H; W] each.
    Maps: int list list
    /// Length of the pooled features.
    Pooled: int
    Classes: int
}

/// What a distiller is told before training starts.
type Pairing = {
    Teacher: Shown
    Student: Shown
    /// The label of every training image, in the order of the data set.
    Labels: int[]
    /// Instances in the smallest batch: often the last of an epoch.
    SmallestBatch: int
}

/// What a distiller sees of a batch.
[<ReferenceEquality>]
type Lesson = {
    Teacher: Outputs
    Student: Outputs
    /// The logits as the temperature policy softened them.
    Softened: Softening
    /// int64 [batch].
    Labels: Tensor
    /// Positions of the images in the training set: int64 [batch].
    Index: Tensor
    /// The teacher's classifier, from pooled features to logits.
    Classify: Tensor -> Tensor
    /// A random number of the step, int64 []: the key of whatever a distiller draws (`Draws`). Made when it is
    /// first asked for, and freed with the scope of that moment: ask outside of scopes of one's own.
    Key: Lazy<Tensor>
}

/// A distillation loss as a value, made for a pair of models. Methods that look at features are made by
/// functions `Pairing -> Result<Distiller, Error>`, so that shapes that cannot be matched are refused before
/// training starts.
[<NoComparison; NoEquality>]
type Distiller = {
    /// Its connectors and its loss go by this name: one of a name in a course.
    Name: string
    /// Whether it looks at the teacher's maps, and not only at its pooled features and logits.
    LooksAtMaps: bool
    /// The fewest instances that a batch may have.
    Fewest: int
    /// Connectors between the teacher's and the student's features, trained with the student and never
    /// deployed, and their buffers.
    Declares: Declaration list
    /// State beside them that is not trained, such as memories, fresh.
    Memory: DType -> Device -> Rng -> Tree
    /// Connectors with memory, and lesson, to a loss, a mean over the batch: shape []. Running statistics are
    /// updated.
    Loss: Tree -> Lesson -> Tensor
    /// Remembers the batch in place: runs after the backward pass, without gradient, on the weights of the
    /// loss.
    Settle: Tree -> Lesson -> unit
}

/// Telling distillers about a pair of models.
[<RequireQualifiedAccess>]
module Pairing =
    let private shown (height: int) (width: int) (model: Model) : Shown = {
        Model = model.Name
        Maps = Model.trace height width model |> Shapes.tapped
        Pooled = model.Classifier.In
        Classes = model.Classes
    }

    /// A teacher and a student that train on images of the given size with the given labels, in batches of at
    /// most the given size.
    let create height width (labels: int[]) (batch: int) (teacher: Model) (student: Model) : Pairing = {
        Teacher = shown height width teacher
        Student = shown height width student
        Labels = labels
        SmallestBatch = (if labels.Length % batch = 0 then batch else labels.Length % batch)
    }

    /// An error: the two do not go together under this distiller.
    let refuse (distiller: string) (pairing: Pairing) (why: string) (next: string) : Result<'T, Error> =
        let what = $"{distiller} cannot teach {pairing.Student.Model} from {pairing.Teacher.Model}: {why}"
        Result.Error(Error.create Mismatch what "" next)

    let private refuseMaps distiller pairing why : Result<'T, Error> =
        "choose other models, or a distiller that looks at no maps: kd, dkd, pkt, crd, rkd or srrl"
        |> refuse distiller pairing why

    let private text (shape: int list) : string = shape |> List.map string |> String.concat " x "

    /// The map at an index of both, teacher's first; -1 is the last.
    let mapAt (distiller: string) (index: int) (pairing: Pairing) : Result<int list * int list, Error> =
        let at (shown: Shown) =
            let index = if index < 0 then shown.Maps.Length + index else index
            List.tryItem index shown.Maps

        match at pairing.Teacher, at pairing.Student with
        | Some teacher, Some student -> Ok(teacher, student)
        | teacher, _ ->
            let without = if teacher.IsNone then pairing.Teacher else pairing.Student
            let which = if index < 0 then "no map" else $"no map {index}"
            refuseMaps distiller pairing $"{without.Model} has {which} (it has {without.Maps.Length})"

    /// All maps behind the stem in pairs, teacher's first; the larger of two must be a multiple of the
    /// smaller.
    let maps (distiller: string) (pairing: Pairing) : Result<(int list * int list) list, Error> =
        let teacher, student = pairing.Teacher, pairing.Student

        let fits (a: int list, b: int list) =
            let divides small large = large % small = 0

            let within (a: int list) (b: int list) =
                divides a[1] b[1] && divides a[2] b[2] && b[1] / a[1] = b[2] / a[2]

            within a b || within b a

        if teacher.Maps.Length < 2 || student.Maps.Length < 2 then
            let without = if teacher.Maps.Length < 2 then teacher else student
            refuseMaps distiller pairing $"{without.Model} has no maps behind its stem"
        elif teacher.Maps.Length <> student.Maps.Length then
            refuseMaps
                distiller
                pairing
                $"they have {student.Maps.Length - 1} and {teacher.Maps.Length - 1} maps behind the stem"
        else
            let pairs = List.zip teacher.Maps.Tail student.Maps.Tail

            match List.tryFind (fits >> not) pairs with
            | None -> Ok pairs
            | Some(t, s) ->
                refuseMaps distiller pairing $"maps of {text s} and {text t} cannot be pooled to one size"

/// Distillers as the training step runs them: each sees its own part of the connectors.
[<RequireQualifiedAccess>]
module Distillation =

    /// A distiller with connectors and no memory, for batches of at least so many instances.
    let connected (name: string) (fewest: int) (declares: Declaration list) loss : Distiller = {
        Name = name
        LooksAtMaps = true
        Fewest = fewest
        Declares = declares
        Memory = fun _ _ _ -> Tree.empty
        Loss = loss
        Settle = fun _ _ -> ()
    }

    /// A distiller without state, for batches of any size.
    let simple (name: string) (loss: Lesson -> Tensor) : Distiller =
        connected name 1 [] (fun _ lesson -> loss lesson)

    /// The distiller, which looks at the teacher's pooled features and logits only.
    let withoutMaps (distiller: Distiller) : Distiller = { distiller with LooksAtMaps = false }

    /// The distiller, unless the smallest batch is too small for it.
    let enough (pairing: Pairing) (distiller: Distiller) : Result<Distiller, Error> =
        if pairing.SmallestBatch >= distiller.Fewest then
            Ok distiller
        else
            Result.Error(
                Error.create
                    Usage
                    $"{distiller.Name} needs batches of at least {distiller.Fewest} images, the smallest of an \
                      epoch has {pairing.SmallestBatch}"
                    ""
                    "choose a batch size that leaves no such rest, or train on more images"
            )

    let private prefix (distiller: Distiller) : string = distiller.Name + "/"

    /// Connectors of all of them, each under its name.
    let declarations (distillers: Distiller list) : Declaration list = [
        for distiller in distillers do
            for d in distiller.Declares -> { d with Name = prefix distiller + d.Name }
    ]

    /// Fresh memories of all of them, each under its name.
    let memory (distillers: Distiller list) (dtype: DType) (device: Device) (rng: Rng) : Tree =
        Tree.concat [
            for d in distillers -> d.Memory dtype device (Rng.split d.Name rng) |> Tree.prefixed (prefix d)
        ]

    /// The loss of one of them.
    let loss (distiller: Distiller) (all: Tree) (lesson: Lesson) : Tensor =
        let batch = Tensor.size 0 lesson.Labels

        if batch < distiller.Fewest then
            invalidArg
                (nameof lesson)
                $"{distiller.Name} needs at least {distiller.Fewest} instances in a batch, got {batch}."

        distiller.Loss (Tree.under (prefix distiller) all) lesson

    /// Lets one of them remember the batch.
    let settle (distiller: Distiller) (all: Tree) (lesson: Lesson) : unit =
        distiller.Settle (Tree.under (prefix distiller) all) lesson
