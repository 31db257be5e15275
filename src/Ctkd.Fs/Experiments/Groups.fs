namespace Ctkd.Fs

open System
open System.IO

/// Runs that repeat each other: they differ in their seeds, and in what belongs to the machine.
type RunGroup = {
    /// The fields that tell the groups apart, with the texts of this group's values, in the order of the settings.
    Fields: (string * string) list
    Runs: RunOutcome list
} with

    /// The differing fields, such as "policy=ctkd-global methods=dkd"; "all runs" where none differs.
    member group.Name: string =
        match group.Fields with
        | [] -> "all runs"
        | fields -> fields |> List.map (fun (name, value) -> $"{name}={value}") |> String.concat " "

/// Groups runs by what differs between them.
[<RequireQualifiedAccess>]
module Groups =

    let private none = "none"

    let private methods = Json.name (nameof Settings.defaults.Methods)
    let private policy = Json.name (nameof Settings.defaults.Policy)
    let private student = Json.name (nameof Settings.defaults.Student)

    /// The name of the field that stands for another data set of the same name.
    let private dataHash = "dataHash"

    /// The fields in which runs of two groups may differ.
    let private fields: Field list =
        let seed = Json.name (nameof Settings.defaults.Seed)
        SettingsTable.all |> List.filter (fun field -> not field.OfMachine && field.Name <> seed)

    /// Whether a setting has an effect on a run. The student's flag is of `distill` alone, and its field of every run.
    let private concerns (s: Settings) (field: Field) : bool =
        match field.For with
        | Audience.EveryRun -> true
        | Audience.WithTeacher -> s.Teacher <> "" || field.Name = student
        | Audience.WithAgent -> s.Teacher <> "" && s.Policy = PolicyName.Rlkd

    /// The text of a run's value; "none" where there is none, or it has no effect; "default" where that is a
    /// value's name.
    let text (field: Field) (s: Settings) : string =
        // Which weights a student starts from is checked by their hash, as the teacher's are.
        let s = { s with StudentHash = (if s.StudentHash = "" then "" else "given") }

        if concerns s field then
            match field.Kind.Show(Field.get field.Name s) with
            // A value may be called "none" itself: none of its own is then another one.
            | "" when List.contains none field.Kind.Names -> "default"
            | "" -> none
            | text -> text
        else
            none

    /// Methods by their names alone.
    let private namesOnly (weights: string) : string =
        weights.Split ',' |> Array.map (fun part -> (part.Split ':')[0]) |> String.concat "+"

    /// The texts that tables show: methods without their weights, where the names tell them apart.
    let private shown (field: string) (texts: string list) : string -> string =
        let distinct = List.distinct texts

        if field = methods && (distinct |> List.distinctBy namesOnly).Length = distinct.Length then
            namesOnly
        else
            id

    /// Fields that tell the runs apart, without those that others decide, such as milestones that go with epochs.
    let private telling (runs: RunOutcome list) : Field list =
        let value (run: RunOutcome) (field: Field) = text field run.Settings
        let parts fields = runs |> List.distinctBy (fun run -> fields |> List.map (value run)) |> List.length
        let differing = fields |> List.filter (fun field -> parts [ field ] > 1)

        let rank (field: Field) =
            if field.Name = policy then 0
            elif field.Name = methods then 1
            elif not field.Kind.Names.IsEmpty && not field.Kind.IsList then 2
            else 3

        let kept =
            ([], List.sortBy rank differing)
            ||> List.fold (fun kept field -> if parts (field :: kept) > parts kept then field :: kept else kept)
            |> List.map _.Name

        fields |> List.filter (fun field -> List.contains field.Name kept)

    let private hashOf (run: RunOutcome) : string =
        run.Record
        |> Option.map (fun record -> record.DataHash.Substring(0, min 8 record.DataHash.Length))
        |> Option.defaultValue ""

    /// Groups runs by the settings that differ between them, in the order of the runs. A setting that belongs to the machine
    /// (`Field.OfMachine`) and the seed make no group. Runs of other data in an equal group make two, by their hash.
    let ofRuns (runs: RunOutcome list) : RunGroup list =
        let fields = telling runs

        let columns =
            fields
            |> List.map (fun field ->
                let texts = runs |> List.map (fun run -> text field run.Settings)
                field.Name, text field, shown field.Name texts
            )

        let key (run: RunOutcome) = columns |> List.map (fun (_, text, _) -> text run.Settings)

        let hasOtherData =
            runs
            |> List.groupBy key
            |> List.exists (fun (_, runs) ->
                (runs |> List.map hashOf |> List.filter ((<>) "") |> List.distinct).Length > 1
            )

        runs
        |> List.groupBy (fun run -> key run, (if hasOtherData then hashOf run else ""))
        |> List.map (fun ((texts, hash), runs) -> {
            Fields =
                List.map2 (fun (name, _, show) text -> name, show text) columns texts
                @ (if hasOtherData then [ dataHash, (if hash = "" then none else hash) ] else [])
            Runs = runs
        })

    /// Whether a group's runs have a value, in the text of a table, of settings, or of a flag.
    let has (field: Field) (value: string) (group: RunGroup) : bool =
        let ofRun = text field group.Runs.Head.Settings

        value = ofRun
        || field.Name = methods && value = namesOnly ofRun
        || (
            match field.Kind.Read value with
            | Ok read -> field.Kind.Show read = ofRun
            | Error _ -> false
        )

    // ---- teachers ----

    /// Whether a run's weights teach another run: by their path, also where the folders have been moved together.
    let private teaches (teacher: RunOutcome) (student: RunOutcome) : bool =
        let weights = student.Settings.TeacherWeights
        let folder = Path.GetDirectoryName weights |> string
        let name (path: string) = Path.GetFileName path |> string

        student.Settings.Teacher <> ""
        && (folder = teacher.Folder || folder <> "" && name folder = name teacher.Folder && not (File.Exists weights))

    /// The runs that teach others of the list, and the rest.
    let teachers (runs: RunOutcome list) : RunOutcome list * RunOutcome list =
        runs
        |> List.partition (fun run -> run.Settings.Teacher = "" && runs |> List.exists (fun other -> teaches run other))
