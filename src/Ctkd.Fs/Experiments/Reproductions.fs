namespace Ctkd.Fs

/// Runs of one recipe that repeat each other, beside its published number.
type Reproduction = {
    Recipe: Recipe
    /// Runs that have ended; they differ in their seeds, and in what belongs to the machine.
    Runs: RunOutcome list
    /// Settings that recipes leave to the user, where runs of the recipe differ in them.
    Variant: (string * string) list
    /// Seeds with their numbers, rising; a seed counts once.
    Values: (int * float) list
    Sample: Sample
    Published: float option
    /// What was left out of the recipe's schedule, such as "2 of 240 epochs"; empty where nothing was.
    Short: string list
    /// Settings that are not the recipe's, such as "dkdBeta 2, not 8".
    Changed: string list
} with

    /// ours - published; None of runs that are short or changed, which reproduce nothing.
    member row.Difference: float option =
        if row.Short.IsEmpty && row.Changed.IsEmpty then
            row.Published |> Option.map (fun published -> row.Sample.Mean - published)
        else
            None

/// Runs of recipes beside the numbers that their sources publish.
type Reproductions = {
    Metric: Metric
    /// The confidence level of intervals.
    Level: float
    /// Each source that runs have a recipe of.
    Sources: (RecipeSource * Reproduction list) list
    /// Runs that are in no row, and why.
    LeftOut: (RunOutcome * string) list
    /// What a reader should know before trusting the numbers.
    Warnings: string list
}

/// Sets runs of recipes beside the published numbers.
[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module Reproductions =

    let private name (field: string) : string = Json.name field

    /// Fields that say how much of the schedule and of the images was run.
    let private shares: string list =
        let s = Settings.defaults
        [ nameof s.Epochs; nameof s.PerClass; nameof s.Subset; nameof s.ValSplit ] |> List.map name

    /// Fields that the recipe decides, and the weights that a student starts from.
    let private decided: Field list =
        let studentHash = name (nameof Settings.defaults.StudentHash)

        SettingsTable.all
        |> List.filter (fun field ->
            not field.OfMachine
            && (field.InRecipes || field.Name = studentHash)
            && not (List.contains field.Name shares)
        )

    let private percent (share: float) : string = $"%g{100.0 * share} %%"

    /// What a run left out of a recipe's schedule and images.
    let private short (recipe: Settings) (s: Settings) : string list = [
        if s.Epochs < recipe.Epochs then $"{s.Epochs} of {recipe.Epochs} epochs"

        match s.PerClass, Datasets.perClass s.Data with
        | count, Some all when count > 0 && count < all -> $"{count} of {all} images a class"
        | count, None when count > 0 -> $"{count} images a class"
        | _ -> ()

        if s.Subset > 0 then $"a subset of {s.Subset} images"
        if s.ValSplit > 0.0 then
            $"{percent s.ValSplit} of the images held out for validation"
    ]

    /// Settings that are neither the recipe's nor those of the recipe at the same share of its epochs.
    let private changed (recipe: Settings) (s: Settings) : string list =
        let fitted =
            if s.Epochs >= 1 && s.Epochs < recipe.Epochs then
                Scale.settings (float s.Epochs / float recipe.Epochs) recipe
            else
                recipe

        [
            if s.Epochs > recipe.Epochs then $"epochs {s.Epochs}, not {recipe.Epochs}"

            for field in decided do
                let own, published = Groups.text field s, Groups.text field recipe

                if own <> published && own <> Groups.text field fitted then
                    $"{field.Name} {Files.printable own}, not {published}"
        ]

    let private rowsOf (metric: Metric) (level: float) (recipe: Recipe) (runs: RunOutcome list) : Reproduction list =
        let groups = Groups.ofRuns runs
        let isTold field = List.contains field shares || List.exists (fun (f: Field) -> f.Name = field) decided

        groups
        |> List.map (fun group ->
            let settings = group.Runs.Head.Settings
            let values = Comparison.values metric group

            {
                Recipe = recipe
                Runs = group.Runs
                Variant = group.Fields |> List.filter (fun (field, _) -> not (isTold field))
                Values = values
                Sample = Statistics.sample level (List.map snd values)
                Published = Metric.published metric recipe
                Short = short recipe.Settings settings
                Changed = changed recipe.Settings settings
            }
        )

    /// The recipe of a run whose number counts, or why it does not.
    let private recipeOf (metric: Metric) (run: RunOutcome) : Result<Recipe, string> =
        match run.Record, Metric.value metric run with
        | None, _ -> Error "no run.json, as of earlier versions: its recipe is not known"
        | Some { Recipe = "" }, _ -> Error "no recipe"
        | Some record, number ->
            match Recipes.find record.Recipe, number with
            | Error _, _ -> Error $"'{Files.printable record.Recipe}' is no recipe of this version"
            | Ok _, _ when run.Progress = RunProgress.Unfinished -> Error(ComparisonReport.progress run)
            | Ok _, None -> Error $"it has no number '{Metric.title metric}'"
            | Ok recipe, Some _ -> Ok recipe

    let private warnings (rows: Reproduction list) : string list =
        let group (row: Reproduction) : RunGroup = {
            Fields = ("recipe", row.Recipe.Name) :: row.Variant
            Runs = row.Runs
        }

        (rows |> List.map (fun row -> (group row).Name, row.Runs) |> Cautions.differences)
        @ (rows |> List.collect (group >> Cautions.repeated))

    /// <summary>Runs that name a recipe beside its published number: by source, in the order of the recipes. Runs of one recipe
    /// that differ in more than their seeds are rows of their own.</summary>
    /// <param name="metric">The number that is compared.</param>
    /// <param name="level">The confidence level of intervals, from 0.5 to 0.999.</param>
    /// <param name="runs">The runs.</param>
    /// <returns>The rows, and the runs that are in none; an error where no run has a recipe.</returns>
    let create (metric: Metric) (level: float) (runs: RunOutcome list) : Result<Reproductions, Error> =
        let teachers, students = Groups.teachers runs
        let judged = students |> List.map (fun run -> run, recipeOf metric run)

        let counted =
            judged |> List.choose (fun (run, recipe) -> Result.toOption recipe |> Option.map (fun r -> r, run))

        let leftOut =
            (judged
             |> List.choose (
                 function
                 | _, Ok _ -> None
                 | run, Error reason -> Some(run, reason)
             ))
            @ (teachers |> List.map (fun run -> run, "a teacher of other runs"))

        let rows (source: RecipeSource) = [
            for recipe in Recipes.all do
                match counted |> List.filter (fun (other, _) -> other.Name = recipe.Name) with
                | own when recipe.Source = source.Name && not own.IsEmpty ->
                    yield! own |> List.map snd |> rowsOf metric level recipe
                | _ -> ()
        ]

        if counted.IsEmpty then
            let reasons = leftOut |> List.map snd |> List.distinct |> List.truncate 3 |> String.concat "; "

            Error.fail
                Usage
                $"none of {runs.Length} runs is an ended run of a recipe: {reasons}"
                (runs |> List.tryHead |> Option.map _.Name |> Option.defaultValue "")
                "train with a recipe: ctkd distill --recipe NAME, or a sweep of ctkd sweep --list"
        else
            let sources =
                Recipes.sources
                |> List.map (fun source -> source, rows source)
                |> List.filter (fun (_, rows) -> not rows.IsEmpty)

            Ok {
                Metric = metric
                Level = level
                Sources = sources
                LeftOut = leftOut
                Warnings = sources |> List.collect snd |> warnings
            }
