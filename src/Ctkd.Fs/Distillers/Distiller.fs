namespace Ctkd.Fs

/// The shapes of a model's outputs for one image.
type ModelShape = {
    Model: string
    /// The tapped maps from the stem on: [C; H; W] each.
    Maps: int list list
    /// Length of the pooled features; 0 if it shows none.
    Pooled: int
    Classes: int
    /// Whether its last layer can run by itself, on pooled features.
    HasClassifier: bool
}

/// What a distiller knows before training.
type ModelPair = {
    Teacher: ModelShape
    Student: ModelShape
    /// The label of every training image, in the order of the data set.
    Labels: int[]
    /// Size of the smallest batch: often the last of an epoch.
    SmallestBatch: int
}

/// The input of a distiller for a batch.
[<ReferenceEquality>]
type DistillerInput = {
    /// Of several teachers the pooled features are their logits side by side (`SeveralTeachers`).
    Teacher: Outputs
    Student: Outputs
    /// Shares of several teachers; empty for one.
    Shares: float list
    /// The logits softened by the temperature policy.
    Softened: Softening
    /// int64 [batch].
    Labels: Tensor
    /// Positions of the images in the training set: int64 [batch].
    Index: Tensor
    /// The teacher's classifier, from pooled features to logits.
    Classify: Tensor -> Tensor
    /// A random key of the step, int64 [], for the distiller's own draws (`Draws`). Created when first evaluated, and
    /// freed with the scope at that moment: do not evaluate it inside a scope of your own.
    Key: Lazy<Tensor>
}

/// A distillation loss as a value, made for a pair of models. Feature-based methods are functions
/// `ModelPair -> Result<Distiller, Error>`, so that shapes that do not match are refused before training.
[<NoComparison; NoEquality>]
type Distiller = {
    /// Identifies its connectors and its loss; unique in a plan.
    Name: string
    /// Whether it uses the teacher's maps, not only its pooled features and logits.
    LooksAtMaps: bool
    /// The smallest batch size that it supports.
    Fewest: int
    /// Connectors between the teacher's and the student's features, and their buffers: trained with the student, never
    /// deployed.
    Declares: Declaration list
    /// Creates state that is not trained, such as memories.
    Memory: DType -> Device -> Rng -> Tree
    /// Maps connectors, memory and input to the loss, a mean over the batch: shape []. Updates running statistics.
    Loss: Tree -> DistillerInput -> Tensor
    /// Updates the memory in place: runs after the backward pass, without gradient, on the weights of the loss.
    Remember: Tree -> DistillerInput -> unit
}

/// Creates and checks pairs of models.
[<RequireQualifiedAccess>]
module ModelPair =
    let private shape (height: int) (width: int) (model: Model) : ModelShape = {
        Model = model.Name
        Maps = Model.trace height width model |> Shapes.tapped
        Pooled = Model.pooled model
        Classes = model.Classes
        HasClassifier = not model.Body.IsWhole
    }

    /// Describes a teacher and a student that train on images of the given size with the given labels, in batches of
    /// `smallest` images or more (`ImageSet.smallestBatch`).
    let create height width (labels: int[]) (smallest: int) (teacher: Model) (student: Model) : ModelPair = {
        Teacher = shape height width teacher
        Student = shape height width student
        Labels = labels
        SmallestBatch = smallest
    }

    /// Returns the error that this distiller cannot work with the pair.
    let refuse (distiller: string) (pair: ModelPair) (why: string) (next: string) : Result<'T, Error> =
        let what = $"{distiller} cannot teach {pair.Student.Model} from {pair.Teacher.Model}: {why}"
        Error.fail Mismatch what "" next

    let private refuseMaps distiller pair why : Result<'T, Error> =
        "choose other models, or a distiller that looks at no maps: kd, dkd, pkt, crd, rkd or srrl"
        |> refuse distiller pair why

    let private text (shape: int list) : string = shape |> List.map string |> String.concat " x "

    /// Refuses models that lack the features that a distiller compares: a teacher known by its logits alone.
    let features (distiller: string) (readsPooled: bool) (pair: ModelPair) : Result<unit, Error> =
        let lacks (shape: ModelShape) = shape.Pooled = 0 && (readsPooled || shape.Maps.IsEmpty)

        match [ pair.Teacher; pair.Student ] |> List.tryFind lacks with
        | None -> Ok()
        | Some shape ->
            let what = if shape.Maps.IsEmpty then "logits only, no features" else "maps, but no pooled features"

            refuse
                distiller
                pair
                $"{shape.Model} shows {what}"
                "use the methods that read logits, kd and dkd, or a model that shows features"

    /// Returns both maps at an index, teacher's first; -1 is the last.
    let mapAt (distiller: string) (index: int) (pair: ModelPair) : Result<int list * int list, Error> =
        let at (shape: ModelShape) =
            let index = if index < 0 then shape.Maps.Length + index else index
            List.tryItem index shape.Maps

        match at pair.Teacher, at pair.Student with
        | Some teacher, Some student -> Ok(teacher, student)
        | teacher, _ ->
            let without = if teacher.IsNone then pair.Teacher else pair.Student
            let which = if index < 0 then "no map" else $"no map {index}"
            refuseMaps distiller pair $"{without.Model} has {which} (it has {without.Maps.Length})"

    /// Returns all maps after the stem in pairs, teacher's first. The larger size must be a multiple of the smaller.
    let maps (distiller: string) (pair: ModelPair) : Result<(int list * int list) list, Error> =
        let teacher, student = pair.Teacher, pair.Student

        let fits (a: int list, b: int list) =
            let divides small large = large % small = 0

            let within (a: int list) (b: int list) = divides a[1] b[1] && divides a[2] b[2] && b[1] / a[1] = b[2] / a[2]

            within a b || within b a

        if teacher.Maps.Length < 2 || student.Maps.Length < 2 then
            let without = if teacher.Maps.Length < 2 then teacher else student
            refuseMaps distiller pair $"{without.Model} has no maps behind its stem"
        elif teacher.Maps.Length <> student.Maps.Length then
            refuseMaps
                distiller
                pair
                $"they have {student.Maps.Length - 1} and {teacher.Maps.Length - 1} maps behind the stem"
        else
            let pairs = List.zip teacher.Maps.Tail student.Maps.Tail

            match List.tryFind (fits >> not) pairs with
            | None -> Ok pairs
            | Some(t, s) -> refuseMaps distiller pair $"maps of {text s} and {text t} cannot be pooled to one size"

