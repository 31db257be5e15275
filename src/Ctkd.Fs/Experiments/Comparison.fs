namespace Ctkd.Fs

open FsToolkit.ErrorHandling

/// How runs are compared.
type ComparisonOptions = {
    Metric: Metric
    /// Conditions such as "policy=fixed"; empty for groups with a fixed temperature, where there are any.
    Baseline: string
    /// The confidence level of intervals, from 0.5 to 0.999.
    Level: float
    /// Whether runs count that have epochs left.
    Unfinished: bool
    /// Whether the groups' costs are told.
    Cost: bool
}

/// The number that a recipe's source publishes.
type PublishedNumber = {
    Recipe: string
    Value: float
    /// Settings in which the runs differ from the recipe's.
    Differs: string list
}

/// A group beside its baseline: group - baseline.
type Versus = {
    /// The name of the baseline.
    Baseline: string
    /// Seeds that both have.
    Pairs: int
    /// Whether the difference is of these pairs, and not of the two means.
    IsPaired: bool
    Mean: float
    /// None where there are fewer than two values of a kind.
    Difference: Difference option
    /// p with Holm's adjustment for all comparisons.
    Adjusted: float option
    /// The published difference, where both numbers are.
    Published: float option
}

/// A group with its numbers.
type GroupResult = {
    Group: RunGroup
    /// Seeds with their values, rising; a seed counts once.
    Values: (int * float) list
    /// None where no run has the number.
    Sample: Sample option
    Published: PublishedNumber option
    Versus: Versus option
    /// None where it is not asked for.
    Cost: Cost option
}

/// Groups of runs beside each other.
type Comparison = {
    Options: ComparisonOptions
    Groups: GroupResult list
    /// Comparisons with a test, for which p is adjusted.
    Tests: int
    /// Runs that taught the others.
    Teachers: RunOutcome list
    /// Runs with epochs left.
    Unfinished: RunOutcome list
    /// What the numbers mean.
    Notes: string list
    /// What a reader should know before trusting them.
    Warnings: string list
}

