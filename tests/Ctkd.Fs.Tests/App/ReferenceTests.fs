/// The reference that the documentation takes from the program, and the flags of `teach` and `distill`.
module Ctkd.Fs.Tests.ReferenceTests

open Expecto
open Ctkd.Fs
open Ctkd.Fs.App
open Ctkd.Fs.Tests.Child
open Ctkd.Fs.Tests.Folders

let private resolved (words: string list) : Resolved =
    Flags.parse "distill" TrainFlags.all words |> Result.bind TrainFlags.resolve |> Error.orRaise

let tests =
    testList "Reference" [
        test "the reference has every setting and every command, and a hidden command prints it" {
            let printed = (expect 0 "/" "reference").Out
            Must.equal (Reference.markdown ()) printed

            for field in SettingsTable.all do
                Must.contain $"\n| `{field.Name}` | " printed

            Must.contain "| `learningRate` | a number | 0.05; adamw: 0.001 | > 0 | `--lr` | learning rate |" printed
            Must.contain "| `hidden` | a whole number | 512 | from 1 to 65536 | `--hidden` | " printed

            Must.contain "| `tf32` | true or false | true: TF32 |  | `--no-tf32` | false: CUDA: multiply" printed

            Must.contain "| `rlkd.reward` | one of next, lagged | the mode's | " printed
            Must.contain "| `policy` | a name | ctkd-global |  | `--policy` | " printed

            for command in Reference.commandNames () |> List.except [ "version" ] do
                Must.contain $"\n## ctkd {command}\n" printed
                Must.contain $"USAGE: ctkd {command} " printed

            Must.lack "reference" ((expect 0 "/" "--help").Out)
        }

        test "every flag of a row sets that row alone, and a switch the opposite of its default" {
            let plain = resolved [ "--policy"; "rlkd" ]

            for field in SettingsTable.all |> List.filter (fun field -> field.Flag <> "") do
                let flag = "--" + field.Flag

                let words =
                    match field.Default with
                    | _ when field.Argument = "" -> []
                    | :? (float list)
                    | :? (int list) -> [ "1"; "2" ]
                    | _ when not field.Kind.Names.IsEmpty -> [ List.last field.Kind.Names ]
                    | :? string -> [ "/x" ]
                    | _ -> [ "3" ]

                let given = resolved ((flag :: words) @ (if field.Flag = "policy" then [] else [ "--policy"; "rlkd" ]))

                Must.equal (field.Name, flag) (field.Name, given.Origins[field.Name])
                let value = Field.get field.Name given.Settings

                let expected =
                    match field.Default with
                    | :? bool as value -> box (not value)
                    | _ -> field.Kind.Read(String.concat " " words) |> Result.defaultWith failtest

                Must.equal (field.Name, expected) (field.Name, value)
                Must.equal "default" plain.Origins["batch"]
        }

        test "words that are no flags, values that are missing and flags given twice are wrong usage" {
            let wrong (words: string) =
                (errorOf (Flags.parse "teach" TrainFlags.all (List.ofArray (words.Split ' ')))).ToString()

            Must.contain "unknown flag 'foo'" (wrong "foo")
            Must.contain "--lr needs a value: --lr <RATE>" (wrong "--lr")
            Must.contain "--lr needs a value" (wrong "--lr --json")
            Must.contain "--lr is given more than once" (wrong "--lr 1 --lr 2")

            let twice = Flags.parse "teach" TrainFlags.all [ "--set"; "batch=1"; "--set"; "epochs=2"; "batch=3" ]

            Must.equal 3 ((twice |> Result.bind TrainFlags.resolve |> Error.orRaise).Settings.Batch)
        }
    ]
