/// Computes the cases of logits, and helpers for all cases.
module Ctkd.Fs.Tests.GoldenRoutes

open System.Globalization
open System.Text.Json
open System.Text.RegularExpressions
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Golden

/// The inputs that all cases of a losses file share.
[<NoComparison; NoEquality>]
type GoldenInputs = {
    DType: DType
    Tag: string
    Batch: int
    Teacher: Tensor
    Student: Tensor
    Labels: Tensor
    /// The models' features as the file's cases describe them.
    ModelPair: ModelPair
}

/// One way to compute a case: the loss, the leaves beside the logits, and further values to compare.
[<NoComparison; NoEquality>]
type GoldenRoute = { Loss: Tensor; Leaves: (string * Tensor) list; Values: Comparison list }

let private cpu = Device.Cpu
let private leaf dtype value = Tensor.scalar dtype cpu value |> Autograd.leaf

let route leaves values loss : GoldenRoute = { Loss = loss; Leaves = leaves; Values = values }

/// The features of a losses file. Some of its cases give lengths and map shapes; the stem is unused.
let pair (file: JsonElement) : ModelPair =
    let parameters = field "cases" file |> items |> List.map (field "params")
    let stem = [ 1; 1; 1 ]

    let length name = parameters |> List.tryFind (has name) |> Option.map (integer name) |> Option.defaultValue 1

    let map name =
        match List.tryFind (has name) parameters with
        | Some found -> floats name found |> Array.map int |> List.ofArray |> List.tail
        | None -> stem

    let shown side : ModelShape = {
        Model = side
        Maps = [ stem; map $"{side}_map" ]
        Pooled = length (if side = "teacher" then "d_t" else "d_s")
        Classes = integer "C" file
        HasClassifier = true
    }

    {
        Teacher = shown "teacher"
        Student = shown "student"
        Labels = [| 0; 1 |]
        SmallestBatch = integer "B" file
    }

// ---- logits -------------------------------------------------------------------------------------

/// T of a case: a number, or "probe(KEY,scale S,shift H)" for one T per instance.
let private temperature (inputs: GoldenInputs) (parameters: JsonElement) : Tensor =
    match field "T" parameters with
    | t when t.ValueKind = JsonValueKind.Number -> leaf inputs.DType (t.GetDouble())
    | t ->
        let found = Regex.Match(string (t.GetString()), @"^probe\((\w+), ?scale ([-\d.]+), ?shift ([-\d.]+)\)$")

        Expect.isTrue found.Success $"T is neither a number nor a probe: {t}"
        let part (i: int) = found.Groups[i].Value
        let float i = System.Double.Parse(part i, CultureInfo.InvariantCulture)
        probe inputs.DType $"{inputs.Tag}/{part 1}" [ inputs.Batch ] (float 2) (float 3) |> Autograd.leaf

/// A distiller's input for the case: the softened logits, and features.
let input (inputs: GoldenInputs) softened teacher student classify index : DistillerInput =
    let outputs logits (pooled, map) : Outputs = { Features = [ map; map ]; Pooled = pooled; Logits = logits }

    {
        Teacher = outputs inputs.Teacher teacher
        Student = outputs inputs.Student student
        Softened = softened
        Labels = inputs.Labels
        Index = index
        Shares = []
        Classify = classify
        Key = lazy (Tensor.scalar DType.Int64 cpu 0.0)
    }

let private values (inputs: GoldenInputs) (strength: float) (scheduled: Tensor) : PolicyValues = {
    Strength = Tensor.scalar inputs.DType cpu strength
    T = scheduled
}

let unsoftened (inputs: GoldenInputs) : Softening =
    Policy.shared (Tensor.scalar inputs.DType cpu 1.0) inputs.Teacher inputs.Student

/// A distiller's loss on softened logits, without features.
let private distilled (distiller: Distiller) (inputs: GoldenInputs) (softened: Softening) : Tensor =
    let none = inputs.Student, inputs.Student
    distiller.Loss Tree.empty (input inputs softened none none id inputs.Labels)

/// Computes KD by the formula, and by a policy with T as its dial.
let kd (inputs: GoldenInputs) (parameters: JsonElement) : GoldenRoute list =
    let t = temperature inputs parameters
    let policy = Scheduled.by (Schedule.constant 1.0)

    [
        Loss.kd t inputs.Teacher inputs.Student |> Tensor.mean
        Policy.soften policy Tree.empty (values inputs 0.0 t) inputs.Teacher inputs.Student
        |> distilled Kd.distiller inputs
    ]
    |> List.map (route [ "T", t ] [])

let ctkdGlobal (inputs: GoldenInputs) (parameters: JsonElement) : GoldenRoute list =
    let range = { Start = number "t_start" parameters; Scale = number "t_scale" parameters }
    let strength = -(number "lambda_signed" parameters)
    let policy = Ctkd.globalPolicy range (Schedule.constant strength)
    let theta = leaf inputs.DType (number "theta" parameters)
    let strength = Schedule.at 1 (Policy.strength policy)

    let values =
        values inputs strength (Tensor.scalar inputs.DType cpu (Schedule.at 1 (Policy.schedule policy)))

    let softened = Policy.soften policy (Tree.ofSeq [ "theta", theta ]) values inputs.Teacher inputs.Student

    [
        distilled Kd.distiller inputs softened
        |> route [ "theta", theta ] [ scalar "T" (number "T" parameters) (Tensor.toFloat softened.T) ]
    ]

let dkd (inputs: GoldenInputs) (parameters: JsonElement) : GoldenRoute list =
    let t = temperature inputs parameters

    let distiller =
        Dkd.distiller (number "alpha" parameters) (number "beta" parameters) inputs.ModelPair |> Error.orRaise

    [
        Policy.shared t inputs.Teacher inputs.Student |> distilled distiller inputs |> route [ "T", t ] []
    ]

/// w(e) (alpha L_DTKD + beta KD(tau)) + gamma CE, as computed by a plan under the policy.
let dtkdTotal (inputs: GoldenInputs) (parameters: JsonElement) : GoldenRoute list =
    let number name = number name parameters
    let tau = Tensor.scalar inputs.DType cpu (number "tau")
    let policy = Dtkd.policy (number "tau")
    let softened = Policy.soften policy Tree.empty (values inputs 0.0 tau) inputs.Teacher inputs.Student

    let both =
        Distiller.sum [ number "alpha", Kd.distiller; number "beta", Distiller.at (number "tau") Kd.distiller ]

    let warmUp =
        Schedule.warmUp 1.0 (integer "warmup" parameters) |> Schedule.at (integer "epoch" parameters)

    let ce = Loss.crossEntropy inputs.Labels inputs.Student |> Tensor.scale (number "ce_weight")
    let ofTeacher, ofStudent = Dtkd.balanced tau inputs.Teacher inputs.Student
    let temperatures name = vector name (floats name parameters)

    [
        Tensor.scale warmUp (distilled both inputs softened) + ce
        |> route [] [
            temperatures "T_teacher" (Tensor.toFloats ofTeacher)
            temperatures "T_student" (Tensor.toFloats ofStudent)
            temperatures "T_student" (Tensor.toFloats softened.T)
        ]
    ]

let standardised (inputs: GoldenInputs) (parameters: JsonElement) : GoldenRoute list =
    let tau = number "tau" parameters
    let policy = Standardise.policy (Scheduled.fixedAt tau)
    let values = values inputs 0.0 (Tensor.scalar inputs.DType cpu tau)

    [
        Policy.soften policy Tree.empty values inputs.Teacher inputs.Student
        |> distilled Kd.distiller inputs
        |> route [] []
    ]
