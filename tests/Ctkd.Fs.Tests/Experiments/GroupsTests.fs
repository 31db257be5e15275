module Ctkd.Fs.Tests.GroupsTests

open System.IO
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Folders
open Ctkd.Fs.Tests.MadeRuns

/// The names of the groups of settings, each with its number of runs.
let private grouped (list: Settings list) : (string * int) list =
    inFolder (fun folder ->
        list
        |> List.mapi (fun i s -> write (Path.Combine(folder, $"{i:D3}")) s [ 50.0; 51.0 ])
        |> read
        |> Groups.ofRuns
        |> List.map (fun group -> group.Name, group.Runs.Length)
    )

let private of' (policy: string) : Settings = { settings with Policy = Runs.policy policy }

let tests =
    testList "Groups" [
        test "runs that differ in their seeds and machines are one group" {
            Must.equal
                [ "all runs", 3 ]
                (grouped [
                    settings
                    {
                        settings with
                            Seed = 2
                            Threads = 2
                            Device = "cuda"
                            Graph = false
                            Tf32 = false
                    }
                    {
                        settings with
                            Seed = 3
                            DataDir = "/elsewhere"
                            TeacherWeights = "/moved/last.safetensors"
                            TeacherCache = "/cache"
                            TeacherAhead = 4
                    }
                ])
        }

        test "every setting but the seed and those of the machine makes groups" {
            let base' = { settings with Policy = PolicyName.Rlkd }

            let changed (field: Field) : objnull =
                let current = field.Kind.Show(Field.get field.Name base')

                match field.Default with
                | _ when not field.Kind.Names.IsEmpty && not field.Kind.IsList ->
                    let other = field.Kind.Names |> List.find ((<>) current)
                    field.Kind.Read other |> Result.defaultWith failtest
                | :? bool as value -> box (not value)
                | :? int as value -> box (value + 1)
                | :? float as value -> box (value + 0.5)
                | :? string -> box "other"
                | :? (float list) -> box [ 0.5 ]
                | :? (int list) -> box [ 7 ]
                | :? (string list) -> box [ "other" ]
                | :? (LogName list) -> box [ LogName.Tensorboard ]
                | :? Map<string, float> -> box (Map [ "crd", 0.25 ])
                | _ -> failtest $"no other value of {field.Name}"

            for field in SettingsTable.all do
                let other = Field.set field.Name (changed field) base'
                let count = grouped [ base'; other ] |> List.length
                let expected = if field.OfMachine || field.Name = "seed" then 1 else 2
                Must.equal (field.Name, expected) (field.Name, count)
        }

        test "no two choices of a setting are one group, also where one is called none" {
            let agent = { settings with Policy = PolicyName.Rlkd }

            for field in SettingsTable.all do
                if not field.Kind.IsList then
                    let read name = field.Kind.Read name |> Result.defaultWith failtest
                    let choices = field.Default :: List.map read field.Kind.Names |> List.distinct
                    let texts = choices |> List.map (fun value -> Groups.text field (Field.set field.Name value agent))
                    // A field without an effect here has one text.
                    if (List.distinct texts).Length > 1 then
                        Must.equal (field.Name, texts) (field.Name, List.distinct texts)
        }

        test "a group is named by the differing fields alone" {
            Must.equal
                [ "policy=fixed", 2; "policy=ctkd-global", 1 ]
                (grouped [ settings; { settings with Seed = 2 }; of' "ctkd-global" ])

            let dkd = Settings.withMethods [ "dkd" ] settings

            Must.equal
                [ "policy=fixed methods=kd", 1; "policy=fixed methods=dkd", 1; "policy=ctkd-global methods=kd", 1 ]
                (grouped [ settings; dkd; of' "ctkd-global" ])
        }

        test "fields that others decide are not named: milestones by epochs, methods and weights by dtkd" {
            let longer = { settings with Epochs = 8; Milestones = Settings.milestones 8 }
            Must.equal [ "epochs=2", 1; "epochs=8", 1 ] (grouped [ settings; longer ])
            let dtkd = Settings.withMethods (Settings.methodsOf PolicyName.Dtkd) (of' "dtkd")
            Must.equal [ "policy=fixed", 1; "policy=dtkd", 1 ] (grouped [ settings; dtkd ])
        }

        test "methods that differ in their weights alone are shown with them" {
            let heavier = { settings with Methods = Map [ "kd", 3.0 ] }
            Must.equal [ "methods=kd:0.9", 1; "methods=kd:3", 1 ] (grouped [ settings; heavier ])
        }

        test "settings without effect make no groups: a teacher's without one, an agent's beside another policy" {
            let alone = { settings with Teacher = ""; TeacherWeights = "" }
            Must.equal [ "all runs", 2 ] (grouped [ alone; { alone with T = 9.0; Policy = PolicyName.Cosine } ])

            Must.equal
                [ "all runs", 2 ]
                (grouped [ settings; { settings with Rlkd = { settings.Rlkd with Every = 7 } } ])
        }

        test "other data of one name make two groups, told by their hashes" {
            inFolder (fun folder ->
                let of' name hash =
                    writeWith (Some { record with DataHash = hash }) (Path.Combine(folder, name)) settings [
                        50.0
                        51.0
                    ]

                Must.equal
                    [ "dataHash=22222222"; "dataHash=33333333" ]
                    (read [ of' "a" "2222222222"; of' "b" "3333333333" ] |> Groups.ofRuns |> List.map _.Name)
            )
        }

        test "a student that starts from weights is no repetition of one that does not" {
            let started hash = { settings with StudentWeights = "/w"; StudentHash = hash }

            Must.equal
                [ "studentHash=none", 1; "studentHash=given", 2 ]
                (grouped [ settings; started "aa"; { started "bb" with Seed = 2 } ])
        }

        test "runs that teach others are set apart, also where all have been moved" {
            inFolder (fun folder ->
                let teacher =
                    write (Path.Combine(folder, "teacher")) { settings with Teacher = ""; TeacherWeights = "" } [
                        70.0
                        71.0
                    ]

                let student name weights =
                    write (Path.Combine(folder, name)) { settings with TeacherWeights = weights } [ 60.0; 61.0 ]

                let own = student "own" (Path.Combine(teacher, "last.safetensors"))
                let moved = student "moved" "/before/teacher/last.safetensors"
                let other = student "other" "/before/another/last.safetensors"

                for students, expected in [ [ own ], 1; [ moved ], 1; [ other ], 0 ] do
                    let teachers, rest = Groups.teachers (read (teacher :: students))
                    Must.equal (expected, 2 - expected) (teachers.Length, rest.Length)
            )
        }
    ]