/// Compares groups of runs.
[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module Comparison =

    /// The last top-1, with 95 % intervals.
    let defaults: ComparisonOptions = {
        Metric = Metric.Last
        Baseline = ""
        Level = 0.95
        Unfinished = false
        Cost = false
    }

    /// The seeds of a group with their numbers, rising; of several runs with a seed the first counts.
    let values (metric: Metric) (group: RunGroup) : (int * float) list =
        group.Runs
        |> List.choose (fun run -> Metric.value metric run |> Option.map (fun value -> run.Settings.Seed, value))
        |> List.distinctBy fst
        |> List.sortBy fst

    // ---- published numbers ----

    /// Settings in which a run differs from a recipe: those that recipes set, and the size of the training set.
    let private departures (recipe: Recipe) (s: Settings) : string list =
        let counts (field: Field) =
            (field.InRecipes || List.contains field.Name [ "perClass"; "subset" ]) && not field.OfMachine

        SettingsTable.all
        |> List.filter (fun field -> counts field && Groups.text field s <> Groups.text field recipe.Settings)
        |> List.map _.Name

    let private published (metric: Metric) (group: RunGroup) : PublishedNumber option =
        match group.Runs |> List.map (fun run -> run.Record |> Option.map _.Recipe) |> List.distinct with
        | [ Some name ] ->
            Recipes.find name
            |> Result.toOption
            |> Option.bind (fun recipe ->
                Metric.published metric recipe
                |> Option.map (fun value -> {
                    Recipe = name
                    Value = value
                    Differs = departures recipe group.Runs.Head.Settings
                })
            )
        | _ -> None

    // ---- differences ----

    let private versus (level: float) (baseline: GroupResult) (group: GroupResult) : Versus option =
        let own, others = List.map snd group.Values, List.map snd baseline.Values

        let pairs = [
            for seed, value in group.Values do
                match List.tryFind (fun (other, _) -> other = seed) baseline.Values with
                | Some(_, other) -> value, other
                | None -> ()
        ]

        if own.IsEmpty || others.IsEmpty then
            None
        else
            let paired = Statistics.paired level pairs
            let difference = if paired.IsSome then paired else Statistics.welch level own others
            let isPaired = paired.IsSome || difference.IsNone && not pairs.IsEmpty

            Some {
                Baseline = baseline.Group.Name
                Pairs = pairs.Length
                IsPaired = isPaired
                Mean =
                    if isPaired then
                        pairs |> List.map (fun (a, b) -> a - b) |> Statistics.mean
                    else
                        Statistics.mean own - Statistics.mean others
                Difference = difference
                Adjusted = None
                Published = Option.map2 (fun a b -> a.Value - b.Value) group.Published baseline.Published
            }

    /// The p of a group's test.
    let private p (group: GroupResult) : float option =
        group.Versus |> Option.bind _.Difference |> Option.bind _.Test |> Option.map _.P

    let private withAdjusted (groups: GroupResult list) : GroupResult list =
        let adjusted = groups |> List.choose p |> Statistics.holm

        (adjusted, groups)
        ||> List.mapFold (fun left group ->
            match left, group.Versus with
            | adjusted :: left, Some versus when (p group).IsSome ->
                { group with Versus = Some { versus with Adjusted = Some adjusted } }, left
            | left, _ -> group, left
        )
        |> fst

    // ---- words ----

    /// A confidence level as tables show it, such as "95 %".
    let percent (level: float) : string = $"%g{100.0 * level} %%"

    let private notes
        (options: ComparisonOptions)
        (baseline: Baseline option)
        (groups: GroupResult list)
        : string list =
        let versus = groups |> List.choose _.Versus
        let tests = groups |> List.choose p |> List.length

        [
            $"{Metric.title options.Metric}: {Metric.meaning options.Metric}"
            if groups |> List.exists (fun g -> g.Values.Length > 1) then
                $"intervals: Student's t over the seeds, {percent options.Level}"
            if versus |> List.exists _.IsPaired then
                "difference: to the baseline, over the seeds that both have"
            if not versus.IsEmpty then
                let names = versus |> List.map _.Baseline |> List.distinct |> String.concat "; "
                $"baseline: {names}"
            for v in versus |> List.filter (_.IsPaired >> not) do
                let test = if v.Difference.IsSome then " (Welch's test)" else ""
                let seeds = if v.Pairs = 1 then "one seed" else $"{v.Pairs} seeds"
                $"difference to {v.Baseline}: {seeds} in common, so it is of the two means{test}"
            if tests > 1 then
                $"{tests} comparisons: p (Holm) is adjusted for them, and the one to judge by"

            match baseline with
            | Some baseline ->
                let left = groups |> List.filter (fun g -> g.Versus.IsNone && not (Baseline.isOne baseline g.Group))

                if not left.IsEmpty then
                    let names = left |> List.map _.Group.Name |> String.concat "; "
                    $"no baseline is equal in all other fields for: {names}"
            | None -> ()

            if options.Cost then yield! Cost.meanings
        ]
        |> List.distinct

    let private warnings (all: RunOutcome list) (groups: GroupResult list) : string list =
        let runsOf name =
            groups |> List.tryFind (fun g -> g.Group.Name = name) |> Option.map _.Group.Runs |> Option.defaultValue []

        let compared = [
            for g in groups ->
                g.Group.Name, (g.Versus |> Option.map (_.Baseline >> runsOf) |> Option.defaultValue []) @ g.Group.Runs
        ]

        [
            yield! Cautions.unrecorded all
            yield! Cautions.differences compared
            for g in groups do
                yield! Cautions.repeated g.Group
            for g in groups do
                let seeds = g.Group.Runs |> List.distinctBy _.Settings.Seed |> List.length

                if g.Values.Length < seeds then
                    $"{g.Group.Name}: {seeds - g.Values.Length} of {seeds} seeds have no such number"

                match g.Published with
                | Some { Differs = _ :: _ as differs } as number ->
                    let names = String.concat ", " differs
                    $"{g.Group.Name}: the published number of {number.Value.Recipe} is of other settings: {names}"
                | _ -> ()

                match g.Cost with
                | Some { Macs = Error problem } ->
                    $"{g.Group.Name}: its multiply-accumulates are not known: {problem.What}"
                | _ -> ()
        ]

    // ---- the comparison ----

    let private checkOptions (options: ComparisonOptions) : Result<unit, Error> =
        if FieldKind.isWithin Statistics.levels options.Level then
            Ok()
        else
            Error.fail
                Usage
                $"the confidence level must lie {Statistics.levels.Words}, got {string options.Level}"
                ""
                "give another --level, such as 0.95"

    let private counted (options: ComparisonOptions) (runs: RunOutcome list) : Result<RunOutcome list, Error> =
        let counts (run: RunOutcome) = options.Unfinished || run.Progress <> RunProgress.Unfinished

        match List.filter counts runs with
        | [] ->
            Error.fail
                Usage
                $"none of {runs.Length} runs has finished"
                (runs |> List.tryHead |> Option.map _.Name |> Option.defaultValue "")
                "wait for them, or count them as they are: --unfinished"
        | counted when counted |> List.forall (fun run -> (Metric.value options.Metric run).IsNone) ->
            let next =
                if options.Metric = Metric.BestVal then
                    "a validation split is needed for it; take another --metric, such as last"
                else
                    "no epoch of them is done: wait for one"

            Error.fail Usage $"no run has the number {Names.name options.Metric}" "" next
        | counted -> Ok counted

    /// <summary>Compares runs: groups by what differs, statistics over seeds, differences to a baseline.</summary>
    /// <param name="options">What is compared, and with what.</param>
    /// <param name="runs">The runs. Those that taught others are set apart.</param>
    let create (options: ComparisonOptions) (runs: RunOutcome list) : Result<Comparison, Error> =
        result {
            do! checkOptions options
            let teachers, rest = Groups.teachers runs
            let! counted = counted options rest
            let groups = Groups.ofRuns counted
            let! baseline = Baseline.ofText groups options.Baseline

            let results =
                groups
                |> List.map (fun group ->
                    let values = values options.Metric group

                    {
                        Group = group
                        Values = values
                        Sample =
                            if values.IsEmpty then
                                None
                            else
                                Some(Statistics.sample options.Level (List.map snd values))
                        Published = published options.Metric group
                        Versus = None
                        Cost = if options.Cost then Some(Cost.ofRuns group.Runs) else None
                    }
                )

            let beside (group: GroupResult) : Versus option =
                baseline
                |> Option.bind (fun baseline -> Baseline.find baseline groups group.Group)
                |> Option.bind (fun found -> results |> List.tryFind (fun other -> other.Group.Name = found.Name))
                |> Option.bind (fun found -> versus options.Level found group)

            let results = results |> List.map (fun group -> { group with Versus = beside group }) |> withAdjusted

            return {
                Options = options
                Groups = results
                Tests = results |> List.choose p |> List.length
                Teachers = teachers
                Unfinished = rest |> List.filter (fun run -> run.Progress = RunProgress.Unfinished)
                Notes = notes options baseline results
                Warnings = warnings counted results
            }
        }