/// Creates, combines and runs distillers: each sees only its own connectors.
[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module Distiller =

    /// Creates a distiller with connectors and no memory, for batches of at least `fewest` instances.
    let connected (name: string) (fewest: int) (declares: Declaration list) loss : Distiller = {
        Name = name
        LooksAtMaps = true
        Fewest = fewest
        Declares = declares
        Memory = fun _ _ _ -> Tree.empty
        Loss = loss
        Remember = fun _ _ -> ()
    }

    /// Creates a distiller without state, for batches of any size.
    let simple (name: string) (loss: DistillerInput -> Tensor) : Distiller =
        connected name 1 [] (fun _ input -> loss input)

    /// Marks a distiller that uses only the teacher's pooled features and logits.
    let withoutMaps (distiller: Distiller) : Distiller = { distiller with LooksAtMaps = false }

    /// Returns the distiller, or an error if the smallest batch is too small for it.
    let enough (pair: ModelPair) (distiller: Distiller) : Result<Distiller, Error> =
        if pair.SmallestBatch >= distiller.Fewest then
            Ok distiller
        else
            Error.fail
                Usage
                $"{distiller.Name} needs batches of at least {distiller.Fewest} images, the smallest of an \
                  epoch has {pair.SmallestBatch}"
                ""
                "choose a batch size that leaves no such rest, or train on more images"

    let private prefix (distiller: Distiller) : string = distiller.Name + "/"

    /// Returns the connectors of all distillers, each under its name.
    let declarations (distillers: Distiller list) : Declaration list = [
        for distiller in distillers do
            for d in distiller.Declares -> { d with Name = prefix distiller + d.Name }
    ]

    /// Creates the memories of all distillers, each under its name.
    let memory (distillers: Distiller list) (dtype: DType) (device: Device) (rng: Rng) : Tree =
        Tree.concat [ for d in distillers -> d.Memory dtype device (Rng.split d.Name rng) |> Tree.prefixed (prefix d) ]

    /// Computes the loss of one of the distillers.
    let loss (distiller: Distiller) (all: Tree) (input: DistillerInput) : Tensor =
        let batch = Tensor.size 0 input.Labels

        if batch < distiller.Fewest then
            invalidArg
                (nameof input)
                $"{distiller.Name} needs at least {distiller.Fewest} instances in a batch, got {batch}."

        distiller.Loss (Tree.under (prefix distiller) all) input

    /// Updates the memory of one of the distillers with the batch.
    let remember (distiller: Distiller) (all: Tree) (input: DistillerInput) : unit =
        distiller.Remember (Tree.under (prefix distiller) all) input

    /// Fixes a distiller's temperature, whatever the plan's policy: DTKD adds KD(tau) this way.
    let at (t: float) (distiller: Distiller) : Distiller =
        if not (System.Double.IsFinite t && t > 0.0) then
            invalidArg (nameof t) $"the temperature must be finite and > 0, got {string t}."

        let softened (input: DistillerInput) =
            let student = input.Student.Logits
            let t = Tensor.scalar (Tensor.dtype student) (Tensor.device student) t
            let soften logits = Policy.shared t logits student

            {
                input with
                    Softened = SeveralTeachers.soften input.Shares soften input.Teacher
            }

        {
            distiller with
                Name = distiller.Name + "@" + string t
                Loss = fun state input -> distiller.Loss state (softened input)
        }

    /// Gives all instances of a batch the mean of the policy's weights: what the released RLKD does with DKD, whose
    /// [batch] divergences it multiplies with T^2 as [batch, 1].
    let meanWeight (distiller: Distiller) : Distiller =
        let even (input: DistillerInput) = { input with Softened.Weight = Tensor.mean input.Softened.Weight }

        { distiller with Loss = fun state input -> distiller.Loss state (even input) }

    /// Combines distillers into their weighted sum: CRD + KD, DKD + AT, DTKD's alpha L + beta KD(tau).
    let sum (parts: (float * Distiller) list) : Distiller =
        let distillers = List.map snd parts
        let names = distillers |> List.map _.Name

        if parts.IsEmpty || List.distinct names <> names then
            invalidArg (nameof parts) $"a sum needs distillers of different names, got %A{names}."

        {
            Name = String.concat "+" names
            LooksAtMaps = distillers |> List.exists _.LooksAtMaps
            Fewest = distillers |> List.map _.Fewest |> List.max
            Declares = declarations distillers
            Memory = memory distillers
            Loss =
                fun state input ->
                    parts
                    |> List.map (fun (weight, d) -> Tensor.scale weight (loss d state input))
                    |> List.reduce Tensor.add
            Remember =
                fun state input ->
                    for d in distillers do
                        remember d state input
        }
