module Ctkd.Fs.Tests.SettingsTests

open System
open System.Globalization
open System.Text.Json.Nodes
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Folders
open FsCheck
open FsCheck.FSharp
open FSharp.Reflection

// ---- JSON ----

/// A value of a field's type: texts with every sort of character, finite numbers, short lists.
let rec private valueOf (kind: Type) : Gen<objnull> =
    let texts = [ ""; "resnet8"; "a \"quoted\" \\ path/with space"; "µ ü 漢字 🙂"; "\t\n\u0000" ]
    let number = ArbMap.defaults |> ArbMap.generate<NormalFloat> |> Gen.map float
    let whole = Gen.choose (Int32.MinValue, Int32.MaxValue)

    if kind = typeof<string> then
        Gen.elements texts |> Gen.map box
    elif kind = typeof<float> then
        Gen.map box number
    elif kind = typeof<int> then
        Gen.map box whole
    elif kind = typeof<bool> then
        Gen.elements [ true; false ] |> Gen.map box
    elif kind = typeof<string list> then
        Gen.listOf (Gen.elements texts) |> Gen.map box
    elif kind = typeof<float list> then
        Gen.listOf number |> Gen.map box
    elif kind = typeof<int list> then
        Gen.listOf whole |> Gen.map box
    elif kind = typeof<LogName list> then
        Gen.elements [ LogName.Jsonl; LogName.Tensorboard ] |> Gen.listOf |> Gen.map box
    elif kind = typeof<Map<string, float>> then
        Gen.zip (Gen.elements texts) number |> Gen.listOf |> Gen.map (Map >> box)
    elif Names.has kind then
        let plain = FSharpType.GetUnionCases kind |> Array.filter (fun case -> case.GetFields().Length = 0)
        Gen.elements plain |> Gen.map (fun case -> FSharpValue.MakeUnion(case, [||]))
    elif kind.IsGenericType && kind.GetGenericTypeDefinition() = typedefof<_ option> then
        let some, none =
            FSharpType.GetUnionCases(kind)[1], FSharpValue.MakeUnion(FSharpType.GetUnionCases(kind)[0], [||])

        Gen.oneof [
            Gen.constant none
            valueOf (kind.GetGenericArguments()[0]) |> Gen.map (fun value -> FSharpValue.MakeUnion(some, [| value |]))
        ]
    elif FSharpType.IsRecord kind then
        FSharpType.GetRecordFields kind
        |> Array.map (fun field -> valueOf field.PropertyType)
        |> Gen.sequenceToArray
        |> Gen.map (fun values -> FSharpValue.MakeRecord(kind, values))
    else
        invalidArg (nameof kind) $"no generator for {kind}"

let private anySettings: Gen<Settings> =
    valueOf typeof<Settings> |> Gen.map (nonNull >> fun settings -> settings :?> Settings)

let private json () : JsonObject = (JsonNode.Parse(Json.write Settings.defaults) |> nonNull).AsObject()

let private fields: string list = json () |> Seq.map _.Key |> List.ofSeq

/// The error of the default settings' JSON after a change of it.
let private errorAfter (change: JsonObject -> unit) : Error =
    let changed = json ()
    change changed
    errorOf (Json.read<Settings> "settings.json" (changed.ToJsonString()))

// ---- bounds ----

let private valid = Settings.defaults

/// The mistakes after a change of valid settings: exactly one is expected.
let private mistake (change: Settings -> Settings) : string =
    let mistakes = Settings.mistakes (change valid)
    Expect.isTrue (mistakes.Length = 1) $"one mistake was expected, not {mistakes.Length}: {mistakes}"
    let error = errorOf (Settings.validate (change valid))
    Must.equal (Usage, mistakes.Head) (error.Kind, error.What)
    Must.differ "" error.Next
    mistakes.Head

