namespace Ctkd.Fs

open System
open System.IO
open System.Security.Cryptography
open System.Text
open System.Text.Json
open FsToolkit.ErrorHandling

/// A run of a sweep.
type PlannedRun = {
    /// Its folder within the sweep's: what differs between the runs.
    Name: string
    /// The recipe that it follows; empty for none.
    Recipe: string
    /// The run of the sweep that trains its teacher; empty for a teacher in a file, or none.
    TeacherRun: string
    Settings: Settings
}

/// What a sweep's folder says of itself beside its plan.
type SweepNote = {
    About: string
    /// The group that reports compare with; empty for their own choice.
    Baseline: string
    /// What is drawn when all runs are done.
    Figures: SweepFigure list
}

/// From a sweep to its runs, in an order in which each teacher comes before its students, and the seeds change last: whatever
/// is done when it stops can be compared.
[<RequireQualifiedAccess>]
module SweepPlan =

    // ---- combinations ----

    /// A combination: the recipe, and fields with their values.
    type private Combination = { Recipe: string; Fields: (string * string) list; Seed: int }

    let private combinations (sweep: Sweep) : Combination list =
        let orNone none list = if List.isEmpty list then [ none ] else list

        let products =
            ([ [] ], sweep.Axes)
            ||> List.fold (fun products axis -> [
                for fields in products do
                    for value in axis.Values -> fields @ [ axis.Field, value ]
            ])

        [
            for seed in sweep.Seeds do
                for recipe in orNone "" sweep.Recipes do
                    for case in orNone [] sweep.Cases do
                        for fields in products -> { Recipe = recipe; Fields = case @ fields; Seed = seed }
        ]

    /// What a field assigns, of its text.
    let private assignment (field: string, value: string) : Result<Assignment, Error> =
        if field = Sweep.method then
            let names = value.Split('+', StringSplitOptions.TrimEntries) |> List.ofArray
            Ok(Resolve.methods field names None)
        else
            Resolve.set $"{field}={value}" |> Result.map (fun assignment -> { assignment with Origin = field })

    let private resolved (recipe: string) (fields: (string * string) list) : Result<Settings, Error> =
        result {
            let! recipe = if recipe = "" then Ok None else Recipes.load recipe |> Result.map Some
            let! assignments = fields |> List.traverseResultM assignment
            let! resolved = Resolve.settings recipe assignments
            return resolved.Settings
        }

    // ---- names ----

    /// The longest name of a folder; what is longer is cut, and told apart by a hash.
    let private longest = 120

    /// A text as a part of a folder's name.
    let private folderPart (text: string) : string =
        let part (c: char) = if Char.IsAsciiLetterOrDigit c || "._-+=".Contains c then c else '-'
        text |> Seq.map part |> Array.ofSeq |> String

    let private shortened (name: string) : string =
        if name.Length <= longest then
            name
        else
            let hash = Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes name)).Substring(0, 8)
            $"{name.Substring(0, longest - 9)}-{hash}"

    /// The fields that differ between the runs.
    let private differing (combinations: Combination list) : string list =
        combinations
        |> List.collect _.Fields
        |> List.groupBy fst
        |> List.filter (fun (_, values) ->
            List.length (List.distinct values) > 1 || values.Length < combinations.Length
        )
        |> List.map fst

    let private name (sweep: Sweep) (shown: string list) (combination: Combination) : string =
        [
            if sweep.Recipes.Length > 1 then combination.Recipe
            for field, value in combination.Fields do
                if List.contains field shown then $"{field}={value}"
            if sweep.Seeds.Length > 1 || sweep.Recipes.Length <= 1 && shown.IsEmpty then
                $"seed={combination.Seed}"
        ]
        |> List.map folderPart
        |> String.concat ","
        |> shortened

    // ---- teachers ----

    /// Fields that a teacher's training has from its student's: the data, how long and in which batches, and where.
    let private shared: string list =
        let s = Settings.defaults
        let ofStudent = [ nameof s.Seed; nameof s.StudentWeights; nameof s.StudentHash ] |> List.map Json.name
        let named = [ nameof s.Data; nameof s.Epochs; nameof s.Batch ] |> List.map Json.name

        SettingsTable.all
        |> List.filter (fun field -> field.For = Audience.EveryRun && not field.InRecipes)
        |> List.map _.Name
        |> List.except ofStudent
        |> List.append named
        |> List.distinct

    /// The training of a student's teacher: from labels alone, on the same data for as many epochs.
    let private teacherOf (teach: (string * string) list) (student: Settings) : Result<Settings, Error> =
        let assign name = {
            Fields = [ name ]
            Origin = "the student's"
            Change = Field.set name (Field.get name student) >> Ok
        }

        result {
            let! own = teach |> List.traverseResultM assignment
            let model = Resolve.assign "teacher" [ "Student" ] (fun s -> { s with Student = student.Teacher })
            let! resolved = Resolve.settings None (List.map assign shared @ [ model ] @ own)
            return resolved.Settings
        }

    /// The runs of teachers that no file holds, and the name of the one that each run needs.
    let private teachers (sweep: Sweep) (runs: Settings list) : Result<PlannedRun list * string list, Error> =
        let needs (s: Settings) =
            s.Teacher <> "" && s.TeacherWeights = "" && not (List.contains s.Teacher NetworkFile.names)

        result {
            let! wanted =
                runs
                |> List.traverseResultM (fun s ->
                    if needs s then teacherOf sweep.Teach s |> Result.map Some else Ok None
                )

            let distinct = wanted |> List.choose id |> List.distinct

            let named =
                distinct
                |> List.mapi (fun i s ->
                    let same = distinct |> List.truncate i |> List.filter (fun other -> other.Student = s.Student)
                    let number = if same.IsEmpty then "" else $"-{same.Length + 1}"
                    s, folderPart $"teacher-{s.Student}{number}"
                )

            let nameOf = Option.map (fun s -> named |> List.find (fst >> (=) s) |> snd) >> Option.defaultValue ""

            return
                [ for s, name in named -> { Name = name; Recipe = ""; TeacherRun = ""; Settings = s } ],
                List.map nameOf wanted
        }

    /// The weights of a teacher in a folder: a run's, or a file by the model's name, also in the layout of the published ones.
    let private teacherFile (folder: string) (model: string) : Result<string, Error> =
        let name = model.Replace("imagenet/", "")

        let places =
            [ name; name + ".safetensors"; name + ".pth"; name + ".pt"; name + "_vanilla/ckpt_epoch_240.pth" ]
            |> List.map (fun place -> Path.Combine(folder, place))

        match places |> List.tryFind Path.Exists with
        | Some place -> Ok(Path.GetFullPath place)
        | None ->
            let looked = places |> List.map (Path.GetFileName >> string) |> String.concat ", "

            Error.fail
                Missing
                $"the folder of teachers has none of the model {model}: looked for {looked}"
                folder
                "put its weights there, or leave the folder out: the sweep trains its teachers"

    /// The settings with the weights of their teacher from the sweep's folder of teachers, where it has one.
    let private withWeights (sweep: Sweep) (s: Settings) : Result<Settings, Error> =
        if sweep.Teachers <> "" && s.Teacher <> "" && s.TeacherWeights = "" then
            teacherFile sweep.Teachers s.Teacher |> Result.map (fun file -> { s with TeacherWeights = file })
        else
            Ok s

    // ---- plans ----

    /// Settings of a run whose teacher is still to be trained have a stand-in for its weights.
    let private validated (run: PlannedRun) : Result<PlannedRun, Error> =
        let s = run.Settings
        let known = if run.TeacherRun = "" then s else { s with TeacherWeights = "trained by the sweep" }
        Settings.validate known |> Result.map (fun _ -> run) |> Result.mapError (fun e -> { e with Where = run.Name })

    /// A policy or a method without a teacher would have no effect.
    let private taught (combination: Combination) (s: Settings) : Result<unit, Error> =
        let needs (field: string) =
            field = Sweep.method
            || SettingsTable.all
               |> List.exists (fun row -> row.Name = field && row.For <> Audience.EveryRun && row.Name <> "student")

        match combination.Fields |> List.map fst |> List.tryFind needs with
        | Some field when s.Teacher = "" && s.TeacherWeights = "" ->
            Error.fail
                Usage
                $"the field '{field}' has no effect without a teacher"
                ""
                """add a teacher: a model that the sweep trains ("teacher": "resnet20"), or "teacherWeights" with its file"""
        | _ -> Ok()

    /// The model of a teacher that is named by its file alone.
    let private withModel (s: Settings) : Result<Settings, Error> =
        if s.Teacher = "" && s.TeacherWeights <> "" then
            result {
                let! path = RunDirectory.weightsOf s.TeacherWeights
                let file = WeightsPath.text path
                let! teacher = LoadedModel.nameWith { WeightsFit.strict with Role = WeightsRole.Teacher } file
                return { s with Teacher = teacher; TeacherWeights = file }
            }
        else
            Ok s

    /// Two runs of the same settings would be one run twice.
    let private differ (runs: PlannedRun list) : Result<PlannedRun list, Error> =
        let twice (key: PlannedRun -> 'Key) =
            runs |> List.groupBy key |> List.map snd |> List.tryFind (fun same -> same.Length > 1)

        match twice _.Settings |> Option.orElseWith (fun () -> twice _.Name) with
        | Some(first :: second :: _) ->
            Error.fail
                Usage
                $"two runs of the sweep are the same: {first.Name} and {second.Name}"
                ""
                "a field may have no effect beside another, or a recipe may set it: leave one of the values out"
        | _ -> Ok runs

    /// <summary>The runs of a sweep: the teachers that it trains, then the others. Paths of files are seen from the current
    /// folder.</summary>
    /// <param name="change">Changes each run's settings: a shorter run (<c>Scale.settings</c>), or <c>id</c>.</param>
    /// <param name="sweep">The sweep.</param>
    let create (change: Settings -> Settings) (sweep: Sweep) : Result<PlannedRun list, Error> =
        result {
            let all = combinations sweep

            let! settings =
                all
                |> List.traverseResultM (fun combination ->
                    result {
                        let fields = combination.Fields @ [ "seed", string combination.Seed ]
                        let! s = resolved combination.Recipe fields
                        do! taught combination s
                        let! s = withWeights sweep s
                        return! withModel (Settings.located (change s))
                    }
                )

            let! teachers, needed = teachers sweep settings
            let shown = differing all

            let runs = [
                for combination, s, teacher in List.zip3 all settings needed ->
                    {
                        Name = name sweep shown combination
                        Recipe = combination.Recipe
                        TeacherRun = teacher
                        Settings = s
                    }
            ]

            let! runs = teachers @ runs |> List.traverseResultM validated
            return! differ runs
        }

    // ---- files ----

    /// The file of a sweep's runs: a line for each.
    let fileName = "plan.jsonl"

    /// The runs in a sweep's folder; none before the first call.
    let read (folder: string) : Result<PlannedRun list, Error> =
        let path = Path.Combine(folder, fileName)

        if not (File.Exists path) then
            Ok []
        else
            Files.readText path
            |> Result.bind (fun text ->
                text.Split('\n', StringSplitOptions.RemoveEmptyEntries)
                |> List.ofArray
                |> List.traverseResultM (SettingsTable.readHolder<PlannedRun> path)
            )

    /// Writes the runs of a sweep.
    let write (folder: string) (runs: PlannedRun list) : Result<unit, Error> =
        let text = runs |> List.map (fun run -> Json.write run + "\n") |> String.concat ""

        Files.replace
            (Path.Combine(folder, fileName))
            (fun stream -> stream.Write(ReadOnlySpan(Encoding.UTF8.GetBytes text)))

    let private noteFile = "sweep.json"

    /// Writes what a sweep says of itself.
    let writeNote (folder: string) (sweep: Sweep) : Result<unit, Error> =
        let note = { About = sweep.About; Baseline = sweep.Baseline; Figures = sweep.Figures }
        let text = Json.writeIndented note + "\n" |> Encoding.UTF8.GetBytes
        Files.replace (Path.Combine(folder, noteFile)) (fun stream -> stream.Write(ReadOnlySpan text))

    /// What the sweep of a folder says of itself; None for another folder.
    let readNote (folder: string) : Result<SweepNote option, Error> =
        let path = Path.Combine(folder, noteFile)

        if File.Exists path then
            // Sweeps of earlier versions have no figures.
            Files.readText path
            |> Result.bind (Json.complete [ "figures", "[]" ] >> Json.read<SweepNote> path)
            |> Result.map Some
        else
            Ok None

    /// The fields whose values two settings do not share.
    let changes (one: Settings) (other: Settings) : string list =
        SettingsTable.all
        |> List.filter (fun field -> Field.get field.Name one <> Field.get field.Name other)
        |> List.map _.Name

    /// The planned runs of a folder with those of a sweep that is asked for again, perhaps longer: the new ones come last. A
    /// run of the same name must be the same run, but for where its files are.
    let extend (folder: string) (planned: PlannedRun list) (asked: PlannedRun list) : Result<PlannedRun list, Error> =
        let mayChange =
            SettingsTable.all |> List.filter (fun field -> field.MayChange && field.Name <> "epochs") |> List.map _.Name

        let check (run: PlannedRun) =
            match planned |> List.tryFind (fun known -> known.Name = run.Name) with
            | Some known ->
                match changes known.Settings run.Settings |> List.except mayChange with
                | [] -> Ok()
                | changed ->
                    let changed = String.concat ", " changed

                    Error.fail
                        Mismatch
                        $"this folder holds a sweep whose run {run.Name} differs in: {changed}"
                        folder
                        "give another folder with --out, or the sweep as it was"
            | None -> Ok()

        result {
            do! asked |> List.traverseResultM check |> Result.ignore
            let sameAs (run: PlannedRun) = List.tryFind (fun (other: PlannedRun) -> other.Name = run.Name)
            let kept = planned |> List.map (fun run -> sameAs run asked |> Option.defaultValue run)
            return kept @ (asked |> List.filter (fun run -> (sameAs run planned).IsNone))
        }
