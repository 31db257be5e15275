/// The one table of the settings, and what is made from it.
module Ctkd.Fs.Tests.FieldTests

open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Folders
open FSharp.Reflection

/// Names and types of a record's fields, those of inner records by their paths.
let rec private fieldsOf (prefix: string) (record: System.Type) : (string * System.Type) list = [
    for name, kind in Json.fields record do
        if FSharpType.IsRecord kind then
            yield! fieldsOf $"{prefix}{name}." kind
        else
            prefix + name, kind
]

let tests =
    testList "Field" [
        test "the table has one row for each field, of its type, and no flag twice" {
            let fields = fieldsOf "" typeof<Settings>
            Must.equal (List.sort (List.map fst fields)) (SettingsTable.all |> List.map _.Name |> List.sort)
            let flags = SettingsTable.all |> List.map _.Flag |> List.filter ((<>) "")
            Must.equal (List.distinct flags) flags

            for name, kind in fields do
                let field = SettingsTable.find name |> Error.orRaise
                let shown = field.Kind.Show(Field.get name Settings.defaults)

                // None is null, and texts of names read back as the same case.
                match field.Kind.Read shown with
                | Ok value ->
                    Must.equal (Field.get name Settings.defaults) value
                    Must.hold (isNull value || kind.IsInstanceOfType value)
                | Error reason -> failtest $"{name}: '{shown}' is not read: {reason}"

                Must.differ "" field.Meaning
        }

        test "a field is set by its row, and no other field changes" {
            for field in SettingsTable.all do
                Must.equal Settings.defaults (Field.set field.Name field.Default Settings.defaults)

            let row = SettingsTable.find "rlkd.warmUp" |> Error.orRaise
            let expected = { Settings.defaults with Rlkd.WarmUp = 7 }
            Must.equal expected (Field.set row.Name (box 7) Settings.defaults)
        }

        test "names in JSON are those of files that earlier versions wrote" {
            let text = Json.write Settings.defaults

            for part in
                [
                    "\"policy\":\"ctkd-global\""
                    "\"precision\":\"f32\""
                    "\"methods\":{\"kd\":0.9}"
                    "\"rlkd\":{\"mode\":\"paper\",\"warmUp\":20,\"every\":20,\"ramp\":0,\"mix\":true,\"mixUntil\":0,\
                     \"ranks\":[],\"state\":\"\",\"spread\":\"\",\"calibration\":\"\",\"masked\":\"\",\"reward\":\"\",\
                     \"greedyAfter\":0}"
                ] do
                Must.contain part text

            Must.equal [ "fixed"; "linear"; "cosine"; "dtkd"; "ctkd-global"; "ctkd-instance"; "rlkd" ] Settings.policies

            Must.equal [ "paper"; "official" ] (Names.all<RlkdMode>())
            Must.equal [ "uncertainty"; "confidences"; "second-smallest" ] (Names.all<RlkdState>())
            Must.equal [ "head"; "shared" ] (Names.all<RlkdSpreadName>())
            Must.equal [ "lstm"; "set"; "linear"; "none" ] (Names.all<RlkdCalibration>())
            Must.equal [ "values"; "states"; "afterwards" ] (Names.all<RlkdMasked>())
            Must.equal [ "next"; "lagged" ] (Names.all<RlkdReward>())
            Must.equal [ "f32"; "bf16" ] Settings.precisions
        }

        test "a name that JSON does not have is an error with its place and the nearest names" {
            let read (before: string) after =
                errorOf (Json.read<Settings> "settings.json" ((Json.write Settings.defaults).Replace(before, after)))

            let precision = read "\"precision\":\"f32\"" "\"precision\":\"f16\""
            Must.contain "$.precision: unknown name 'f16', did you mean one of: " precision.What
            let state = read "\"state\":\"\"" "\"state\":\"x\""
            Must.contain "$.rlkd.state: unknown name 'x'" state.What
            Must.contain "rlkd.state" ((read "\"state\":\"\"" "\"state\":null").What)
        }

        test "a policy, a model and a method of the program's own are names in settings, which a command does not know" {
            let s = {
                Settings.defaults with
                    Policy = PolicyName.Own "mine"
                    Student = "net"
                    Methods = Map [ "loss", 1.0 ]
            }

            Must.equal 3 (Settings.mistakes s).Length
            Must.beEmpty (Settings.mistakes (Settings.withKnownNames s))
            Must.equal (Ok s) (Json.read<Settings> "" (Json.write s))
            Must.contain "\"policy\":\"mine\"" (Json.write s)
        }

        test "the options of C# set the fields of their names, and any other by name" {
            let options = TrainingOptions(Batch = 7, Policy = "dtkd", Precision = "bf16", T = 3.0)
            options["rlkd.every"] <- "9"
            options["curriculumStart"] <- "0.5"

            Must.equal ("9", "0.5", "dtkd") (options["rlkd.every"], options["curriculumStart"], options["policy"])

            let s = options.ToSettings()
            Must.equal (7, PolicyName.Dtkd, Bf16, 3.0) (s.Batch, s.Policy, s.Precision, s.T)
            Must.equal (9, 0.5) (s.Rlkd.Every, s.CurriculumStart)
        }
    ]