let tests =
    testList "Settings" [
        test "settings survive JSON unchanged, on one line and indented" {
            Generators.check
                anySettings
                (fun settings ->
                    Must.equal settings (Json.write settings |> Json.read<Settings> "" |> Error.orRaise)

                    Must.equal settings (Json.writeIndented settings |> Json.read<Settings> "" |> Error.orRaise)

                    Must.lack "\n" (Json.write settings)
                )
        }

        test "a field of the settings' JSON that is missing, null or of another type is an error that names it" {
            Must.equal (FSharpType.GetRecordFields(typeof<Settings>).Length) fields.Length

            for field in fields do
                let errors = [
                    errorAfter (fun json -> json.Remove field |> ignore)
                    errorAfter (fun json -> json[field] <- null)
                    errorAfter (fun json -> json[field] <- JsonArray(JsonObject()))
                ]

                for error in errors do
                    Must.equal (Damaged, "settings.json") (error.Kind, error.Where)
                    Must.contain field error.What
        }

        test "an unknown, misspelt or repeated field of the settings' JSON is an error that names it" {
            let unknown = errorAfter (fun json -> json["learningRat"] <- 0.1)
            Must.contain "unknown field 'learningRat', did you mean one of: learningRate, " unknown.What

            let misspelt =
                errorAfter (fun json ->
                    json.Remove "learningRate" |> ignore
                    json["learningrate"] <- 0.1
                )

            Must.contain "unknown field 'learningrate', did you mean one of: learningRate, " misspelt.What
            Must.contain "the field 'learningRate' is missing" misspelt.What
            let repeated = Json.write(Settings.defaults).Replace("\"batch\":64", "\"batch\":64,\"batch\":32")
            Must.contain "batch" ((errorOf (Json.read<Settings> "" repeated)).What)
            let twice = Json.write(Settings.defaults).Replace("\"kd\":0.9", "\"kd\":0.9,\"kd\":0.8")
            Must.contain "'kd' is there twice" ((errorOf (Json.read<Settings> "" twice)).What)
        }

        test "text that is no JSON, or JSON of something else, is an error" {
            let deep = String.replicate 1000 "[" + String.replicate 1000 "]"

            for text in [ ""; "null"; "[]"; "3"; "{"; "{}"; "{\"student\":}"; "\u0000"; deep; Json.write [ 1; 2 ] ] do
                Must.equal Damaged ((errorOf (Json.read<Settings> "" text)).Kind)
        }

        test "the defaults are valid" { Must.equal (Ok valid) (Settings.validate valid) }

        test "a temperature, rate or scale must be finite and above 0, and the mistake says the value" {
            let setters: (string * (float -> Settings -> Settings)) list = [
                "lr", (fun x s -> { s with LearningRate = x })
                "t", (fun x s -> { s with T = x })
                "t-stop", (fun x s -> { s with TStop = x })
                "t-scale", (fun x s -> { s with TScale = x })
                "decay", (fun x s -> { s with Decay = x })
                "std", (fun x s -> { s with Mean = [ 0.5 ]; Std = [ x ] })
            ]

            let wrong = [ 0.0, "0"; -0.5, "-0.5"; nan, "NaN"; infinity, "Infinity"; -infinity, "-Infinity" ]

            for name, set in setters do
                for value, text in wrong do
                    Must.equal $"{name} must be finite and > 0, got {text}" (mistake (set value))

                Must.beEmpty (Settings.mistakes (set (float Single.Epsilon) valid))
                // The engine's numbers are 32-bit floats.
                Must.contain "must be > 0 as a 32-bit float" (mistake (set Double.Epsilon))
                Must.contain "must fit into a 32-bit float" (mistake (set 1e300))
        }

        test "weights and the ends of the curriculum must be finite and at least 0" {
            let setters: (string * (float -> Settings -> Settings)) list = [
                "t-start", (fun x s -> { s with TStart = x })
                "weight-decay", (fun x s -> { s with WeightDecay = x })
                "curriculum-start", (fun x s -> { s with CurriculumStart = x })
                "curriculum-stop", (fun x s -> { s with CurriculumStop = x })
                "ce", (fun x s -> { s with CrossEntropy = x })
                "dkd-alpha", (fun x s -> { s with DkdAlpha = x })
                "dkd-beta", (fun x s -> { s with DkdBeta = x })
                "the weight of crd", (fun x s -> { s with Methods = Map [ "kd", 0.9; "crd", x ] })
            ]

            for name, set in setters do
                for value, text in [ -1e-9, "-1E-09"; nan, "NaN"; infinity, "Infinity" ] do
                    Must.equal $"{name} must be finite and >= 0, got {text}" (mistake (set value))

                Must.beEmpty (Settings.mistakes (set 0.0 valid))
        }

        test "counts have their least value" {
            let setters: (string * int * (int -> Settings -> Settings)) list = [
                "epochs", 1, (fun n s -> { s with Epochs = n })
                "batch", 1, (fun n s -> { s with Batch = n })
                "per-class", 0, (fun n s -> { s with PerClass = n })
                "hidden", 1, (fun n s -> { s with Hidden = n })
                "curriculum-epochs", 1, (fun n s -> { s with CurriculumEpochs = n })
                "warm-up", 0, (fun n s -> { s with WarmUp = n })
            ]

            for name, least, set in setters do
                Must.beEmpty (Settings.mistakes (set least valid))

                for value in [ least - 1; Int32.MinValue ] do
                    Must.equal $"{name} must be at least {least}, got {value}" (mistake (set value))
        }

        test "momentum lies in [0, 1), and Nesterov's needs one above 0" {
            for value in [ -0.1; 1.0; nan; infinity ] do
                let text = value.ToString CultureInfo.InvariantCulture
                let expected = $"momentum must be finite and in [0, 1), got {text}"
                Must.equal expected (mistake (fun s -> { s with Momentum = value }))

            Must.beEmpty (Settings.mistakes { valid with Momentum = 0.0 })
            let without = mistake (fun s -> { s with Momentum = 0.0; Nesterov = true })
            Must.contain "nesterov" without
        }

        test "milestones must rise from 1 on, and mean and std come together" {
            for wrong in [ [ 3; 2 ]; [ 0; 5 ]; [ -1 ] ] do
                let text = wrong |> List.map string |> String.concat ", "
                Must.endWith $"got {text}" (mistake (fun s -> { s with Milestones = wrong }))

            Must.beEmpty (Settings.mistakes { valid with Milestones = [] })
            Must.contain "together" (mistake (fun s -> { s with Mean = [ 0.5; 0.5; 0.5 ] }))
            Must.contain "together" (mistake (fun s -> { s with Mean = [ 0.5 ]; Std = [ 0.5; 0.5 ] }))
            Must.contain "mean" (mistake (fun s -> { s with Mean = [ nan ]; Std = [ 1.0 ] }))
        }

        test "a teacher and its weights come together" {
            Must.contain "weights" (mistake (fun s -> { s with Teacher = "resnet20" }))
            Must.contain "teacher" (mistake (fun s -> { s with TeacherWeights = "teacher.safetensors" }))

            Must.beEmpty (Settings.mistakes { valid with Teacher = "resnet20"; TeacherWeights = "t.safetensors" })
        }

        test "an unknown name is answered by the nearest ones" {
            let policy = mistake (fun s -> { s with Policy = PolicyName.Own "ctkd-globl" })
            Must.startWith "unknown policy 'ctkd-globl': did you mean one of: ctkd-global" policy
            let methods = mistake (fun s -> { s with Methods = Map [ "kdd", 1.0 ] })
            Must.startWith "unknown method 'kdd': did you mean one of: kd, dkd" methods
            Must.contain "at least" (mistake (fun s -> { s with Epochs = 0 }))
            Must.contain "one loss" (mistake (fun s -> { s with Methods = Map.empty }))
            Must.startWith "unknown precision 'f64': did" (mistake (fun s -> { s with Precision = F64 }))
            Must.contain "bf16" (mistake (fun s -> { s with Precision = F64 }))
            let unknown = errorOf (Resolve.set "precision=f16")
            Must.equal (Usage, "unknown precision 'f16'") (unknown.Kind, unknown.What)
            Must.contain "bf16" unknown.Next
            Must.contain "cifar100" (mistake (fun s -> { s with Data = "cifar-100" }))
            Must.contain ": resnet8, " (mistake (fun s -> { s with Student = "resne8" }))
            let teacher = mistake (fun s -> { s with Teacher = "RESNET57"; TeacherWeights = "x" })
            Must.contain ": resnet56, " teacher
        }

        test "several mistakes are reported together" {
            let error =
                errorOf (
                    Settings.validate {
                        valid with
                            LearningRate = 0.0
                            T = nan
                            Batch = 0
                            Policy = PolicyName.Own "kd"
                    }
                )

            Must.equal Usage error.Kind
            Must.startWith "4 settings are wrong:" error.What

            for part in [ "lr must"; "t must"; "batch must"; "unknown policy 'kd'" ] do
                Must.contain $"\n  - {part}" error.What
        }

        test "messages and JSON have a decimal point in every culture" {
            let before = CultureInfo.CurrentCulture
            let commas = CultureInfo.InvariantCulture.Clone() :?> CultureInfo
            commas.NumberFormat.NumberDecimalSeparator <- ","

            try
                CultureInfo.CurrentCulture <- commas
                Must.contain "got -0.5" (mistake (fun s -> { s with LearningRate = -0.5 }))
                Must.contain "\"learningRate\":0.05" (Json.write valid)
                Must.equal (Ok valid) (Json.read<Settings> "" (Json.write valid))
            finally
                CultureInfo.CurrentCulture <- before
        }

        // ---- what settings build ----

        test "every policy's name builds that policy" {
            for name in Settings.policies do
                let policy =
                    Settings.policy {
                        valid with
                            Policy = Names.find "policy" name |> Error.orRaise
                            T = 5.0
                            TStop = 2.0
                            Epochs = 10
                    }

                let at epoch = Schedule.at epoch (Policy.schedule policy)

                match name with
                | "fixed" -> Must.equal ("fixed", 5.0, 5.0) (policy.Name, at 0, at 10)
                | "linear" -> Must.equal (5.0, 3.5, 2.0) (at 0, at 5, at 10)
                | "cosine" -> Must.equal (5.0, 2.0) (at 0, at 10)
                | "dtkd" -> Must.equal ("dtkd", 5.0, 5.0) (policy.Name, at 0, at 10)
                | learned -> Must.equal learned policy.Name

                let standardised =
                    Settings.policy {
                        valid with
                            Policy = Names.find "policy" name |> Error.orRaise
                            Standardise = true
                    }

                Must.equal (policy.Name + "-standardised") standardised.Name

            let strength =
                Settings.policy { valid with CurriculumStart = 0.2; CurriculumStop = 0.7; CurriculumEpochs = 4 }
                |> Policy.strength

            Must.equal (0.2, 0.7, 0.7) (Schedule.at 0 strength, Schedule.at 4 strength, Schedule.at 9 strength)

            let instance = Settings.policy { valid with Policy = PolicyName.CtkdInstance; Hidden = 7 }
            Must.have [ 7; 20 ] (Policy.declarations 10 instance |> List.map _.Shape)

            Must.throw<CtkdException>(fun () -> Settings.policy { valid with Policy = PolicyName.Own "x" } |> ignore)
            |> ignore
        }

        test "a plan reflects its settings and its data" {
            let data = { Digits.load () with Pad = 3; Flip = true }
            let student = Zoo.find "resnet8" 10 |> Error.orRaise

            let s = {
                valid with
                    Epochs = 8
                    Batch = 7
                    LearningRate = 0.2
                    Milestones = [ 2; 4 ]
                    Decay = 0.5
                    Momentum = 0.8
                    WeightDecay = 0.01
                    Nesterov = true
                    DecayTemperature = false
                    CrossEntropy = 0.3
                    Methods = Map [ "kd", 0.6; "dkd", 2.0; "kd-fixed", 0.5 ]
                    WarmUp = 4
                    Precision = Bf16
                    ChannelsLast = false
                    Seed = 11
            }

            let alone = Settings.alone s student data Device.Cpu
            Must.equal "resnet8" alone.Student.Name
            Must.hold alone.Distillation.IsNone
            Must.equal 1.0 (Schedule.at 1 alone.CrossEntropy)
            let rates = [ 1; 2; 3; 4; 5; 8 ] |> List.map (fun epoch -> Schedule.at epoch alone.LearningRate)
            Must.equal [ 0.2; 0.2; 0.1; 0.1; 0.05; 0.05 ] rates
            Must.equal (Optimiser.Sgd { Momentum = 0.8; WeightDecay = 0.01; Nesterov = true }) alone.Optimiser
            Must.equal (8, 7, 11) (alone.Epochs, alone.Batch, alone.Seed)
            Must.equal (ImageSet.count data.Train) alone.TrainImages

            Must.equal (3, true, false, false) (alone.Pad, alone.Flip, alone.ChannelsLast, alone.DecayTemperature)

            Must.equal (Bf16, Device.Cpu) (alone.Precision, alone.Device)

            Must.hold ((Settings.plan s student None data Device.Cpu |> Error.orRaise).Distillation.IsNone)

            let taught = Settings.plan s student (Some(student, Tree.empty)) data Device.Cpu |> Error.orRaise

            let teaching = taught.Distillation.Value
            Must.equal (0.3, "ctkd-global") (Schedule.at 1 taught.CrossEntropy, teaching.Policy.Name)

            let distillers =
                teaching.Distillers |> List.map (fun (weight, d) -> Schedule.at 1 weight, Schedule.at 9 weight, d.Name)

            Must.equal [ 0.5, 2.0, "dkd"; 0.15, 0.6, "kd"; 0.125, 0.5, "kd-fixed" ] distillers
        }

        test "the milestones are those of the papers, at every length" {
            Must.equal [ 150; 180; 210 ] (Settings.milestones 240)

            for epochs in [ 1; 2; 3; 8; 30; Int32.MaxValue ] do
                Must.beEmpty (Settings.mistakes { valid with Epochs = epochs; Milestones = Settings.milestones epochs })
        }
    ]
