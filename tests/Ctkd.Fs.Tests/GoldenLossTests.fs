namespace Ctkd.Fs.Tests

open System.Globalization
open System.Text.Json
open System.Text.RegularExpressions
open Ctkd.Fs
open Xunit
open Xunit.Abstractions
open Ctkd.Fs.Tests.Golden

/// What a losses file gives to each of its cases.
[<NoComparison; NoEquality>]
type GoldenInputs = {
    DType: DType
    Tag: string
    Batch: int
    Teacher: Tensor
    Student: Tensor
    Labels: Tensor
}

/// One way to compute a case: the loss, the leaves besides the logits, and further values to compare.
[<NoComparison; NoEquality>]
type GoldenRoute = { Loss: Tensor; Leaves: (string * Tensor) list; Values: Comparison list }

module GoldenLosses =
    let private cpu = Device.Cpu
    let private leaf dtype value = Tensor.scalar dtype cpu value |> Autograd.leaf

    /// T of a case: a number, or "probe(KEY,scale S,shift H)" for one T an instance.
    let private temperature (inputs: GoldenInputs) (parameters: JsonElement) : Tensor =
        match field "T" parameters with
        | t when t.ValueKind = JsonValueKind.Number -> leaf inputs.DType (t.GetDouble())
        | t ->
            let found =
                Regex.Match(string (t.GetString()), @"^probe\((\w+), ?scale ([-\d.]+), ?shift ([-\d.]+)\)$")

            Assert.True(found.Success, $"T is neither a number nor a probe: {t}")
            let part (i: int) = found.Groups[i].Value
            let float i = System.Double.Parse(part i, CultureInfo.InvariantCulture)
            probe inputs.DType $"{inputs.Tag}/{part 1}" [ inputs.Batch ] (float 2) (float 3) |> Autograd.leaf

    /// A distiller's loss under a policy's softening.
    let private distilled (distiller: Distiller) (inputs: GoldenInputs) (softened: Softening) : Tensor =
        let outputs logits : Outputs = { Features = []; Pooled = logits; Logits = logits }

        distiller.Loss Tree.empty {
            Teacher = outputs inputs.Teacher
            Student = outputs inputs.Student
            Softened = softened
            Labels = inputs.Labels
        }

    /// Through the formula, and through a policy whose dial is T.
    let private kd (inputs: GoldenInputs) (parameters: JsonElement) : GoldenRoute list =
        let t = temperature inputs parameters
        let route loss = { Loss = loss; Leaves = [ "T", t ]; Values = [] }
        let policy = Temperature.scheduled (Schedule.constant 1.0)
        let dials = { Strength = Tensor.scalar inputs.DType cpu 0.0; Scheduled = t }

        [
            Loss.kd t inputs.Teacher inputs.Student |> Tensor.mean |> route
            policy.Soften Tree.empty dials inputs.Teacher inputs.Student
            |> distilled Distiller.kd inputs
            |> route
        ]

    let private ctkdGlobal (inputs: GoldenInputs) (parameters: JsonElement) : GoldenRoute list =
        let range = { Start = number "t_start" parameters; Scale = number "t_scale" parameters }
        let strength = -(number "lambda_signed" parameters)
        let policy = Temperature.ctkdGlobal range (Schedule.constant strength)
        let theta = leaf inputs.DType (number "theta" parameters)

        let dials = {
            Strength = Tensor.scalar inputs.DType cpu (Schedule.at 1 policy.Strength)
            Scheduled = Tensor.scalar inputs.DType cpu (Schedule.at 1 policy.Scheduled)
        }

        let softened = policy.Soften (Tree.ofSeq [ "theta", theta ]) dials inputs.Teacher inputs.Student

        [
            {
                Loss = distilled Distiller.kd inputs softened
                Leaves = [ "theta", theta ]
                Values = [ scalar "T" (number "T" parameters) (Tensor.toFloat softened.T) ]
            }
        ]

    /// The cases that this version implements, by name.
    let implemented: Map<string, GoldenInputs -> JsonElement -> GoldenRoute list> =
        Map [ "kd", kd; "kd_instance", kd; "ctkd_global", ctkdGlobal ]

    /// Values, and the gradients that the case lists, by every route.
    let compare (dtype: DType) (file: JsonElement) (case: JsonElement) : Comparison list * Comparison list =
        let tag, batch, classes = text "tag" file, integer "B" file, integer "C" file

        let logits name =
            probe dtype $"{tag}/{name}" [ batch; classes ] (number "logit_scale" file) 0.0 |> Autograd.leaf

        let inputs = {
            DType = dtype
            Tag = tag
            Batch = batch
            Teacher = logits "teacher_logits"
            Student = logits "student_logits"
            Labels = labels $"{tag}/labels" batch classes
        }

        let gradients (route: GoldenRoute) =
            let leaves =
                Map(("teacher_logits", inputs.Teacher) :: ("student_logits", inputs.Student) :: route.Leaves)

            let listed = field "grads" case |> entries
            let ours = Autograd.gradients route.Loss [| for name, _ in listed -> Map.find name leaves |]

            [
                for (name, expected), gradient in Seq.zip listed ours do
                    yield! statistics $"gradient of {name}" expected gradient
            ]

        let routes = implemented[text "name" case] inputs (field "params" case)

        let values = [
            vector "labels" (floats "labels" file) (Tensor.toFloats inputs.Labels)
            for route in routes do
                scalar "value" (number "value" case) (Tensor.toFloat route.Loss)
                yield! route.Values
        ]

        values, List.collect gradients routes

type GoldenLossTests(output: ITestOutputHelper) =
    static member Cases =
        (find ()).Cases |> List.filter (_.Name >> GoldenLosses.implemented.ContainsKey) |> rows

    member private _.Compare dtype (file: string) (index: int) (name: string) judge : unit =
        run
            file
            index
            (fun root ->
                let case = field "cases" root |> items |> List.item index
                Assert.Equal(name, text "name" case)
                GoldenLosses.compare dtype root case |> judge
            )

    [<Theory; MemberData("Cases")>]
    member this.``a loss and its gradients agree in float64``(file: string, index: int, name: string) =
        this.Compare
            DType.Float64
            file
            index
            name
            (fun (values, gradients) -> verify output double (values @ gradients))

    [<Theory; MemberData("Cases")>]
    member this.``a loss agrees in float32``(file: string, index: int, name: string) =
        this.Compare DType.Float32 file index name (fst >> verify output single)
