namespace Ctkd.Fs.App

open System.IO
open System.Text.Json.Nodes
open FsToolkit.ErrorHandling
open Ctkd.Fs

/// The flags of `teach` and `distill`, and the settings that they give: one flag for each row of `SettingsTable`, and those
/// that say how to run.
module TrainFlags =

    // ---- the flags ----

    let private recipe, private set, private methods, private weights =
        "recipe", "set", "method", "method-weights"

    let private ignoreExtra, private teacher = "ignore-extra", "teacher"

    let private ofRow (field: Field) : Flag =
        let whom =
            match field.For with
            | Audience.EveryRun -> ""
            | Audience.WithTeacher -> "distill: "
            | Audience.WithAgent -> "rlkd: "

        let value = Field.shownDefault field
        let value = if value = "" then "" else $" [{value}]"

        {
            Flags.one ($"{field.Flag} {field.Argument}".TrimEnd()) (whom + field.Meaning + value) with
                // Several teachers are several files.
                TakesMany = field.Kind.IsList || field.Flag = teacher
        }

    let private rows: Field list = SettingsTable.all |> List.filter (fun field -> field.Flag <> "")

    /// Every flag.
    let all: Flag list = [
        let listed (names: string list) = String.concat ", " names
        Flags.one "model NAME" $"teach: the model to train [{Settings.defaults.Student}]: {listed Zoo.names}"

        Flags.one
            $"{recipe} NAME"
            "distill: the settings of a published experiment, or of a JSON file; see: ctkd recipes [none]"

        {
            Flags.many
                $"{set} FIELD=VALUE"
                "set fields by their names in settings.json, such as learningRate=0.1 methods=kd:0.9,crd:0.8 [none]" with
                Repeats = true
        }

        Flags.one "dry-run" "train nothing: print every setting with its origin [no]"
        Flags.one "out DIR" "folder of the run [runs/COMMAND-MODEL-SEED, or runs/RECIPE-SEED]"

        Flags.one "resume PATH" "continue a run: its folder or one of its checkpoints; settings come from there"

        Flags.many
            $"{methods} NAME"
            $"distill: one loss or several, added up [kd; under dtkd: kd kd-fixed]: {listed Settings.methods}"

        Flags.many $"{weights} NUMBER" "distill: a weight for each --method, in their order [as published]"
        Flags.one "kd WEIGHT" "distill: weight of kd, beside the other methods [0.9; under dtkd 3]"
        yield! List.map ofRow rows
        Flags.one ignoreExtra $"distill: of the teacher's file {Command.ignoreExtra}"

        Flags.one "json" "the result as one JSON object on the standard output, everything else on the standard error"
    ]

    /// Whether the result is wanted as JSON.
    let wantsJson (given: GivenFlags) : bool = Flags.has "json" given

    /// Whether nothing is to be trained.
    let isDry (given: GivenFlags) : bool = Flags.has "dry-run" given

    /// Whether the teacher's file may hold tensors that its model lacks.
    let ignoresExtra (given: GivenFlags) : bool = Flags.has ignoreExtra given

    /// The run to resume, if any.
    let resumed (given: GivenFlags) : string option = Flags.tryValue "resume" given

    /// The recipe that is followed; empty for none.
    let recipeOf (given: GivenFlags) : string = Flags.tryValue recipe given |> Option.defaultValue ""

    /// Whether one of the flags means nothing without a teacher.
    let needTeacher (given: GivenFlags) : bool =
        let needs name =
            List.contains name [ recipe; methods; weights; "kd"; ignoreExtra ]
            || rows |> List.exists (fun field -> field.Flag = name && field.For <> Audience.EveryRun)

        List.exists (fst >> needs) given

    /// The folder of a run: that of the flag, or one named after the command or the recipe.
    let folder (command: string) (s: Settings) (given: GivenFlags) : string =
        let what =
            match Flags.tryValue recipe given with
            | Some file when Recipes.isFile file -> string (Path.GetFileNameWithoutExtension file)
            | Some recipe -> recipe
            | None -> $"{command}-{s.Student}"

        Flags.tryValue "out" given |> Option.defaultValue (Path.Combine("runs", $"{what.Replace('/', '-')}-{s.Seed}"))

    // ---- from flags to settings ----

    /// The model of one teacher, or the files of one or more.
    let private teachers (origin: string) (model: Field) (values: string list) : Result<Assignment list, Error> =
        let isKnown name = List.contains name SettingsTable.teachers
        let files = nameof Settings.defaults.TeacherWeights
        let others = $"{nameof Settings.defaults.Teaching}.{nameof Settings.defaults.Teaching.Others}"

        match values |> List.filter (isKnown >> not), values with
        | _, [] -> Command.usage $"{origin} needs a value" "give a model's name, or the file of a trained network"
        | [], [ name ] -> Field.read origin name model |> Result.map (fun value -> [ Resolve.field origin model value ])
        | unknown, values ->
            match unknown |> List.tryFind (WeightsPath.namesFile >> not), values |> List.tryFind isKnown with
            | Some name, _ ->
                let error = Error.unknown "model" SettingsTable.teachers name

                Result.Error {
                    error with
                        Next = error.Next + $" Or give the file of a trained network: there is none '{name}'"
                }
            | None, Some name ->
                Command.usage
                    $"'{name}' is a model's name, and of several teachers each is a file"
                    "give the files; their models are found by their weights"
            | None, None ->
                Ok [
                    Resolve.assign origin [ files ] (fun s -> { s with TeacherWeights = values.Head })
                    Resolve.assign origin [ others ] (fun s -> { s with Teaching.Others = values.Tail })
                ]

    /// What a flag assigns; those that come together, or say how to run, assign nothing here.
    let private assignments (flag: string, values: string list) : Result<Assignment list, Error> =
        let text, origin = String.concat " " values, $"--{flag}"
        let row name = rows |> List.tryFind (fun field -> field.Flag = name)

        let weighing (s: Settings) (weight: objnull) = {
            s with
                Methods = s.Methods |> Map.add "kd" (unbox<float> weight)
        }

        match row (if flag = "model" then "student" else flag) with
        // A folder of photographs, or a pack of them.
        | Some field when flag = "data" && Command.isPlace text ->
            Ok [
                Resolve.field origin field (box "photos")
                Resolve.field origin (SettingsTable.ofFlag "data-dir") (box text)
            ]
        | Some field when field.Flag = teacher -> teachers origin field values
        // A switch sets the opposite of the default.
        | Some field when field.Argument = "" ->
            Ok [ Resolve.field origin field (box (not (unbox<bool> field.Default))) ]
        | Some field -> Field.read origin text field |> Result.map (fun value -> [ Resolve.field origin field value ])
        | None when flag = set -> values |> List.traverseResultM Resolve.set
        | None when flag = "kd" ->
            Field.read origin text (row "ce").Value
            |> Result.map (fun weight -> [
                Resolve.assign origin [ nameof Settings.defaults.Methods ] (fun s -> weighing s weight)
            ])
        | None -> Ok []

    /// The methods come first, whatever the order of the flags: --kd then changes the weight of one of them.
    let private chosenMethods (given: GivenFlags) : Result<Assignment list, Error> =
        let names = Flags.tryValues methods given |> Option.map (List.collect Numbers.items)

        match names, Flags.tryValues weights given with
        | Some names, None -> Ok [ Resolve.methods "--method" names None ]
        | Some names, Some numbers ->
            Command.read (FieldKind.numbers FieldKind.atLeast0) weights (Some numbers)
            |> Result.map (fun numbers -> [ Resolve.methods "--method" names numbers ])
        | None, None -> Ok []
        | None, Some _ ->
            Command.usage
                "--method-weights is for --method, which is missing"
                "such as: --method kd crd --method-weights 0.9 0.8"

    /// Flags for an agent that does not take part are a mistake.
    let private agentTakesPart (assignments: Assignment list) (s: Settings) : Result<unit, Error> =
        let ofAgent (field: string) = field.StartsWith("rlkd.", System.StringComparison.Ordinal)

        match assignments |> List.tryFind (_.Fields >> List.exists ofAgent) with
        | Some assignment when s.Policy <> PolicyName.Rlkd ->
            let field = if assignment.Origin = "--set" then " " + List.head assignment.Fields else ""

            Command.usage
                $"{assignment.Origin}{field} is for the policy rlkd, and the policy is {s.Policy}"
                "add --policy rlkd, or leave it out"
        | _ -> Ok()

    /// Settings from the flags: defaults, then the recipe, then flags and --set in the order given.
    let resolve (given: GivenFlags) : Result<Resolved, Error> =
        result {
            let! recipe =
                match Flags.tryValue recipe given with
                | Some name -> Recipes.load name |> Result.map Some
                | None -> Ok None

            let! methods = chosenMethods given
            let! others = given |> List.traverseResultM assignments
            let assignments = methods @ List.concat others
            let! resolved = Resolve.settings recipe assignments
            let s = resolved.Settings
            do! agentTakesPart assignments s

            return { resolved with Settings = Settings.located s }
        }

    /// The changes of a resumed run: flags that say where files are, or how long to train.
    let changes (given: GivenFlags) : Result<Settings -> Settings, Error> =
        // --teacher names files, which may have been moved; a model's name would be another teacher.
        let mayChange = teacher :: (rows |> List.filter _.MayChange |> List.map _.Flag |> List.filter ((<>) ""))
        let others = given |> List.filter (fun (name, _) -> name <> "resume" && name <> "json")

        let isModel (name, values) =
            name = teacher && values |> List.exists (fun value -> List.contains value SettingsTable.teachers)

        result {
            match others |> List.tryFind (fun (name, _) -> not (List.contains name mayChange)) with
            | Some(name, _) ->
                let allowed = "--json" :: List.map (fun flag -> "--" + flag) mayChange |> String.concat ", "

                return!
                    Command.usage
                        $"--resume keeps the run's own settings, and --{name} would change them"
                        $"beside --resume give only {allowed}, or start a new run"
            | None when List.exists isModel others ->
                return!
                    Command.usage
                        "--resume keeps the run's teacher, and --teacher NAME would change it"
                        "beside --resume --teacher gives the files of the run's teachers, where they were moved"
            | None ->
                let! assignments = others |> List.traverseResultM assignments
                let change (s: Settings) (a: Assignment) = a.Change s

                return
                    fun recorded ->
                        (Ok recorded, List.concat assignments)
                        ||> List.fold (fun s a -> Result.bind (fun s -> change s a) s)
                        |> Error.orRaise
                        |> Settings.located
        }

    // ---- dry runs ----

    /// Mistakes of settings whose teacher's file is still to come.
    let check (s: Settings) : Result<unit, Error> =
        let s = if s.TeacherWeights = "" then { s with Teacher = "" } else s

        Settings.validate s |> Result.ignore

    /// Every setting with its value and its origin.
    let table (resolved: Resolved) : Table = {
        Caption = ""
        Header = [ "setting"; "value"; "origin" ]
        Rows = Resolve.rows resolved |> List.map (fun (field, value, origin) -> [ field; value; origin ])
    }

    /// What the recipe's authors measured, and what a run of the settings still needs.
    let remarks (given: GivenFlags) (s: Settings) : string list = [
        match Flags.tryValue recipe given |> Option.map Recipes.load with
        | Some(Ok { Top1 = Some top1 }) -> $"published: %.2f{top1} %% top-1"
        | _ -> ()

        if s.Teacher <> "" && s.TeacherWeights = "" then
            $"to run: the weights of {s.Teacher} with --weights FILE"
        if s.DataDir = "" && not (List.contains s.Data Datasets.embedded) then
            $"to run: the folder of {s.Data} with --data-dir DIR"
    ]

    /// The table as JSON: fields with values and origins.
    let toJson (resolved: Resolved) : JsonObject =
        let json = JsonObject()

        for field, value, origin in Resolve.rows resolved do
            let entry = JsonObject()
            entry["value"] <- JsonNode.Parse value
            entry["origin"] <- JsonValue.Create origin
            json[field] <- entry

        json
