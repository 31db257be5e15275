/// Settings in layers: defaults, a recipe, assignments.
module Ctkd.Fs.Tests.ResolveTests

open Ctkd.Fs
open Ctkd.Fs.Tests.Folders
open Xunit

let private sets (texts: string list) : Assignment list = texts |> List.map (Resolve.set >> Error.orRaise)

let private resolved (recipe: string) (texts: string list) : Resolved =
    let recipe = if recipe = "" then None else Some(Recipes.find recipe |> Error.orRaise)

    Resolve.settings recipe (sets texts) |> Error.orRaise

[<Fact>]
let ``without a recipe and assignments every value is the library's and its origin the default`` () =
    let plain = resolved "" []
    Assert.Equal(Settings.defaults, plain.Settings)
    Assert.All(plain.Origins.Values, fun origin -> Assert.Equal("default", origin))
    Assert.Equal<string list>(Resolve.fields, Resolve.rows plain |> List.map (fun (field, _, _) -> field))
    Assert.Contains(("learningRate", "0.05", "default"), Resolve.rows plain)

[<Fact>]
let ``a recipe beats the defaults, an assignment beats the recipe, and a later one an earlier`` () =
    let name = "mdistiller/resnet32x4-ShuffleV1/dkd/fixed"
    let recipe = (Recipes.find name |> Error.orRaise).Settings
    Assert.Equal(recipe, (resolved name []).Settings)
    let changed = resolved name [ "dkdBeta=4"; "device=cuda"; "dkdBeta=5" ]
    Assert.Equal({ recipe with DkdBeta = 5.0; Device = "cuda" }, changed.Settings)
    let origin field = changed.Origins[field]
    Assert.Equal(("--set", "--set"), (origin "dkdBeta", origin "device"))
    Assert.Equal(("recipe", "recipe", "default"), (origin "learningRate", origin "teacher", origin "dataDir"))
    Assert.Equal(("default", "default"), (origin "seed", origin "precision"))
    Assert.Equal("recipe", (resolved "rlkd/vgg13-vgg8/kd/fixed" []).Origins["seed"])

[<Fact>]
let ``defaults follow what they depend on: epochs the data, milestones the epochs, weights the methods`` () =
    let cifar = (resolved "" [ "data=cifar100" ]).Settings
    Assert.Equal((240, [ 150; 180; 210 ]), (cifar.Epochs, cifar.Milestones))
    let short = (resolved "" [ "data=cifar100"; "epochs=8" ]).Settings
    Assert.Equal<int list>([ 5; 6; 7 ], short.Milestones)

    let losses texts =
        let s = (resolved "" texts).Settings
        s.CrossEntropy, Map.toList s.Methods, s.WarmUp

    Assert.Equal((0.1, [ "kd", 0.9 ], 0), losses [])
    Assert.Equal((1.0, [ "kd", 3.0; "kd-fixed", 1.0 ], 20), losses [ "policy=dtkd" ])
    Assert.Equal((1.0, [ "dkd", 2.0 ], 20), losses [ "methods=dkd:2" ])
    Assert.Equal((0.1, [ "crd", 0.5; "kd", 1.0 ], 0), losses [ "methods=kd:1,crd:0.5" ])
    Assert.Equal((0.3, [ "at", 1.0 ], 7), losses [ "methods=at:1"; "crossEntropy=0.3"; "warmUp=7" ])

[<Fact>]
let ``methods come with their published weights, or with one weight each`` () =
    let losses (names: string list) weights more =
        Resolve.settings None (Resolve.methods "--method" names weights :: sets more)
        |> Result.map (fun r -> r.Settings.CrossEntropy, Map.toList r.Settings.Methods)

    Assert.Equal(Ok(0.1, [ "crd", 0.8; "kd", 0.9 ]), losses [ "kd"; "crd" ] None [])
    Assert.Equal(Ok(1.0, [ "pkt", 30000.0 ]), losses [ "pkt" ] None [])
    Assert.Equal(Ok(1.0, [ "dkd", 1.0; "kd", 3.0 ]), losses [ "kd"; "dkd" ] None [ "policy=dtkd" ])
    Assert.Equal(Ok(0.1, [ "crd", 0.2; "kd", 0.5 ]), losses [ "kd"; "crd" ] (Some [ 0.5; 0.2 ]) [])
    let few = errorOf (losses [ "kd"; "crd" ] (Some [ 0.5 ]) [])
    Assert.Equal((Usage, "there are 2 methods and 1 weights"), (few.Kind, few.What))
    Assert.Contains("twice", (errorOf (losses [ "kd"; "kd" ] None [])).What)

[<Fact>]
let ``a recipe's milestones keep their shares of another number of epochs unless they are given`` () =
    let name = "ctkd/vgg13-vgg8/kd/ctkd-global"
    let scaled = resolved name [ "epochs=24" ]
    Assert.Equal<int list>([ 15; 18; 21 ], scaled.Settings.Milestones)
    Assert.Equal("recipe, scaled", scaled.Origins["milestones"])
    let given = resolved name [ "epochs=24"; "milestones=20" ]
    Assert.Equal(([ 20 ], "--set"), (given.Settings.Milestones, given.Origins["milestones"]))

[<Fact>]
let ``every field can be set by its name in JSON, in the form of its type`` () =
    let s =
        (resolved "" [
            "student=resnet20"
            "mean=0.5,0.25,1e-1"
            "std=[1, 2, 3]"
            "nesterov=true"
            "milestones=3,4"
            "methods={\"kd\": 0.5, \"at\": 10}"
            "teacherWeights=a=b.pth"
        ])
            .Settings

    Assert.Equal(("resnet20", true, "a=b.pth"), (s.Student, s.Nesterov, s.TeacherWeights))
    Assert.Equal<float list>([ 0.5; 0.25; 0.1 ], s.Mean)
    Assert.Equal<float list>([ 1.0; 2.0; 3.0 ], s.Std)
    Assert.Equal<int list>([ 3; 4 ], s.Milestones)
    Assert.Equal<_ list>([ "at", 10.0; "kd", 0.5 ], Map.toList s.Methods)

    for field, value, _ in Resolve.rows (resolved "" []) do
        let unquoted = value.Trim '"'
        Assert.Equal(Settings.defaults, (resolved "" [ $"{field}={unquoted}" ]).Settings)

[<Fact>]
let ``an unknown field, a wrong value and a text without a field are errors that say what to write`` () =
    let wrong (text: string) =
        match Resolve.set text with
        | Result.Error error -> error
        | Ok assignment -> errorOf (Resolve.settings None [ assignment ])

    let unknown = wrong "learningrate=3"
    Assert.Equal((Usage, "unknown field 'learningrate'"), (unknown.Kind, unknown.What))
    Assert.StartsWith("did you mean one of: learningRate, ", unknown.Next)
    Assert.Contains("field=value", (wrong "learningRate").Next)

    for text, needed in
        [
            "learningRate=fast", "it takes a number"
            "learningRate=", "it takes a number"
            "learningRate=NaN", "it takes a number"
            "epochs=1.5", "it takes a whole number"
            "epochs=99999999999", "it takes a whole number"
            "nesterov=yes", "it takes true or false"
            "milestones=a", "it takes numbers"
            "milestones=null", "it takes numbers"
            "methods=kd", "it takes names with weights"
            "methods=kd:x", "it takes names with weights"
            "methods=kd:1,kd:2", "it takes names with weights"
        ] do
        let error = wrong text
        Assert.Equal(Usage, error.Kind)
        Assert.StartsWith(needed, error.Next)
        Assert.Contains((text.Split '=')[0], error.What)
